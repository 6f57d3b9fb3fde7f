"""Backbones of transformers: random weights, the real families, no downloads."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_contract import EncoderContract
from safetensors.torch import load_file, save_file

from mi_callback.encoders import build_encoder
from mi_callback.encoders.huggingface import FAMILIES, build_huggingface
from mi_callback.errors import EncoderError

transformers = pytest.importorskip("transformers")

SIDE = 64
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
TEXT = {**BLOCKS, "num_hidden_layers": 1, "vocab_size": 20, "max_position_embeddings": 8}
SQUARE = {"image_size": SIDE, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {
    "image_size": SIDE,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
SAM = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_dim": 64, "output_channels": 8,
    "window_size": 4, "global_attn_indexes": [1, 3], **SQUARE,
}  # fmt: skip

CONFIGS: dict[str, Callable[[], Any]] = {
    "beit": lambda: transformers.BeitConfig(
        **BLOCKS, **SQUARE, use_absolute_position_embeddings=True, use_relative_position_bias=True
    ),
    "clip_vision_model": lambda: transformers.CLIPVisionConfig(**BLOCKS, **SQUARE),
    "convnext": lambda: transformers.ConvNextConfig(**STAGES, image_size=SIDE),
    "convnextv2": lambda: transformers.ConvNextV2Config(**STAGES, image_size=SIDE),
    "dinov2": lambda: transformers.Dinov2Config(**BLOCKS, **SQUARE),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersConfig(**BLOCKS, **SQUARE, num_register_tokens=3),
    "dinov3_convnext": lambda: transformers.DINOv3ConvNextConfig(**STAGES, image_size=SIDE),
    "dinov3_vit": lambda: transformers.DINOv3ViTConfig(**BLOCKS, **SQUARE, num_register_tokens=4),
    "hiera": lambda: transformers.HieraConfig(
        embed_dim=8, image_size=(SIDE, SIDE), depths=[1, 1, 2], num_heads=[1, 2, 4], num_query_pool=2,
        masked_unit_size=(4, 4), masked_unit_attention=[True, True, False],
    ),
    "ijepa": lambda: transformers.IJepaConfig(**BLOCKS, **SQUARE),
    "mobilenet_v2": lambda: transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=SIDE),
    "pvt_v2": lambda: transformers.PvtV2Config(
        hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 4], depths=[1, 1, 1, 1], mlp_ratios=[2, 2, 2, 2],
        image_size=SIDE,
    ),
    "regnet": lambda: transformers.RegNetConfig(**STAGES, embedding_size=8, groups_width=8),
    "resnet": lambda: transformers.ResNetConfig(**STAGES, embedding_size=8, layer_type="basic"),
    "sam_vision_model": lambda: transformers.SamVisionConfig(**SAM),
    "siglip_vision_model": lambda: transformers.SiglipVisionConfig(**BLOCKS, **SQUARE),
    "swin": lambda: transformers.SwinConfig(**SWIN, use_absolute_embeddings=True),
    "swinv2": lambda: transformers.Swinv2Config(**SWIN),
    "vit": lambda: transformers.ViTConfig(**BLOCKS, **SQUARE),
    "vit_mae": lambda: transformers.ViTMAEConfig(**BLOCKS, **SQUARE, mask_ratio=0.75),
}  # fmt: skip

# Position of every map that a family returns, and how many tokens come before it.
PREFIX = {"beit": 1, "clip_vision_model": 1, "dinov2": 1, "dinov2_with_registers": 4, "dinov3_vit": 5, "ijepa": 0,
          "siglip_vision_model": 0, "vit": 1, "vit_mae": 1}  # fmt: skip
FIXED = {"hiera", "sam_vision_model"}
# Convolutions whose last map, random, is too small or too flat to tell its corners apart.
DEEP = {"mobilenet_v2", "regnet", "resnet"}


def saved(config: Any, folder: Path, seed: int = 0) -> Path:
    """A model of random weights in `folder`, biases and norms too: zeros and ones would hide what they do."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformers.AutoModel.from_config(config)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = saved(CONFIGS[kind](), tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


@pytest.fixture
def images(generator) -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=generator)


