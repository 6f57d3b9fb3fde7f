"""Filters equal their definitions, pixel by pixel."""

import numpy as np
import pytest
import torch

from mi_callback.smoothing import box_mean, gaussian, local_contrast


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (20, 20)])
def test_a_box_mean_is_the_mean_of_the_pixels_that_the_window_holds(shape, generator):
    image = torch.rand(shape, generator=generator)
    expected = np.empty(shape)
    for y in range(shape[0]):
        for x in range(shape[1]):
            expected[y, x] = image[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].mean()
    assert np.allclose(box_mean(image, 5).numpy(), expected, atol=1e-6)


def test_a_gaussian_blur_is_the_weighted_mean_of_all_pixels(generator):
    image = torch.rand(7, 11, generator=generator)
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(11.0), indexing="ij")
    for py, px in ((0, 0), (3, 5), (6, 10)):
        weight = torch.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * 1.5**2))
        assert gaussian(image, 1.5)[py, px] == pytest.approx(float((weight * image).sum() / weight.sum()), abs=1e-6)


def test_local_contrast_is_free_of_bias_fields_where_there_is_structure(generator):
    image = 0.5 + 0.3 * torch.randn(1, 1, 48, 48, generator=generator)
    ramp = torch.linspace(0.7, 1.4, 48)
    plain, biased = local_contrast(image, 6.0, 1e-4), local_contrast(image * ramp, 6.0, 1e-4)
    assert torch.corrcoef(torch.stack([plain.flatten(), biased.flatten()]))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack([image.flatten(), (image * ramp).flatten()]))[0, 1] < 0.95


def test_flat_images_have_no_local_contrast():
    assert local_contrast(torch.full((1, 1, 16, 16), 0.7), 4.0, 0.05).abs().max() < 1e-3
