"""Long work shows how long the rest of it takes, short work shows nothing, and neither does a Trainer without bars."""

import pytest
from watching import HELD_OUT, TRAIN, callback, fit, options

from mi_callback import MemorizationDetector
from mi_callback.images import progress
from mi_callback.images.progress import counted


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes long."""
    monkeypatch.setattr(progress, "SHORT", 0)


def test_things_come_as_they_are_with_a_bar_and_without(at_once: None, capsys: pytest.CaptureFixture):
    assert list(counted(range(3), None, "one")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(counted(iter("abc"), "letters", "letter", total=3)) == ["a", "b", "c"]
    shown = capsys.readouterr().err
    assert "letters:   0%" in shown
    assert "0/3 [00:00<?" in shown  # that is where the time left stands


def test_what_is_short_has_no_bar(capsys: pytest.CaptureFixture):
    assert len(list(counted(range(1000), "numbers", "number"))) == 1000
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("bars", [True, False])
def test_the_callback_has_bars_where_the_trainer_has(bars: bool, at_once: None, capsys: pytest.CaptureFixture):
    fit(callback(power=1, detector=options(null="cross_fit")), enable_progress_bar=bars)
    shown = capsys.readouterr().err
    labels = ("training features:", "calibrating:", "power:", "generated features:")
    assert [label in shown for label in labels] == [bars] * 4


def test_matching_has_a_bar_in_scoring_and_none_within_the_self_test(at_once: None, capsys: pytest.CaptureFixture):
    detector = MemorizationDetector(**options(verify=True, candidates=1)).fit(TRAIN[:4], held_out=HELD_OUT[:3])
    assert capsys.readouterr().err == ""
    detector.power(1, changes=["exact"], progress=True)
    shown = capsys.readouterr().err
    assert "power:" in shown
    assert "matching:" not in shown
    detector.score(TRAIN[:2], progress=True)
    assert "matching:" in capsys.readouterr().err
