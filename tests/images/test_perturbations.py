"""What can be done to a copy: every change does what its name says, to every image, with the given strength."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mi_callback.images import perturbations as P
from mi_callback.images.perturbations import PASTES, PERTURBATIONS, VOLUME_PASTES, VOLUME_PERTURBATIONS, in_planes

pytestmark = pytest.mark.numeric


def smooth(n: int = 3, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth images in [0, 1] with a dark border, both ends reached."""
    noise = np.random.default_rng(seed).normal(size=(n, side, side))
    images = torch.from_numpy(np.stack([gaussian_filter(image, side / 12) for image in noise])).float()
    axis = torch.linspace(-1, 1, side)
    images = images - images.amin(dim=(1, 2), keepdim=True)
    images = images * torch.exp(-3 * (axis[:, None] ** 4 + axis[None] ** 4))
    return (images / images.amax(dim=(1, 2), keepdim=True))[:, None]


def disc(h: int, w: int, y: float, x: float, radius: float) -> torch.Tensor:
    rows, columns = torch.arange(h)[:, None], torch.arange(w)[None]
    return torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2))[None, None]


def centre(image: torch.Tensor) -> tuple[float, float]:
    image = image[0, 0].double()
    total = image.sum()
    rows, columns = torch.arange(image.shape[0]), torch.arange(image.shape[1])
    return float((image.sum(1) * rows).sum() / total), float((image.sum(0) * columns).sum() / total)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Definition


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 5), (-4, 2)])
def test_a_shift_moves_the_image_right_and_down_by_a_share_of_the_side(dx, dy):
    images = smooth(1)
    moved = P.affine(images, shift_x=dx / 32, shift_y=dy / 32)[0, 0]
    for y in range(32):
        for x in range(32):
            inside = 0 <= y - dy < 32 and 0 <= x - dx < 32
            assert abs(moved[y, x] - (images[0, 0, y - dy, x - dx] if inside else 0)) < 1e-5


def test_a_quarter_turn_by_affine_is_a_quarter_turn():
    images = smooth(1)
    turned = P.affine(images, rotation=90.0)
    same = [torch.allclose(turned, torch.rot90(images, k, (-2, -1)), atol=1e-5) for k in (1, 3)]
    assert sum(same) == 1


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_magnification_moves_what_lies_off_centre_away_from_it(scale):
    spot = disc(64, 64, 31.5 + 8, 31.5 - 6, 2.0)
    y, x = centre(P.affine(spot, scale_x=scale, scale_y=scale))
    assert abs(y - (31.5 + 8 * scale)) < 0.1
    assert abs(x - (31.5 - 6 * scale)) < 0.1


@pytest.mark.parametrize(("h", "w"), [(64, 64), (48, 96)])
def test_a_rotation_keeps_the_distance_to_the_centre_whatever_the_proportions(h, w):
    spot = disc(h, w, (h - 1) / 2, (w - 1) / 2 + 15, 2.0)
    y, x = centre(P.affine(spot, rotation=30.0))
    dy, dx = y - (h - 1) / 2, x - (w - 1) / 2  # down and right: clockwise
    assert abs(math.hypot(dy, dx) - 15) < 0.2
    assert abs(math.degrees(math.atan2(dy, dx)) - 30) < 1


