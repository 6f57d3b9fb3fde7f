"""The extrapolated tail: how wrong it is on known tails, what its check sees, and how it ranks."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mi_callback.errors import CalibrationError
from mi_callback.statistics.null import Null
from mi_callback.statistics.tails.tail import CLOSEST, MIN_EXCEEDANCES, TINY, Tail, fit_tail

pytestmark = pytest.mark.numeric

KNOWN = {
    "normal": stats.norm(0.5, 0.15),
    "exponential": stats.expon(0.2, 0.15),
    "logistic": stats.logistic(0.5, 0.1),
    "Gumbel": stats.gumbel_r(0.4, 0.1),
}
"""Of Fisher's z."""


def null_of(similarity: np.ndarray, subjects: list[str] | None = None) -> Null:
    return Null(torch.from_numpy(np.ascontiguousarray(similarity)), subjects, "held_out")


def random_null(rng: np.random.Generator, name: str, n: int) -> tuple[Null, float]:
    """A null with a known tail, and its true 1e-3 quantile."""
    if name == "LNCC-like beta":
        return null_of(stats.beta(8, 4).rvs(n, random_state=rng)), stats.beta(8, 4).isf(1e-3)
    return null_of(np.tanh(KNOWN[name].rvs(n, random_state=rng))), math.tanh(KNOWN[name].isf(1e-3))


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


# Definition


@pytest.mark.parametrize("shape", [0.0, 0.05, 0.3, 1.5])
def test_beyond_the_threshold_p_is_that_at_the_threshold_times_the_survival_of_the_excess(shape):
    tail = Tail(0.6, shape, 0.1, 0.2, 40, 0.5)
    similarity = np.linspace(0.6, 0.999, 50)
    expected = 0.2 * stats.genpareto.sf(np.arctanh(similarity) - np.arctanh(0.6), shape, scale=0.1)
    found = tail.p_values(torch.from_numpy(similarity))
    assert found.dtype == torch.float64
    assert np.allclose(found, expected, rtol=1e-9, atol=0)


def test_the_tail_starts_at_the_conformal_p_value_of_its_threshold():
    null, _ = random_null(np.random.default_rng(0), "logistic", 200)
    tail = fit_tail(null)
    assert tail.n_exceedances == 40 == int((null.similarity > tail.threshold).sum())
    assert tail.p_threshold == float(null.p_values(at(tail.threshold)))
    assert float(tail.p_values(at(tail.threshold))) == tail.p_threshold
    assert float(tail.p_values(at(tail.threshold + 1e-9))) == pytest.approx(tail.p_threshold)


# Promise: how wrong it is


@pytest.mark.statistics
@pytest.mark.parametrize("name", [*KNOWN, "LNCC-like beta"])
def test_at_the_true_quantile_of_a_thousandth_p_is_right_within_a_factor(name):
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(150):  # 200 subjects: the smallest conformal p-value is 5e-3
        null, quantile = random_null(rng, name, 200)
        ratios.append(float(fit_tail(null).p_values(at(quantile))) / 1e-3)
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    assert low > 1 / 5
    assert high < 10
    assert 1 < median < 4.5


