"""Edges: the same under any contrast, about equally strong, and as fine as they were asked for."""

import pytest
import torch

from mi_callback.images.contrast.edges import edge_strength
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import remap
from mi_callback.images.resizing import resize
from mi_callback.retrieval.views import edges_as_images

pytestmark = pytest.mark.numeric


def steps(side: int = 64, dims: int = 2) -> torch.Tensor:
    """Three regions of grey, one beside the other, `(1, 1, *spatial)`: a strong edge and a faint one."""
    line = torch.full((side,), 0.1)
    line[side // 3 : 2 * side // 3] = 0.9
    line[2 * side // 3 :] = 0.7
    return line.expand(1, 1, *(side,) * dims).contiguous()


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


# Definition


@pytest.mark.parametrize("dims", [2, 3])
def test_edges_lie_where_grey_values_change_and_nowhere_else(dims):
    side = 24 if dims == 3 else 64
    along = edge_strength(steps(side, dims), 1.0)[(0, 0, *(side // 2,) * (dims - 1))]
    first, second = side // 3, 2 * side // 3
    peaks = [k for k in range(1, side - 1) if along[k] >= along[k - 1] and along[k] > along[k + 1] and along[k] > 0.5]
    assert len(peaks) == 2
    assert all(abs(found - place) <= 1 for found, place in zip(peaks, (first, second), strict=True))
    assert along.min() >= 0
    assert along[[0, side // 2, -1]].max() < 0.2 * along.max()


def test_faint_edges_are_nearly_as_strong_as_strong_ones():
    along = edge_strength(steps(), 1.0)[0, 0, 32]
    strong, faint = along[18:25].max(), along[39:46].max()
    assert faint > 0.9 * strong  # a quarter of the step
    noise = 0.4 + 0.0005 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert edge_strength(noise, 1.0).mean() < 0.3 * strong


# Invariants


@pytest.mark.parametrize("gain", [0.5, -1.0])
def test_gain_offset_and_sign_of_the_contrast_hardly_matter(gain):
    image = steps()
    changed = gain * image + (1 - gain) / 2
    ours, theirs = edge_strength(image, 1.0), edge_strength(changed, 1.0)
    assert correlation(ours, theirs) > 0.995
    assert theirs.max() == pytest.approx(float(ours.max()), rel=0.1)


def test_another_contrast_curve_leaves_edges_where_they_were():
    generator = torch.Generator().manual_seed(4)
    labels = resize(torch.rand(6, 1, 8, 8, generator=generator), (96, 96)).mul(4).round() / 4
    image = resize(labels, (64, 64))
    changed = remap(image, generator)
    grey, drawn = (
        [abs(correlation(*pair)) for pair in zip(one, other, strict=True)]
        for one, other in ((image, changed), (edge_strength(image, 1.0), edge_strength(changed, 1.0)))
    )
    assert min(drawn) > 0.6
    assert sum(drawn) > sum(grey) + 6 * 0.2


def test_images_and_channels_do_not_depend_on_each_other():
    images = torch.rand(3, 2, 20, 20, generator=torch.Generator().manual_seed(1))
    together = edge_strength(images, 1.0)
    for i in range(3):
        for c in range(2):
            assert torch.allclose(together[i, c], edge_strength(images[i : i + 1, c : c + 1], 1.0)[0, 0], atol=1e-5)


def test_a_volume_of_one_slice_has_the_edges_of_that_slice():
    image = steps(24)
    assert torch.allclose(edge_strength(image[:, :, None], 1.0)[:, :, 0], edge_strength(image, 1.0), atol=1e-5)


# As an encoder sees them


@pytest.mark.parametrize("intensity", ["minmax", "quantile", "zscore", "none"])
def test_edges_are_drawn_in_the_units_of_the_images(intensity):
    images = 1000 * steps() - 500
    drawn = edges_as_images(images, intensity)
    assert drawn.shape == images.shape
    assert drawn.max() == pytest.approx(float(images.max()), rel=1e-3)
    assert images.min() <= drawn.min() < images.min() + 100
    assert torch.allclose(edges_as_images(steps(), intensity), (drawn + 500) / 1000, atol=1e-3)


def test_edges_within_a_window_fill_that_window_and_ignore_what_lies_outside_of_it():
    images = 1000 * steps() - 500
    window = (-400.0, 0.0)  # of the grey values -400, 400 and 200 it tells only the first from the others
    drawn = edges_as_images(images, window)
    scaled = normalise_intensity(drawn, window)
    assert float(scaled.max()) == pytest.approx(1.0, abs=1e-3)
    along = scaled[0, 0, 32]
    assert along[18:25].max() > 0.9
    assert along[39:46].max() < 0.1


def test_edges_are_as_fine_whatever_the_size_of_the_images():
    small = steps(96)
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    ours, theirs = edges_as_images(small, "minmax"), edges_as_images(large, "minmax")
    assert correlation(ours, resize(theirs, (96, 96))) > 0.97


# Refusal: nothing to draw


def test_an_image_without_edges_is_finite():
    assert edge_strength(torch.full((1, 1, 16, 16), 0.5), 1.0).abs().max() < 0.01
