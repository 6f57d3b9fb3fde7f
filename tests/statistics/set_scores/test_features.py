"""Sets of features: the nearest row, in bounded memory."""

import math

import pytest

from mi_callback.statistics.set_scores import features
from mi_callback.statistics.set_scores.features import nearest

pytestmark = pytest.mark.numeric

# Definition


def test_nearest_is_the_row_at_the_smallest_distance(draw, monkeypatch):
    queries, reference = draw(23).double(), draw(17).double()
    for block in (1, 40, 2**24):
        monkeypatch.setattr(features, "BLOCK", block)
        found, row = nearest(queries, reference)
        for i, query in enumerate(queries):
            distances = [math.dist(query, t) for t in reference]
            assert int(row[i]) == distances.index(min(distances))
            assert float(found[i]) == pytest.approx(min(distances), rel=1e-12)
