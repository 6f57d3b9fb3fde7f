"""AuthPct: the definition, and what it says of novel images."""

import math

import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.statistics.set_scores.authpct import authpct

pytestmark = pytest.mark.numeric

# Definition


def test_authpct_asks_the_nearest_training_image_for_its_own_nearest(draw, copies_of):
    train, generated = draw(30, 3), torch.cat([draw(25, 3), copies_of(draw(30, 3), 8, 0.2)])
    generated = torch.cat([generated, train[:3]])
    authentic, wrongly = 0, 0
    for i, x in enumerate(generated):
        distances = [math.dist(x, t) for t in train]
        t = distances.index(min(distances))
        own = min(math.dist(train[t], other) for j, other in enumerate(train) if j != t)
        authentic += distances[t] > own
        misplaced = i % len(train)  # the known fault: the position of the generated image
        wrongly += distances[t] > min(math.dist(train[misplaced], o) for j, o in enumerate(train) if j != misplaced)
    assert authpct(train, generated) == pytest.approx(authentic / len(generated), abs=1e-12)
    assert authentic != wrongly  # so this test would see the fault


# Promise


@pytest.mark.parametrize(("d", "mutual"), [(1, 2 / 3), (2, 0.6215)])
def test_authpct_of_novel_images_is_the_share_of_points_that_are_not_mutual_neighbours(generator, d, mutual):
    # A novel image is not authentic when it and t are each other's nearest: for points that are uniform on a line this
    # has probability 2/3, in the plane 0.6215 (Clark and Evans, Science 1955).
    train, novel = torch.rand(2, 1500, d, generator=generator)
    assert authpct(train, novel) == pytest.approx(1 - mutual, abs=0.05)


# Refusal


def test_one_training_image_has_no_next_of_kin(draw):
    with pytest.raises(DataError, match="at least 2 train images for a set score; 1 came"):
        authpct(draw(1), draw(5))
    assert authpct(draw(5), draw(1)) in (0.0, 1.0)
