"""Real images get the sharpness and the noise of samples."""

import pytest
import torch
from factories import as_bytes, clouds, ellipsoid, tissues

from mi_callback.images.filters import gaussian_blur
from mi_callback.images.perturbations.acquisition import gaussian_noise, k_space_truncation, low_resolution
from mi_callback.images.quality.degradation import Degradation
from mi_callback.images.quality.spectrum import filter_rings, radial_spectrum, white_power

CHANGES = {
    "slightly blurred": lambda x, g: gaussian_blur(x, 0.7),
    "blurred": lambda x, g: gaussian_blur(x, 1.5),
    "half resolution": lambda x, g: low_resolution(x, 2),
    "ringing": lambda x, g: k_space_truncation(x, 0.6),
    "noise": lambda x, g: gaussian_noise(x, 0.05, g),
    "blurred, then noise": lambda x, g: gaussian_noise(gaussian_blur(x, 1.0), 0.05, g),
}


@pytest.fixture(scope="module")
def strangers():
    """Two sets of images of different people."""
    images = tissues(60)
    return images[:30], images[30:]


@pytest.mark.parametrize("name", CHANGES)
def test_images_of_others_change_as_the_samples_did(strangers, name, generator):
    real, others = strangers
    samples, expected = (as_bytes(CHANGES[name](images, generator)) for images in (others, real))
    found = Degradation.between(as_bytes(real), samples)
    assert found.differs(Degradation.none())
    changed = found.apply(as_bytes(real), seed=0)
    if "noise" in name:
        assert found.noise == pytest.approx(0.05, abs=0.01)
        before, after = (radial_spectrum(some.float(), 24).log().median(dim=0).values for some in (expected, changed))
        assert (before - after).abs().mean() < 0.2
    else:
        assert found.noise == 0
        error, change = ((some.float() - expected.float()).square().mean() for some in (changed, as_bytes(real)))
        assert error < 0.35 * change


def test_images_of_one_source_are_alike(strangers):
    real, others = (as_bytes(images) for images in strangers)
    assert not Degradation.between(real, others).differs(Degradation.none())


def test_what_is_blurred_more_is_of_another_quality_whatever_came_first(strangers):
    real, others = strangers
    less, more, most = (
        Degradation.between(as_bytes(real), as_bytes(gaussian_blur(others, sigma))) for sigma in (1.0, 1.5, 2.5)
    )
    for one, other in ((less, more), (more, most), (less, most)):
        assert one.differs(other)
        assert other.differs(one)
    assert not less.differs(Degradation.between(as_bytes(real), as_bytes(gaussian_blur(others, 1.05))))


def test_it_is_said_in_words(strangers, generator):
    real, others = strangers
    said = {name: str(Degradation.between(as_bytes(real), as_bytes(change(others, generator))))
            for name, change in CHANGES.items()}  # fmt: skip
    assert said["blurred"] == said["half resolution"] == "blurred"
    assert said["noise"] == "made noisy"
    assert said["blurred, then noise"] == "blurred and made noisy"


def test_volumes_change_too():
    volumes = ellipsoid(8)
    real, samples = as_bytes(volumes[:4]), as_bytes(gaussian_blur(volumes[4:], 1.5, dims=3))
    found = Degradation.between(real, samples)
    expected = as_bytes(gaussian_blur(volumes[:4], 1.5, dims=3)).float()
    error, change = ((some.float() - expected).square().mean() for some in (found.apply(real, 0), real))
    assert error < 0.25 * change


def test_the_spectrum_is_the_mean_power_in_rings(generator):
    image = torch.rand(1, 16, 16, generator=generator, dtype=torch.float64)
    window = torch.hann_window(16, periodic=False, dtype=torch.float64)
    window = (window[:, None] * window).sqrt()
    centred = image[0] - (image[0] * window).sum() / window.sum()
    power = torch.fft.fft2(centred * window).abs().square()
    rings: list[list[float]] = [[] for _ in range(4)]
    for y in range(16):
        for x in range(16):
            frequency = ((min(y, 16 - y) / 16) ** 2 + (min(x, 16 - x) / 16) ** 2) ** 0.5
            rings[round(min(max(8 * frequency - 0.5, 0), 3))].append(float(power[y, x]))
    expected = [sum(ring) / len(ring) for ring in rings]
    assert radial_spectrum(image, 4)[0].tolist() == pytest.approx(expected)


def test_noise_is_white(generator):
    noise = torch.randn(200, 32, 32, generator=generator)
    spectrum = radial_spectrum(noise, 8).mean(dim=0)
    assert spectrum[1:].tolist() == pytest.approx([white_power((32, 32))] * 7, rel=0.06)


@pytest.mark.parametrize("shape", [(3, 17, 20), (2, 9, 8, 11)])
def test_a_filter_of_gain_one_changes_nothing_and_gains_multiply(shape, generator):
    images = torch.rand(shape, generator=generator)
    assert torch.allclose(filter_rings(images, torch.ones(6)), images, atol=1e-5)
    assert torch.allclose(filter_rings(images, torch.full((6,), 0.5)), images / 2, atol=1e-5)
    flat = torch.full(shape, 0.3)
    gain = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.0, 0.0])
    assert torch.allclose(filter_rings(flat, gain), flat, atol=1e-5)
    assert filter_rings(images, gain).std() < images.std()


def test_what_is_at_one_border_does_not_ring_at_the_other():
    images = torch.zeros(1, 32, 32)
    images[:, :, 28:] = 1
    blurred = filter_rings(images, torch.linspace(1, 0, 8) ** 2)
    assert blurred[0, :, :8].abs().max() < 0.05


def test_clouds_keep_their_noise_when_nothing_differs():
    images = as_bytes(clouds(12))
    assert Degradation.between(images, images).noise == 0
