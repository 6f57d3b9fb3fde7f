"""All set-level scores together: what they say of copies, and what they refuse."""

import math

import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.statistics.set_scores import set_scores
from mi_callback.statistics.set_scores.authpct import authpct
from mi_callback.statistics.set_scores.ct import ct
from mi_callback.statistics.set_scores.fid import fid
from mi_callback.statistics.set_scores.kid import kid
from mi_callback.statistics.set_scores.mifid import memorization_penalty, mifid
from mi_callback.statistics.set_scores.vendi import vendi

pytestmark = pytest.mark.numeric

ON_TWO_SETS = {"authpct": authpct, "fid": fid, "kid": kid, "mifid": mifid, "memorization_penalty": memorization_penalty}


# Definition


def test_set_scores_gathers_each_score(draw):
    train, held_out, generated = draw(60), draw(40), draw(45)
    found = set_scores(train, held_out, generated, seed=3)
    assert list(found) == ["ct", "authpct", "fid", "kid", "vendi", "mifid"]
    assert found == {
        "ct": ct(train, held_out, generated, seed=3),
        "authpct": authpct(train, generated),
        "fid": fid(train, generated),
        "kid": kid(train, generated),
        "vendi": vendi(generated),
        "mifid": mifid(train, generated),
    }
    assert all(type(value) is float for value in found.values())
    without = set_scores(train, None, generated, seed=3)
    assert list(without) == ["authpct", "fid", "kid", "vendi", "mifid"]
    assert without.items() <= found.items()


# Promise


@pytest.mark.parametrize("d", [2, 8, 64])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_copies_are_seen_and_novel_images_are_not(draw, copies_of, d, noise):
    train, held_out, novel = draw(300, d), draw(150, d), draw(150, d)
    copies = copies_of(train, 150, noise)
    of_copies, of_novel = set_scores(train, held_out, copies), set_scores(train, held_out, novel)
    assert abs(of_novel["ct"]) < 3
    assert of_copies["ct"] < (-6 if d > 2 or noise == 0 else -3)
    assert of_novel["authpct"] > 0.3
    assert of_copies["authpct"] < (0.01 if d > 2 or noise == 0 else 0.2)


def test_duplicates_in_the_training_set_make_no_copy_authentic(draw):
    train = draw(20).repeat(3, 1)
    assert authpct(train, train[:20]) == 0
    assert ct(train, draw(40), train) < -3
    assert math.isfinite(ct(train, draw(40), train, cells=30))  # more cells than distinct rows


def test_the_order_of_images_is_irrelevant(draw, generator):
    train, held_out, generated = draw(80), draw(40), draw(50)
    expected = set_scores(train, held_out, generated)
    shuffled = [x[torch.randperm(len(x), generator=generator)] for x in (train, held_out, generated)]
    assert set_scores(*shuffled) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_half_precision_and_gradients_are_taken_as_they_come(draw):
    train, generated = draw(20).requires_grad_(), draw(20).half()
    assert all(math.isfinite(value) for value in set_scores(train, draw(20), generated).values())


# Refusal


@pytest.mark.parametrize("score", ON_TWO_SETS.values(), ids=ON_TWO_SETS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1])
def test_broken_features_are_refused(draw, score, bad, where):
    sets = [draw(5), draw(5)]
    sets[where][2, 3] = bad
    with pytest.raises(DataError, match=r"needed finite (train|reference|generated) features; NaN or infinity came"):
        score(*sets)


@pytest.mark.parametrize("score", ON_TWO_SETS.values(), ids=ON_TWO_SETS)
def test_empty_sets_are_refused(draw, score):
    for sets in ((draw(0), draw(5)), (draw(5), draw(0))):
        with pytest.raises(DataError, match=r"at least \d (train|reference|generated) images? .* 0 came"):
            score(*sets)


@pytest.mark.parametrize("score", ON_TWO_SETS.values(), ids=ON_TWO_SETS)
def test_features_of_different_width_are_refused(draw, score):
    with pytest.raises(DataError, match="generated has 7 a row, the first set 8"):
        score(draw(5, 8), draw(5, 7))


@pytest.mark.parametrize("score", ON_TWO_SETS.values(), ids=ON_TWO_SETS)
def test_images_in_place_of_features_are_refused(score):
    with pytest.raises(DataError, match=r"features of shape \(n, d\), one row an image; \(5, 1, 4, 4\) came"):
        score(torch.rand(5, 1, 4, 4), torch.rand(5, 1, 4, 4))


@pytest.mark.parametrize("score", [fid, kid, mifid])
def test_one_image_has_no_spread(draw, score):
    for sets in ((draw(1), draw(5)), (draw(5), draw(1))):
        with pytest.raises(DataError, match=r"at least 2 \w+ images for a set score; 1 came"):
            score(*sets)
