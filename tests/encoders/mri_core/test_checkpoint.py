"""Checkpoints of every known layout load, and others are refused with the keys at fault."""

import re

import pytest
import torch
import torch.nn.functional as F
from mri_core_files import DEPTH, HEADS, WIDTH, backbone, chunked, features_of, save
from safetensors.torch import save_file

from mi_callback.encoders.mri_core import build_mri_core
from mi_callback.errors import EncoderError


@pytest.fixture
def images(generator):
    return torch.rand(2, 3, 224, 224, generator=generator)


# Promise


def test_layer_scale_is_folded_into_the_maps_before_it(images, tmp_path):
    weights = backbone(scaled=True)
    found = features_of(save(tmp_path / "w.pth", chunked(weights)), images, layers=(0, 11))

    def norm(x, key):
        return F.layer_norm(x, (WIDTH,), weights[f"{key}.weight"], weights[f"{key}.bias"], eps=1e-6)

    def linear(x, key):
        return F.linear(x, weights[f"{key}.weight"], weights[f"{key}.bias"])

    patches = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    x = torch.cat([weights["cls_token"].expand(2, -1, -1), patches.flatten(2).mT], dim=1) + weights["pos_embed"]
    for i in range(DEPTH):
        block = f"blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, dim=2)
        heads = []
        for h in range(HEADS):
            part = slice(64 * h, 64 * h + 64)
            heads.append((q[..., part] @ k[..., part].mT / 8).softmax(dim=-1) @ v[..., part])
        x = x + weights[f"{block}.ls1.gamma"] * linear(torch.cat(heads, dim=2), f"{block}.attn.proj")
        inner = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + weights[f"{block}.ls2.gamma"] * linear(inner, f"{block}.mlp.fc2")
        if block in found:
            expected = x[:, 1:].mean(dim=1)
            assert (found[block] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_blocks_without_chunks_and_a_bare_or_half_precision_file_are_the_same_encoder(weights, checkpoint, tmp_path):
    published = build_mri_core(checkpoint).fingerprint()
    assert build_mri_core(save(tmp_path / "plain.pth", weights)).fingerprint() == published
    save_file(chunked(weights), tmp_path / "bare.safetensors")
    assert build_mri_core(tmp_path / "bare.safetensors").fingerprint() == published
    whole = {f"teacher.backbone.{k}": v for k, v in chunked(weights).items()}
    whole |= {"student.backbone.cls_token": torch.zeros(1), "teacher.dino_head.last_layer.weight": torch.zeros(1)}
    torch.save({"model": whole, "optimizer": {}, "iteration": 3}, tmp_path / "training.pth")
    assert build_mri_core(tmp_path / "training.pth").fingerprint() == published
    half = build_mri_core(save(tmp_path / "half.pth", {key: value.half() for key, value in weights.items()}))
    assert {p.dtype for p in half.parameters()} == {torch.float32}


# Refusal


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("mode", ["native", "reference_compat"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"missing \['blocks\.5\.attn\.qkv\.weight'\]"),
        ("unknown", r"unknown \['blocks\.5\.attn\.rel_pos_h'\]"),
        ("shape", r"another shape \['blocks\.5\.attn\.qkv\.weight \(128, 128\) for \(384, 128\)'\]"),
        ("empty", r"missing .* and \d+ more; unknown \['head\.weight'\]"),
    ],
)
def test_other_weights_are_refused_with_the_keys_at_fault(fault, message, mode, weights, tmp_path):
    key = "blocks.5.attn.qkv.weight"
    other = {
        "missing": {k: v for k, v in weights.items() if k != key},
        "unknown": weights | {"blocks.5.attn.rel_pos_h": torch.zeros(27, 64)},
        "shape": weights | {key: weights[key][:WIDTH].clone()},
        "empty": {"head.weight": torch.zeros(2, 2)},
    }[fault]
    with pytest.raises(EncoderError, match=rf"{message}.*Expected: MRI_CORE_vitb\.pth, from"):
        build_mri_core(save(tmp_path / "w.pth", chunked(other)), mode=mode)


@pytest.mark.parametrize("key", ["cls_token", "pos_embed", "norm.weight", "patch_embed.proj.weight"])
def test_a_backbone_without_its_ends_is_refused(key, weights, tmp_path):
    other = {k: v for k, v in weights.items() if k != key}
    with pytest.raises(EncoderError, match=rf"missing \[.*'{re.escape(key)}'"):
        build_mri_core(save(tmp_path / "w.pth", other))


def test_layer_scale_that_scales_nothing_is_refused(weights, tmp_path):
    gamma = torch.ones(WIDTH)
    with pytest.raises(EncoderError, match=r"unknown \['blocks\.5\.ls3\.gamma', 'norm\.ls1\.gamma'\]"):
        build_mri_core(save(tmp_path / "w.pth", weights | {"blocks.5.ls3.gamma": gamma, "norm.ls1.gamma": gamma}))
    with pytest.raises(EncoderError, match=r"needed blocks\.5\.ls1\.gamma of the shape"):
        build_mri_core(save(tmp_path / "w.pth", weights | {"blocks.5.ls1.gamma": gamma[:1].clone()}))


def test_chunks_that_each_count_from_0_are_refused(weights, tmp_path):
    other = chunked(weights) | {"blocks.1.0.norm1.bias": torch.zeros(WIDTH)}
    with pytest.raises(EncoderError, match="needed blocks numbered through all chunks"):
        build_mri_core(save(tmp_path / "w.pth", other))


@pytest.mark.parametrize("change", [{"width": 100}, {"positions": 198}, {"positions": 1}])
def test_sizes_that_are_no_vit_are_refused(change, weights, tmp_path):
    other = dict(weights)
    if "width" in change:
        other["patch_embed.proj.weight"] = torch.zeros(100, 3, 16, 16)
    else:
        other["pos_embed"] = torch.zeros(1, change["positions"], WIDTH)
    with pytest.raises(EncoderError, match="needed a width that is a multiple of 64 and positions of"):
        build_mri_core(save(tmp_path / "w.pth", other))


def test_another_digest_is_refused_and_the_right_one_is_not(checkpoint):
    import hashlib

    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    build_mri_core(checkpoint, sha256=digest)
    with pytest.raises(EncoderError, match=rf"SHA-256 {'0' * 64}; it has {digest}.*Expected: MRI_CORE_vitb\.pth"):
        build_mri_core(checkpoint, sha256="0" * 64)


def test_a_file_that_needs_a_pickle_is_refused_and_not_run(weights, tmp_path):
    torch.save({"teacher": weights, "config": Payload()}, tmp_path / "w.pth")
    with pytest.raises(EncoderError, match=r"needed a file of nothing but tensors.*Expected: MRI_CORE_vitb\.pth"):
        build_mri_core(tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"there is no .*none\.pth.*Expected: MRI_CORE_vitb\.pth"):
        build_mri_core(tmp_path / "none.pth")
