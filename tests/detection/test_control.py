"""Samples are looked up among people who were not trained on, too."""

import pytest
import torch
from factories import oval

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.errors import DataError, StateError
from mi_callback.statistics.flagging import Flagging, FlagRule, NullSummary
from mi_callback.statistics.null import NullKind
from mi_callback.statistics.verdict import Findings, alarm, doubts, more_than_control, verdict

IMAGES = oval(140)
TRAIN, CONTROL, HELD_OUT, NOVEL = IMAGES[:40], IMAGES[40:80], IMAGES[80:110], IMAGES[110:]


def ids(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


def make(**options) -> MemorizationDetector:
    pixels = build_encoder("pixels", sides=(4, 8), size=32)
    detector = MemorizationDetector(pixels, verify=False, poses="none", **options)
    return detector.fit(TRAIN, ids("a", 40), HELD_OUT, ids("b", 30))


@pytest.fixture(scope="module")
def detector() -> MemorizationDetector:
    return make().fit_control(CONTROL, ids("c", 40))


def test_copies_of_training_images_are_memorized_and_not_of_the_control(detector):
    scores = detector.score(torch.cat([TRAIN[:15], NOVEL[:15]]))
    assert scores.verdict == "memorized"
    assert scores.n_flagged >= 15
    assert scores.control is not None
    assert scores.control.count <= 5
    assert scores.summary()["control_flagged"] == scores.control.count
    assert any(note.startswith(f"control: {scores.control.count} of 30 images") for note in scores.notes)


def test_the_control_is_scored_as_a_training_set_of_these_people_would_be(detector):
    alone = make()
    alone.fit(CONTROL, ids("c", 40), HELD_OUT, ids("b", 30))
    assert torch.allclose(detector.score(NOVEL).control.p_value, alone.score(NOVEL).p_value)


def test_what_copies_both_is_inconclusive(detector):
    scores = detector.score(torch.cat([TRAIN[:10], CONTROL[:10]]))
    assert scores.verdict == "inconclusive"
    assert "images are flagged against people who were not trained on, and hardly more" in scores.doubts[0]
    assert not scores.alarm(1)


def test_copies_of_the_control_alone_are_never_clean(detector):
    scores = detector.score(torch.cat([CONTROL[:12], NOVEL[:8]]))
    assert scores.verdict == "inconclusive"
    assert "more than chance explains" in scores.doubts[0]


def test_a_new_fit_forgets_the_control(detector):
    again = make().fit_control(CONTROL, ids("c", 40))
    again.fit(TRAIN, ids("a", 40), HELD_OUT, ids("b", 30))
    assert again.score(NOVEL).control is None


def test_people_who_were_trained_on_are_left_out_of_a_control():
    with pytest.warns(
        UserWarning, match=r"10 of 40 control images are in the training set too.*30 control images remain"
    ):
        detector = make().fit_control(torch.cat([TRAIN[:10], CONTROL[:30]]), ids("x", 40))
    assert len(detector.control.train) == 30
    with pytest.raises(DataError, match="needed control images that were not trained on"):
        make().fit_control(TRAIN, ids("x", 40))


def test_held_out_people_of_the_control_leave_its_null():
    with pytest.warns(UserWarning, match="5 held-out images show people of the control"):
        detector = make().fit_control(torch.cat([HELD_OUT[:5], CONTROL[:30]]), [*ids("b", 5), *ids("c", 30)])
    assert detector.control.null.n_subjects == 25
    assert detector.null.n_subjects == 30


def test_a_small_control_is_said_to_be_one():
    with pytest.warns(UserWarning, match="the control has 8 images and the training set 40"):
        make().fit_control(CONTROL[:8], ids("c", 8))


def test_it_needs_a_training_set_first():
    with pytest.raises(StateError, match="needed a fitted detector"):
        MemorizationDetector("pixels").fit_control(CONTROL)


def test_a_cross_fitted_null_has_a_cross_fitted_control():
    pixels = build_encoder("pixels", sides=(4, 8), size=32)
    detector = MemorizationDetector(pixels, verify=False, poses="flips").fit(TRAIN, ids("a", 40))
    detector.fit_control(CONTROL, ids("c", 40))
    assert detector.score(NOVEL).control.null.kind == "cross_fit"


def flagged(*positions: int, n: int = 40, groups: torch.Tensor | None = None) -> Flagging:
    p_value = torch.full((n,), 0.5, dtype=torch.float64)
    p_value[list(positions)] = 1 / 61
    null = NullSummary(NullKind.HELD_OUT, 60, 60)
    return Flagging(p_value, FlagRule().flag(p_value), torch.arange(n) if groups is None else groups, FlagRule(), null)


@pytest.mark.parametrize(
    ("ours", "theirs", "p"), [(range(5), (), 1 / 32), (range(3), range(3), 1), ((0, 1), (1, 2), 0.75)]
)
def test_the_comparison_is_mcnemars(ours, theirs, p):
    assert more_than_control(flagged(*ours), flagged(*theirs)) == pytest.approx(p)


def test_near_duplicates_are_compared_once():
    groups = torch.cat([torch.zeros(10), torch.arange(1, 31)]).long()
    assert more_than_control(flagged(*range(10), groups=groups), flagged(groups=groups)) == pytest.approx(0.5)


def test_a_control_within_chance_speaks_for_nobody():
    findings = Findings(flagged(*range(12)), control=flagged(20))
    assert verdict(findings) == "memorized"
    assert alarm(findings, look=1)
    assert doubts(Findings(flagged(0), control=flagged(20))) == doubts(Findings(flagged(0)))


def test_many_more_copies_of_training_people_stay_memorized():
    findings = Findings(flagged(*range(30)), control=flagged(*range(30, 39)))
    assert verdict(findings) == "memorized"
