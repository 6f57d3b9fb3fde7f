"""Volumes by slices: what the encoder of images says of each slice, pooled."""

import pytest
import torch
from encoder_contract import EncoderContract

from mi_callback.encoders import Layer, build_encoder
from mi_callback.encoders.slices import SliceEncoder
from mi_callback.errors import EncoderError
from mi_callback.images.windows import window_weights

pytestmark = pytest.mark.numeric


class Plane(torch.nn.Module):
    """Mean and brightest pixel of each image, whole and per window."""

    name, layers, size, channels, intensity = "plane", {"mean": Layer("BC"), "max": Layer("BC")}, (12, 12), 1, "none"

    def forward(self, images):
        return {"mean": images.mean(dim=(2, 3)), "max": images.amax(dim=(2, 3))}

    def with_windows(self, images):
        windows = images.flatten(1) @ window_weights(12, 12).T
        return self(images), {"mean": windows[..., None]}

    def fingerprint(self):
        return "plane"


class TestSlices(EncoderContract):
    names = ("slices",)

    def build(self, tmp_path):
        return build_encoder("slices", encoder="pixels", axes=(0, 2), slices=4)


class TestSlicesOfTheBundledEncoder(EncoderContract):
    def build(self, tmp_path):
        return build_encoder("slices", axes=(1,), slices=2)


@pytest.fixture
def volumes(generator):
    return torch.rand(2, 1, 12, 12, 12, generator=generator)


# Definition


@pytest.mark.parametrize("slices", [12, 4])
def test_features_are_the_mean_over_slices_along_each_axis(volumes, slices):
    found = SliceEncoder(Plane(), axes=(0, 1, 2), slices=slices)(volumes)
    thick = 12 // slices
    for i in range(2):
        for axis, name in enumerate(("depth", "height", "width")):
            slabs = volumes[i, 0].movedim(axis, 0).reshape(slices, thick, 12, 12).mean(dim=1)
            assert found[f"mean across {name}"][i, 0] == pytest.approx(float(slabs.mean()), abs=1e-6)
            brightest = [float(slab.max()) for slab in slabs]
            assert found[f"max across {name}"][i, 0] == pytest.approx(sum(brightest) / slices, abs=1e-6)


def test_windows_are_those_of_the_volume_whichever_axis_is_sliced(volumes):
    encoder = SliceEncoder(Plane(), axes=(0, 1, 2), slices=12)
    whole, parts = encoder.with_windows(volumes)
    assert list(parts) == ["mean across depth", "mean across height", "mean across width"]
    assert list(whole) == list(encoder.layers)
    assert all(torch.equal(whole[layer], features) for layer, features in encoder(volumes).items())
    expected = volumes.flatten(1) @ window_weights(12, 12, 12).T
    for features in parts.values():
        assert features.shape == (2, 27, 1)
        assert torch.allclose(features[..., 0], expected, atol=1e-5)


def test_a_flip_along_the_sliced_axis_changes_nothing(volumes):
    encoder = SliceEncoder(Plane(), axes=(0,), slices=6)
    plain, flipped = encoder(volumes), encoder(volumes.flip(2))
    assert all(torch.allclose(plain[layer], flipped[layer], atol=1e-6) for layer in plain)


# Promise


def test_the_fingerprint_is_that_of_encoder_axes_and_slices():
    prints = {
        SliceEncoder(Plane(), axes, slices).fingerprint()
        for axes, slices in (((0,), 4), ((1,), 4), ((0, 1), 4), ((0,), 5))
    }
    assert len(prints) == 4
    assert build_encoder("slices").fingerprint() != build_encoder("slices", encoder="pixels").fingerprint()


def test_the_licence_is_that_of_the_encoder():
    assert build_encoder("slices").card == build_encoder("bundled").card


# Refusal


def test_encoders_of_volumes_and_of_rectangles_are_refused():
    with pytest.raises(EncoderError, match=r"needed an encoder of square images; .* \(96, 96, 96\)"):
        SliceEncoder(build_encoder("slices"))


@pytest.mark.parametrize(("axes", "slices"), [((), 4), ((3,), 4), ((0,), 0)])
def test_axes_and_slices_that_are_none_are_refused(axes, slices):
    with pytest.raises(EncoderError, match="needed axes out of 0, 1, 2 and at least 1 slice"):
        SliceEncoder(Plane(), axes, slices)
