"""Is the generated image a warped copy of the match? Known maps are recovered, and copies told from other images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from factories import SIDE, affine_map, as_bytes, corner_distance, move, oval, texture
from scipy.ndimage import gaussian_filter
from torch import Tensor

from mi_callback.images.filters import gaussian_blur
from mi_callback.registration.config import LNCC_LEVELS, RegistrationConfig, registration_config
from mi_callback.registration.schedule import Alignment, register

pytestmark = pytest.mark.numeric

WARPS = {
    "none": affine_map(),
    "rotation": affine_map(12),
    "strong_rotation": affine_map(35),
    "strong_rotation_back": affine_map(-35),
    "strong_magnification": affine_map(zoom=0.7),
    "magnification": affine_map(zoom=0.85),
    "reduction": affine_map(zoom=1.15),
    "stretch": affine_map(zoom=(0.9, 1.1)),
    "shift": affine_map(shift=(0.06, -0.05)),
    "shear": affine_map(shear=0.15),
    "all": affine_map(10, (0.9, 1.05), (0.025, 0.03), shear=-0.05),
}


def agreeing(alignment: Alignment) -> Tensor:
    """Share of the structure whose LNCC reaches .9, `(p,)`."""
    return alignment.shares[:, LNCC_LEVELS.index(0.9)]


def unexplained(lncc: Tensor) -> Tensor:
    """Share of the variance that stays unexplained: strangers leave a multiple of what copies leave."""
    return 1 - lncc.square()


def decided_otherwise(**constants: float) -> RegistrationConfig:
    config = registration_config(2)
    return replace(config, decision=replace(config.decision, **constants))


BY_FINE_DETAIL_ALONE = {"coarse_region_weight": 1e9, "coarse_overlap_weight": 1e9}


@pytest.fixture(scope="module")
def warped() -> tuple[list[str], Tensor, Tensor, Tensor]:
    """Under every warp three images: its name, the warp, the generated images and their references."""
    names, theta = [name for name in WARPS for _ in range(3)], torch.cat(list(WARPS.values())).repeat_interleave(3, 0)
    reference = oval(6)[torch.arange(len(names)) % 6]
    return names, theta, as_bytes(move(reference, theta)), as_bytes(reference)


# Definition


def test_a_known_affine_map_is_recovered_and_a_copy_has_lncc_near_one_and_another_image_clearly_less(warped):
    names, theta, generated, reference = warped
    copies, others = (register(generated, images) for images in (reference, reference.roll(1, 0)))
    for name in WARPS:
        rows = [k for k, other in enumerate(names) if other == name]
        assert corner_distance(copies.theta[rows], theta[rows]).max() < 1, name
        lncc, strangers = copies.lncc[rows], others.lncc[rows]
        assert lncc.min() > 0.95, name
        assert agreeing(copies)[rows].min() > 0.8, name
        assert unexplained(strangers.max()) > 2 * unexplained(lncc.min()), name
        assert agreeing(others)[rows].max() < agreeing(copies)[rows].min() - 0.2, name


def test_the_middle_half_of_each_side_magnified_is_aligned():
    reference, theta = oval(6), affine_map(zoom=0.5).expand(6, 2, 3)
    generated = as_bytes(move(reference, theta))
    copies, others = (register(generated, as_bytes(images)) for images in (reference, reference.roll(1, 0)))
    assert corner_distance(copies.theta, theta).max() < 1
    assert copies.lncc.min() > 0.9  # half of the pixels are made up
    assert unexplained(others.lncc.max()) > 1.5 * unexplained(copies.lncc.min())


def test_inverted_contrast_is_aligned_and_compared_as_well(warped):
    _, _, generated, reference = warped
    plain, inverted = (register(images, reference) for images in (generated, 255 - generated))
    assert torch.allclose(inverted.theta, plain.theta, atol=1e-3)
    assert torch.allclose(inverted.lncc, plain.lncc, atol=1e-3)
    assert torch.allclose(agreeing(inverted), agreeing(plain), atol=0.01)
    assert inverted.lncc.min() > 0.95


# Promise


@pytest.mark.parametrize("name", ["none", "all"])
def test_gain_and_offset_do_not_hide_a_copy(name):
    reference = oval(4)
    generated = 0.3 + 0.5 * move(reference, WARPS[name])
    found = register(as_bytes(generated), as_bytes(reference))
    assert found.lncc.min() > 0.93  # half the contrast: a little more of it drowns in the quantisation
    assert agreeing(found).min() > 0.8


def test_a_smooth_bias_field_does_not_hide_a_copy():
    reference = oval(4)
    axis = torch.linspace(-1, 1, SIDE)
    bias = torch.exp(0.2 * axis[:, None] - 0.15 * axis[None])
    generated = 0.7 * move(reference, WARPS["rotation"]) * bias
    assert generated.max() < 1
    assert register(as_bytes(generated), as_bytes(reference)).lncc.min() > 0.9


def test_a_little_noise_does_not_hide_a_copy(generator):
    reference = oval(4)
    generated = move(reference, WARPS["all"]) + 0.02 * torch.randn(reference.shape, generator=generator)
    assert register(as_bytes(generated), as_bytes(reference)).lncc.min() > 0.85


def grain(n: int) -> Tensor:
    """Detail of a pixel's size."""
    noise = np.random.default_rng(1).normal(size=(n, 1, SIDE, SIDE))
    return torch.from_numpy(gaussian_filter(noise, (0, 0, 0.8, 0.8))).float()


