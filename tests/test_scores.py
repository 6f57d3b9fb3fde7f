"""What was found, per generated image, and its aggregates."""

import itertools
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from mi_callback.errors import CalibrationError
from mi_callback.scores import ImageScores, Scores
from mi_callback.statistics.conformal import ROUNDING, conformal_p_values
from mi_callback.statistics.flagging import Flagging, FlagRule, NullSummary
from mi_callback.statistics.null import smallest_p
from mi_callback.statistics.power import Power
from mi_callback.statistics.rates.certificates import certify
from mi_callback.statistics.rates.copies import memorization_rate
from mi_callback.statistics.rates.false_flags import alarm
from mi_callback.statistics.target_decoy import TargetDecoy


def make(p_value, alpha=0.05, fdr=None, null_subjects=99, null_images=None, flagged=None, **fields) -> Scores:
    p_value = torch.as_tensor(p_value, dtype=torch.float64)
    n = len(p_value)
    mi = fields.pop("mi", -p_value.log())
    null = NullSummary(
        fields.pop("null_kind", "held_out"),
        null_subjects,
        null_images or null_subjects,
        fields.pop("subjects_known", True),
        fields.pop("null_suspects", 0),
    )
    flagging = Flagging(
        p_value,
        p_value <= alpha + ROUNDING if flagged is None else torch.tensor(flagged),
        fields.pop("group", torch.arange(n)),
        FlagRule(alpha, fdr),
        null,
    )
    whole = {"power": fields.pop("power", None), "target_decoy": fields.pop("target_decoy", None)}
    images = ImageScores(
        similarity=fields.pop("similarity", 1 - p_value),
        layer_similarity=torch.zeros(n, 2),
        layers=["a", "b"],
        mi=mi,
        oni=mi.tanh().clamp_min(0),
        match=fields.pop("match", torch.arange(n)),
        match_subject=fields.pop("match_subject", [None] * n),
        consensus=torch.zeros(n, dtype=torch.long),
        verified=fields.pop("verified", torch.full((n,), math.nan, dtype=torch.float64)),
        copied_fraction=torch.full((n,), math.nan, dtype=torch.float64),
        pose=["identity"] * n,
        like_copies=fields.pop("like_copies", torch.zeros(n, dtype=torch.bool)),
        **fields,
    )
    return Scores(images, flagging, **whole)


def opinion(p_value: float, least: float = 1e-3, leaked: int = 0, fdr: float = 0.1) -> TargetDecoy:
    """What a contrast says; which images it says it of does not matter to the verdict."""
    return TargetDecoy(p_value, least, torch.ones(1).bool(), torch.ones(1).bool(), leaked, 0.5, fdr)


def planted(found: int, n: int = 20) -> Power:
    return Power({"exact": torch.arange(n) < found, "blur_1": torch.arange(n) < found}, {}, 0.05)


MEMORIZED, CLEAN = [0.01] * 50 + [0.5] * 50, [0.5] * 100


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
    assert make(uniform(200), alpha=0.1).flagging.expected == pytest.approx(20)
    discoveries = make([0.01] * 10 + [0.5] * 90, fdr=0.2)
    assert discoveries.flagging.expected == pytest.approx(0.2 * 10)


def test_subjects_are_counted_once_and_only_where_flagged():
    p, subjects = [0.01, 0.01, 0.01, 0.9], ["a", "b", "a", "c"]
    assert make(p, match_subject=subjects).matched_subjects == 2


def test_training_images_are_counted_where_their_subjects_are_unknown():
    assert make([0.01, 0.01, 0.01, 0.9], match=torch.tensor([7, 7, 2, 1])).matched_subjects == 2


def test_the_closest_are_ordered_by_p_value_and_then_by_index():
    scores = make([0.5, 0.01, 0.01, 0.2], mi=torch.tensor([9.0, 3.0, 5.0, 1.0]))
    assert scores.closest(3) == [2, 1, 3]
    assert scores.closest(99) == [2, 1, 3, 0]


