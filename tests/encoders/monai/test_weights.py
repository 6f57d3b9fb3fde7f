"""What all MONAI families promise: nothing stays random by accident, and windows of volumes."""

import re
import sys

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from monai_networks import (
    TINY_RESNET,
    TINY_SWIN,
    TINY_VIT,
    needs_einops,
    the_same,
    weights_of,
)
from safetensors.torch import save_file

from mi_callback.encoders import build_encoder, entry
from mi_callback.encoders.monai import (
    build_medicalnet,
    build_monai_resnet,
    build_monai_vit,
    build_swin_unetr,
)
from mi_callback.errors import EncoderError

# Promise


@needs_einops
@pytest.mark.parametrize(
    "build",
    [
        lambda: build_medicalnet("random", **TINY_RESNET),
        lambda: build_monai_vit("random", class_token=True, **TINY_VIT),
        lambda: build_swin_unetr("random", **TINY_SWIN),
    ],
    ids=["medicalnet", "vit", "swin"],
)
def test_volumes_have_27_windows(build, generator):
    encoder = build()
    images = torch.rand(2, 1, *encoder.size, generator=generator)
    whole, parts = encoder.with_windows(images)
    assert parts.keys() == whole.keys()
    for layer, features in parts.items():
        assert features.shape == (2, 27, whole[layer].shape[1])
    assert (whole[layer] - encoder(images)[layer]).abs().max() == 0


@needs_einops
def test_random_weights_are_those_of_their_seed_and_say_so():
    first, again, other = (build_encoder("monai_vit", checkpoint="random", seed=s, **TINY_VIT) for s in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.name == "monai_vit (random, seed 1)"
    assert first.card.licence == "none: random weights"


@pytest.mark.parametrize(
    ("name", "options"),
    [("medicalnet", {"depth": 10}), pytest.param("swin_unetr", {"feature_size": 12}, marks=needs_einops)],
)
def test_configs_instantiate_with_overrides(tmp_path, name, options):
    size = [32, 32, 32]
    weights = build_encoder(name, checkpoint="random", size=size, **options).network.state_dict()
    save_file({key: value.clone() for key, value in weights.items()}, tmp_path / "w.safetensors")
    overrides = [f"encoder.{key}={value}" for key, value in options.items()]
    overrides += [f"encoder.checkpoint={tmp_path / 'w.safetensors'}", f"encoder.size={size}".replace(" ", "")]
    with initialize_config_module(config_module="mi_callback.conf", version_base="1.3"):
        config = compose(overrides=[f"+mi_callback/encoder@encoder={name}", *overrides])
    encoder = instantiate(config.encoder)
    assert encoder.size == (32, 32, 32)
    assert the_same(encoder, weights)


# Refusal


def test_einops_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "einops", None)
    for build, options in ((build_monai_vit, TINY_VIT), (build_swin_unetr, TINY_SWIN)):
        with pytest.raises(EncoderError, match=r"needed einops.*pip install 'mi-callback\[monai\]'"):
            build("random", **options)


BUILDERS = {
    "monai_resnet": TINY_RESNET,
    "medicalnet": TINY_RESNET,
    "monai_vit": TINY_VIT,
    "swin_unetr": TINY_SWIN,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_no_checkpoint_is_an_error_and_never_random_weights(name):
    with pytest.raises(EncoderError, match=r"needed a checkpoint; none was named.*checkpoint='random'"):
        build_encoder(name, **BUILDERS[name])
    assert "checkpoint" in entry(name).needs
    assert entry(name).dims == 3


WITH_EINOPS = [pytest.param(n, marks=needs_einops) if n in ("monai_vit", "swin_unetr") else n for n in BUILDERS]


@pytest.mark.parametrize("name", WITH_EINOPS)
def test_partial_weights_are_an_error_that_lists_the_keys(tmp_path, name):
    weights = weights_of(build_encoder(name, checkpoint="random", **BUILDERS[name]))
    key = next(key for key in weights if "layer4" in key or "layers4" in key or "blocks.5" in key)
    del weights[key]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=rf"missing \['{key}'\]\.$"):
        build_encoder(name, checkpoint=tmp_path / "w.safetensors", **BUILDERS[name])


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("monai_resnet", {"widen": 1 / 8}, "of another shape ['conv1.weight (4, 1, 7, 7, 7) for (8, 1, 7, 7, 7)'"),
        ("monai_resnet", {"depth": 18}, "missing ['layer1.1."),
        ("monai_vit", {"size": (8, 8, 8)}, "of another shape ['patch_embedding.position_embeddings (1, 12, 12)"),
        ("monai_vit", {"class_token": True}, "missing ['cls_token']"),
        ("swin_unetr", {"channels": 2}, "of another shape ['patch_embed.proj.weight (12, 1, 2, 2, 2)"),
        ("swin_unetr", {"use_v2": True}, "missing ['layers1c.0."),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, name, other, told):
    if name in ("monai_vit", "swin_unetr"):
        pytest.importorskip("einops")
    save_file(weights_of(build_encoder(name, checkpoint="random", **BUILDERS[name])), tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=re.escape(told)):
        build_encoder(name, checkpoint=tmp_path / "w.safetensors", **{**BUILDERS[name], **other})


@needs_einops
def test_another_digest_is_refused(tmp_path):
    save_file(weights_of(build_monai_vit("random", **TINY_VIT)), tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match="with the SHA-256"):
        build_monai_vit(tmp_path / "w.safetensors", sha256="0" * 64, **TINY_VIT)


@pytest.mark.parametrize(
    ("build", "options", "told"),
    [
        (build_monai_resnet, {"depth": 12}, "needed a depth out of"),
        (build_monai_resnet, {"dims": 4}, "needed dims 2"),
        (build_monai_resnet, {"size": (32, 32)}, "needed a size of one number or 3"),
        (build_monai_vit, {"size": 20, "patch": 16}, "multiples of the patch"),
        (build_monai_vit, {"width": 10, "heads": 3}, "one of the heads"),
        (build_monai_vit, {"taps": 13}, "1 to depth taps"),
        (build_swin_unetr, {"size": 48}, "multiples of 32"),
        (build_swin_unetr, {"feature_size": 10}, "one of 12"),
        (build_swin_unetr, {"depths": (2, 2)}, "four depths"),
    ],
)
def test_options_that_make_no_network_are_refused_before_it_is_built(build, options, told):
    with pytest.raises(EncoderError, match=told):
        build("random", **options)
