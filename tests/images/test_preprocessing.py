"""Whatever came in, checked and brought to what an encoder was trained on."""

import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.images.preprocessing import check_images, preprocess


@pytest.fixture
def images(generator):
    return torch.rand(4, 1, 20, 24, generator=generator) * 700 - 100


# Promise


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
