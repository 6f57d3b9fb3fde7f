"""MiFID: the definition, and what it holds against copies."""

import math

import pytest
import torch
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from mi_callback.statistics.set_scores import features
from mi_callback.statistics.set_scores.fid import fid
from mi_callback.statistics.set_scores.mifid import COSINE_FLOOR, memorization_penalty, mifid

pytestmark = pytest.mark.numeric


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double()) / math.sqrt(float(a.double() @ a.double()) * float(b.double() @ b.double()))


# Definition


@pytest.mark.parametrize("block", [1, 2**24])
def test_the_memorization_penalty_is_the_mean_distance_of_generated_images_to_training_images(
    draw, copies_of, block, monkeypatch
):
    monkeypatch.setattr(features, "BLOCK", block)
    train = draw(30)
    near, novel = copies_of(train, 12, 0.1), draw(12)
    expected = [sum(1 - max(cosine(x, t) for t in train) for x in images) / 12 for images in (near, novel)]
    assert expected[0] < 0.1 < expected[1]
    assert memorization_penalty(train, near) == pytest.approx(expected[0], abs=1e-9)
    assert memorization_penalty(train, novel) == 1
    assert memorization_penalty(train, novel, epsilon=1.0) == pytest.approx(expected[1], abs=1e-9)
    assert mifid(train, near) == pytest.approx(fid(train, near) / expected[0], rel=1e-6)


def test_mifid_is_that_of_torchmetrics_with_the_sets_the_other_way_round(draw, copies_of):
    # Theirs averages over what it is told is real. Features are positive here, so that |cos| = cos.
    train = draw(30).abs()
    near = (copies_of(train, 20, 0.05)).abs()
    theirs = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
    theirs.update(near.double(), real=True)
    theirs.update(train.double(), real=False)
    assert mifid(train, near) == pytest.approx(float(theirs.compute()), rel=1e-5)


# Promise


def test_mifid_is_fid_for_novel_images_and_larger_for_copies(draw, copies_of):
    train = draw(100, 16)
    novel, near, copies = draw(50, 16), copies_of(train, 50, 0.05), copies_of(train, 50)
    assert mifid(train, novel) == fid(train, novel)
    assert mifid(train, near) > 100 * fid(train, near)
    assert mifid(train, copies) == pytest.approx(fid(train, copies) / COSINE_FLOOR)
    # Few samples, all of them copies: averaged over the training images this would pass.
    assert mifid(train, copies[:5]) > 1000 * fid(train, copies[:5])


def test_an_opposite_or_empty_feature_is_no_copy(draw):
    assert memorization_penalty(draw(1).abs(), -draw(1).abs()) == 1
    assert memorization_penalty(draw(5), torch.zeros(3, 8)) == 1