def clustered(rng: np.random.Generator, images: int) -> tuple[np.ndarray, list[str]]:
    """Slices of 300 subjects that differ in level and in spread."""
    level, spread = 0.15 * rng.normal(size=300), 0.05 * np.exp(0.5 * rng.normal(size=300))
    similarity = np.tanh(np.repeat(level, images) + np.repeat(spread, images) * rng.normal(size=300 * images))
    return similarity, [str(i // images) for i in range(300 * images)]


@pytest.mark.statistics
@pytest.mark.parametrize("images", [2, 30])
def test_it_is_as_right_where_subjects_have_several_images(images):
    rng = np.random.default_rng(0)
    ratios = []
    quantile = np.quantile(np.concatenate([clustered(rng, images)[0] for _ in range(1800 // images)]), 1 - 1e-3)
    for _ in range(100):
        ratios.append(float(fit_tail(null_of(*clustered(rng, images))).p_values(at(quantile))) / 1e-3)
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    assert low > 1 / 5
    assert high < 10
    assert 1 < median < 4.5


def test_a_subject_counts_once_however_often_its_images_are_there():
    similarity, subjects = clustered(np.random.default_rng(0), 3)
    once = fit_tail(null_of(similarity, subjects))
    twice = [i for i in range(len(subjects)) for _ in range(1 + int(subjects[i]) % 4)]
    again = fit_tail(null_of(similarity[twice], [subjects[i] for i in twice]))
    assert again.threshold == once.threshold
    assert (again.shape, again.scale) == pytest.approx((once.shape, once.scale), rel=0.02, abs=1e-12)
    assert again.p_threshold == pytest.approx(once.p_threshold)


# Promise: the fit check


@pytest.mark.statistics
@pytest.mark.parametrize(("leaked", "seen"), [(0, (0, 0.15)), (2, (0.5, 1)), (10, (0.95, 1))])
def test_the_fit_check_sees_copies_that_leaked_into_the_null(leaked, seen):
    rng = np.random.default_rng(1)
    rejected = 0
    for seed in range(100):
        null, _ = random_null(rng, "normal", 200)
        null.similarity[:leaked] = torch.from_numpy(np.tanh(rng.normal(2.2, 0.2, leaked)))
        rejected += not fit_tail(null, seed).reliable
    assert seen[0] <= rejected / 100 <= seen[1]


# Promise: ranking


@pytest.mark.parametrize("name", [*KNOWN, "LNCC-like beta"])
def test_the_ranking_falls_with_similarity_and_agrees_with_the_conformal_one(name):
    null, _ = random_null(np.random.default_rng(4), name, 150)
    tail = fit_tail(null)
    similarity = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    conformal = null.p_values(similarity)
    p = tail.extrapolate(similarity, conformal)
    below = similarity <= tail.threshold
    assert torch.equal(p[below], conformal[below])
    assert (p <= conformal).all()
    assert (p.diff() <= 0).all()
    assert (p >= TINY).all()
    assert p.min() < conformal.min() / 100
    far = p < conformal.min() * (1 - 1e-9)
    assert (p[far & (similarity <= CLOSEST)].diff() < 0).all()


def test_identical_images_share_one_positive_p_value_whatever_their_rounding():
    tail = Tail(0.99, 0.0, 0.001, 0.2, 40, 0.5)
    p = tail.p_values(torch.tensor([1.0, 1 + 1e-6, 1 - 1e-7]))
    assert p.tolist() == [TINY] * 3
    assert p.log().isfinite().all()


def test_the_seed_decides_and_no_global_generator_is_touched():
    rng = np.random.default_rng(0)
    null = null_of(np.tanh(rng.normal(0.5, 0.1, 600)), [str(i % 200) for i in range(600)])
    state = torch.get_rng_state()
    assert fit_tail(null, 3) == fit_tail(null, 3)
    assert fit_tail(null, 3).fit_p_value != fit_tail(null, 4).fit_p_value
    assert fit_tail(null, 3).scale == fit_tail(null, 4).scale
    assert torch.equal(torch.get_rng_state(), state)


def test_a_large_null_affords_a_higher_threshold():
    null, _ = random_null(np.random.default_rng(0), "normal", 2500)
    assert fit_tail(null).n_exceedances == 150
    assert fit_tail(null, share=0.02).n_exceedances == 50


# Refusal


def test_a_null_of_too_few_subjects_is_refused_with_the_number_that_it_takes():
    rng = np.random.default_rng(0)
    message = f"{MIN_EXCEEDANCES} subjects above the threshold of a tail, so at least 100 subjects in the null; 99 came"
    with pytest.raises(CalibrationError, match=message):
        fit_tail(null_of(rng.random(990), [str(i // 10) for i in range(990)]))
    fit_tail(null_of(rng.random(100)))
    with pytest.raises(CalibrationError, match="at least 45 subjects in the null; 44 came"):
        fit_tail(null_of(rng.random(44)), share=0.5)
    fit_tail(null_of(rng.random(45)), share=0.5)


def test_ties_at_the_threshold_are_refused():
    similarity = np.concatenate([np.linspace(0, 0.5, 60), np.full(40, 0.8), np.linspace(0.9, 0.95, 10)])
    with pytest.raises(CalibrationError, match=r"10 came, because others are tied at a similarity of 0.8"):
        fit_tail(null_of(similarity))


@pytest.mark.parametrize("share", [0, -0.1, 0.6])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(CalibrationError, match=rf"share of subjects in \(0, 0.5\] for the tail; {share} came"):
        fit_tail(null_of(np.random.default_rng(0).random(200)), share=share)


def test_a_null_of_training_images_is_refused():
    similarity = torch.rand(200, dtype=torch.float64)
    with pytest.raises(CalibrationError, match="calibrated null for a tail; train_halves came"):
        fit_tail(Null(similarity, None, "train_halves"))


def test_what_is_no_similarity_is_refused():
    tail = Tail(0.6, 0.1, 0.1, 0.2, 40, 0.5)
    with pytest.raises(CalibrationError, match="finite similarities for a tail"):
        tail.p_values(at(float("nan")))
    with pytest.raises(CalibrationError, match=r"similarities in \[-1, 1\] for a tail .*; one of size 1.5 came"):
        tail.p_values(at(1.5))
    with pytest.raises(CalibrationError, match=r"one conformal p-value per similarity \(1\); 2 came"):
        tail.extrapolate(at(0.7), torch.rand(2))
    with pytest.raises(CalibrationError, match=r"similarities in \[-1, 1\]"):
        fit_tail(null_of(3 * np.random.default_rng(0).random(200)))