def test_the_limits_of_the_rate_are_those_of_the_certificates_of_distinct_images():
    # Ten images, three of them near-duplicates with one flag among them, and two lone flags.
    p, group = [0.01, 0.5, 0.5, 0.01, 0.01, *[0.5] * 5], torch.tensor([0, 0, 0, 1, 2, 3, 4, 5, 6, 7])
    for power in (None, planted(15)):
        scores = make(p, group=group, power=power)
        assert scores.flagging.n_distinct == 8
        counts = None if power is None else (15, 20)
        # Upper: the share of flagged images (3 of 10) is larger than that of groups (2 of 8), and rounded up.
        assert scores.certificate(0.9) == certify(3, 8, 0.05, 99, counts, 0.9)
        lower, _, upper = scores.rate_interval(0.95)
        assert lower == memorization_rate(2, 8, 0.05, 99).lower
        assert upper == certify(3, 8, 0.05, 99, counts, 0.975).rate_upper
        assert scores.summary()["rate_lower"] == lower
        assert scores.summary()["rate_upper"] == upper


def test_an_alarm_is_that_of_the_distinct_flags():
    p, group = [0.01] * 16 + [0.5] * 24, torch.tensor([0] * 6 + list(range(1, 35)))
    raised = set()
    for null_subjects, null_images, look in itertools.product((19, 99), (None, 400), (1, 5, 100)):
        scores = make(p, group=group, null_subjects=null_subjects, null_images=null_images)
        raised.add(scores.alarm(look))
        for risk in (0.05, 0.5):
            # 99 subjects resolve .01, where all eleven are flagged too: two levels, half of the risk for each.
            levels = (0.05,) if null_subjects == 19 else (0.01, 0.05)
            null = null_subjects, null_images is not None, risk / len(levels)
            assert scores.alarm(look, risk) == any(alarm(11, 35, look, level, *null) for level in levels)
    assert raised == {True, False}


def test_contrast_and_power_are_in_the_summary_where_they_were_asked_for():
    assert not {"contrast_p", "leaked_subjects", "power"} & set(make(CLEAN).summary())
    summary = make(CLEAN, target_decoy=opinion(0.25, leaked=3), power=planted(15)).summary()
    assert (summary["contrast_p"], summary["leaked_subjects"], summary["power"]) == (0.25, 3, 0.75)


# Promise


def test_many_copies_are_memorization():
    assert make([0.01] * 50 + [0.5] * 50).verdict == "memorized"


def test_as_many_flags_as_novel_images_get_are_clean():
    assert make([0.04] * 5 + [0.5] * 95).verdict == "clean"
    assert make([0.5] * 100).verdict == "clean"


def test_under_a_false_discovery_rate_a_flag_that_is_sure_is_memorization():
    def scores(p: float, flagged: bool) -> Scores:
        return make([p] + [0.5] * 99, fdr=0.1, flagged=[flagged] + [False] * 99, null_subjects=9999)

    assert scores(0.0001, True).verdict == "memorized"
    # At ten per cent it is discovered, at five it is not: all flags may be false, more often than a verdict may be.
    assert scores(0.0009, True).verdict == "inconclusive"
    assert scores(0.0009, True).doubts == ["with probability up to 0.1 all 1 flags are false"]
    assert scores(0.01, False).verdict == "clean"


def test_few_copies_that_lie_beyond_the_whole_null_are_memorization_too():
    few = [0.005] * 6 + [0.5] * 114
    # Six of 120 are what novel images get at alpha; that all six are beyond 199 people is not.
    assert make(few, null_subjects=199).verdict == "memorized"
    assert make([0.04] * 6 + [0.5] * 114, null_subjects=199).verdict == "clean"


def test_where_no_outcome_could_have_been_called_memorized_nothing_is_called_clean():
    # One image: even beyond all nine people it is what one novel image in ten does.
    assert make([0.1], alpha=0.1, null_subjects=9).verdict == "inconclusive"
    # At 1 / (G + 1) = .01 it is what one in a hundred does, and two levels are looked at.
    assert make([0.01], alpha=0.1).verdict == "memorized"
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


def test_copies_that_are_near_duplicates_of_one_another_are_one_observation():
    one_image = make([0.01] * 50 + [0.5] * 50, group=torch.tensor([0] * 50 + list(range(1, 51))))
    assert one_image.flagging.n_distinct == 51
    # More flags than chance, but of one observation: not memorized, and not clean either.
    assert one_image.verdict == "inconclusive"
    assert one_image.doubts[0].startswith("50 flagged images are more than chance explains, but")
    assert "1 of 51 distinct ones are not" in one_image.doubts[0]
    assert not one_image.alarm(1)
    # Yet they may all be copies: the upper limit does not hide them.
    assert one_image.rate_interval().upper > 0.5
    assert make(MEMORIZED).alarm(1)


