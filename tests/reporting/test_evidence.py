"""What a flag rests on, in sentences."""

from dataclasses import replace

import pytest

from mi_callback.reporting.evidence import Measured, NovelReach
from mi_callback.reporting.geometry import Change, Geometry


@pytest.fixture
def flag(posed):
    return replace(
        posed["flip_horizontal"],
        row=17,
        match=203,
        subject="IXI042",
        change=Change(Geometry(-14.8, (1.112, 1.108), (0.2, -12.4)), "flip_horizontal", recoloured=False),
        measured=Measured(0.981, 0.968, 0.9, 0.93, 7.0, 0.0361, "verified"),
        novel=NovelReach("held_out", 0.712, 0.884, 156, subjects_known=True),
    )


def test_the_sentence_says_what_was_measured(flag):
    assert flag.headline == "Generated image 17 is flagged as a copy of training image 203 (subject IXI042)"
    assert flag.sentence == (
        "Zoomed 1.11 times, turned by 14.8° counter-clockwise, moved by 12 % up, then mirrored left to right, training "
        "image 203 agrees with generated image 17 (local correlation, LNCC, 0.98 of 1 where they agree best); 97 % of "
        "the structure agrees beyond what 95 % of novel images show. "
        "Real images of 156 people that were not trained on reach 0.71 in the median and 0.88 at most; "
        "a novel image comes this close with a probability of at most 0.036."
    )
    assert flag.caption == "LNCC 0.98, 97 % of structure copied, p = 0.036"


def test_the_sentence_says_what_was_done_to_the_match(flag):
    still = replace(flag, change=Change(Geometry(0.1, (1.0, 1.0), (0.0, 0.0)), "identity", False), subject=None)
    assert still.sentence.startswith("As it is, training image 203 agrees")
    assert still.headline.endswith("training image 203")
    turned = replace(flag, change=Change(Geometry(5.0, (1.2, 0.9), (3.0, 4.0)), "rotation_90", False))
    assert turned.sentence.startswith(
        "Zoomed 1.20 times in width and 0.90 times in height, turned by 5.0° clockwise, moved by 3 % to the right and "
        "4 % down, then turned by 90° clockwise, training"
    )


def test_the_sentence_says_against_whom_it_was_judged(flag):
    unknown = replace(flag.novel, subjects_known=False)
    by_features = replace(flag, novel=unknown, measured=replace(flag.measured, decides="similarity"))
    assert "The feature similarity, which decides here, is 0.93. 156 real images that were not" in by_features.sentence
    crossed = replace(flag, novel=replace(flag.novel, kind="cross_fit"))
    assert "Training images of 156 people that were compared with other people" in crossed.sentence
    assert "not calibrated" in replace(flag, novel=replace(flag.novel, kind="train_halves")).sentence


def test_what_was_not_measured_is_not_told(flag):
    one = replace(flag, measured=replace(flag.measured, copied_fraction=float("nan")))
    assert "structure" not in one.sentence + one.caption


def test_ids_and_pixels_are_not_printed(posed):
    text = repr(posed["identity"])
    assert "train" not in text
    assert "tensor" not in text
