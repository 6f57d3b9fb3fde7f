"""Weights come from safetensors, whole or not at all; nothing is downloaded and no code is run."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers_models import BLOCKS, SAM, SQUARE, TEXT, saved

from mi_callback.encoders import build_encoder
from mi_callback.encoders.huggingface import build_huggingface
from mi_callback.errors import EncoderError

transformers = pytest.importorskip("transformers")


def broken(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


# Promise


@pytest.mark.parametrize("change", ["standardise", "size", "layers"])
def test_the_fingerprint_knows_what_is_done_around_the_weights(change, folders):
    options = {"standardise": {"standardise": True, "mean": 0.0}, "size": {"size": 32}, "layers": {"layers": [1]}}
    plain = build_huggingface(folders("vit"), mean=0.0, std=1.0)
    other = build_huggingface(folders("vit"), **{"mean": 0.0, "std": 1.0, **options[change]})
    assert other.fingerprint() != plain.fingerprint()


def test_the_fingerprint_is_not_that_of_the_folder(folders, tmp_path):
    moved = shutil.copytree(folders("vit"), tmp_path / "elsewhere")
    assert build_huggingface(moved).fingerprint() == build_huggingface(folders("vit")).fingerprint()


@pytest.mark.parametrize("kind", ["siglip", "clip", "sam"])
def test_of_a_model_of_several_parts_the_vision_part_is_taken_without_a_word(kind, tmp_path, images, monkeypatch):
    match kind:
        case "siglip":
            config = transformers.SiglipConfig(text_config=TEXT, vision_config={**BLOCKS, **SQUARE})
        case "clip":
            config = transformers.CLIPConfig(text_config=TEXT, vision_config={**BLOCKS, **SQUARE})
        case _:
            config = transformers.SamConfig(
                vision_config=SAM,
                prompt_encoder_config={"hidden_size": 8, **SQUARE, "mask_input_channels": 4},
                mask_decoder_config={"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2,
                                     "iou_head_hidden_dim": 8},
            )  # fmt: skip
    folder = saved(config, tmp_path)
    words: list[str] = []
    monkeypatch.setattr(logging.Handler, "handle", lambda _self, record: words.append(record.getMessage()))
    encoder = build_huggingface(folder, layers=[1, 4], mean=0.0, std=1.0)
    assert not words  # of the weights that are not the vision part's
    whole = transformers.AutoModel.from_pretrained(folder).eval()
    vision = whole.vision_encoder if kind == "sam" else whole.vision_model
    with torch.no_grad():
        states = vision(images, output_hidden_states=True).hidden_states
    for position in (1, 4):
        state = states[position]
        expected = state.mean(dim=(1, 2)) if kind == "sam" else state[:, 1 if kind == "clip" else 0 :].mean(dim=1)
        assert torch.allclose(encoder(images)[f"hidden.{position}"], expected, atol=1e-5)
    held = sum(parameter.numel() for parameter in encoder.parameters())
    assert held < sum(parameter.numel() for parameter in whole.parameters())


def test_half_precision_weights_are_used_in_single_precision(folders, tmp_path, images):
    folder = shutil.copytree(folders("vit"), tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    save_file({key: value.half() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "dtype": "float16"}))
    encoder = build_huggingface(folder)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder(images)["hidden.4"].isfinite().all()


def test_a_model_in_the_cache_is_built_from_it(folders, tmp_path, monkeypatch, images):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "models--who--vit"
    shutil.copytree(folders("vit"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    expected = build_huggingface(folders("vit"))
    for ask in ({}, {"revision": commit}):
        assert build_huggingface("who/vit", **ask).fingerprint() == expected.fingerprint()


def test_nothing_but_settings_and_safetensors_is_ever_fetched(folders, monkeypatch):
    asked = {}

    def fetch(name, **options):
        asked.update(options, name=name)
        return str(folders("vit"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    build_huggingface("who/vit", revision="v1")
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("who/vit", "v1", True)
    assert {Path(pattern).suffix for pattern in asked["allow_patterns"]} == {".json", ".safetensors"}


@pytest.mark.parametrize("folder", ["/none/here", "./none", "~/none/here", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_id(folder):
    with pytest.raises(EncoderError, match=r"needed a hub id .* or a folder; there is no folder"):
        build_huggingface(folder)


def test_without_transformers_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for model in (folders("vit"), "who/none"):
        with pytest.raises(EncoderError, match=r"needed the package transformers.*pip install 'mi-callback\[hf\]'"):
            build_huggingface(model)


# Refusal


@pytest.mark.parametrize("kind", ["vit", "dinov2", "resnet", "swin"])
def test_weights_that_are_missing_are_refused_with_their_names(kind, folders, tmp_path):
    names = [key for key in load_file(folders(kind) / "model.safetensors") if "pooler" not in key]
    lost = next(key for key in names if key.endswith(("running_mean", "query.weight", "q_proj.weight")))
    folder = broken(folders(kind), tmp_path / "m", lambda weights: weights.pop(lost))
    with pytest.raises(EncoderError, match=r"needed the weights of \w+; in .* are missing \['"):
        build_huggingface(folder)


def test_weights_of_no_model_of_the_kind_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders("vit"), tmp_path / "m")
    save_file({"decoder.weight": torch.zeros(2, 2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=r"needed the weights of ViTModel; in .* are missing \['.*and \d+ more"):
        build_huggingface(folder)


def test_weights_of_another_shape_are_refused_with_their_names(folders, tmp_path):
    def shorten(weights):
        key = next(key for key in weights if key.endswith("position_embeddings"))
        weights[key] = weights[key][:, :-1].contiguous()

    with pytest.raises(EncoderError, match=r"are of another shape \['embeddings.position_embeddings'\]"):
        build_huggingface(broken(folders("vit"), tmp_path / "m", shorten))


def test_a_pooler_and_a_last_norm_may_be_missing_for_hidden_states_come_before_them(folders, tmp_path, images):
    def strip(weights):
        for key in [key for key in weights if key.startswith(("pooler.", "layernorm."))]:
            del weights[key]

    whole = build_huggingface(folders("vit"))
    folder = broken(folders("vit"), tmp_path / "m", strip)
    assert len(load_file(folder / "model.safetensors")) == len(load_file(folders("vit") / "model.safetensors")) - 4
    stripped = build_huggingface(folder)
    for layer, features in whole(images).items():
        assert torch.equal(stripped(images)[layer], features)
    torch.manual_seed(3)
    assert build_huggingface(folder).fingerprint() == stripped.fingerprint()
    assert all(parameter.isfinite().all() for parameter in stripped.parameters())


def test_a_block_that_no_wanted_layer_needs_may_be_missing(folders, tmp_path):
    def strip(weights):
        for key in [key for key in weights if ".3." in key]:
            del weights[key]

    folder = broken(folders("vit"), tmp_path / "m", strip)
    assert list(build_huggingface(folder, layers=[1, 3]).layers) == ["hidden.1", "hidden.3"]
    with pytest.raises(EncoderError, match="are missing"):
        build_huggingface(folder, layers=[1, 4])


def test_pickled_weights_are_refused_with_the_way_to_convert_them(folders, tmp_path):
    folder = shutil.copytree(folders("vit"), tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(
        EncoderError, match=r"needed weights as safetensors; .*pytorch_model\.bin.*pickles.*save_pretrained"
    ):
        build_huggingface(folder)


def test_a_folder_without_weights_is_refused_with_what_it_holds(folders, tmp_path):
    folder = shutil.copytree(folders("vit"), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"needed weights as safetensors; .* holds \['config\.json'\]"):
        build_huggingface(folder)


def test_a_pointer_in_place_of_weights_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders("vit"), tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(EncoderError, match=r"needed a vision model that AutoModel .* loads.*is none: SafetensorError"):
        build_huggingface(folder)


@pytest.mark.parametrize("ask", [{}, {"revision": "abc"}], ids=str)
def test_a_model_that_is_not_there_tells_how_to_fetch_it(ask, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        EncoderError, match=r"'who/none'.* in the Hugging Face cache.*hf download who/none.*local_files_only=False"
    ):
        build_huggingface("who/none", **ask)


def test_a_model_that_cannot_be_fetched_tells_why(tmp_path, monkeypatch):
    def refuse(*_args, local_files_only, **_options):
        assert not local_files_only
        raise OSError("401 Client Error.\nCannot access gated repo")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        EncoderError, match=r"'who/gated' from the Hugging Face hub; OSError: 401 Client Error\. If .*hf auth login"
    ):
        build_huggingface("who/gated", local_files_only=False)


def test_no_model_is_refused():
    with pytest.raises(EncoderError, match=r"needed a model: build_encoder\('huggingface', model="):
        build_encoder("huggingface")


def test_a_model_that_brings_code_is_refused_and_its_code_not_run(tmp_path, folders):
    folder = shutil.copytree(folders("vit"), tmp_path / "m")
    code = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(code))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(EncoderError, match="loads without code from the model's author"):
        build_huggingface(folder)
    assert not (tmp_path / "ran").exists()
