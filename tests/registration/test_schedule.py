"""Is the generated image a warped copy of the match? Alignment recovers known maps, LNCC tells copies from others."""

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from mi_callback.images.filters import gaussian_blur
from mi_callback.images.perturbations import remap, t2_like
from mi_callback.images.thumbnails import THUMBNAIL_SIDE
from mi_callback.registration import pyramid, schedule
from mi_callback.registration.local_correlation import (
    LEAST_STRUCTURE,
    LEVELS,
    MOST,
    NOISE,
    WINDOW,
    detail_kept,
    local_correlation,
)
from mi_callback.registration.pyramid import COARSE, FINE, REGION_COUNTS, SHARP, WHOLE_COUNTS
from mi_callback.registration.schedule import FINALISTS, KEPT, _foremost, register

SIDE, VOLUME_SIDE = THUMBNAIL_SIDE[2], THUMBNAIL_SIDE[3]

ALIKE = 0.9
"""Level of the LNCC at which copies and others are compared."""


def smooth(n: int, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    """Smooth random images with structure at several scales in an oval that fades out, in [0, 1], `(n, side, side)`."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, side)
    oval = 1 / (1 + np.exp(20 * (np.sqrt((axis[:, None] / 0.8) ** 2 + (axis[None] / 0.65) ** 2) - 1)))
    images = []
    for _ in range(n):
        image = sum(s * gaussian_filter(rng.normal(size=(side, side)), s) for s in (side / 40, side / 16, side / 8))
        image = (image - image.min()) / (image.max() - image.min())
        images.append((0.2 + 0.8 * image) * oval)
    return torch.from_numpy(np.stack(images)).float().clamp(0, 1)


def volumes(n: int, seed: int = 0) -> torch.Tensor:
    """The same of volumes, in an ellipsoid that fades out slowly, `(n, side, side, side)`: an edge would agree."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, VOLUME_SIDE),) * 3, indexing="ij")
    inside = 1 / (1 + np.exp(4 * (np.sqrt((z / 0.7) ** 2 + (y / 0.8) ** 2 + (x / 0.65) ** 2) - 1)))
    made = []
    for _ in range(n):
        image = sum(s**1.5 * gaussian_filter(rng.normal(size=(VOLUME_SIDE,) * 3), s) for s in (1.5, 3, 6))
        made.append((image - image.min()) / (image.max() - image.min()) * inside)
    return torch.from_numpy(np.stack(made)).float()


def as_bytes(images: torch.Tensor) -> torch.Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def affine(rotation=0.0, zoom_x=1.0, zoom_y=1.0, shift_x=0.0, shift_y=0.0, shear=0.0) -> torch.Tensor:
    """Map from generated to reference coordinates, as `affine_grid` takes it."""
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turn = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.tensor([[zoom_x, shear], [0.0, zoom_y]])
    return torch.cat([turn, torch.tensor([[shift_x], [shift_y]])], dim=1)[None]


def warp(images: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(theta.expand(len(images), -1, -1), [len(images), 1, *images.shape[1:]], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def textured(n: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images with structure everywhere: nothing that all share, `(n, SIDE, SIDE)` in [0, 1]."""
    rng = np.random.default_rng(seed)
    images = [sum(s * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in (2.4, 6, 12)) for _ in range(n)]
    return torch.from_numpy(np.stack([(i - i.min()) / (i.max() - i.min()) for i in images])).float()


def pasted(theta: torch.Tensor, windows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images with one window of a warped reference each, these references, and other ones."""
    reference, others = textured(2 * len(windows), seed=3).chunk(2)
    inside = windows.masks(SIDE)[windows][:, 0] > 0
    return torch.where(inside, warp(reference, theta), others), reference, others


MOVED = torch.tensor([[[0.94, -0.17, 0.1, 0.06], [0.18, 0.98, 0.0, -0.05], [-0.08, 0.02, 1.05, 0.04]]])
"""A volume turned, zoomed, sheared and moved a little."""

WARPS = {
    "none": affine(),
    "rotation": affine(rotation=12),
    "strong_rotation": affine(rotation=35),
    "strong_rotation_back": affine(rotation=-35),
    "strong_magnification": affine(zoom_x=0.7, zoom_y=0.7),
    "magnification": affine(zoom_x=0.85, zoom_y=0.85),
    "reduction": affine(zoom_x=1.15, zoom_y=1.15),
    "stretch": affine(zoom_x=0.9, zoom_y=1.1),
    "shift": affine(shift_x=0.12, shift_y=-0.1),
    "shear": affine(shear=0.15),
    "all": affine(rotation=10, zoom_x=0.9, zoom_y=1.05, shift_x=0.05, shift_y=0.06, shear=-0.05),
}


def agreeing(alignment):
    """Share of the structure whose LNCC reaches `ALIKE`, `(p,)`."""
    return alignment.shares[:, LEVELS.index(ALIKE)]


# Definition


@pytest.mark.parametrize("side", [11, 24])
@pytest.mark.parametrize("sign", [1, -1])
def test_local_correlation_is_the_windowed_correlation_of_a_naive_loop(side, sign):
    rng = np.random.default_rng(0)
    generated, aligned = rng.random((2, side, side))
    aligned = 0.67 * generated + 0.33 * aligned  # correlation about ALIKE: some windows count, some do not
    inside = np.ones((side, side))
    inside[:, side - 3 :] = 0
    radius = WINDOW[2] // 2
    expected, weight, structure = (np.zeros((side, side)) for _ in range(3))
    for y in range(side):
        for x in range(side):
            window = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
            a, b = generated[window].ravel(), aligned[window].ravel()
            covariance = abs(((a - a.mean()) * (b - b.mean())).mean())
            structure[y, x] = min(1, a.std() / 0.1)
            if inside[window].all():
                expected[y, x] = covariance / (a.std() * b.std())
                weight[y, x] = structure[y, x]
    best, region, step = 0.0, side // 2, max(1, side // 12)
    for y in range(0, side - region + 1, step):
        for x in range(0, side - region + 1, step):
            place = slice(y, y + region), slice(x, x + region)
            if weight[place].mean() >= LEAST_STRUCTURE * structure.mean():
                unexplained = np.log(1 - (1 - NOISE) * expected[place] ** 2)
                best = max(best, 1 - np.exp((weight[place] * unexplained).sum() / weight[place].sum()))
    maps = (torch.from_numpy(values).float()[None, None] for values in (generated, sign * aligned, inside))
    found = local_correlation(*maps)
    # Windows without contrast are damped, which costs those with contrast a little too.
    assert np.allclose(found.map[0, 0].numpy(), expected, atol=2e-3)
    assert float(found.best()) == pytest.approx(best**0.5, abs=2e-3)
    overall = 1 - np.exp((weight * np.log(1 - (1 - NOISE) * expected**2)).sum() / weight.sum())
    assert float(found.overall()) == pytest.approx(overall**0.5, abs=2e-3)
    low, high = ((weight * (expected >= ALIKE + slack)).sum() / structure.sum() for slack in (2e-3, -2e-3))
    assert low - 1e-5 <= float(found.shares()[0, LEVELS.index(ALIKE)]) <= high + 1e-5
    assert 0.01 < low < 0.9


@pytest.mark.parametrize("sign", [1, -1])
def test_local_correlation_of_volumes_is_the_windowed_correlation_of_a_naive_loop(sign):
    rng = np.random.default_rng(0)
    side, radius = 12, WINDOW[3] // 2
    generated, aligned = rng.random((2, side, side, side))
    aligned = 0.67 * generated + 0.33 * aligned
    generated[:, :5] *= 0.1  # little structure
    inside = np.ones((side,) * 3)
    inside[..., side - 3 :] = 0
    expected, weight, structure = (np.zeros((side,) * 3) for _ in range(3))
    for place in itertools.product(range(side), repeat=3):
        window = tuple(slice(max(0, at - radius), at + radius + 1) for at in place)
        a, b = generated[window].ravel(), aligned[window].ravel()
        structure[place] = min(1, a.std() / 0.1)
        if inside[window].all():
            expected[place] = abs(((a - a.mean()) * (b - b.mean())).mean()) / (a.std() * b.std())
            weight[place] = structure[place]
    best, region = 0.0, side // 2
    for corner in itertools.product(range(0, side - region + 1), repeat=3):
        place = tuple(slice(at, at + region) for at in corner)
        if weight[place].mean() >= LEAST_STRUCTURE * structure.mean():
            unexplained = np.log(1 - (1 - NOISE) * expected[place] ** 2)
            best = max(best, 1 - np.exp((weight[place] * unexplained).sum() / weight[place].sum()))
    found = local_correlation(
        *(torch.from_numpy(values).float()[None, None] for values in (generated, sign * aligned, inside))
    )
    assert found.map.shape == (1, 1, side, side, side)
    clear = structure > 0.5
    assert np.allclose(found.map[0, 0].numpy()[clear], expected[clear], atol=3e-3)
    assert float(found.best()) == pytest.approx(best**0.5, abs=3e-3)
    overall = 1 - np.exp((weight * np.log(1 - (1 - NOISE) * expected**2)).sum() / weight.sum())
    assert float(found.overall()) == pytest.approx(overall**0.5, abs=3e-3)
    low, high = ((weight * (expected >= ALIKE + slack)).sum() / structure.sum() for slack in (5e-3, -5e-3))
    assert low - 1e-5 <= float(found.shares()[0, LEVELS.index(ALIKE)]) <= high + 1e-5
    assert 0.01 < low < 0.9


def test_what_overlaps_decides_as_a_whole_from_half_of_the_structure():
    generated, aligned = smooth(2)[:, None].chunk(2)
    inside = torch.zeros(2, 1, SIDE, SIDE)
    inside[0, ..., : SIDE // 2 + 8], inside[1, ..., : SIDE // 2 - 8] = 1, 1
    mixed = generated + 0.1 * aligned
    found = local_correlation(generated.expand_as(inside), mixed.expand_as(inside), inside)
    there = (found.structure * found.overlap).flatten(1).sum(dim=1) / found.structure.flatten(1).sum(dim=1)
    assert there[0] > MOST > there[1] > 0.25
    overall, best = found.overall(), found.best()
    assert 0.5 < overall[0] < best[0]
    assert overall[1] == 0
    assert best[1] > 0.5


def test_detail_is_what_less_blur_shows_beyond_more_blur_whatever_the_gain():
    images = textured(4)[:, None] * 0.8 + 0.1
    whole, sigmas = torch.ones_like(images), (0.5, 0.7, 1.0, 1.5)

    def kept(generated: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
        return detail_kept(
            *(
                local_correlation(gaussian_blur(generated, blur), gaussian_blur(aligned, blur), whole)
                for blur in (FINE, COARSE)
            )
        )

    assert torch.allclose(kept(images, images), torch.ones(4))
    assert torch.allclose(kept(0.7 * images + 0.1, 1 - images), torch.ones(4), atol=0.02)
    blurred = torch.stack([kept(gaussian_blur(images, sigma), images) for sigma in sigmas])
    assert (blurred.diff(dim=0) < 0).all()
    assert blurred.max() < 1
    for sigma, found in zip(sigmas, blurred, strict=True):
        assert torch.allclose(kept(images, gaussian_blur(images, sigma)) * found, torch.ones(4), atol=0.1)
    assert torch.allclose(kept(torch.full_like(images, 0.5), torch.zeros_like(images)), torch.ones(4), atol=1e-3)


def test_lncc_is_that_of_fine_detail_or_what_coarse_detail_counts(generator):
    reference, others = textured(4), textured(4, seed=3)
    changed = reference.clone()
    changed[1:3] += 0.1 * torch.randn(2, SIDE, SIDE, generator=generator)
    changed[2, :, SIDE // 2 :] = others[2, :, SIDE // 2 :]
    changed[3] = 0.8 * gaussian_blur(reference[3], 1.2) + 0.2 * others[3]
    generated = as_bytes(changed)
    found = register(generated, as_bytes(reference))
    decided, blurred = [], []
    for i, lncc in enumerate(found.lncc.tolist()):
        fine, coarse = (
            replace(
                local_correlation(
                    *(gaussian_blur(image[None, None], blur) for image in (generated[i] / 255, found.aligned[i])),
                    torch.ones(1, 1, SIDE, SIDE),
                ),
                overlap=(found.lncc_map[i] > 0).float()[None, None],
            )
            for blur in (FINE, COARSE)
        )
        missing = max(1.0, SHARP / float(detail_kept(fine, coarse)))
        parts = ((fine.best(), missing), (coarse.best(), REGION_COUNTS), (coarse.overall(), WHOLE_COUNTS))
        unexplained = [counts * (1 - float(part) ** 2) for part, counts in parts]
        decided.append(unexplained.index(min(unexplained)))
        blurred.append(missing > 1)
        assert lncc == pytest.approx((1 - min(unexplained)) ** 0.5, abs=3e-3)
    assert decided == [0, 2, 1, 0]
    assert blurred == [False, False, False, True]


def test_registration_of_volumes_recovers_a_known_affine_map():
    reference = volumes(2)
    found = register(as_bytes(warp(reference, MOVED)), as_bytes(reference))
    corners = torch.tensor([[*corner, 1.0] for corner in itertools.product((-0.5, 0.5), repeat=3)])
    errors = (corners @ (found.theta - MOVED).transpose(1, 2)).norm(dim=2) * VOLUME_SIDE / 2
    assert found.theta.shape == (2, 3, 4)
    assert errors.max() < 0.7  # voxels
    assert found.aligned.shape == found.lncc_map.shape == reference.shape


@pytest.mark.parametrize("name", WARPS)
def test_registration_recovers_a_known_affine_map(name):
    reference = smooth(4)
    found = register(as_bytes(warp(reference, WARPS[name])), as_bytes(reference))
    corners = torch.tensor([[x, y, 1.0] for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    errors = (corners @ (found.theta - WARPS[name]).transpose(1, 2)).norm(dim=2) * SIDE / 2
    assert errors.max() < 1.0  # pixels


# Promise


@pytest.mark.parametrize("name", WARPS)
def test_a_warped_copy_has_lncc_near_one_and_another_image_clearly_less(name):
    reference = smooth(6)
    generated = warp(reference, WARPS[name])
    copies = register(as_bytes(generated), as_bytes(reference))
    others = register(as_bytes(generated), as_bytes(reference.roll(1, 0)))
    assert copies.lncc.min() > 0.95
    assert agreeing(copies).min() > 0.8
    assert 1 - others.lncc.max() ** 2 > 2 * (1 - copies.lncc.min() ** 2)  # of the variance, more is unexplained
    assert agreeing(others).max() < agreeing(copies).min() - 0.2


@pytest.mark.parametrize("name", ["none", "rotation", "all"])
def test_gain_and_offset_do_not_hide_a_copy(name):
    reference = smooth(4)
    generated = 0.3 + 0.5 * warp(reference, WARPS[name])
    found = register(as_bytes(generated), as_bytes(reference))
    assert found.lncc.min() > 0.93  # half the contrast: a little more of it drowns in the quantisation
    assert agreeing(found).min() > 0.8


def test_a_smooth_bias_field_does_not_hide_a_copy():
    reference = smooth(4)
    axis = torch.linspace(-1, 1, SIDE)
    bias = torch.exp(0.2 * axis[:, None] - 0.15 * axis[None])
    generated = 0.7 * warp(reference, WARPS["rotation"]) * bias
    assert generated.max() < 1
    assert register(as_bytes(generated), as_bytes(reference)).lncc.min() > 0.9


def test_a_little_noise_does_not_hide_a_copy(generator):
    reference = smooth(4)
    generated = warp(reference, WARPS["all"]) + 0.02 * torch.randn(4, SIDE, SIDE, generator=generator)
    assert register(as_bytes(generated), as_bytes(reference)).lncc.min() > 0.85


@pytest.mark.parametrize("change", ["noise", "low_resolution"])
def test_a_copy_that_lost_its_fine_detail_is_known_by_its_coarse_detail(change, generator, monkeypatch):
    grain = torch.from_numpy(gaussian_filter(np.random.default_rng(1).normal(size=(4, SIDE, SIDE)), (0, 0.8, 0.8)))
    reference = textured(4) + 0.2 * grain.float()
    generated = warp(reference, WARPS["rotation"])
    if change == "noise":
        generated = generated + 0.1 * torch.randn(generated.shape, generator=generator)
    else:
        generated = F.interpolate(F.avg_pool2d(generated[:, None], 3), size=SIDE, mode="bilinear")[:, 0]
    copies, others = (register(as_bytes(generated), as_bytes(r)).lncc for r in (reference, reference.roll(1, 0)))
    assert 1 - others.max() ** 2 > 2 * (1 - copies.min() ** 2)
    monkeypatch.setattr(pyramid, "REGION_COUNTS", math.inf)
    monkeypatch.setattr(pyramid, "WHOLE_COUNTS", math.inf)
    assert (register(as_bytes(generated), as_bytes(reference)).lncc < copies - 0.01).all()


def test_detail_that_blurred_strangers_miss_counts_against_them(monkeypatch):
    shared, others = textured(4), textured(4, seed=3)
    grain = 0.1 * gaussian_filter(np.random.default_rng(1).normal(size=(2, 4, SIDE, SIDE)), (0, 0, 0.8, 0.8))
    reference, sharp = torch.stack([shared, 0.8 * shared + 0.2 * others]) + torch.from_numpy(grain).float()
    for counts in ("REGION_COUNTS", "WHOLE_COUNTS"):
        monkeypatch.setattr(pyramid, counts, math.inf)
    found = {}
    for least in (0.0, SHARP):
        monkeypatch.setattr(pyramid, "SHARP", least)
        found[least] = [
            register(as_bytes(image), as_bytes(reference)).lncc for image in (sharp, gaussian_blur(sharp, 1.0))
        ]
    (sharp_if_not, blurred_if_not), (sharp_lncc, blurred_lncc) = found.values()
    assert torch.equal(sharp_lncc, sharp_if_not)
    assert (blurred_if_not > sharp_if_not + 0.04).all()
    assert (blurred_lncc - sharp_lncc < 0.85 * (blurred_if_not - sharp_if_not)).all()


def test_the_aligned_reference_lies_over_the_generated_image():
    reference = smooth(3)
    generated = as_bytes(warp(reference, WARPS["all"]))
    found = register(generated, as_bytes(reference))
    before = (as_bytes(reference).float() / 255 - generated.float() / 255).abs().mean()
    after = (found.aligned - generated.float() / 255).abs().mean()
    assert after < 0.1 * before
    assert found.aligned.shape == found.lncc_map.shape == (3, SIDE, SIDE)


def test_the_map_shows_which_part_was_copied():
    reference, other = smooth(2)
    mixed = reference.clone()
    mixed[:, SIDE // 2 :] = other[:, SIDE // 2 :]
    found = register(as_bytes(mixed[None]), as_bytes(reference[None]))
    left, right = (
        found.lncc_map[0, 20:-20, 20 : SIDE // 2 - 8],
        found.lncc_map[0, 20:-20, SIDE // 2 + 8 : -20],
    )
    assert left.mean() > 0.9
    assert right.mean() < 0.6
    assert 0.25 < agreeing(found) < 0.75


def test_a_half_that_left_the_field_of_view_does_not_hide_a_copy():
    reference = smooth(3)
    generated = warp(reference, affine(shift_x=0.3))
    assert register(as_bytes(generated), as_bytes(reference)).lncc.min() > 0.9


def test_a_batch_is_registered_as_its_pairs_one_by_one():
    reference = smooth(5)
    generated, moving = as_bytes(warp(reference, WARPS["rotation"])), as_bytes(reference.roll(2, 0))
    moving[0] = as_bytes(reference)[0]
    together = register(generated, moving)
    alone = [register(generated[i : i + 1], moving[i : i + 1]) for i in range(5)]
    assert torch.allclose(together.lncc, torch.cat([one.lncc for one in alone]), atol=1e-3)
    assert torch.allclose(together.theta, torch.cat([one.theta for one in alone]), atol=1e-2)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_images_come_of_the_pairs_that_were_compared_in_their_order(chunk):
    reference = smooth(6)
    generated = as_bytes(warp(reference[[0, 1, 2, 0, 1, 2]], WARPS["all"]))
    group, by_edges = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 0, 1, 1]) > 0
    moving = as_bytes(reference[[0, 4, 2, 3, 1, 5]])
    found = register(generated, moving, group, by_edges=by_edges, start=WARPS["all"].expand(6, -1, -1), chunk=chunk)
    assert found.compared.tolist() == (found.lncc > -1).nonzero().flatten().tolist()
    assert len(found.compared) == len(found.aligned) == len(found.lncc_map) == 4  # one of two, twice, and both
    for place, k in enumerate(found.compared.tolist()):
        pair = (generated[[k]], moving[[k]])
        alone = register(*pair, by_edges=by_edges[[k]], start=WARPS["all"])
        assert torch.allclose(found.aligned[place], alone.aligned[0], atol=0.02)
        assert torch.allclose(found.lncc_map[place], alone.lncc_map[0], atol=0.02)
        assert float(found.lncc[k]) == pytest.approx(float(alone.lncc), abs=1e-3)


def test_of_two_agreements_each_pair_keeps_its_own():
    images, whole = textured(4)[:, None], torch.ones(2, 1, SIDE, SIDE)
    one, other = (
        local_correlation(image, image.flip(-1) ** 2, inside)
        for image, inside in zip(images.split(2), (whole, whole.triu()), strict=True)
    )
    mixed = one.where(torch.tensor([True, False]), other)
    for field in fields(mixed):
        ours, theirs, found = (getattr(agreement, field.name) for agreement in (one, other, mixed))
        assert not torch.equal(ours, theirs)
        assert torch.equal(found, torch.stack([ours[0], theirs[1]]))


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_the_size_of_a_chunk_is_irrelevant(chunk):
    reference = smooth(5)
    generated = as_bytes(warp(reference, WARPS["all"]))
    group = torch.tensor([0, 0, 0, 0, 1])
    whole, parts = (register(generated, as_bytes(reference), group=group, chunk=size) for size in (256, chunk))
    assert torch.allclose(whole.lncc, parts.lncc, atol=1e-3)


def test_registration_is_deterministic_and_leaves_the_global_seed_alone():
    generated, reference = as_bytes(smooth(3, seed=1)), as_bytes(smooth(3))
    state = torch.get_rng_state()
    first, second = register(generated, reference), register(generated, reference)
    assert torch.equal(first.lncc, second.lncc)
    assert torch.equal(first.theta, second.theta)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_the_candidates_of_one_image_the_hopeless_ones_are_dropped_and_the_copy_stays():
    bank = smooth(6)
    generated = warp(bank[2:3], WARPS["all"]).expand(6, -1, -1)
    found = register(as_bytes(generated), as_bytes(bank), group=torch.zeros(6, dtype=torch.long))
    assert int((found.lncc > -1).sum()) == FINALISTS[0]
    assert int(found.lncc.argmax()) == 2
    assert found.lncc[2] > 0.95


def test_of_many_candidates_those_are_aligned_that_stand_foremost_in_the_order_given_or_after_a_search():
    generator = torch.Generator().manual_seed(5)
    group, evidence = torch.randint(3, (40,), generator=generator), torch.rand(40, generator=generator)
    most = torch.tensor([4, 5, 30])[group]
    expected = []
    for one in range(3):
        members = (group == one).nonzero().flatten().tolist()
        by_evidence = sorted(members, key=lambda pair: -float(evidence[pair]))
        place = {pair: min(members.index(pair), by_evidence.index(pair) + 0.5) for pair in members}
        expected += sorted(members, key=place.get)[: int(most[members[0]])]
    assert _foremost(evidence, group, most).tolist() == sorted(expected)


def test_the_last_of_many_candidates_is_found_if_it_is_the_copy():
    bank = smooth(24)
    generated = as_bytes(warp(bank[23:], WARPS["all"]).expand(24, -1, -1))
    group = torch.zeros(24, dtype=torch.long)
    found = register(generated, as_bytes(bank), group, candidates=4)
    assert int(found.lncc.argmax()) == 23
    assert found.lncc[23] > 0.95
    # The one that stands first in the order given goes before the one that the search puts first.
    alone = register(generated, as_bytes(bank), group, candidates=1)
    assert (alone.lncc > -1).nonzero().flatten().tolist() == [0]


def test_groups_do_not_compete_with_each_other_in_whatever_order_they_come():
    bank = smooth(8)
    generated = torch.stack([warp(bank[0:1], WARPS["all"])[0], warp(bank[7:8], WARPS["all"])[0]])
    group = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])
    found = register(as_bytes(generated[1 - group]), as_bytes(bank), group=group)
    for member, copy in ((1, 0), (0, 7)):
        rows = (group == member).nonzero().flatten()
        assert int((found.lncc[rows] > -1).sum()) == FINALISTS[0]
        assert int(rows[found.lncc[rows].argmax()]) == copy
    # Alone, every pair is warped; in a group only the best ones.
    everything = register(as_bytes(generated[1 - group]), as_bytes(bank))
    kept = found.lncc > -1
    assert torch.allclose(found.lncc[[7, 0]], everything.lncc[[7, 0]], atol=1e-3)
    assert (found.lncc[kept] <= everything.lncc[kept] + 1e-3).all()


def test_from_a_map_that_is_given_nothing_is_searched_and_one_of_a_group_goes_on():
    bank, group = smooth(6), torch.tensor([0, 0, 0, 1, 1, 1])
    generated = warp(bank[[1, 1, 1, 5, 5, 5]], WARPS["all"])
    near = WARPS["all"].expand(6, -1, -1)
    found = register(as_bytes(generated), as_bytes(bank), group=group, start=near)
    assert (found.lncc > -1).tolist() == [False, True, False, False, False, True]
    assert found.lncc[[1, 5]].min() > 0.97
    assert torch.equal(found.theta[[0, 2, 3, 4]], near[[0, 2, 3, 4]])
    # Half the image away, which the search finds and the finest level alone does not.
    far = affine(shift_x=0.5).expand(6, -1, -1)
    lost, searched = (register(as_bytes(generated), as_bytes(bank), group, start=start) for start in (far, None))
    assert searched.lncc[[1, 5]].min() > 0.97
    assert lost.lncc.max() < 0.9


def test_a_flip_is_not_an_affine_map_that_registration_tries():
    reference = smooth(4)
    copies, flipped = (register(as_bytes(images), as_bytes(reference)) for images in (reference, reference.flip(-1)))
    assert 1 - flipped.lncc.max() ** 2 > 2 * (1 - copies.lncc.min() ** 2)
    assert agreeing(flipped).max() < 0.7


@pytest.mark.parametrize("name", WARPS)
def test_inverted_contrast_is_aligned_and_compared_as_well(name):
    reference = smooth(4)
    generated = as_bytes(warp(reference, WARPS[name]))
    plain, inverted = (register(images, as_bytes(reference)) for images in (generated, 255 - generated))
    assert torch.allclose(inverted.theta, plain.theta, atol=1e-3)
    assert torch.allclose(inverted.lncc, plain.lncc, atol=1e-3)
    assert torch.allclose(agreeing(inverted), agreeing(plain), atol=0.01)
    assert inverted.lncc.min() > 0.95


def tissues(n: int, seed: int = 0, scales: tuple[int, ...] = (4, 8, 12), whole: bool = False) -> torch.Tensor:
    """Random regions of four grey values, each of which ends where another begins, `(n, SIDE, SIDE)`.

    In an oval, or in the whole image.
    """
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, SIDE)
    oval = ((axis[:, None] / 0.8) ** 2 + (axis[None] / 0.65) ** 2 < 1) | whole
    made = []
    for _ in range(n):
        texture = sum(s * gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) for s in scales)
        labels = np.digitize(texture, np.quantile(texture[oval], [0.25, 0.5, 0.75]))
        made.append(gaussian_filter(np.take([0.3, 0.5, 0.75, 1.0], labels) * oval, 0.6))
    return torch.from_numpy(np.stack(made)).float()


RECOLOURED = {
    "bent": lambda images, generator: 1 - (2 * images - 1).abs(),  # dark what was dark, and what was bright
    "t2_like": lambda images, generator: t2_like(images[:, None])[:, 0],
    "remapped": lambda images, generator: remap(images[:, None], generator)[:, 0],
}


IN_PLACE = affine()


@pytest.mark.parametrize(
    "moved", [IN_PLACE, affine(rotation=-10, zoom_x=0.95, shift_x=0.05)], ids=["in_place", "moved"]
)
@pytest.mark.parametrize("curve", RECOLOURED)
def test_by_its_edges_a_copy_is_found_under_any_contrast_curve_and_map(curve, moved, generator):
    reference = tissues(4)
    generated = as_bytes(RECOLOURED[curve](warp(reference, moved), generator))
    drawn = torch.ones(4, dtype=torch.bool)
    copies, others = (register(generated, as_bytes(r), by_edges=drawn) for r in (reference, reference.roll(1, 0)))
    assert 1 - others.lncc.max() ** 2 > 2 * (1 - copies.lncc.min() ** 2)
    # The reference is returned as it was compared.
    inner = slice(12, -12)
    difference = (copies.aligned - generated.float() / 255)[:, inner, inner]
    assert difference.abs().mean() < 0.05
    by_grey_values = register(generated, as_bytes(reference))
    assert (copies.lncc > by_grey_values.lncc + (0.02 if moved is not IN_PLACE else 0.0)).all()


@pytest.mark.parametrize(("made", "curve"), [(tissues, "t2_like"), (smooth, "remapped")])
def test_a_copy_in_another_contrast_that_was_not_moved_is_compared_where_it_lies(made, curve, generator):
    reference = made(32)
    generated = as_bytes(RECOLOURED[curve](reference, generator))
    found = register(generated, as_bytes(reference), by_edges=torch.ones(32, dtype=torch.bool))
    assert found.lncc.min() > 0.98  # wherever else edges lead


def test_a_shift_in_another_contrast_between_the_steps_of_the_search_is_found():
    reference = tissues(24, 5, (4, 8), whole=True)
    moved = F.pad(t2_like(reference[:, None])[:, 0], (5, 0, 5, 0))[:, :SIDE, :SIDE]  # edges where nothing is
    found = register(as_bytes(moved), as_bytes(reference), by_edges=torch.ones(24, dtype=torch.bool))
    assert found.lncc.min() > 0.95


def test_pairs_are_recoloured_where_they_are_aligned_by_edges_alone():
    reference = textured(4)
    generated, drawn = as_bytes(1 - (2 * reference - 1).abs()), torch.tensor([True, False, False, True])
    mixed, all_drawn, none = (
        register(generated, as_bytes(reference), by_edges=by_edges) for by_edges in (drawn, torch.ones(4) > 0, None)
    )
    for found, expected in ((mixed.lncc, (all_drawn.lncc, none.lncc)), (mixed.curve, (all_drawn.curve, none.curve))):
        assert torch.allclose(found[drawn], expected[0][drawn], atol=1e-3)
        assert torch.allclose(found[~drawn], expected[1][~drawn], atol=1e-3)
    assert torch.equal(none.curve, torch.linspace(0, 1, none.curve.shape[1]).expand(4, -1))


def test_by_its_edges_a_copy_in_its_own_contrast_is_found_as_well():
    reference = textured(4)
    generated = as_bytes(warp(reference, WARPS["all"]))
    plain, drawn = (register(generated, as_bytes(reference), by_edges=torch.full((4,), k)) for k in (False, True))
    assert drawn.lncc.min() > plain.lncc.min() - 0.005


def test_edges_of_volumes_are_aligned_as_well():
    reference = volumes(2)
    generated = as_bytes(1 - (2 * warp(reference, MOVED) - 1).abs())
    moving = as_bytes(torch.cat([reference, reference.roll(1, 0)]))
    found = register(generated.repeat(2, 1, 1, 1), moving, by_edges=torch.ones(4, dtype=torch.bool))
    copies, others = found.lncc.chunk(2)
    assert copies.min() > 0.95
    assert 1 - others.max() ** 2 > 3 * (1 - copies.min() ** 2)


# Promise: volumes


def test_images_and_volumes_are_compared_at_their_side():
    assert (SIDE, VOLUME_SIDE) == (SIDE, VOLUME_SIDE)


@pytest.mark.parametrize("change", ["exact", "moved_and_noisy", "inverted"])
def test_copies_of_volumes_are_clearly_above_strangers(change, generator):
    reference = volumes(3)
    generated = warp(reference, MOVED) if change == "moved_and_noisy" else reference
    if change == "moved_and_noisy":
        generated = generated + 0.02 * torch.randn(reference.shape, generator=generator)
    generated = 1 - generated if change == "inverted" else generated
    moving = torch.cat([reference, reference.roll(1, 0)])
    found = register(as_bytes(generated.repeat(2, 1, 1, 1)), as_bytes(moving))
    copies, strangers = found.lncc.chunk(2)
    assert copies.min() > (0.95 if change == "moved_and_noisy" else 0.98)
    assert 1 - strangers.max() ** 2 > 2 * (1 - copies.min() ** 2)
    assert agreeing(found)[:3].min() > (0.55 if change == "moved_and_noisy" else 0.7)
    assert agreeing(found)[3:].max() < agreeing(found)[:3].min() - 0.2


def test_a_flip_of_volumes_is_not_an_affine_map_that_registration_tries():
    reference = volumes(1)
    flipped = torch.cat([reference.flip(axis) for axis in (1, 2, 3)])
    found = register(as_bytes(flipped), as_bytes(reference.expand(3, -1, -1, -1)))
    assert found.lncc.max() < 0.95
    assert agreeing(found).max() < 0.7


@pytest.mark.parametrize("chunk", [1, 3])
def test_volumes_are_registered_alike_in_any_chunk_one_by_one_and_twice(chunk):
    bank = volumes(4)
    generated = as_bytes(warp(bank, MOVED))
    whole, again = register(generated, as_bytes(bank)), register(generated, as_bytes(bank))
    assert torch.equal(whole.lncc, again.lncc)
    assert torch.equal(whole.theta, again.theta)
    parts = register(generated, as_bytes(bank), chunk=chunk)
    assert torch.allclose(whole.lncc, parts.lncc, atol=1e-3)
    assert torch.allclose(whole.theta, parts.theta, atol=1e-2)
    assert (whole.lncc_map - parts.lncc_map).abs().mean() < 1e-2


def test_candidates_of_volumes_compete_within_their_group_and_kind():
    bank = volumes(KEPT[0] + 3)
    pairs = len(bank)
    generated = as_bytes(torch.cat([warp(bank[[k]], MOVED) for k in (2, 4)]))
    group = torch.arange(pairs) % 2
    group[2], group[4] = 0, 1
    found = register(generated[group], as_bytes(bank), group=group)
    for member, copy in ((0, 2), (1, 4)):
        rows = (group == member).nonzero().flatten()
        assert int((found.lncc[rows] > -1).sum()) == FINALISTS[0]
        assert int(rows[found.lncc[rows].argmax()]) == copy
    alone = register(generated[:1].expand(pairs, -1, -1, -1), as_bytes(bank), group=torch.zeros(pairs).long())
    assert int((alone.lncc > -1).sum()) == FINALISTS[0]
    assert int(alone.lncc.argmax()) == 2
    window = torch.tensor([-1, 13] * pairs)[:pairs]
    kinds = register(generated[:1].expand(pairs, -1, -1, -1), as_bytes(bank), torch.zeros(pairs).long(), window)
    assert [int((kinds.lncc[part] > -1).sum()) for part in (window < 0, window >= 0)] == list(FINALISTS[:2])


def test_an_eighth_pasted_into_another_volume_is_found_with_its_window():
    windows = torch.tensor([13, 4, 22, 16])
    reference, others = volumes(8, seed=3).chunk(2)
    inside = windows.masks(VOLUME_SIDE, 3)[windows][:, 0] > 0
    theta = torch.cat([torch.eye(3), torch.tensor([[0.05], [-0.04], [0.03]])], dim=1)[None]
    mixed = as_bytes(torch.where(inside, warp(reference, theta), others))
    part, whole = (register(mixed, as_bytes(reference), window=w) for w in (windows, None))
    for k, window in enumerate(windows.tolist()):
        place = tuple(slice(at * VOLUME_SIDE // 4 + 5, at * VOLUME_SIDE // 4 + VOLUME_SIDE // 2 - 5)
                      for at in (window // 9, window // 3 % 3, window % 3))  # fmt: skip
        assert part.lncc_map[k][place].mean() > 0.9
        assert part.lncc_map[k][place].mean() > whole.lncc_map[k][place].mean() - 0.02
    assert (part.theta - theta).abs()[..., 3].max() < 0.06


# Promise: parts


def test_a_quarter_pasted_into_another_image_is_found_with_its_window_and_not_without():
    windows = list(range(9))
    mixed, reference, _ = pasted(WARPS["rotation"], windows)
    part = register(as_bytes(mixed), as_bytes(reference), window=torch.tensor(windows))
    whole = register(as_bytes(mixed), as_bytes(reference))
    corners = torch.tensor([[x, y, 1.0] for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    errors = (corners @ (part.theta - WARPS["rotation"]).transpose(1, 2)).norm(dim=2).amax(dim=1) * SIDE / 2
    copied = []
    for k in windows:
        y, x = k // 3 * SIDE // 4, k % 3 * SIDE // 4
        place = (
            slice(y + 6, y + SIDE // 2 - 6),
            slice(x + 6, x + SIDE // 2 - 6),
        )  # neighbourhoods within the window
        copied.append((part.lncc_map[k][place].mean(), whole.lncc_map[k][place].mean()))
    copied = torch.tensor(copied)
    assert errors.median() < 1.5  # pixels, at corners that lie outside of most windows
    assert copied[4, 0] > 0.93  # the middle, of which nothing left the field of view
    assert copied[:, 0].median() > 0.92  # the corners hold little of the oval
    assert copied[:, 1].median() < 0.85
    assert (part.lncc > whole.lncc).all()
    assert (part.lncc > whole.lncc + 0.05).sum() >= 8
    assert part.lncc.min() > 0.85


def test_a_part_that_was_pasted_where_it_lay_is_found_without_a_window(monkeypatch):
    mixed, reference, _ = pasted(affine(), list(range(9)))
    found = register(as_bytes(mixed), as_bytes(reference))
    assert found.lncc.min() > 0.88
    monkeypatch.setattr(pyramid, "_best_regions", lambda *images: torch.zeros(len(images[0])))  # the map found stays
    pulled_away = register(as_bytes(mixed), as_bytes(reference))
    assert (found.lncc > pulled_away.lncc + 0.05).sum() >= 5


def test_a_quarter_that_was_not_moved_agrees_entirely():
    mixed, reference, others = pasted(WARPS["none"], [0, 4, 5])
    found = register(as_bytes(mixed), as_bytes(reference), window=torch.tensor([0, 4, 5]))
    assert found.lncc.min() > 0.96
    assert register(as_bytes(others), as_bytes(reference), window=torch.tensor([0, 4, 5])).lncc.max() < 0.85


def test_no_window_is_the_whole_image():
    reference = smooth(3)
    generated = as_bytes(warp(reference, WARPS["all"]))
    whole, none = (register(generated, as_bytes(reference), window=w) for w in (None, torch.full((3,), -1)))
    assert torch.equal(whole.theta, none.theta)
    assert torch.equal(whole.lncc, none.lncc)


def test_wholes_windows_and_edges_compete_with_their_like():
    bank = textured(3 * (max(KEPT) + 2))
    pairs = len(bank)
    kind = torch.arange(pairs) % 3
    window, by_edges = torch.where(kind == 1, 4, -1), kind == 2
    generated = as_bytes(bank[:1]).expand(pairs, -1, -1)
    for group in (torch.zeros(pairs, dtype=torch.long), torch.arange(pairs) // 3 % 2):
        found = register(generated, as_bytes(bank), group, window, by_edges)
        for member in group.unique():
            for part, most in enumerate(FINALISTS):
                assert int((found.lncc[(group == member) & (kind == part)] > -1).sum()) == most


def kinds(mask: torch.Tensor, by_edges: bool) -> list[int]:
    """Of pairs that are aligned alike, how each was found: as a whole (0), by a window (1), by edges (2)."""
    parts = mask.flatten(1).mean(dim=1) < 1
    return [2] * len(parts) if by_edges else parts.long().tolist()


@pytest.mark.parametrize(("candidates", "expected"), [(4, [4, 4, 6]), (1, [1, 1, 1]), (50, [9, 9, 9])])
def test_as_many_are_aligned_as_candidates_are_asked_for_and_half_as_many_again_by_edges(
    candidates, expected, monkeypatch
):
    bank = textured(27)
    kind = torch.arange(27) % 3
    aligned = []
    coarsely = schedule.coarsely

    def counted(generated, reference, mask, starts, by_edges):
        aligned.extend(kinds(mask, by_edges))
        return coarsely(generated, reference, mask, starts, by_edges)

    monkeypatch.setattr(schedule, "coarsely", counted)
    window, group = torch.where(kind == 1, 4, -1), torch.zeros(27, dtype=torch.long)
    register(as_bytes(bank[:1]).expand(27, -1, -1), as_bytes(bank), group, window, kind == 2, candidates=candidates)
    assert [aligned.count(one) for one in range(3)] == expected


def test_of_every_kind_its_own_number_goes_on_after_the_coarsest_level(monkeypatch):
    bank = textured(45)
    kind = torch.arange(45) % 3
    went_on = []
    further = schedule.further

    def counted(generated, reference, mask, theta, recolour):
        went_on.extend(kinds(mask, recolour))
        return further(generated, reference, mask, theta, recolour)

    monkeypatch.setattr(schedule, "further", counted)
    window, group = torch.where(kind == 1, 4, -1), torch.zeros(45, dtype=torch.long)
    found = register(as_bytes(bank[44:]).expand(45, -1, -1), as_bytes(bank), group, window, kind == 2)
    assert [went_on.count(one) for one in range(3)] == [4, 4, 3]
    assert int(found.lncc.argmax()) == 44


def test_every_pair_starts_from_its_own_maps_and_those_by_edges_from_edges(monkeypatch):
    reference = textured(4)
    maps = [affine(shift_x=0.35), affine(shift_x=-0.35), affine(rotation=40), affine(shift_y=0.35)]
    generated = torch.cat([warp(one[None], theta) for one, theta in zip(reference, maps, strict=True)])
    assert register(as_bytes(generated), as_bytes(reference)).lncc.min() > 0.95
    searched = []
    roughly = schedule.roughly
    monkeypatch.setattr(
        schedule, "roughly", lambda *images: (searched.append((len(images[0]), images[3])), roughly(*images))[1]
    )
    register(as_bytes(generated), as_bytes(reference), by_edges=torch.tensor([True, False, True, True]))
    assert searched == [(1, False), (3, True)]


def test_after_the_coarsest_level_the_first_and_those_that_agree_best_go_on(monkeypatch):
    bank = textured(KEPT[0] + 3)
    pairs = len(bank)
    generated = as_bytes(bank[-1:]).expand(pairs, -1, -1)
    seen = []
    further = schedule.further
    monkeypatch.setattr(schedule, "further", lambda *images: (seen.append(images[1]), further(*images))[1])
    found = register(generated, as_bytes(bank), group=torch.zeros(pairs, dtype=torch.long))
    (went_on,) = seen
    assert len(went_on) == KEPT[0]
    kept = [row for row in range(pairs) if any(torch.equal(one[0], as_bytes(bank)[row] / 255) for one in went_on)]
    assert kept[0] == 0
    assert kept[-1] == pairs - 1 == int(found.lncc.argmax())


# Refusal: nothing to compare


@pytest.mark.parametrize("by_edges", [False, True])
@pytest.mark.parametrize("window", [-1, 0, 4])
@pytest.mark.parametrize("flat", ["generated", "reference", "both"])
def test_an_image_without_structure_is_finite_and_no_copy(flat, window, by_edges):
    structured, empty = (
        as_bytes(smooth(2)),
        torch.full((2, SIDE, SIDE), 128, dtype=torch.uint8),
    )
    found = register(
        empty if flat in ("generated", "both") else structured,
        empty if flat in ("reference", "both") else structured,
        window=torch.full((2,), window),
        by_edges=torch.full((2,), by_edges),
    )
    assert found.lncc.isfinite().all()
    assert found.curve.isfinite().all()
    assert found.theta.isfinite().all()
    assert found.lncc.abs().max() < 0.1
    assert agreeing(found).max() < 0.1


@pytest.mark.parametrize("window", [-1, 0, 13])
def test_a_volume_without_structure_is_finite_and_no_copy(window):
    structured, empty = as_bytes(volumes(1)), torch.full((1, *(VOLUME_SIDE,) * 3), 128, dtype=torch.uint8)
    generated, reference = torch.cat([empty, structured, empty]), torch.cat([structured, empty, empty])
    found = register(generated, reference, window=torch.full((3,), window))
    assert found.lncc.isfinite().all()
    assert found.theta.isfinite().all()
    assert found.lncc.abs().max() < 0.1
    assert agreeing(found).max() < 0.1


def test_a_nearly_empty_pair_does_not_count_as_a_copy(generator):
    noise = (torch.rand(2, 2, SIDE, SIDE, generator=generator) * 3).to(torch.uint8)
    found = register(noise[0], noise[1])
    assert found.lncc.max() < 0.5