@pytest.mark.parametrize("change", ["noise", "low_resolution"])
def test_a_copy_that_lost_its_fine_detail_is_known_by_its_coarse_detail(change, generator):
    reference = texture(4) + 0.2 * grain(4)
    generated = move(reference, WARPS["rotation"])
    if change == "noise":
        generated = generated + 0.1 * torch.randn(generated.shape, generator=generator)
    else:
        generated = F.interpolate(F.avg_pool2d(generated, 3), size=SIDE, mode="bilinear")
    copies, others = (register(as_bytes(generated), as_bytes(r)).lncc for r in (reference, reference.roll(1, 0)))
    assert unexplained(others.max()) > 2 * unexplained(copies.min())
    by_fine = register(as_bytes(generated), as_bytes(reference), config=decided_otherwise(**BY_FINE_DETAIL_ALONE))
    assert (by_fine.lncc < copies - 0.01).all()


def test_detail_that_blurred_strangers_miss_counts_against_them():
    shared, others = texture(4), texture(4, seed=3)
    reference, sharp = (torch.cat([shared, 0.8 * shared + 0.2 * others]) + 0.1 * grain(8)).chunk(2)
    found = []
    for least in (0.0, registration_config(2).decision.full_detail):
        config = decided_otherwise(**BY_FINE_DETAIL_ALONE, full_detail=least)
        images = (sharp, gaussian_blur(sharp, 1.0))
        found += [register(as_bytes(image), as_bytes(reference), config=config).lncc for image in images]
    sharp_if_not, blurred_if_not, sharp_lncc, blurred_lncc = found
    assert torch.equal(sharp_lncc, sharp_if_not)
    assert (blurred_if_not > sharp_if_not + 0.04).all()
    assert (blurred_lncc - sharp_lncc < 0.85 * (blurred_if_not - sharp_if_not)).all()


def test_the_aligned_reference_lies_over_the_generated_image():
    reference = oval(3)
    generated = as_bytes(move(reference, WARPS["all"]))
    found = register(generated, as_bytes(reference))
    before = (as_bytes(reference).float() / 255 - generated.float() / 255).abs().mean()
    after = (found.aligned - generated.float() / 255).abs().mean()
    assert after < 0.1 * before
    assert found.aligned.shape == found.lncc_map.shape == (3, SIDE, SIDE)


def test_the_map_shows_which_part_was_copied():
    reference, other = oval(2).split(1)
    mixed = torch.cat([reference[..., : SIDE // 2], other[..., SIDE // 2 :]], dim=-1)
    found = register(as_bytes(mixed), as_bytes(reference))
    left, right = (found.lncc_map[0, 20:-20, part] for part in (slice(20, SIDE // 2 - 8), slice(SIDE // 2 + 8, -20)))
    assert left.mean() > 0.9
    assert right.mean() < 0.6
    assert 0.25 < agreeing(found) < 0.75


def test_a_half_that_left_the_field_of_view_does_not_hide_a_copy():
    reference = oval(3)
    generated = move(reference, affine_map(shift=(0.15, 0)))
    assert register(as_bytes(generated), as_bytes(reference)).lncc.min() > 0.9


def test_a_flip_is_not_an_affine_map_that_registration_tries():
    reference = oval(4)
    copies, flipped = (register(as_bytes(images), as_bytes(reference)) for images in (reference, reference.flip(-1)))
    assert unexplained(flipped.lncc.max()) > 2 * unexplained(copies.lncc.min())
    assert agreeing(flipped).max() < 0.7


def test_registration_is_deterministic_and_leaves_the_global_seed_alone():
    generated, reference = as_bytes(oval(3, seed=1)), as_bytes(oval(3))
    state = torch.get_rng_state()
    first, second = register(generated, reference), register(generated, reference)
    assert torch.equal(first.lncc, second.lncc)
    assert torch.equal(first.theta, second.theta)
    assert torch.equal(torch.get_rng_state(), state)


# Refusal: nothing to compare


@pytest.mark.parametrize("by_edges", [False, True])
def test_an_image_without_structure_is_finite_and_no_copy(by_edges):
    structured, empty = as_bytes(oval(1)), torch.full((1, SIDE, SIDE), 128, dtype=torch.uint8)
    windows = (-1, 0, 4)
    generated = torch.cat([empty, structured, empty] * len(windows))
    reference = torch.cat([structured, empty, empty] * len(windows))
    window = torch.tensor(windows).repeat_interleave(3)
    found = register(generated, reference, window=window, by_edges=torch.full((9,), by_edges))
    assert found.lncc.isfinite().all()
    assert found.curve.isfinite().all()
    assert found.theta.isfinite().all()
    assert found.lncc.abs().max() < 0.1
    assert agreeing(found).max() < 0.1


def test_a_nearly_empty_pair_does_not_count_as_a_copy(generator):
    noise = (torch.rand(2, 2, SIDE, SIDE, generator=generator) * 3).to(torch.uint8)
    found = register(noise[0], noise[1])
    assert found.lncc.max() < 0.5
