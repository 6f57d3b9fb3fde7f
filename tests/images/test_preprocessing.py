"""Channels, size and intensity: whatever came in → what an encoder was trained on."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mi_callback.errors import DataError
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.preprocessing import check_images, preprocess
from mi_callback.images.resizing import letterbox, resize
from mi_callback.images.thumbnails import make_thumbnails


@pytest.fixture
def images(generator):
    return torch.rand(4, 1, 20, 24, generator=generator) * 700 - 100


# Definition


@pytest.mark.parametrize("intensity", ["minmax", "quantile", "zscore", "none"])
def test_intensities_are_scaled_as_defined(images, intensity):
    images[0, 0, 3, 3] = 9000.0
    scaled = normalise_intensity(images, intensity)
    for image, found in zip(images.double().numpy(), scaled.double().numpy(), strict=True):
        ordered = sorted(image.ravel().tolist())
        if intensity == "minmax":
            expected = (image - ordered[0]) / (ordered[-1] - ordered[0])
        elif intensity == "quantile":
            last = len(ordered) - 1
            low, high = ordered[round(0.005 * last)], ordered[round(0.995 * last)]
            expected = np.clip((image - low) / (high - low), 0, 1)
        elif intensity == "zscore":
            expected = (image - image.mean()) / image.std(ddof=1)
        else:
            expected = image
        assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("h", "w", "size"), [(20, 10, (40, 40)), (10, 20, (40, 40)), (12, 12, (24, 36))])
def test_letterbox_keeps_proportions_centres_and_fills_with_the_minimum(generator, h, w, size):
    images = torch.rand(2, 1, h, w, generator=generator) + 3
    fitted = letterbox(images, size)
    factor = min(size[0] / h, size[1] / w)
    inner_h, inner_w = round(h * factor), round(w * factor)
    top, left = (size[0] - inner_h) // 2, (size[1] - inner_w) // 2
    assert fitted.shape == (2, 1, *size)
    for i in range(2):
        for y in range(size[0]):
            for x in range(size[1]):
                if not (top <= y < top + inner_h and left <= x < left + inner_w):
                    assert fitted[i, 0, y, x] == fitted[i].min()
                    continue
                # Bilinear, pixel centres at half integers, clamped at the border.
                v = min(max((y - top + 0.5) / factor - 0.5, 0), h - 1)
                u = min(max((x - left + 0.5) / factor - 0.5, 0), w - 1)
                y0, x0 = int(v), int(u)
                y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
                image = images[i, 0]
                upper = image[y0, x0] * (1 - u + x0) + image[y0, x1] * (u - x0)
                lower = image[y1, x0] * (1 - u + x0) + image[y1, x1] * (u - x0)
                assert abs(fitted[i, 0, y, x] - (upper * (1 - v + y0) + lower * (v - y0))) < 1e-4


@pytest.mark.parametrize(("shape", "size"), [((4, 5, 3), (8, 10, 6)), ((3, 6, 4), (9, 9, 9)), ((5, 2, 4), (6, 12, 8))])
def test_letterbox_of_volumes_keeps_proportions_centres_and_fills_with_the_minimum(generator, shape, size):
    volumes = torch.rand(2, 1, *shape, generator=generator) + 3
    fitted = letterbox(volumes, size)
    factor = min(wanted / side for wanted, side in zip(size, shape, strict=True))
    inner = [round(side * factor) for side in shape]
    first = [(wanted - side) // 2 for wanted, side in zip(size, inner, strict=True)]
    assert fitted.shape == (2, 1, *size)
    for place in itertools.product(*map(range, size)):
        at = [p - start for p, start in zip(place, first, strict=True)]
        found = fitted[(slice(None), 0, *place)]
        if not all(0 <= a < side for a, side in zip(at, inner, strict=True)):
            assert torch.equal(found, fitted.flatten(1).amin(dim=1))
            continue
        # Trilinear, voxel centres at half integers, clamped at the border.
        expected = torch.zeros(2)
        between = [
            min(max((a + 0.5) * side / to - 0.5, 0), side - 1) for a, side, to in zip(at, shape, inner, strict=True)
        ]
        for corner in itertools.product((0, 1), repeat=3):
            near = [min(int(b) + c, side - 1) for b, c, side in zip(between, corner, shape, strict=True)]
            share = np.prod([b % 1 if c else 1 - b % 1 for b, c in zip(between, corner, strict=True)])
            expected += share * volumes[(slice(None), 0, *near)]
        assert torch.allclose(found, expected.float(), atol=1e-4)


def test_resizing_a_volume_is_antialiased_along_each_axis(generator):
    volumes = torch.rand(2, 2, 12, 9, 8, generator=generator)

    def along(volumes, axis, to):
        lines = volumes.movedim(2 + axis, -1)
        flat = lines.reshape(1, -1, 1, lines.shape[-1])
        small = F.interpolate(flat, (1, to), mode="bilinear", align_corners=False, antialias=True)
        return small.view(*lines.shape[:-1], to).movedim(-1, 2 + axis)

    expected = volumes
    for axis, to in enumerate((4, 3, 5)):
        expected = along(expected, axis, to)
    assert torch.allclose(resize(volumes, (4, 3, 5)), expected, atol=1e-5)
    stripes = (torch.arange(24) % 2).float().view(1, 1, 24, 1, 1).expand(1, 1, 24, 8, 8)
    assert (resize(stripes, (8, 8, 8))[:, :, 1:-1] - 0.5).abs().max() < 0.2


# Promise


def test_an_image_of_the_right_size_is_not_resampled(images):
    assert torch.equal(letterbox(images, (20, 24)), images)


def test_downsampling_does_not_depend_on_the_phase_of_fine_stripes():
    stripes = (torch.arange(96) % 2).float().expand(1, 1, 96, 96)
    shifted = stripes.roll(1, dims=-1)
    small, moved = letterbox(stripes, (32, 32)), letterbox(shifted, (32, 32))
    assert (small - moved)[..., 2:-2].abs().max() < 0.2  # picking every third pixel gives 1
    assert abs(small[..., 2:-2].mean() - 0.5) < 0.05


@pytest.mark.parametrize("shape", [(1, 200), (3, 500), (90, 12)])
def test_extreme_proportions_still_leave_one_row_of_pixels(shape, generator):
    fitted = letterbox(torch.rand(1, 1, *shape, generator=generator), (16, 16))
    assert fitted.shape == (1, 1, 16, 16)
    assert fitted.isfinite().all()
    assert fitted.amax() > fitted.amin()


def test_one_hot_pixel_does_not_darken_the_rest():
    image = torch.linspace(0, 1, 1024).view(1, 1, 32, 32).clone()
    hot = image.clone()
    hot[0, 0, 5, 5] = 1e4
    assert (normalise_intensity(hot, "quantile") - normalise_intensity(image, "quantile")).abs().mean() < 0.01
    assert normalise_intensity(hot, "minmax").median() < 1e-3  # what quantiles protect from


def test_a_nearly_empty_image_keeps_the_few_pixels_that_it_has():
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 5, 5], image[0, 0, 9, 9] = 3.0, 1.0
    scaled = normalise_intensity(image, "quantile")
    assert torch.allclose(scaled, image / 3)


@pytest.mark.parametrize("intensity", ["minmax", "quantile", "zscore"])
def test_gain_and_offset_of_the_scanner_do_not_matter(images, intensity):
    same = normalise_intensity(37 * images + 1000, intensity)
    assert torch.allclose(same, normalise_intensity(images, intensity), atol=1e-3)


@pytest.mark.parametrize("intensity", ["minmax", "quantile", "zscore", "none"])
def test_a_batch_is_preprocessed_as_its_images_one_by_one(images, intensity):
    together = preprocess(images, (16, 16), channels=3, intensity=intensity)
    alone = torch.cat([preprocess(image[None], (16, 16), channels=3, intensity=intensity) for image in images])
    assert torch.equal(together, alone)


def test_one_channel_is_repeated_for_an_encoder_of_three(images):
    ready = preprocess(images, (32, 32), channels=3)
    assert ready.shape == (4, 3, 32, 32)
    assert torch.equal(ready[:, 0], ready[:, 2])


def test_three_channels_stay_three_different_channels(generator):
    ready = preprocess(torch.rand(2, 3, 8, 8, generator=generator), (8, 8), channels=3)
    assert not torch.equal(ready[:, 0], ready[:, 1])


def test_thumbnails_are_bytes_that_use_their_whole_range(images):
    small = make_thumbnails(images, 12)
    assert small.shape == (4, 12, 12)
    assert small.dtype == torch.uint8
    whole = make_thumbnails(images, 24)  # not downsampled: black and white survive
    assert whole.amin() == 0
    assert whole.amax() == 255
    for image, found in zip(images, whole, strict=True):
        expected = letterbox(normalise_intensity(image[None], "quantile"), (24, 24)) * 255
        assert (found.float() - expected[0, 0]).abs().max() <= 0.5


def blob(shape: tuple = (20, 26, 22)) -> torch.Tensor:
    """A volume with anatomy up to its borders, `(1, 1, d, h, w)` in [0, 1]."""
    texture = torch.rand(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(3))
    grown = F.interpolate(texture, shape, mode="trilinear", align_corners=True)
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    return (0.3 + 0.7 * grown) * (z**2 + y**2 + x**2 <= 1.1)


MARGINS = {
    "none": (0,) * 6,
    "one_side": (9, 0, 0, 0, 0, 0),
    "all_sides": (7, 12, 5, 5, 10, 3),
    "plane": (11, 11, 9, 9, 0, 0),
}


@pytest.mark.parametrize("gain", [1, 700])
@pytest.mark.parametrize("margin", MARGINS)
def test_thumbnails_of_volumes_know_no_margins(margin, gain):
    plain = make_thumbnails(gain * blob(), 16)
    assert plain.shape == (1, 16, 16, 16)
    padded = make_thumbnails(gain * F.pad(blob(), MARGINS[margin]), 16)
    assert (padded.float() - plain.float()).abs().max() <= 1
    expected = normalise_intensity(blob(), "quantile") * 255
    assert (plain.float() - resize(expected, (16,) * 3)[:, 0]).abs().max() <= 0.5


@pytest.mark.parametrize("air", ["noise", "rician", "hot_voxel", "none"])
def test_noise_in_the_air_does_not_hide_where_the_anatomy_ends(generator, air):
    anatomy = blob((40, 52, 44))
    volume = F.pad(anatomy, (16,) * 6)
    noise = 0.02 * torch.randn(2, *volume.shape, generator=generator)
    changed = {
        "noise": (volume + noise[0]).clamp(0, 1),
        "rician": torch.hypot(volume + noise[0], noise[1]),
        "hot_voxel": volume.clone(),
        "none": volume,
    }[air]
    if air == "hot_voxel":
        changed[..., 1, 1, 1] = 1.0
    found, expected = (make_thumbnails(one, 16).float() for one in (changed, anatomy))
    # The box may be larger by a voxel on each side.
    assert (found - expected).abs().mean() < (20 if air in ("noise", "rician") else 1)


def test_thumbnails_of_odd_volumes_are_what_little_there_is():
    dark = torch.zeros(1, 1, 9, 12, 10)
    dark[..., 4, 5, 6] = 1.0
    assert len(make_thumbnails(dark, 8).unique()) == 1  # one voxel fills the cube
    assert (make_thumbnails(1 - dark, 8) < 255).any()  # one dark voxel in the light
    line = torch.zeros(1, 1, 9, 12, 10)
    line[..., 4, :, 6] = torch.linspace(0.5, 1, 12)
    found = make_thumbnails(line, 8)[0].float()
    assert found[:, 0].max() < found[:, -1].min()
    assert (found == found[:1, :, :1]).all()
    large = torch.rand(1, 1, 40, 2, 60, generator=torch.Generator().manual_seed(0))
    assert make_thumbnails(large, 8).shape == (1, 8, 8, 8)
    both = torch.cat([blob(), blob().flip(2)])
    assert torch.equal(make_thumbnails(both, 8), torch.cat([make_thumbnails(one[None], 8) for one in both]))


@pytest.mark.parametrize("flip", [(-1,), (-2,), (-3,), (-1, -2, -3)])
def test_a_flipped_volume_has_the_flipped_thumbnail(flip):
    volume = F.pad(blob(), (8, 2, 0, 5, 3, 1))
    assert torch.equal(make_thumbnails(volume.flip(flip), 16), make_thumbnails(volume, 16).flip(flip))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float64, torch.bool])
def test_any_real_dtype_becomes_float32_with_the_same_values(dtype):
    raw = (torch.arange(32).view(2, 1, 4, 4) % 2).to(dtype)
    checked = check_images(raw)
    assert checked.dtype == torch.float32
    assert torch.equal(checked, raw.float())


def test_arrays_and_metatensors_are_images_too(images):
    from monai.data import MetaTensor

    assert torch.equal(check_images(images.numpy()), images)
    plain = check_images(MetaTensor(images))
    assert type(plain) is torch.Tensor
    assert torch.equal(plain, images)


def test_checked_images_carry_no_gradient(images):
    assert not check_images(images.requires_grad_()).requires_grad


# Refusal


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (1, 1, 4, 4, 4)])
def test_images_of_another_dimension_are_refused(shape):
    with pytest.raises(DataError, match=r"shape \(n, 1, h, w\).* came"):
        check_images(torch.rand(shape))


@pytest.mark.parametrize("shape", [(0, 1, 4, 4), (2, 1, 0, 4)])
def test_nothing_is_refused(shape):
    with pytest.raises(DataError, match="at least one image"):
        check_images(torch.rand(shape))


@pytest.mark.parametrize(("channels", "came"), [(1, 3), (1, 2), (3, 2), (3, 4)])
def test_a_wrong_number_of_channels_is_refused(channels, came):
    with pytest.raises(DataError, match=rf"channel\(s\); {came} came"):
        check_images(torch.rand(2, came, 4, 4), channels)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_broken_pixels_are_refused_with_the_position_of_the_image(images, bad):
    images[2, 0, 1, 1] = bad
    with pytest.raises(DataError, match=r"finite pixels; images \[2\] of 4"):
        check_images(images)


def test_constant_images_are_refused_with_their_positions():
    images = torch.rand(12, 1, 4, 4)
    images[1:] = 5
    with pytest.raises(DataError, match=r"images \[1, 2, 3, 4, 5, 6, 7, 8\] and 3 more of 12 are constant"):
        check_images(images)


def test_complex_images_are_refused_with_the_way_out():
    with pytest.raises(DataError, match=r"images\.abs\(\)"):
        check_images(torch.rand(1, 1, 4, 4, dtype=torch.complex64))


def test_an_unknown_intensity_is_refused(images):
    with pytest.raises(
        DataError,
        match=r"needed an intensity window \(low, high\), or intensity out of \['minmax', .*'none'\]; 'log' came",
    ):
        normalise_intensity(images, "log")
