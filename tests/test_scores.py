"""What was found, per generated image, and its aggregates."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from mi_callback.calibration import ROUNDING, conformal_p_values, smallest_p
from mi_callback.certificates import memorization_rate
from mi_callback.scores import Scores


def make(p_value, alpha=0.05, fdr=None, null_subjects=99, null_images=None, flagged=None, **fields) -> Scores:
    p_value = torch.as_tensor(p_value, dtype=torch.float64)
    n = len(p_value)
    mi = fields.pop("mi", -p_value.log())
    return Scores(
        similarity=fields.pop("similarity", 1 - p_value),
        layer_similarity=torch.zeros(n, 2),
        mi=mi,
        oni=mi.tanh().clamp_min(0),
        p_value=p_value,
        flagged=p_value <= alpha + ROUNDING if flagged is None else torch.tensor(flagged),
        match=fields.pop("match", torch.arange(n)),
        match_subject=fields.pop("match_subject", [None] * n),
        consensus=torch.zeros(n, dtype=torch.long),
        verified=fields.pop("verified", torch.full((n,), math.nan, dtype=torch.float64)),
        copied_fraction=torch.full((n,), math.nan, dtype=torch.float64),
        pose=["identity"] * n,
        layers=["a", "b"],
        alpha=alpha,
        fdr=fdr,
        null_kind=fields.pop("null_kind", "held_out"),
        null_subjects=null_subjects,
        null_images=null_images or null_subjects,
        subjects_known=fields.pop("subjects_known", True),
        group=fields.pop("group", torch.arange(n)),
        **fields,
    )


def uniform(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Definition


def test_the_summary_is_made_of_plain_numbers_that_a_loop_gives_too():
    p = [0.01, 0.02, 0.3, 0.6, 0.04, 0.9, 0.5]
    mi = [8.0, 5.0, 1.0, -0.5, 3.0, -1.0, 0.0]
    scores = make(p, mi=torch.tensor(mi, dtype=torch.float64), verified=torch.linspace(0.2, 0.97, 7),
                  match=torch.tensor([3, 3, 1, 0, 5, 2, 2]))  # fmt: skip
    summary = scores.summary()
    limits = memorization_rate(3, 7, 0.05, 99)
    assert summary == {
        "mi_mean": pytest.approx(sum(mi) / 7),
        "mi_median": pytest.approx(sorted(mi)[3]),
        "mi_p95": pytest.approx(np.quantile(mi, 0.95)),
        "mi_max": 8.0,
        "oni_mean": pytest.approx(sum(max(0, math.tanh(value)) for value in mi) / 7),
        "similarity_mean": pytest.approx(sum(1 - value for value in p) / 7),
        "verified_max": pytest.approx(0.97),
        "flagged": 3,
        "flagged_expected": pytest.approx(7 * 0.05),
        "rate": pytest.approx(3 / 7),
        "rate_lower": pytest.approx(limits.lower),
        "rate_upper": pytest.approx(limits.upper),
        "matched_subjects": 2,
        "distinct": 7,
    }
    assert all(type(value) is float for value in summary.values())


def test_false_flags_are_expected_at_alpha_or_as_a_share_of_the_discoveries():
    assert make(uniform(200), alpha=0.1).flagged_expected == pytest.approx(20)
    discoveries = make([0.01] * 10 + [0.5] * 90, fdr=0.2)
    assert discoveries.flagged_expected == pytest.approx(0.2 * 10)


def test_subjects_are_counted_once_and_only_where_flagged():
    p, subjects = [0.01, 0.01, 0.01, 0.9], ["a", "b", "a", "c"]
    assert make(p, match_subject=subjects).matched_subjects == 2


def test_training_images_are_counted_where_their_subjects_are_unknown():
    assert make([0.01, 0.01, 0.01, 0.9], match=torch.tensor([7, 7, 2, 1])).matched_subjects == 2


def test_the_closest_are_ordered_by_p_value_and_then_by_index():
    scores = make([0.5, 0.01, 0.01, 0.2], mi=torch.tensor([9.0, 3.0, 5.0, 1.0]))
    assert scores.closest(3) == [2, 1, 3]
    assert scores.closest(99) == [2, 1, 3, 0]


# Promise


def test_many_copies_are_memorization():
    assert make([0.01] * 50 + [0.5] * 50).verdict == "memorized"


def test_as_many_flags_as_novel_images_get_are_clean():
    assert make([0.04] * 5 + [0.5] * 95).verdict == "clean"
    assert make([0.5] * 100).verdict == "clean"


def test_under_a_false_discovery_rate_any_flag_is_memorization():
    assert make([0.01] + [0.5] * 99, fdr=0.1, flagged=[True] + [False] * 99).verdict == "memorized"
    assert make([0.01] + [0.5] * 99, fdr=0.1, flagged=[False] * 100, null_subjects=999).verdict == "clean"


def test_where_no_outcome_could_have_been_called_memorized_nothing_is_called_clean():
    # One image: even flagged it is what one novel image in ten does.
    assert make([0.01], alpha=0.1).verdict == "inconclusive"
    # One copy among a hundred needs p = .001 under fdr = .1, which 99 subjects cannot give.
    assert make([0.01] + [0.5] * 99, fdr=0.1, flagged=[False] * 100).verdict == "inconclusive"
    # The paper's null is not calibrated.
    assert make([0.01] * 50 + [0.5] * 50, null_kind="train_halves").verdict == "inconclusive"
    # Training subjects against each other: p is at least 2 / (G + 1).
    assert make(uniform(50), null_kind="cross_fit", null_subjects=38).verdict == "inconclusive"
    assert make(uniform(50), null_kind="cross_fit", null_subjects=39).verdict == "clean"


@pytest.mark.parametrize(
    ("n_subjects", "n_slices", "atypical"), [(19, 1, 0.0), (60, 1, 0.0), (100, 20, 0.1), (38, 20, 0.1)]
)
def test_novel_images_are_called_memorized_in_at_most_one_run_of_twenty(n_subjects, n_slices, atypical):
    # Slices of a subject resemble the training set alike, but for a few (the last ones of a volume) that do not.
    rng = np.random.default_rng(n_subjects)

    def similarity(subjects, slices):
        own = rng.normal(size=(subjects, 1)) + 0.01 * rng.normal(size=(subjects, slices))
        return torch.from_numpy(own - 10 * (rng.random(own.shape) < atypical)).flatten()

    subjects = [str(g) for g in range(n_subjects) for _ in range(n_slices)]
    repetitions, memorized = 500, 0
    for _ in range(repetitions):
        p = conformal_p_values(similarity(200, 1), similarity(n_subjects, n_slices), subjects)
        memorized += make(p, null_subjects=n_subjects, null_images=len(subjects)).verdict == "memorized"
    assert memorized / repetitions <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / repetitions)


def test_too_few_subjects_are_inconclusive_and_no_zero_reads_as_clean():
    scores = make(uniform(50).clamp_min(smallest_p(18)), null_subjects=18)
    assert scores.verdict == "inconclusive"
    assert not {"flagged", "rate", "rate_lower", "rate_upper", "flagged_expected", "matched_subjects"} & set(
        scores.summary()
    )
    assert make(uniform(50), null_subjects=19).verdict != "inconclusive"


def test_p_values_that_are_not_finite_are_inconclusive():
    assert make([0.01, math.nan]).verdict == "inconclusive"


def test_without_verification_nothing_is_said_about_it():
    assert "verified_max" not in make(uniform(5)).summary()
    assert "verified_max" in make(uniform(5), verified=uniform(5)).summary()


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.07, 1 / 3, 1 / 49, 0.003])
def test_the_text_names_the_smallest_number_of_subjects_that_would_do(alpha):
    text = str(make(uniform(20), alpha=alpha, null_subjects=1, null_images=2))
    needed = next(n for n in range(1, 1000) if smallest_p(n) <= alpha + 1e-12)
    assert f"needs at least {needed} held-out subjects" in text


def test_the_text_says_verdict_counts_and_what_a_unit_of_evidence_was():
    text = str(make([0.01] * 50 + [0.5] * 50))
    assert text.startswith("memorized: 50 of 100 images flagged (at most 5.0 expected by chance), copies 36.2% to")
    assert "held_out null of 99 subjects" in text
    assert "null of 99 images" in str(make(uniform(5), subjects_known=False))
    assert "needs at least" not in text


def test_the_order_of_images_is_irrelevant_to_the_summary():
    p = uniform(40) ** 2
    forward, backward = make(p), make(p.flip(0))
    assert forward.summary() == pytest.approx(backward.summary())
    assert [39 - i for i in backward.closest(5)] == forward.closest(5)


def test_scores_of_one_image_have_a_summary():
    summary = make([0.01]).summary()
    assert summary["rate"] == 1
    assert summary["mi_mean"] == summary["mi_max"] == summary["mi_p95"]


# Refusal


def test_scores_cannot_be_changed_afterwards():
    scores = make(uniform(3))
    with pytest.raises(FrozenInstanceError):
        scores.alpha = 0.5
    assert replace(scores, alpha=0.5).alpha == 0.5
