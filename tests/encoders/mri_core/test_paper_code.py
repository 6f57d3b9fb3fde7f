"""MRI-CORE as the code of the memorization-index paper runs it, faults included."""

import math

import torch
import torch.nn.functional as F
from encoder_contract import EncoderContract
from mri_core_files import DEPTH, HEADS, WIDTH, backbone, chunked, features_of, save

from mi_callback.encoders import build_encoder
from mi_callback.encoders.mri_core import build_mri_core
from mi_callback.encoders.mri_core.paper_code import RowProfiles

# Definition


def row_profiles(weights, images):
    """Token by token in windows of 14, as Segment Anything's encoder walks over a map padded with zeros."""

    def norm(x, key):
        return F.layer_norm(x, (WIDTH,), weights[f"{key}.weight"], weights[f"{key}.bias"], eps=1e-6)

    def linear(x, key):
        return F.linear(x, weights[f"{key}.weight"], weights[f"{key}.bias"])

    patches = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    profiles = {}
    for image, channels in enumerate(patches):
        tokens = {(y, x): channels[:, y, x] for y in range(15) for x in range(15)}
        for i in range(DEPTH):
            block = f"blocks.{i}"
            side = 15 if i in (2, 5, 8, 11) else 14
            added = {}
            for top in range(0, 15, side):
                for left in range(0, 15, side):
                    places = [(y, x) for y in range(top, top + side) for x in range(left, left + side)]
                    inside = torch.stack([tokens.get(place, torch.zeros(WIDTH)) for place in places])
                    qkv = linear(norm(inside, f"{block}.norm1"), f"{block}.attn.qkv")
                    heads = []
                    for h in range(HEADS):
                        q, k, v = (qkv[:, part * WIDTH + 64 * h :][:, :64] for part in range(3))
                        heads.append(torch.softmax(q @ k.T / math.sqrt(64), dim=1) @ v)
                    added |= zip(places, linear(torch.cat(heads, dim=1), f"{block}.attn.proj"), strict=True)
            x = torch.stack([token + added[place] for place, token in tokens.items()])
            x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
            tokens = dict(zip(tokens, x, strict=True))
            rows = [torch.stack([tokens[y, x] for x in range(15)]).mean() for y in range(15)]
            profiles[image, i] = torch.stack(rows)
    return profiles


def test_the_reference_is_row_profiles_of_windowed_blocks_without_positions(weights, checkpoint, generator):
    images = torch.rand(2, 3, 240, 240, generator=generator)
    found = features_of(checkpoint, images, mode="reference_compat", layers=range(DEPTH))
    assert list(found) == [f"profiles.{i}" for i in range(DEPTH)]
    for (image, i), expected in row_profiles(weights, images).items():
        assert found[f"profiles.{i}"].shape == (2, 15)
        assert (found[f"profiles.{i}"][image] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_reference_drops_what_the_papers_loader_drops(weights, checkpoint, generator, tmp_path):
    images = torch.rand(1, 3, 240, 240, generator=generator)
    changed = {key: value + 1 for key, value in weights.items() if key in ("pos_embed", "cls_token", "norm.bias")}
    scales = {f"blocks.{i}.ls1.gamma": torch.rand(WIDTH, generator=generator) for i in range(DEPTH)}
    other = save(tmp_path / "w.pth", weights | changed | scales)
    before, after = (features_of(file, images, mode="reference_compat") for file in (checkpoint, other))
    assert all(torch.equal(before[layer], after[layer]) for layer in before)


def test_published_sizes_make_the_image_encoder_of_segment_anything_without_positions_and_neck():
    with torch.device("meta"):
        network = RowProfiles()
    assert sum(p.numel() for p in network.parameters()) == 85_798_656 - 197 * 768 - 768 - 2 * 768
    assert [block.window for block in network.blocks] == [14, 14, 15] * 4


def test_the_reference_takes_240_pixels_and_has_no_regions(checkpoint, generator):
    encoder = build_mri_core(checkpoint, mode="reference_compat")
    assert (encoder.size, encoder.channels, encoder.intensity) == ((240, 240), 3, "minmax")
    assert not encoder.with_windows(torch.rand(1, 3, 240, 240, generator=generator))[1]
    assert encoder.fingerprint() != build_mri_core(checkpoint).fingerprint()


# Promise: the contract


class TestReference(EncoderContract):
    names = ("mri_core",)

    def build(self, tmp_path):
        file = save(tmp_path / "w.pth", chunked(backbone(width=64, hidden=64)))
        return build_encoder("mri_core", checkpoint=file, mode="reference_compat")