def test_a_collapsed_generator_is_inconclusive_and_the_text_says_why():
    scores = make([0.1] * 100, group=torch.zeros(100, dtype=torch.long), alpha=0.1, null_subjects=9)
    assert scores.verdict == "inconclusive"
    assert scores.doubts == ["too few distinct images (1) for any number of flags to be more than chance"]
    assert "near-duplicates of one another: 1 distinct ones" in str(scores)
    assert "near-duplicates" not in str(make(CLEAN))


def test_near_duplicates_count_for_the_smaller_share_at_least_and_the_larger_at_most():
    # A hundred near-duplicates that are not flagged, and 28 distinct copies: 22 % of the samples.
    scores = make([0.5] * 100 + [0.01] * 28, group=torch.tensor([0] * 100 + list(range(1, 29))))
    lower, _, upper = scores.rate_interval()
    assert lower <= 28 / 128 <= upper


def test_images_like_copies_forbid_clean_but_prove_nothing():
    alike = torch.tensor([True] * 3 + [False] * 97)
    scores = make([0.5] * 100, like_copies=alike)
    assert scores.verdict == "inconclusive"
    assert "3 images resemble a training image as only copies do" in str(scores)
    assert make([0.5] * 100, like_copies=torch.zeros(100, dtype=torch.bool)).verdict == "clean"


def test_people_in_the_null_who_look_like_copies_forbid_clean_but_not_memorized():
    assert make(CLEAN, null_suspects=3).verdict == "inconclusive"
    assert "3 people of the null resemble training images" in make(CLEAN, null_suspects=3).doubts[0]
    assert make(MEMORIZED, null_suspects=3).verdict == "memorized"


def test_a_detector_that_would_not_see_copies_never_says_clean():
    blind, sharp = planted(3), planted(18)
    assert make(CLEAN, power=sharp).verdict == "clean"
    scores = make(CLEAN, power=blind)
    assert scores.verdict == "inconclusive"
    assert scores.doubts == ["the detector finds 15% of planted copies: it would not see memorization"]
    assert scores.doubts[0] in str(scores)
    assert "copies changed by exact, blur_1 would be missed" in str(scores)
    assert "would be missed" not in str(make(CLEAN, power=sharp))
    # What it does find is there: flags need no power.
    assert make(MEMORIZED, power=blind).verdict == "memorized"


def test_the_text_says_whether_seeing_every_copy_was_assumed_or_measured():
    assert "(95 % CI if every copy is seen)" in str(make(CLEAN))
    assert "(95 % CI)" in str(make(CLEAN, power=planted(18)))
    assert "untested: no copies were planted" in str(make(CLEAN))
    assert "untested" not in str(make(CLEAN, power=planted(18)))
    assert "ASSUMING" in make(CLEAN).certificate().statement
    assert "18 of 20" in make(CLEAN, power=planted(18)).certificate().statement
    assert make(CLEAN, power=planted(12)).rate_interval().upper > make(CLEAN, power=planted(20)).rate_interval().upper


@pytest.mark.parametrize(
    ("p_value", "contrast", "verdict"),
    [
        (MEMORIZED, opinion(0.01), "memorized"),
        (MEMORIZED, opinion(0.5), "inconclusive"),
        (MEMORIZED, opinion(0.5, least=0.06), "memorized"),  # too few people for the contrast to have a say
        (CLEAN, opinion(0.5), "clean"),
        (CLEAN, opinion(0.01), "inconclusive"),
    ],
)
def test_null_and_contrast_have_to_agree_where_the_contrast_could_have_decided(p_value, contrast, verdict):
    scores = replace(make(p_value), target_decoy=contrast)
    assert scores.verdict == verdict
    assert bool(scores.doubts) == (verdict == "inconclusive")
    assert str(scores).startswith(verdict)