def reference(folder: Path, images: torch.Tensor, **options: Any) -> Any:
    """The output of the model itself on images that are normalised by hand."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    config = transformers.AutoConfig.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder, config=getattr(config, "vision_config", config)).eval()
    ready = (images - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        return network(pixel_values=ready, output_hidden_states=True, **options)


def maps(kind: str, encoder: Any, images: torch.Tensor, layer: str) -> torch.Tensor:
    """What a layer returns as `(n, channels, height, width)`, tokens row by row."""
    output = encoder._outputs(images)[layer]
    match FAMILIES[kind].layout:
        case "BCHW":
            return output
        case "BHWC":
            return output.permute(0, 3, 1, 2)
        case _:
            tokens = output[:, PREFIX[kind] :].transpose(1, 2)
            rows = encoder.size[0] // 8
            return tokens.reshape(len(images), -1, rows, tokens.shape[2] // rows)


# Definition: pooled hidden states of the model itself


def test_every_family_is_tested():
    assert CONFIGS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", CONFIGS)
def test_features_are_the_pooled_hidden_states_of_the_model_without_its_prefix(kind, folders, images):
    extra = {"noise": torch.arange(64.0).expand(2, -1)} if kind == "vit_mae" else {}
    folder = folders(kind)
    if kind == "vit_mae":  # the model's own way not to mask, beside ours
        config = json.loads((folder / "config.json").read_text())
        assert config["mask_ratio"] == 0.75
    count = len(build_huggingface(folder, layers=[0]).network.states(images))
    encoder = build_huggingface(folder, layers=range(count))
    found = encoder(images)
    if kind == "vit_mae":
        network = transformers.AutoModel.from_pretrained(folder, mask_ratio=0.0)
        ready = (images - encoder.mean[None, :, None, None]) / encoder.std[None, :, None, None]
        states = network.eval()(ready, output_hidden_states=True, **extra).hidden_states
    else:
        states = reference(folder, images).hidden_states
    assert len(states) == len(found) == count
    for position, state in enumerate(states):
        if kind in PREFIX:
            expected = state[:, PREFIX[kind] :].mean(dim=1)
        elif kind in ("swin", "swinv2", "hiera"):  # tokens, whose mean does not depend on their order
            expected = state.mean(dim=1)
        else:
            expected = state.mean(dim=(1, 2) if kind == "sam_vision_model" else (2, 3))
        assert torch.allclose(found[f"hidden.{position}"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0)], ids=["top-left", "top-right", "bottom-left"])
def test_maps_show_the_image_as_it_lies(kind, corner, folders, images):
    last = [] if kind in DEEP else [-1]
    encoder = build_huggingface(folders(kind), layers=[0, 1, *last])
    changed = images.clone()
    rows, columns = (slice(0, SIDE // 4) if side == 0 else slice(-SIDE // 4, None) for side in corner)
    changed[..., rows, columns] = 1 - changed[..., rows, columns]
    for layer in encoder.layers:
        before, after = (maps(kind, encoder, batch, layer) for batch in (images, changed))
        difference = (after - before).abs().mean(dim=(0, 1))
        height, width = difference.shape
        assert height == width >= 2
        quarters = torch.stack(
            [part.mean() for half in difference.tensor_split(2, dim=0) for part in half.tensor_split(2, dim=1)]
        )
        assert quarters.argmax() == 2 * corner[0] + corner[1]
        assert quarters.max() > 1.5 * quarters.sort().values[-2]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_square_map_has_regions(kind, folders, images):
    encoder = build_huggingface(folders(kind))
    whole, parts = encoder.with_windows(images)
    assert list(parts) == list(whole) == list(encoder.layers)
    assert all(parts[layer].shape == (2, 9, whole[layer].shape[1]) for layer in parts)


def test_layers_are_three_evenly_spread_of_which_the_last_is_one(folders, tmp_path):
    blocks = {**BLOCKS, "num_hidden_layers": 12}
    twelve = saved(transformers.ViTConfig(**blocks, image_size=16, patch_size=8), tmp_path)
    assert list(build_huggingface(twelve).layers) == ["hidden.4", "hidden.8", "hidden.12"]
    assert list(build_huggingface(folders("dinov3_convnext")).layers) == ["hidden.1", "hidden.3", "hidden.4"]
    assert list(build_huggingface(folders("pvt_v2")).layers) == ["hidden.1", "hidden.2", "hidden.3"]


def test_layers_count_from_the_end_too_and_keep_their_order(folders, images):
    encoder = build_huggingface(folders("vit"), layers=[-1, 0, 2])
    assert list(encoder.layers) == list(encoder(images)) == ["hidden.4", "hidden.0", "hidden.2"]


def test_the_cls_token_is_the_first(folders, images):
    encoder = build_huggingface(folders("dinov2_with_registers"), layers=[3], pooling="cls")
    states = reference(folders("dinov2_with_registers"), images).hidden_states
    assert torch.allclose(encoder(images)["hidden.3"], states[3][:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip_vision_model", "convnext"])
def test_a_cls_token_that_a_family_has_not_is_refused_when_it_is_built(kind, folders):
    with pytest.raises(EncoderError, match="needed a BNC layer with a CLS token"):
        build_huggingface(folders(kind), pooling="cls")


# Promise: the same image, the same features


def test_a_masked_autoencoder_sees_every_patch_in_order_and_draws_nothing(folders, images):
    encoder = build_huggingface(folders("vit_mae"))
    state = torch.get_rng_state()
    first = encoder(images)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert all(torch.equal(first[layer], again) for layer, again in encoder(images).items())
    assert all(output.shape == (2, 65, 32) for output in encoder._outputs(images).values())


@pytest.mark.parametrize("change", ["standardise", "size", "layers"])
def test_the_fingerprint_knows_what_is_done_around_the_weights(change, folders):
    options = {"standardise": {"standardise": True, "mean": 0.0}, "size": {"size": 32}, "layers": {"layers": [1]}}
    plain = build_huggingface(folders("vit"), mean=0.0, std=1.0)
    other = build_huggingface(folders("vit"), **{"mean": 0.0, "std": 1.0, **options[change]})
    assert other.fingerprint() != plain.fingerprint()


def test_the_fingerprint_is_not_that_of_the_folder(folders, tmp_path):
    moved = shutil.copytree(folders("vit"), tmp_path / "elsewhere")
    assert build_huggingface(moved).fingerprint() == build_huggingface(folders("vit")).fingerprint()


# Promise: other sizes


@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - FIXED))
@pytest.mark.parametrize("size", [32, (96, 64)], ids=str)
def test_another_size_than_the_trained_one_works_and_keeps_the_map(kind, size, folders, generator):
    encoder = build_huggingface(folders(kind), size=size, layers=[1])
    height, width = encoder.size
    batch = torch.rand(2, 3, height, width, generator=generator)
    changed = batch.clone()
    changed[..., : height // 4, -width // 4 :] = 1 - changed[..., : height // 4, -width // 4 :]
    before, after = (maps(kind, encoder, x, "hidden.1") for x in (batch, changed))
    difference = (after - before).abs().mean(dim=(0, 1))
    assert abs(difference.shape[0] / difference.shape[1] - height / width) < 0.01
    top, bottom = difference.tensor_split(2, dim=0)
    assert top.tensor_split(2, dim=1)[1].mean() > 1.5 * max(top.tensor_split(2, dim=1)[0].mean(), bottom.mean())


def test_positions_are_interpolated_as_the_model_does_it(folders, generator):
    batch = torch.rand(2, 3, 32, 32, generator=generator)
    encoder = build_huggingface(folders("vit"), size=32, layers=[2])
    expected = reference(folders("vit"), batch, interpolate_pos_encoding=True).hidden_states[2][:, 1:].mean(dim=1)
    assert torch.allclose(encoder(batch)["hidden.2"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(FIXED))
def test_a_family_of_one_size_refuses_others(kind, folders):
    with pytest.raises(
        EncoderError, match=rf"needed the size \(64, 64\), the only one that this {kind} takes; \(32, 32\)"
    ):
        build_huggingface(folders(kind), size=32)


def test_a_size_that_would_leave_pixels_unseen_is_refused(folders):
    with pytest.raises(EncoderError, match=r"whole patches of \(8, 8\); \(60, 60\) came"):
        build_huggingface(folders("dinov2"), size=60)


def test_a_size_that_the_model_refuses_is_told_when_it_is_built(folders, monkeypatch):
    monkeypatch.setattr("mi_callback.encoders.huggingface.backbone.position_options", lambda *_: {})
    with pytest.raises(
        EncoderError, match=r"needed hidden states from this vit for images of shape \(3, 32, 32\).*pass size"
    ):
        build_huggingface(folders("vit"), size=32)


# Promise: models of several parts give their vision part


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


# Promise: the input that the model was trained on


def with_processor(folder: Path, target: Path, file: str = "preprocessor_config.json", **settings: Any) -> Path:
    shutil.copytree(folder, target)
    (target / file).write_text(json.dumps(settings))
    return target


def test_mean_std_and_size_are_those_of_the_models_preprocessor(folders, tmp_path):
    folder = with_processor(
        folders("vit"), tmp_path / "m", size={"height": 32, "width": 48}, image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6], do_normalize=True, do_rescale=True, rescale_factor=1 / 255,
    )  # fmt: skip
    encoder = build_huggingface(folder)
    assert encoder.size == (32, 48)
    assert encoder.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert encoder.std.tolist() == pytest.approx([0.4, 0.5, 0.6])
    own = build_huggingface(folder, size=64, mean=[0.0, 0.0, 0.1], std=2.0)
    assert (own.size, own.mean.tolist(), own.std.tolist()) == ((64, 64), pytest.approx([0, 0, 0.1]), [2.0])


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}}, (48, 48)),
        ({"size": 32, "crop_size": 24, "do_center_crop": False}, (32, 32)),
        ({"size": {"longest_edge": 32}, "crop_size": None}, (32, 32)),
        ({"crop_size": 48, "clip_below_air": True}, (48, 48)),
        ({"do_resize": False}, (64, 64)),
    ],
    ids=["crop", "no crop", "longest edge", "crop alone", "nothing"],
)
def test_the_size_is_what_the_model_saw_in_the_end(settings, size, folders, tmp_path):
    assert build_huggingface(with_processor(folders("dinov2"), tmp_path / "m", **settings)).size == size


def test_a_processor_inside_that_of_several_parts_is_read(folders, tmp_path):
    inner = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    folder = with_processor(folders("vit"), tmp_path / "m", "processor_config.json", image_processor=inner)
    encoder = build_huggingface(folder)
    assert (encoder.size, encoder.mean.tolist(), encoder.std.tolist()) == ((32, 32), [0.5] * 3, [0.25] * 3)


def test_another_scale_than_that_of_bytes_goes_into_mean_and_std(folders, tmp_path, images):
    folder = with_processor(
        folders("vit"), tmp_path / "m", image_mean=[1.0] * 3, image_std=[2.0] * 3, rescale_factor=1 / 127.5
    )
    encoder = build_huggingface(folder)
    assert torch.allclose(encoder._ready(images), (images * 255 / 127.5 - 1) / 2)


def test_a_model_that_is_not_normalised_gets_the_scaled_image(folders, tmp_path):
    folder = with_processor(folders("vit"), tmp_path / "m", do_normalize=False, image_mean=[0.5] * 3, image_std=[1] * 3)
    encoder = build_huggingface(folder)
    assert (encoder.mean.tolist(), encoder.std.tolist()) == ([0.0], [1.0])


def test_without_a_preprocessor_mean_and_std_are_those_of_imagenet(folders):
    encoder = build_huggingface(folders("vit"))
    assert encoder.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert encoder.std.tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_a_model_of_one_channel_takes_one(tmp_path, generator):
    folder = saved(transformers.Dinov2Config(**BLOCKS, **SQUARE, num_channels=1), tmp_path)
    encoder = build_huggingface(folder)
    assert (encoder.channels, encoder.mean.tolist(), encoder.std.tolist()) == (1, [0.0], [1.0])
    assert len(encoder(torch.rand(2, 1, SIDE, SIDE, generator=generator))) == 3


def test_standardised_images_have_no_brightness_and_contrast(folders, images):
    encoder = build_huggingface(folders("vit"), standardise=True)
    plain = build_huggingface(folders("vit"), mean=0.0, std=1.0)
    spread, centre = torch.std_mean(images, dim=(2, 3), correction=0, keepdim=True)
    expected = plain((images - centre) / spread)
    for layer, features in encoder(0.3 * images + 5).items():
        assert torch.allclose(features, expected[layer], atol=1e-4)


def test_half_precision_weights_are_used_in_single_precision(folders, tmp_path, images):
    folder = shutil.copytree(folders("vit"), tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    save_file({key: value.half() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "dtype": "float16"}))
    encoder = build_huggingface(folder)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert encoder(images)["hidden.4"].isfinite().all()


# Refusal: weights


def broken(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target


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


# Refusal: models


@pytest.mark.parametrize("ask", [{}, {"revision": "abc"}], ids=str)
def test_a_model_that_is_not_there_tells_how_to_fetch_it(ask, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        EncoderError, match=r"'who/none'.* in the Hugging Face cache.*hf download who/none.*local_files_only=False"
    ):
        build_huggingface("who/none", **ask)


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


def test_a_model_that_cannot_be_fetched_tells_why(tmp_path, monkeypatch):
    def refuse(*_args, local_files_only, **_options):
        assert not local_files_only
        raise OSError("401 Client Error.\nCannot access gated repo")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        EncoderError, match=r"'who/gated' from the Hugging Face hub; OSError: 401 Client Error\. If .*hf auth login"
    ):
        build_huggingface("who/gated", local_files_only=False)


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


def test_no_model_is_refused():
    with pytest.raises(EncoderError, match=r"needed a model: build_encoder\('huggingface', model="):
        build_encoder("huggingface")


def test_without_transformers_the_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for model in (folders("vit"), "who/none"):
        with pytest.raises(EncoderError, match=r"needed the package transformers.*pip install 'mi-callback\[hf\]'"):
            build_huggingface(model)


def test_a_model_that_brings_code_is_refused_and_its_code_not_run(tmp_path, folders):
    folder = shutil.copytree(folders("vit"), tmp_path / "m")
    code = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(code))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(EncoderError, match="loads without code from the model's author"):
        build_huggingface(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("layers", [[5], [-6], [1, 1], [4, -1], []], ids=str)
def test_layers_that_are_not_there_are_refused(layers, folders):
    with pytest.raises(EncoderError, match=r"needed different positions in the 5 hidden states of this vit, -5 to 4"):
        build_huggingface(folders("vit"), layers=layers)


def test_channels_that_the_model_does_not_take_are_refused(folders):
    with pytest.raises(EncoderError, match="needed the 3 channels that this vit takes; channels=1 came"):
        build_huggingface(folders("vit"), channels=1)


def test_an_unknown_family_is_refused_unless_it_is_declared(tmp_path, images):
    folder = saved(transformers.DeiTConfig(**BLOCKS, **SQUARE), tmp_path)
    with pytest.raises(
        EncoderError, match=r"needed a model_type whose hidden states are known.*'deit' came.*prefix_tokens"
    ):
        build_huggingface(folder)
    encoder = build_huggingface(folder, layout="BNC", prefix_tokens=2, layers=[3])
    expected = reference(folder, images).hidden_states[3][:, 2:].mean(dim=1)
    assert torch.allclose(encoder(images)["hidden.3"], expected, atol=1e-5)
    with pytest.raises(EncoderError, match="needed a BCHW output"):
        build_huggingface(folder, layout="BCHW")


def test_a_known_family_is_not_declared_again(folders):
    with pytest.raises(EncoderError, match="needed neither layout nor prefix_tokens for 'vit'"):
        build_huggingface(folders("vit"), prefix_tokens=0)


def test_a_text_model_is_refused(tmp_path):
    folder = saved(transformers.BertConfig(**BLOCKS, vocab_size=20, max_position_embeddings=8), tmp_path)
    with pytest.raises(EncoderError, match="model_type whose hidden states are known"):
        build_huggingface(folder)


def test_importing_the_encoders_imports_no_transformers():
    import subprocess

    code = "import sys, mi_callback.encoders.huggingface; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Promise: the contract that every encoder keeps


class Saved(EncoderContract):
    kind = ""

    def build(self, tmp_path):
        folder = tmp_path / self.kind
        return build_encoder("huggingface", model=folder if folder.exists() else saved(CONFIGS[self.kind](), folder))


class TestDinov2WithRegisters(Saved):
    names = ("huggingface", "rad_dino", "dinov2", "dinov3", "curia", "medsiglip", "midnight", "phikon_v2")
    kind = "dinov2_with_registers"


class TestVit(Saved):
    kind = "vit"


class TestVitMae(Saved):
    kind = "vit_mae"


class TestSiglip(Saved):
    kind = "siglip_vision_model"


class TestConvnext(Saved):
    kind = "convnext"


class TestSwin(Saved):
    kind = "swin"


class TestHiera(Saved):
    kind = "hiera"


class TestDinov3(Saved):
    kind = "dinov3_vit"
