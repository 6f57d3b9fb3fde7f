"""MONAI's vision transformer: features are the network's own, weights load from within models."""

import pytest
import torch
from encoder_contract import EncoderContract
from monai_networks import TINY_VIT, needs_einops, the_same, weights_of
from safetensors.torch import save_file

from mi_callback.encoders import build_encoder
from mi_callback.encoders.monai import (
    build_monai_vit,
)
from mi_callback.errors import EncoderError

# Promise: the contract


@needs_einops
class TestMonaiViT(EncoderContract):
    names = ("monai_vit",)

    def build(self, tmp_path):
        return build_encoder("monai_vit", checkpoint="random", **TINY_VIT)


@needs_einops
class TestMonaiViTOfImages(EncoderContract):
    def build(self, tmp_path):
        options = {**TINY_VIT, "size": (16, 24)}
        return build_encoder("monai_vit", checkpoint="random", dims=2, class_token=True, pooling="cls", **options)


# Definition


@needs_einops
@pytest.mark.parametrize("class_token", [True, False])
def test_vit_features_are_the_means_of_the_patch_tokens_of_its_blocks(generator, class_token):
    encoder = build_monai_vit("random", class_token=class_token, **TINY_VIT)
    images = torch.rand(2, 1, *encoder.size, generator=generator)
    assert list(encoder.layers) == ["blocks.1", "blocks.3", "blocks.5"]
    hidden = encoder.network(images)[1]
    for block in (1, 3, 5):
        tokens = hidden[block]
        assert tokens.shape[1] == 2 * 3 * 2 + class_token
        expected = tokens[:, int(class_token) :].mean(1)
        assert torch.allclose(encoder(images)[f"blocks.{block}"], expected, atol=1e-6)


@needs_einops
def test_blocks_are_spread_evenly_over_a_vit_b():
    expected = {12: ["blocks.3", "blocks.7", "blocks.11"], 24: ["blocks.7", "blocks.15", "blocks.23"]}
    for depth, names in expected.items():
        assert list(build_monai_vit("random", **{**TINY_VIT, "depth": depth}).layers) == names


# Promise: weights load


@needs_einops
@pytest.mark.parametrize("around", ["", "module.", "backbone.", "module.backbone.", "vit."])
@pytest.mark.parametrize("class_token", [True, False])
def test_a_vit_loads_from_older_versions_and_from_within_models(tmp_path, around, class_token):
    weights = weights_of(build_monai_vit("random", class_token=class_token, **TINY_VIT))
    stale = {"blocks.0.cross_attn.to_q.weight": torch.zeros(2), "classification_head.0.weight": torch.zeros(2)}
    torch.save({"state_dict": {around + k: v for k, v in (weights | stale).items()}}, tmp_path / "v.ckpt")
    assert the_same(build_monai_vit(tmp_path / "v.ckpt", class_token=class_token, **TINY_VIT), weights)


@needs_einops
def test_a_named_prefix_is_taken_and_one_that_is_not_there_refused(tmp_path):
    weights = weights_of(build_monai_vit("random", **TINY_VIT))
    save_file(
        {f"student.trunk.{k}": v for k, v in weights.items()} | {"head": torch.ones(1)}, tmp_path / "w.safetensors"
    )
    assert the_same(build_monai_vit(tmp_path / "w.safetensors", prefix="student.trunk.", **TINY_VIT), weights)
    with pytest.raises(EncoderError, match=r"needed keys that begin with 'trunk\.'; the checkpoint has \['head'"):
        build_monai_vit(tmp_path / "w.safetensors", prefix="trunk.", **TINY_VIT)


@needs_einops
def test_the_fingerprint_knows_what_neither_weights_nor_modules_show(tmp_path):
    weights = weights_of(build_monai_vit("random", **TINY_VIT))
    save_file(weights, tmp_path / "w.safetensors")
    three, two = (build_monai_vit(tmp_path / "w.safetensors", **{**TINY_VIT, "heads": h}) for h in (3, 2))
    assert three.fingerprint() != two.fingerprint()