def test_the_text_says_how_null_and_contrast_disagree():
    smooth = replace(make(MEMORIZED), target_decoy=opinion(0.52))
    assert "as close to held-out as to training subjects" in str(smooth)
    assert "contrast p = 0.52" in str(smooth)
    assert "too smooth?" in str(smooth)
    noisy = replace(make(CLEAN), target_decoy=opinion(0.013))
    assert "closer to training than to held-out subjects" in str(noisy)
    assert "contrast p = 0.013" in str(noisy)


def test_the_text_says_what_the_contrast_found():
    agreed = str(replace(make(MEMORIZED), target_decoy=opinion(0.0005, leaked=7, fdr=0.2)))
    assert "contrast p = 0.0005, 7 training subjects copied at a false discovery rate of 0.2" in agreed
    assert "no subject copied for sure" in str(replace(make(CLEAN), target_decoy=opinion(0.4)))
    assert "contrast" not in str(make(CLEAN))


def test_without_doubts_there_is_a_verdict_and_a_doubt_is_said_in_the_text():
    assert make(CLEAN).doubts == make(MEMORIZED).doubts == []
    doubtful = {
        "some p-values are not finite": make([0.01, math.nan]),
        "the train_halves null is not calibrated": make(MEMORIZED, null_kind="train_halves"),
        "to flag a single image at 0.05 needs at least 19 held-out subjects": make(CLEAN, null_subjects=18),
        "to flag a single image at 0.05 needs at least 39 cross_fit subjects": make(
            CLEAN, null_subjects=30, null_kind="cross_fit"
        ),
        "to flag a single image at 0.001 needs at least 999 held-out subjects": make(
            CLEAN, fdr=0.1, flagged=[False] * 100
        ),
    }
    for doubt, scores in doubtful.items():
        assert scores.doubts == [doubt]
        assert doubt in str(scores)
        assert scores.verdict == "inconclusive"


def test_no_alarm_is_raised_where_nothing_can_be_flagged():
    assert not make(MEMORIZED, null_subjects=18).alarm(1)
    assert not make(MEMORIZED, null_kind="train_halves").alarm(1)
    assert make(MEMORIZED, null_subjects=19).alarm(1)


def test_the_closest_are_ordered_by_the_extrapolated_p_value_where_there_is_one():
    scores = make([0.01, 0.01, 0.5, 0.01], p_tail=torch.tensor([1e-3, 1e-6, 0.5, 1e-4]))
    assert scores.closest(3) == [1, 3, 0]


def test_samples_unlike_any_real_image_are_never_clean():
    far = make(CLEAN, mi=torch.full((100,), -3.0))
    assert far.verdict == "inconclusive"
    (doubt,) = far.doubts
    assert doubt.startswith("too early to judge: the samples are far from real images (MI median -3.0)")
    assert doubt in str(far)
    assert make(CLEAN, mi=torch.full((100,), -1.9)).verdict == "clean"
    # Copies among them are copies all the same.
    assert make(MEMORIZED, mi=torch.full((100,), -3.0)).verdict == "memorized"


@pytest.mark.parametrize("fdr", [None, 0.1])
@pytest.mark.parametrize("null_subjects", [5, 99])
def test_the_headline_fits_in_a_line_whatever_the_numbers(fdr, null_subjects):
    n = 10_000
    for mi in (-123.456, 0.0, 4321.0):
        scores = make([0.01] * n, fdr=fdr, null_subjects=null_subjects, mi=torch.full((n,), mi))
        assert len(scores.headline) <= 100  # the callback puts the epoch before it
        assert scores.headline in str(scores).splitlines()[0]


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
    first, *others = text.splitlines()
    assert first == "memorized: 50 of 100 images flagged, at most 5.0 expected by chance; MI median 0.69"
    assert others[0].startswith("  copies 36.2% to")
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


def test_a_rate_is_refused_where_the_null_cannot_resolve_alpha():
    scores = make(CLEAN, null_subjects=18)
    for ask in (scores.rate_interval, scores.certificate):
        with pytest.raises(CalibrationError, match="at least 19 held_out subjects for a rate of copies"):
            ask()


def test_scores_cannot_be_changed_afterwards():
    scores = make(uniform(3))
    with pytest.raises(FrozenInstanceError):
        scores.power = planted(3)
    with pytest.raises(FrozenInstanceError):
        scores.flagging.rule.alpha = 0.5
