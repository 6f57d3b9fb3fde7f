"""The curve that makes one image look like another: what least squares find, and what they do not invent."""

import numpy as np
import pytest
import torch

from mi_callback.images.config import CURVES
from mi_callback.images.contrast.curves import apply_curve, fit_curve, identity_curve, look_alike
from mi_callback.images.perturbations import remap, t2_like

pytestmark = pytest.mark.numeric


def grey(n: int = 3, dims: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, *(24,) * dims, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_curve_is_linear_between_its_knots(dims):
    images, curve = grey(dims=dims), torch.rand(3, CURVES.knots, generator=torch.Generator().manual_seed(1))
    changed = apply_curve(images, curve)
    for image, values, found in zip(images, curve, changed, strict=True):
        expected = np.interp(image.numpy(), np.linspace(0, 1, CURVES.knots), values.numpy())
        assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_black_and_white_are_the_first_and_the_last_knot_and_results_stay_grey_values():
    curve = torch.linspace(-0.5, 1.5, CURVES.knots)[None]
    assert apply_curve(torch.tensor([[[0.0, 1.0]]]), curve).flatten().tolist() == [0.0, 1.0]


def test_no_curve_leaves_images_as_they_are():
    images = grey()
    assert torch.allclose(apply_curve(images, identity_curve(images).expand(3, -1)), images, atol=1e-6)


@pytest.mark.parametrize("change", [t2_like, lambda x: remap(x, torch.Generator().manual_seed(2)), lambda x: 1 - x])
def test_a_curve_that_was_applied_is_found(change):
    images = grey()
    like = change(images)
    found = apply_curve(images, fit_curve(images, like, torch.ones_like(images)))
    assert (found - like).abs().max() < 0.12  # at its corners, which lie between the knots
    assert (found - like).abs().mean() < 0.01


def test_places_without_weight_do_not_count():
    images = grey()
    weight = torch.zeros_like(images)
    weight[..., :12] = 1
    like = torch.where(weight > 0, 1 - images, images)
    found = apply_curve(images, fit_curve(images, like, weight))
    assert torch.allclose(found, 1 - images, atol=0.01)


def test_no_curve_makes_one_image_of_another():
    images, others = grey(), grey(seed=9)
    found = apply_curve(images, fit_curve(images, others, torch.ones_like(images)))
    for ours, theirs in zip(found.flatten(1), others.flatten(1), strict=True):
        assert abs(float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])) < 0.25


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_grey_values_that_do_not_occur_are_finite_and_follow_their_neighbours(value):
    flat = torch.full((2, 1, 8, 8), value)
    curve = fit_curve(flat, torch.full_like(flat, 0.7), torch.ones_like(flat))
    assert curve.isfinite().all()
    assert torch.allclose(apply_curve(flat, curve), torch.full_like(flat, 0.7), atol=0.02)
    nothing = fit_curve(flat, flat, torch.zeros_like(flat))
    assert nothing.isfinite().all()


def test_gain_offset_and_a_slight_bend_leave_the_contrast_as_it_was_and_a_fold_does_not():
    images = grey(1)
    for same in (images, 0.2 + 0.5 * images, images**1.3):
        assert look_alike(images, same).all()
    for other in (1 - images, 1 - (2 * images - 1).abs(), torch.zeros_like(images)):
        assert not look_alike(images, other).any()
