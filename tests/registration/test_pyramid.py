"""Each level refines what the one before it found, by grey values or edges; what was not moved stays where it is."""

import pytest
import torch
from factories import SIDE, affine_map, corner_distance, move, texture, tissues

from mi_callback.images.perturbations import t2_like
from mi_callback.images.windows import window_masks
from mi_callback.registration.config import registration_config
from mi_callback.registration.gauss_newton import refine_map
from mi_callback.registration.pyramid import (
    ImagePairs,
    compare_fine,
    compare_middle,
    refine_coarse,
    refine_middle,
    search_coarse,
)

pytestmark = pytest.mark.numeric

CONFIG = registration_config(2)

THETA = affine_map(12, 0.95, (0.03, -0.02))


def whole(generated: torch.Tensor, reference: torch.Tensor, by_edges: bool = False) -> ImagePairs:
    return ImagePairs(generated, reference, torch.ones_like(generated), by_edges)


@pytest.mark.parametrize("by_edges", [False, True])
def test_each_level_comes_closer(by_edges):
    reference = tissues(4)
    generated = move(reference, THETA)
    pairs = whole(t2_like(generated) if by_edges else generated, reference, by_edges)
    starts, evidence = search_coarse(pairs, CONFIG)
    assert evidence.min() > 0
    coarse, correlation = refine_coarse(pairs, starts, CONFIG)
    middle, lncc = refine_middle(pairs, coarse, CONFIG)
    fine = compare_fine(pairs, middle, CONFIG)
    errors = [corner_distance(theta, THETA).max() for theta in (starts[:, 0], coarse, middle, fine.theta)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[3] < (1.5 if by_edges else 0.2)
    assert min(correlation.min(), lncc.min(), fine.lncc.min()) > 0.9


def test_the_middle_level_compares_under_a_map_what_it_compares_after_refining():
    reference = texture(4)
    pairs = whole(move(reference, THETA), reference)
    theta, lncc = refine_middle(pairs, THETA.expand(4, -1, -1), CONFIG)
    given = compare_middle(pairs, theta, CONFIG)
    assert (lncc >= given).all()  # a warp may help
    assert torch.allclose(lncc, given, atol=0.02)
    assert (compare_middle(pairs, affine_map().expand(4, -1, -1), CONFIG) < given - 0.1).all()


def test_of_a_part_that_was_pasted_where_it_lay_the_rest_does_not_pull_the_map_away():
    reference, others = texture(18, seed=3).chunk(2)
    pairs = whole(torch.where(window_masks(SIDE)[:9] > 0, reference, others), reference)
    start, _ = refine_coarse(pairs, search_coarse(pairs, CONFIG)[0], CONFIG)
    theta, lncc = refine_middle(pairs, start, CONFIG)
    unmoved = affine_map().expand(9, -1, -1)
    stays = (theta == unmoved).flatten(1).all(dim=1)
    assert stays.sum() >= 7
    middle = pairs.shrink_to(CONFIG.middle)
    images = (middle.generated, middle.reference, middle.mask)
    pulled, _ = refine_map(*images, start, CONFIG.middle.iterations, CONFIG.gauss_newton)
    assert (lncc > compare_middle(pairs, pulled, CONFIG) + 0.05).sum() >= 5
    assert (compare_fine(pairs, theta, CONFIG).lncc > compare_fine(pairs, pulled, CONFIG).lncc + 0.05).sum() >= 5


def test_a_warp_is_kept_where_images_agree_better_with_it():
    reference = texture(2)
    axis = torch.linspace(-1, 1, SIDE)
    bend = 0.04 * torch.sin(3 * axis)[:, None].expand(SIDE, SIDE)
    grid = torch.stack([axis.expand(SIDE, SIDE) + bend, axis[:, None].expand(SIDE, SIDE)], dim=-1)
    bent = torch.nn.functional.grid_sample(reference, grid.expand(2, -1, -1, -1), align_corners=True)
    stiff = compare_middle(whole(bent, reference), affine_map().expand(2, -1, -1), CONFIG)
    fine = compare_fine(whole(bent, reference), affine_map().expand(2, -1, -1), CONFIG)
    assert fine.lncc.min() > 0.97
    assert (fine.lncc > stiff + 0.03).all()
    assert (fine.aligned - bent[:, 0]).abs()[:, 8:-8, 8:-8].mean() < 0.02
