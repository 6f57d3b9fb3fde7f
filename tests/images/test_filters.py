"""Filters equal their definitions, pixel by pixel."""

import itertools

import pytest
import torch

from mi_callback.images.filters import apply_along_axes, box_mean, gaussian_blur, gradient, local_contrast, standardise

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (20, 20), (1, 1, 1), (4, 5, 8), (9, 6, 7)])
def test_a_box_mean_is_the_mean_of_the_pixels_that_the_window_holds(shape, generator):
    images = torch.rand(2, *shape, generator=generator)
    found = box_mean(images, 5, len(shape))
    for place in itertools.product(*map(range, shape)):
        window = (slice(max(0, at - 2), at + 3) for at in place)
        expected = images[(slice(None), *window)].flatten(1).mean(dim=1)
        assert torch.allclose(found[(slice(None), *place)], expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.5, 8.0])
def test_a_blur_makes_no_numbers_so_small_that_processors_slow_down(sigma):
    point = torch.zeros(1, 1, 96, 96)
    point[..., 48, 48] = 1
    blurred = gaussian_blur(point, sigma)
    assert blurred[blurred > 0].min() > torch.finfo(torch.float32).tiny


def test_a_gaussian_blur_is_the_weighted_mean_of_all_pixels(generator):
    for shape in ((7, 11), (7, 11, 4)):
        image = torch.rand(shape, generator=generator)
        axes = torch.meshgrid(*(torch.arange(float(side)) for side in shape), indexing="ij")
        found = gaussian_blur(image, 1.5, len(shape))
        for share in (0, 0.5, 1):
            place = tuple(int(share * (side - 1)) for side in shape)
            distance = sum((axis - at) ** 2 for axis, at in zip(axes, place, strict=True))
            weight = torch.exp(-distance / (2 * 1.5**2))
            assert found[place] == pytest.approx(float((weight * image).sum() / weight.sum()), abs=1e-6)


def test_each_image_may_have_its_own_blur(generator):
    images, sigmas = torch.rand(3, 2, 7, 11, generator=generator), [0.5, 1.5, 4.0]
    together = gaussian_blur(images, torch.tensor(sigmas))
    for image, blurred, sigma in zip(images, together, sigmas, strict=True):
        assert torch.allclose(blurred, gaussian_blur(image, sigma), atol=1e-6)


def test_a_matrix_goes_along_the_axis_at_its_place(generator):
    image = torch.rand(2, 3, 4, 5, generator=generator)
    matrices = [torch.rand(new, old, generator=generator) for new, old in ((6, 3), (2, 4), (7, 5))]
    expected = torch.einsum("nzyx,Zz,Yy,Xx->nZYX", image, *matrices)
    assert torch.allclose(apply_along_axes(image, matrices), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(48, 48), (24, 20, 48)])
def test_local_contrast_is_free_of_bias_fields_where_there_is_structure(generator, shape):
    image = 0.5 + 0.3 * torch.randn(1, 1, *shape, generator=generator)
    ramp = torch.linspace(0.7, 1.4, 48)
    plain, biased = local_contrast(image, 6.0, 1e-4), local_contrast(image * ramp, 6.0, 1e-4)
    assert torch.corrcoef(torch.stack([plain.flatten(), biased.flatten()]))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack([image.flatten(), (image * ramp).flatten()]))[0, 1] < 0.95


def test_flat_images_have_no_local_contrast():
    for dims in (2, 3):
        assert local_contrast(torch.full((1, 1, *(16,) * dims), 0.7), 4.0, 0.05).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(8, 8), (6, 6, 6)])
def test_standardised_images_and_slopes_are_their_definitions(shape, generator):
    dims, side = len(shape), shape[0]
    images = torch.rand(2, 1, *shape, generator=generator)
    mask = torch.ones_like(images)
    mask[..., -2:] = 0
    for image, found, where in zip(images, standardise(images, mask), mask > 0, strict=True):
        values = image[where].double()
        expected = (image.double() - values.mean()) / (values.var(unbiased=False) + 1e-6).sqrt()
        assert torch.allclose(found.double(), expected, atol=1e-4)
    slopes = gradient(images, mask)
    assert len(slopes) == dims
    for k, slope in enumerate(slopes):  # x first
        axis = 1 + dims - k
        for place in itertools.product(range(1, side - 1), repeat=dims):
            ahead, behind = ([at + by * (j == dims - 1 - k) for j, at in enumerate(place)] for by in (1, -1))
            known = place[-1] + 1 < side - 2  # no neighbour, diagonal ones included, is outside
            expected = (images[(..., *ahead)] - images[(..., *behind)]) / 2 * known
            assert torch.allclose(slope[(..., *place)], expected, atol=1e-6), (axis, place)
