"""One LNCC of a map: the best region, the whole overlap, fine and coarse detail, each as much as it counts."""

import itertools

import numpy as np
import pytest
import torch
from factories import SIDE, oval, texture
from naive_lncc import correlated_noise, fast_maps, naive_maps

from mi_callback.images.filters import gaussian_blur
from mi_callback.registration.config import registration_config
from mi_callback.registration.decision import best_region_lncc, decide_lncc, detail_kept, overlap_lncc
from mi_callback.registration.local_correlation import LocalCorrelation, correlate_locally

pytestmark = pytest.mark.numeric

CONFIG = registration_config(2).decision


def blurred(generated: torch.Tensor, aligned: torch.Tensor, sigma: float) -> LocalCorrelation:
    ours, theirs = (gaussian_blur(image, sigma) for image in (generated, aligned))
    return correlate_locally(ours, theirs, torch.ones_like(generated), registration_config(2).local_correlation)


def fine_and_coarse(generated: torch.Tensor, aligned: torch.Tensor) -> list[LocalCorrelation]:
    return [blurred(generated, aligned, sigma) for sigma in (CONFIG.fine_blur, CONFIG.coarse_blur)]


def average(lncc: np.ndarray, weight: np.ndarray) -> float:
    """LNCC of a region: what stays unexplained is averaged geometrically, weighted by structure."""
    unexplained = np.log(1 - (1 - CONFIG.unexplained) * lncc**2)
    return float((1 - np.exp((weight * unexplained).sum() / weight.sum())) ** 0.5)


@pytest.mark.parametrize(("dims", "side", "atol"), [(2, 11, 2e-3), (2, 24, 2e-3), (3, 12, 3e-3)])
def test_the_best_region_and_the_whole_overlap_are_those_of_a_naive_loop(dims, side, atol):
    images = correlated_noise(dims, side)
    lncc, structure, weight = naive_maps(*images)
    step, region = max(1, side // CONFIG.region_steps), int(CONFIG.region * side)
    values = []
    for corner in itertools.product(range(0, side - region + 1, step), repeat=dims):
        place = tuple(slice(at, at + region) for at in corner)
        if weight[place].mean() >= CONFIG.least_in_region * structure.mean():
            values.append(average(lncc[place], weight[place]))
    found = fast_maps(*images)
    assert float(best_region_lncc(found, CONFIG)) == pytest.approx(max(values), abs=atol)
    assert float(overlap_lncc(found, CONFIG)) == pytest.approx(average(lncc, weight), abs=atol)
    assert len({round(value, 3) for value in values}) > 1


def test_regions_of_a_mask_are_looked_at_alone():
    generated, aligned = texture(2), texture(2, seed=1)
    aligned[..., : SIDE // 2] = generated[..., : SIDE // 2]
    found = blurred(generated, aligned, 0.5)
    left, right = torch.zeros_like(generated), torch.ones_like(generated)
    left[..., : SIDE // 2], right[..., : SIDE // 2] = 1, 0
    anywhere, in_left, in_right = (best_region_lncc(found, CONFIG, where) for where in (None, left, right))
    assert torch.allclose(anywhere, in_left, atol=1e-3)
    assert in_left.min() > 0.97
    assert in_right.max() < 0.8


def test_what_overlaps_decides_as_a_whole_from_half_of_the_structure():
    generated, aligned = oval(2).chunk(2)
    inside = torch.zeros(2, 1, SIDE, SIDE)
    inside[0, ..., : SIDE // 2 + 8], inside[1, ..., : SIDE // 2 - 8] = 1, 1
    images = (generated.expand_as(inside), (generated + 0.1 * aligned).expand_as(inside), inside)
    found = correlate_locally(*images, registration_config(2).local_correlation)
    there = (found.structure * found.overlap).flatten(1).sum(dim=1) / found.structure.flatten(1).sum(dim=1)
    assert there[0] > CONFIG.least_in_overlap > there[1] > 0.25
    overlap, best = overlap_lncc(found, CONFIG), best_region_lncc(found, CONFIG)
    assert 0.5 < overlap[0] < best[0]
    assert overlap[1] == 0
    assert best[1] > 0.5


def test_images_without_structure_have_no_lncc():
    flat = torch.full((2, 1, SIDE, SIDE), 0.5)
    for generated, aligned in ((flat, texture(2)), (flat, flat), (texture(2), flat)):
        fine, coarse = fine_and_coarse(generated, aligned)
        assert decide_lncc(best_region_lncc(fine, CONFIG), fine, coarse, CONFIG).max() < 0.05


def test_detail_is_what_less_blur_shows_beyond_more_blur_whatever_the_gain():
    images, sigmas = texture(4) * 0.8 + 0.1, (0.5, 0.7, 1.0, 1.5)

    def kept(generated: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
        return detail_kept(*fine_and_coarse(generated, aligned))

    assert torch.allclose(kept(images, images), torch.ones(4))
    assert torch.allclose(kept(0.7 * images + 0.1, 1 - images), torch.ones(4), atol=0.02)
    smoother = torch.stack([kept(gaussian_blur(images, sigma), images) for sigma in sigmas])
    assert (smoother.diff(dim=0) < 0).all()
    assert smoother.max() < 1
    for sigma, found in zip(sigmas, smoother, strict=True):
        assert torch.allclose(kept(images, gaussian_blur(images, sigma)) * found, torch.ones(4), atol=0.1)
    assert torch.allclose(kept(torch.full_like(images, 0.5), torch.zeros_like(images)), torch.ones(4), atol=1e-3)


def test_the_decision_is_the_least_of_what_stays_unexplained_as_much_as_it_counts(generator):
    reference, others = texture(4), texture(4, seed=3)
    generated = reference.clone()
    generated[1:3] += 0.1 * torch.randn(2, 1, SIDE, SIDE, generator=generator)
    generated[2, ..., SIDE // 2 :, :] = others[2, ..., SIDE // 2 :, :]
    generated[3] = 0.8 * gaussian_blur(reference[3], 1.2) + 0.2 * others[3]
    fine, coarse = fine_and_coarse(generated.clamp(0, 1), reference)
    best = best_region_lncc(fine, CONFIG)
    found = decide_lncc(best, fine, coarse, CONFIG)
    missing = (CONFIG.full_detail / detail_kept(fine, coarse)).clamp_min(1)
    in_region, in_overlap = best_region_lncc(coarse, CONFIG), overlap_lncc(coarse, CONFIG)
    decided = []
    for i in range(4):
        unexplained = [
            float(missing[i]) * (1 - float(best[i]) ** 2),
            CONFIG.coarse_region_weight * (1 - float(in_region[i]) ** 2),
            CONFIG.coarse_overlap_weight * (1 - float(in_overlap[i]) ** 2),
        ]
        decided.append(unexplained.index(min(unexplained)))
        assert float(found[i]) == pytest.approx((1 - min(unexplained)) ** 0.5, abs=1e-5)
    assert decided == [0, 2, 1, 0]
    assert (missing > 1).tolist() == [False, False, False, True]
