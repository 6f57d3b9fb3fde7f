"""Samples are judged against real images of their own sharpness and noise."""

import pytest
import torch
from factories import as_bytes, oval

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.images.filters import gaussian_blur
from mi_callback.judging import calibration
from mi_callback.judging.calibration import ONCE

IMAGES = oval(84)
IMAGES = (IMAGES + 0.03 * torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
TRAIN, HELD_OUT, NOVEL = IMAGES[:30], IMAGES[30:60], IMAGES[60:]


def fit(held_out_subjects=None, **options) -> MemorizationDetector:
    settings = {"encoder": build_encoder("pixels"), "candidates": 2, "poses": "none", "windows": False, "views": False}
    detector = MemorizationDetector(**(settings | options))
    held_out = None if options.get("null") == "cross_fit" else HELD_OUT
    return detector.fit(TRAIN, held_out=held_out, held_out_subjects=held_out_subjects)


@pytest.fixture(scope="module")
def detector() -> MemorizationDetector:
    return fit()


@pytest.fixture(scope="module")
def smooth(detector):
    """Smooth images of strangers, and their scores."""
    images = gaussian_blur(NOVEL, 2.0)
    return images, detector.score(images)


def test_the_null_is_that_of_real_images_as_smooth_as_the_samples(detector, smooth):
    _, scores = smooth
    assert scores.flagging.null.quality == "blurred"
    found = detector.score(gaussian_blur(HELD_OUT, 2.0)).verified  # what it stands for
    null = scores.null.similarity
    assert float(null.mean()) == pytest.approx(float(found.mean()), abs=0.4 * float(found.std()))
    assert float(null.std()) == pytest.approx(float(found.std()), rel=0.3)


def test_smooth_strangers_are_no_more_suspicious_than_sharp_ones(detector, smooth):
    _, scores = smooth
    assert float(detector.null.p_values(scores.verified.double()).median()) < 0.15, "the case is none"
    assert 0.25 < float(scores.p_value.median()) < 0.75
    assert scores.flagged.double().mean() <= 0.05 + 3 * (0.05 * 0.95 * (1 / 24 + 1 / 30)) ** 0.5


def test_smooth_copies_are_found(detector):
    assert detector.score(gaussian_blur(TRAIN[:20], 2.0)).flagged.double().mean() >= 0.95


def test_mi_is_that_against_real_images_as_they_are(detector, smooth):
    _, scores = smooth
    null = detector.null
    assert torch.allclose(scores.mi, (scores.verified.double() - null.mean) / null.std)


def test_real_images_are_judged_against_real_images_as_they_are(detector):
    scores = detector.score(NOVEL)
    assert scores.flagging.null.quality is None
    assert torch.equal(scores.p_value, detector.null.p_values(scores.verified.double()))


def test_the_calibration_is_kept_for_samples_of_a_like_quality(detector, smooth):
    images, _ = smooth
    kept = detector.calibrator.like(as_bytes(images))
    assert detector.calibrator.like(as_bytes(images.flip(0)[:20])) is kept
    assert detector.calibrator.like(as_bytes(NOVEL)) is detector.calibrator.native


def test_it_is_said_in_a_line(smooth):
    _, scores = smooth
    assert "compared with real images that were blurred, as the samples are" in scores.notes


def test_power_is_measured_again_with_copies_as_smooth_as_the_samples(smooth):
    images, _ = smooth
    detector = fit()
    sharp = detector.power(8, ["exact", "noise_0.02"])
    assert detector.score(NOVEL).power is sharp
    scores = detector.score(images)
    assert scores.power is not sharp
    assert list(scores.power.flagged) == ["exact", "noise_0.02"]
    assert detector.score(images).power is scores.power
    assert detector.power(8, ["exact"], like=detector.features(images)).share("exact") == scores.power.share("exact")


def test_a_cross_fitted_null_follows_too(smooth):
    images, _ = smooth
    detector = fit(null="cross_fit", alpha=0.1)
    scores = detector.score(images)
    assert scores.flagging.null.quality == "blurred"
    assert float(detector.null.p_values(scores.verified.double()).median()) < 0.15, "the case is none"
    assert 0.25 < float(scores.p_value.median()) < 0.75
    assert scores.flagging.null.kind == "cross_fit"


def test_without_verification_features_decide_and_real_images_stay_as_they_are(smooth):
    images, _ = smooth
    detector = fit(verify=False, windows=None, views=None)
    assert detector.score(images).flagging.null.quality is None


def test_the_same_samples_give_the_same_after_another_quality(detector, smooth):
    images, scores = smooth
    detector.score(gaussian_blur(NOVEL, 1.0))
    assert torch.equal(detector.score(images).p_value, scores.p_value)


def test_scores_hold_the_null_that_they_were_compared_with_and_it_is_not_made_again(detector, smooth):
    images, scores = smooth
    other = detector.score(NOVEL + 0.1 * torch.randn(NOVEL.shape, generator=torch.Generator().manual_seed(1)))
    assert "made noisy" in other.flagging.null.quality
    assert not torch.equal(other.null.similarity, scores.null.similarity)
    assert torch.equal(scores.p_value, scores.null.p_values(scores.verified.double()))
    assert detector.score(images).null is scores.null


def test_of_each_person_few_images_are_looked_up_again(monkeypatch, smooth):
    images, _ = smooth
    monkeypatch.setattr(calibration, "LEAST", 5)
    monkeypatch.setattr(calibration, "EACH", 2)
    detector = fit(alpha=0.2, held_out_subjects=[f"person {i // 3}" for i in range(30)])
    null = detector.score(images).null
    assert len(detector.null.similarity) == 30
    assert len(null.similarity) == 20
    assert null.n_subjects == 10


def test_few_samples_tell_no_quality(detector, smooth):
    images, _ = smooth
    assert detector.score(images[:7]).flagging.null.quality is None


def test_whoever_keeps_time_is_told_before_the_null_and_power_are_measured_again(smooth):
    images, _ = smooth
    detector, told = fit(), []
    detector.power(4, ["exact"])
    token = ONCE.set(lambda: told.append(detector.calibrator.used))
    try:
        for some in (NOVEL, images, images, NOVEL, NOVEL):
            detector.score(some)
    finally:
        ONCE.reset(token)
    assert told[0] is detector.calibrator.native  # before anything was done
    assert len(told) == 3  # the null is made once, power is measured for each change of quality
