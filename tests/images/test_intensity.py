"""Grey values are scaled as each convention says."""

import numpy as np
import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.images.intensity import normalise_intensity

pytestmark = pytest.mark.numeric


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


# Promise


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


# Refusal


def test_an_unknown_intensity_is_refused(images):
    with pytest.raises(
        DataError,
        match=r"needed an intensity window \(low, high\), or intensity out of \['minmax', .*'none'\]; 'log' came",
    ):
        normalise_intensity(images, "log")
