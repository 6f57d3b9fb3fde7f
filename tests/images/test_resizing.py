"""Sizes change without aliasing, and proportions are kept."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mi_callback.images.resizing import letterbox, resize, shrink

pytestmark = pytest.mark.numeric


@pytest.fixture
def images(generator):
    return torch.rand(4, 1, 20, 24, generator=generator) * 700 - 100


# Definition


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


@pytest.mark.parametrize("shape", [(8, 8), (6, 6, 6)])
def test_shrunk_images_are_means_of_blocks(shape, generator):
    images, half = torch.rand(2, 1, *shape, generator=generator), shape[0] // 2
    small = shrink(images, half)
    assert small.shape == (2, 1, *(half,) * len(shape))
    for place in itertools.product(range(half), repeat=len(shape)):
        block = images[(..., *(slice(2 * at, 2 * at + 2) for at in place))]
        assert torch.allclose(small[(..., *place)], block.flatten(2).mean(dim=2), atol=1e-6)
