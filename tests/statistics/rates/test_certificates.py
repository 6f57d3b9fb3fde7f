"""Certificates: an upper limit that holds whatever novel samples look like, in a sentence."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from mi_callback.statistics.rates.certificates import certify

pytestmark = pytest.mark.numeric

certify_once = cache(certify)


def chances_to_flag_a_novel_image(rng: np.random.Generator, repetitions: int, n_subjects: int, k: int) -> np.ndarray:
    """That of each of many random nulls with one image a subject: it must beat all but k − 1 of them."""
    null = np.sort(rng.random((repetitions, n_subjects)), axis=1)
    return 1 - null[:, -k]


def within(misses: int, repetitions: int, error: float) -> bool:
    """Whether so many misses agree with a probability of at most `error`."""
    return bool(binom.sf(misses - 1, repetitions, error) > 1e-4)


# Definition


def test_the_certificate_of_no_flags_is_the_rule_of_three():
    certificate = certify(0, 1000, 0.001, 999)
    assert certificate.rate_upper == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert certificate.power_lower == 1


def test_flags_and_missed_copies_raise_the_certificate():
    by_flags = [certify(flagged, 500, 0.01, 99, (48, 50)).rate_upper for flagged in range(0, 501, 20)]
    by_power = [certify(3, 500, 0.01, 99, (found, 50)).rate_upper for found in range(51)]
    assert by_flags == sorted(by_flags)
    assert by_power == sorted(by_power, reverse=True)
    assert by_flags[-1] == by_power[0] == 1


def test_the_statement_names_what_it_rests_on_and_rounds_to_the_safe_side():
    assert certify(0, 1000, 0.001, 999, (99, 100)).statement == (
        "at most 0.35 % of samples are copies (95 % confidence; 0 of 1000 flagged at p ≤ 0.001 against 999 subjects), "
        "given that copies of the planted kinds are found with at least 93 % (99 of 100 were); "
        "assumes independent samples"
    )
    assumed = str(certify(2, 300, 0.05, 19, confidence=0.9))
    assert assumed.startswith("at most 1.8 % of samples are copies (90 % confidence; 2 of 300 flagged at p ≤ 0.05")
    assert "ASSUMING that every copy is flagged" in assumed
    assert str(certify(300, 300, 0.05, 19)).startswith("at most 100 % of")


# Promise


@pytest.mark.statistics
@pytest.mark.parametrize("novel_flagged", [0.0, 1.0])
@pytest.mark.parametrize(
    ("rate", "power", "planted"), [(0.02, 1.0, None), (0.02, 0.7, 30), (0.3, 0.95, 200), (0.5, 0.5, 10)]
)
def test_the_certificate_holds_even_where_no_novel_sample_is_ever_flagged(rate, power, planted, novel_flagged):
    rng = np.random.default_rng(11)
    repetitions, n, n_subjects = 4000, 400, 199
    false = novel_flagged * chances_to_flag_a_novel_image(rng, repetitions, n_subjects, 1)
    flagged = rng.binomial(n, rate * power + (1 - rate) * false).tolist()
    found = rng.binomial(planted or 0, power, repetitions).tolist()
    wrong = sum(
        certify_once(flags, n, 0.005, n_subjects, None if planted is None else (hits, planted)).rate_upper < rate
        for flags, hits in zip(flagged, found, strict=True)
    )
    assert within(wrong, repetitions, 0.05)