def test_a_crop_is_the_centre_enlarged():
    images = smooth(2)
    inner = images[..., 8:24, 8:24]
    expected = torch.nn.functional.interpolate(inner, (32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(P.crop(images, 0.5)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5)


def test_flips_reverse_rows_and_columns():
    images = smooth(1)
    for y in range(32):
        for x in range(32):
            assert P.flip_horizontal(images)[0, 0, y, x] == images[0, 0, y, 31 - x]
            assert P.flip_vertical(images)[0, 0, y, x] == images[0, 0, 31 - y, x]


def test_point_operations_are_their_formulas():
    images = smooth(1)
    for value, bright, dark, inverted in zip(
        images.flatten().tolist(),
        P.scale_intensity(images, 1.3).flatten().tolist(),
        P.gamma(images, 1.4).flatten().tolist(),
        P.invert(images).flatten().tolist(),
        strict=True,
    ):
        assert bright == pytest.approx(min(1, 1.3 * value), abs=1e-6)
        assert dark == pytest.approx(value**1.4, abs=1e-6)
        assert inverted == pytest.approx(1 - value, abs=1e-6)


@pytest.mark.parametrize("sigma", [0.7, 1.5, 3.0])
def test_a_blur_is_a_gaussian_filter(sigma):
    images = smooth(2)
    inside = np.ones((32, 32))
    expected = [
        gaussian_filter(image[0].numpy(), sigma, mode="constant", truncate=8.0)
        / gaussian_filter(inside, sigma, mode="constant", truncate=8.0)  # of the kernel what lies inside counts
        for image in images
    ]
    assert np.allclose(P.blur(images, sigma)[:, 0].numpy(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_gaussian_noise_has_the_given_standard_deviation(sigma):
    grey = torch.full((4, 1, 128, 128), 0.5)
    noise = P.gaussian_noise(grey, sigma, seeded()) - grey
    n = noise.numel()
    assert abs(noise.mean()) < 4 * sigma / n**0.5
    assert abs(noise.std() - sigma) < 4 * sigma / (2 * n) ** 0.5


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_rician_noise_lifts_the_background_as_magnitude_images_do(sigma):
    black = torch.zeros(4, 1, 128, 128)
    noisy = P.rician_noise(black, sigma, seeded())
    rayleigh_mean, rayleigh_std = sigma * math.sqrt(math.pi / 2), sigma * math.sqrt(2 - math.pi / 2)
    assert abs(noisy.mean() - rayleigh_mean) < 4 * rayleigh_std / noisy.numel() ** 0.5


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_k_space_truncation_keeps_slow_waves_and_drops_fast_ones(keep):
    x = torch.arange(64) / 64
    slow, fast = (0.5 + 0.4 * torch.cos(2 * math.pi * f * x).expand(1, 1, 64, 64) for f in (4, 24))
    assert torch.allclose(P.k_space_truncation(slow, keep), slow, atol=1e-5)
    assert torch.allclose(P.k_space_truncation(fast, keep), torch.full_like(fast, 0.5), atol=1e-5)


@pytest.mark.parametrize("knots", [1, 5, 8])
def test_a_remap_is_linear_between_evenly_spaced_grey_values(knots):
    images = smooth(4)
    places = torch.arange(knots + 1) / knots
    images[:, 0, 0, : knots + 1] = places  # what becomes of these is the curve
    changed = P.remap(images, seeded(), knots=knots)
    curves = changed[:, 0, 0, : knots + 1].double().numpy()
    for image, found, curve in zip(images, changed, curves, strict=True):
        assert np.allclose(found.numpy(), np.interp(image.numpy(), places.numpy(), curve), atol=1e-5)
    assert len(np.unique(curves.round(4), axis=0)) == (4 if knots > 1 else 1)  # every image has its own
    assert (np.diff(curves) < 0).any() == (knots > 1)  # and some fall


def test_a_blend_is_the_weighted_mean():
    images, others = smooth(2), smooth(2, seed=1)
    for share in (0.0, 0.3, 1.0):
        expected = (1 - share) * images.double() + share * others.double()
        assert torch.allclose(P.blend(images, others, share).double(), expected, atol=1e-6)
    shares = torch.tensor([0.2, 0.9])
    together = P.blend(images, others, shares)
    assert torch.allclose(together[:1], P.blend(images[:1], others[:1], 0.2), atol=1e-6)
    assert torch.allclose(together[1:], P.blend(images[1:], others[1:], 0.9), atol=1e-6)


@pytest.mark.parametrize(("h", "w"), [(32, 32), (16, 48)])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_paste_is_a_band_of_the_given_share_at_one_of_the_four_sides(h, w, share):
    images, others = torch.zeros(60, 1, h, w), torch.ones(60, 1, h, w)
    pasted = P.paste(images, others, share, seeded())
    down, across = round(share * h), round(share * w)
    bands = {name: torch.zeros(h, w) for name in ("left", "right", "top", "bottom")}
    bands["left"][:, :across] = bands["right"][:, w - across :] = 1
    bands["top"][:down] = bands["bottom"][h - down :] = 1
    sides = [[name for name, band in bands.items() if torch.equal(band, image[0])] for image in pasted]
    assert all(len(names) == 1 for names in sides)
    assert {name for (name,) in sides} == set(bands)
    assert (pasted.mean(dim=(1, 2, 3)) == share).all()


def test_a_paste_leaves_both_images_as_they_are_where_it_puts_them():
    images, others = smooth(8) + 1, smooth(8, seed=1) - 1
    pasted = P.paste(images, others, torch.linspace(0, 1, 8), seeded())
    theirs = pasted == others
    assert (theirs | (pasted == images)).all()
    assert torch.allclose(theirs.float().mean(dim=(1, 2, 3)), torch.linspace(0, 1, 8), atol=0.5 / 32 + 1e-6)


@pytest.mark.parametrize(("h", "w"), [(32, 32), (17, 32), (21, 13)])
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_an_implant_is_another_image_but_for_the_centre(h, w, share):
    images, others = torch.ones(3, 1, h, w), torch.zeros(3, 1, h, w)
    found = P.implant(images, others, share)
    rows, columns = (found[0, 0].amax(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    for places, side in ((rows, h), (columns, w)):
        assert len(places) == round(share * side)
        assert places == list(range(places[0], places[-1] + 1))
        assert abs(places[0] - (side - 1 - places[-1])) <= 1  # as much on the one side as on the other
    assert torch.equal(found, found[:1].expand_as(found))
    assert float(found[0].sum()) == len(rows) * len(columns)


# Promise


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_named_change_keeps_shape_and_range_and_changes_every_image(name):
    images = smooth(4)
    changed = PERTURBATIONS[name](images.clone(), seeded())
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert changed.isfinite().all()
    assert changed.amin() >= -1e-6
    assert changed.amax() <= 1 + 1e-6
    differences = (changed - images).abs().amax(dim=(1, 2, 3))
    assert (differences == 0).all() if name == "exact" else (differences > 1e-3).all()


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_named_change_is_reproducible_and_leaves_its_input_and_the_global_seed_alone(name):
    images = smooth(3)
    before, state = images.clone(), torch.get_rng_state()
    first, second = (PERTURBATIONS[name](images, seeded(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["noise_0.02", "bias_field", "elastic_2", "combined"])
def test_random_changes_differ_between_seeds_and_between_images(name):
    same_image_twice = smooth(1).expand(2, 1, 32, 32)
    changed = PERTURBATIONS[name](same_image_twice, seeded(1))
    assert not torch.allclose(changed, PERTURBATIONS[name](same_image_twice, seeded(2)), atol=1e-3)
    assert not torch.allclose(changed[0], changed[1], atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_a_remap_keeps_black_black_and_reaches_white(seed):
    images = smooth(4)
    changed = P.remap(images, seeded(seed))
    assert (images == 0).any()
    assert (changed[images == 0] == 0).all()
    assert torch.allclose(changed.amax(dim=(1, 2, 3)), torch.ones(4))
    assert changed.amin() >= 0


def test_t2_like_shows_fluid_bright_and_white_matter_darker_than_grey_matter():
    black, fluid, grey_matter, white_matter = P.t2_like(torch.tensor([0.0, 0.2, 0.5, 0.8]).view(4, 1, 1, 1)).flatten()
    assert black == 0
    assert fluid > grey_matter > white_matter > black


@pytest.mark.parametrize("name", PASTES)
def test_every_paste_changes_every_image_reproducibly_and_nothing_else(name):
    images, others = smooth(6), smooth(6, seed=1)
    before, others_before, state = images.clone(), others.clone(), torch.get_rng_state()
    changed = PASTES[name](images, others, seeded())
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert changed.amin() >= 0
    assert changed.amax() <= 1
    for one in (images, others):  # neither the one nor the other
        assert ((changed - one).abs().amax(dim=(1, 2, 3)) > 1e-2).all()
    assert torch.equal(changed, PASTES[name](images, others, seeded()))
    assert torch.equal(images, before)
    assert torch.equal(others, others_before)
    assert torch.equal(torch.get_rng_state(), state)


def test_halves_and_quarters_are_halves_and_quarters():
    mine, theirs = torch.zeros(8, 1, 32, 32), torch.ones(8, 1, 32, 32)
    assert (PASTES["half_pasted"](mine, theirs, seeded()).mean(dim=(1, 2, 3)) == 0.5).all()
    assert (PASTES["quarter_pasted"](mine, theirs, seeded()).mean(dim=(1, 2, 3)) == 0.75).all()


NEUTRAL = {
    "affine": lambda x: P.affine(x),
    "crop": lambda x: P.crop(x, 1.0),
    "scale_intensity": lambda x: P.scale_intensity(x, 1.0),
    "gamma": lambda x: P.gamma(x, 1.0),
    "gaussian_noise": lambda x: P.gaussian_noise(x, 0.0, seeded()),
    "rician_noise": lambda x: P.rician_noise(x, 0.0, seeded()),
    "blur": lambda x: P.blur(x, 0.0),
    "bias_field": lambda x: P.bias_field(x, 0.0, seeded()),
    "low_resolution": lambda x: P.low_resolution(x, 1.0),
    "k_space_truncation": lambda x: P.k_space_truncation(x, 1.0),
    "elastic": lambda x: P.elastic(x, 0.0, seeded()),
    "blend": lambda x: P.blend(x, 1 - x, 0.0),
    "paste": lambda x: P.paste(x, 1 - x, 0.0, seeded()),
    "implant": lambda x: P.implant(x, 1 - x, 1.0),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_change_of_strength_none_changes_nothing(name):
    images = smooth(2)
    assert torch.allclose(NEUTRAL[name](images), images, atol=1e-5)


DETERMINISTIC = {
    "rotation": (lambda x, s: P.affine(x, rotation=s), (0.0, 10.0, -30.0)),
    "scale": (lambda x, s: P.affine(x, scale_x=s, scale_y=s), (0.8, 1.0, 1.3)),
    "shift": (lambda x, s: P.affine(x, shift_x=s), (0.0, 0.1, -0.2)),
    "shear": (lambda x, s: P.affine(x, shear=s), (0.0, 0.1, -0.2)),
    "crop": (P.crop, (0.7, 0.9, 1.0)),
    "scale_intensity": (P.scale_intensity, (0.5, 1.0, 1.5)),
    "gamma": (P.gamma, (0.5, 1.0, 2.0)),
    "blur": (P.blur, (0.8, 1.5, 2.5)),
    "k_space_truncation": (P.k_space_truncation, (0.3, 0.6, 1.0)),
}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_tensor_of_strengths_is_one_strength_per_image(name):
    change, strengths = DETERMINISTIC[name]
    images = smooth(3)
    together = change(images, torch.tensor(strengths))
    alone = torch.cat([change(image[None], s) for image, s in zip(images, strengths, strict=True)])
    # A blur of one image ends at three sigmas of its own, in a batch at three of the widest.
    assert torch.allclose(together, alone, atol=5e-3 if name == "blur" else 1e-5)
    assert not torch.allclose(together, change(images, strengths[0]), atol=1e-3)


def test_an_elastic_warp_moves_pixels_by_about_the_given_distance():
    # On a ramp in x the change of the value is the displacement along x.
    ramp = (torch.arange(96) / 95).expand(40, 1, 96, 96)
    moved = (P.elastic(ramp, 2.0, seeded()) - ramp)[..., 16:-16, 16:-16] * 95
    assert 1.0 < moved.std() < 2.5
    assert abs(moved.mean()) < 0.5


def test_a_bias_field_is_smooth_and_multiplies():
    flat = torch.ones(4, 1, 64, 64)
    field = P.bias_field(flat, 0.3, seeded())
    assert field.amin() > 0
    steps = torch.cat([field.diff(dim=-1).flatten(), field.diff(dim=-2).flatten()]).abs()
    assert 0 < steps.max() < 0.1
    assert (field.flatten(1).amax(dim=1) - field.flatten(1).amin(dim=1) > 0.2).all()


# Volumes


def volumes(n: int = 2, channels: int = 1, shape: tuple = (18, 24, 20), seed: int = 0) -> torch.Tensor:
    """Smooth volumes in [0, 1], no two sides alike, dark at the border."""
    noise = np.random.default_rng(seed).normal(size=(n, channels, *shape))
    found = torch.from_numpy(np.stack([[gaussian_filter(c, 2.0) for c in volume] for volume in noise])).float()
    for axis, side in enumerate(shape):
        found = found - found.amin(dim=(2, 3, 4), keepdim=True)
        line = torch.linspace(-1, 1, side).view(-1, *(1,) * (2 - axis))
        found = found * torch.exp(-3 * line**4)
    return found / found.amax(dim=(2, 3, 4), keepdim=True)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", VOLUME_PERTURBATIONS)
def test_every_change_of_volumes_keeps_shape_and_range_and_changes_every_one(name, channels):
    images = volumes(channels=channels)
    before, state = images.clone(), torch.get_rng_state()
    changed = VOLUME_PERTURBATIONS[name](images, seeded())
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert changed.isfinite().all()
    assert changed.amin() >= -1e-6
    assert changed.amax() <= 1 + 1e-6
    differences = (changed - images).abs().flatten(2).amax(dim=2)
    assert (differences == 0).all() if name == "exact" else (differences > 1e-3).all()
    assert torch.equal(changed, VOLUME_PERTURBATIONS[name](images, seeded()))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["rotation_15", "shift_0.1", "crop_0.7", "blur_1", "half_resolution", "flip_vertical"])
def test_a_change_in_the_plane_is_that_of_each_slice(name):
    images = volumes(channels=2)
    changed = VOLUME_PERTURBATIONS[name](images, seeded())
    for channel in range(2):
        for depth in range(images.shape[2]):
            plane = PERTURBATIONS[name](images[:, channel : channel + 1, depth], seeded())
            assert torch.allclose(changed[:, channel : channel + 1, depth], plane, atol=1e-5)


def test_a_random_change_in_the_plane_is_the_same_in_every_slice_of_a_volume():
    flat = torch.full((2, 1, 5, 16, 16), 0.5)
    field = in_planes(lambda x, g: P.bias_field(x, 0.3, g))(flat, seeded())
    assert torch.equal(field, field[:, :, :1].expand_as(field))
    assert not torch.allclose(field[0], field[1], atol=1e-3)


def test_rotations_by_5_and_warps_are_about_every_axis():
    line = torch.zeros(1, 1, 24, 24, 24)
    for axis in range(3):  # a bar along each axis leaves its place
        bar = torch.zeros(24, 24, 24)
        bar.select((axis + 1) % 3, 12).select((axis + 1) % 2, 12)[:] = 1
        line[0, 0] = bar
        assert (VOLUME_PERTURBATIONS["rotation_5"](line, seeded()) - line).abs().amax() > 0.3
    ramp = (torch.arange(24) / 23).view(1, 1, 1, 1, 24)
    for axis in range(3):
        along = ramp.expand(1, 1, 24, 24, 24).transpose(-1, 2 + axis)
        moved = (VOLUME_PERTURBATIONS["elastic_1"](along, seeded()) - along)[..., 5:-5, 5:-5, 5:-5] * 23
        assert 0.4 < moved.std() < 1.6  # voxels


@pytest.mark.parametrize("name", VOLUME_PASTES)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_paste_of_volumes_changes_every_one_and_nothing_else(name, channels):
    images, others = volumes(channels=channels), volumes(channels=channels, seed=1)
    before = images.clone(), others.clone()
    changed = VOLUME_PASTES[name](images, others, seeded())
    assert changed.shape == images.shape
    for one in (images, others):
        assert ((changed - one).abs().flatten(1).amax(dim=1) > 1e-2).all()
    assert torch.equal(images, before[0])
    assert torch.equal(others, before[1])


# Refusal


def test_as_many_strengths_as_images_are_needed():
    with pytest.raises(RuntimeError):
        P.affine(smooth(3), rotation=torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("change", [P.gaussian_noise, P.rician_noise, P.bias_field, P.elastic])
def test_random_changes_ask_for_a_generator(change):
    with pytest.raises(TypeError, match="generator"):
        change(smooth(1), 0.1)
