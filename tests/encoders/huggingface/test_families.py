"""Every family: features are its hidden states, which lie as the image lies."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers_models import BLOCKS, CONFIGS, DEEP, FIXED, PREFIX, SIDE, SQUARE, reference, saved

from mi_callback.encoders.huggingface import FAMILIES, build_huggingface
from mi_callback.errors import EncoderError

transformers = pytest.importorskip("transformers")


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


# Definition


def test_every_family_is_tested():
    assert CONFIGS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", CONFIGS)
def test_features_are_the_pooled_hidden_states_of_the_model_without_its_prefix(kind, folders, images):
    states = (
        whole_states(folders(kind), images) if kind == "vit_mae" else reference(folders(kind), images).hidden_states
    )
    encoder = build_huggingface(folders(kind), layers=range(len(states)))
    found = encoder(images)
    assert len(found) == len(encoder.network.states(images)) == len(states)
    for position, state in enumerate(states):
        if kind in PREFIX:
            expected = state[:, PREFIX[kind] :].mean(dim=1)
        elif kind in ("swin", "swinv2", "hiera"):  # tokens, whose mean does not depend on their order
            expected = state.mean(dim=1)
        else:
            expected = state.mean(dim=(1, 2) if kind == "sam_vision_model" else (2, 3))
        assert torch.allclose(found[f"hidden.{position}"], expected, rtol=1e-4, atol=1e-5)


def whole_states(folder: Path, images: torch.Tensor) -> Any:
    """Hidden states of a masked autoencoder in its own way not to mask, beside ours."""
    assert json.loads((folder / "config.json").read_text())["mask_ratio"] == 0.75
    noise = torch.arange(64.0).expand(2, -1)
    return reference(folder, images, {"mask_ratio": 0.0}, noise=noise).hidden_states


@pytest.mark.parametrize("kind", CONFIGS)
def test_maps_show_the_image_as_it_lies(kind, encoder_of, images):
    encoder = encoder_of(kind)
    for corner in ((0, 0), (0, 1), (1, 0)):
        changed = images.clone()
        rows, columns = (slice(0, SIDE // 4) if side == 0 else slice(-SIDE // 4, None) for side in corner)
        changed[..., rows, columns] = 1 - changed[..., rows, columns]
        for layer in list(encoder.layers)[: 2 if kind in DEEP else 3]:
            before, after = (maps(kind, encoder, batch, layer) for batch in (images, changed))
            difference = (after - before).abs().mean(dim=(0, 1))
            height, width = difference.shape
            assert height == width >= 2
            quarters = torch.stack(
                [part.mean() for half in difference.tensor_split(2, dim=0) for part in half.tensor_split(2, dim=1)]
            )
            assert quarters.argmax() == 2 * corner[0] + corner[1], corner
            assert quarters.max() > 1.5 * quarters.sort().values[-2], corner


# Promise: windows


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_square_map_has_windows(kind, encoder_of, images):
    encoder = encoder_of(kind)
    whole, parts = encoder.with_windows(images)
    assert list(parts) == list(whole) == list(encoder.layers)
    assert all(parts[layer].shape == (2, 9, whole[layer].shape[1]) for layer in parts)


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


# Refusal


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


def test_channels_that_the_model_does_not_take_are_refused(folders):
    with pytest.raises(EncoderError, match="needed the 3 channels that this vit takes; channels=1 came"):
        build_huggingface(folders("vit"), channels=1)
