"""C_T: the definition, and what it says of copies and of novel images."""

import math

import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.statistics.set_scores import features, set_scores
from mi_callback.statistics.set_scores.ct import ct

pytestmark = pytest.mark.numeric


def naive_z_score(train: list, held_out: list, generated: list) -> float:
    far = [min(math.dist(x, t) for t in train) for x in generated]
    usual = [min(math.dist(x, t) for t in train) for x in held_out]
    u = sum((f > s) + 0.5 * (f == s) for f in far for s in usual)
    g, h = len(far), len(usual)
    return (u - g * h / 2) / math.sqrt(g * h * (g + h + 1) / 12)


# Definition


@pytest.mark.parametrize("block", [1, 2**24])
def test_ct_of_one_cell_is_the_z_score_of_a_mann_whitney_u(draw, block, monkeypatch):
    monkeypatch.setattr(features, "BLOCK", block)
    train, held_out = draw(40), draw(25)
    generated = torch.cat([draw(15), train[:6], train[:2]])  # with ties among the distances
    expected = naive_z_score(list(train.double()), list(held_out.double()), list(generated.double()))
    assert ct(train, held_out, generated, cells=1) == pytest.approx(expected, abs=1e-12)


def test_ct_weighs_the_cells_by_held_out_share_and_leaves_out_those_with_too_few_generated(draw):
    # Three far clumps, so that the cells of any good start are known; the third holds 9 < 20 generated images.
    places = 1000 * torch.eye(8)[:3]
    sizes = {"train": (30, 20, 10), "held_out": (12, 30, 8), "generated": (25, 40, 9)}
    sets = {name: [place + draw(n) for place, n in zip(places, of, strict=True)] for name, of in sizes.items()}
    z = [naive_z_score(*(list(sets[name][cell].double()) for name in sizes)) for cell in range(3)]
    expected = (12 * z[0] + 30 * z[1]) / 42
    joined = [torch.cat(parts) for parts in sets.values()]
    found = [ct(*joined, cells=3, seed=seed) for seed in range(12)]
    # A start with two rows in one clump may end elsewhere; then its cells are others.
    assert sum(value == pytest.approx(expected, abs=1e-9) for value in found) >= 3


# Promise


@pytest.mark.parametrize("cells", [1, 3, 8])
def test_ct_of_novel_images_is_at_most_standard_normal(draw, cells):
    found = torch.tensor([ct(draw(100), draw(80), draw(80), cells, seed) for seed in range(60)])
    assert float(found.mean()) == pytest.approx(0, abs=4 / 60**0.5)
    # Training sets are shared by both sides, and cells are averaged: no wider than a z-score.
    assert float(found.std()) < 1.3


def test_ct_is_large_for_an_underfit_generator(draw):
    assert ct(draw(200), draw(100), 1.5 * draw(100)) > 3


@pytest.mark.parametrize("m", [1, 5, 19])
def test_a_handful_of_generated_images_still_has_a_ct(draw, m):
    assert math.isfinite(ct(draw(50), draw(50), draw(m)))


def test_ct_is_undefined_where_generated_images_share_no_cell_with_held_out_ones(draw):
    train = torch.cat([draw(30), draw(30) + 1000])
    found = [ct(train, draw(30), draw(30) + 1000, cells=2, seed=seed) for seed in range(8)]
    assert any(math.isnan(value) for value in found)


def test_training_images_that_are_all_the_same_make_one_cell(draw):
    assert math.isfinite(ct(torch.ones(10, 4), draw(30, 4), draw(30, 4)))


def test_a_seed_decides_the_cells_and_no_global_state_is_touched(draw):
    train, held_out, generated = draw(80), draw(40), draw(50)
    before = torch.get_rng_state()
    first = ct(train, held_out, generated, seed=5)
    assert ct(train, held_out, generated, seed=5) == first
    assert torch.equal(torch.get_rng_state(), before)


# Refusal


def test_ct_refuses_broken_sets(draw):
    with pytest.raises(DataError, match="at least 1 held_out image for a set score; 0 came"):
        ct(draw(5), draw(0), draw(5))
    with pytest.raises(DataError, match="held_out has 3 a row, the first set 8"):
        ct(draw(5), draw(5, 3), draw(5))
    with pytest.raises(DataError, match="needed finite held_out features"):
        set_scores(draw(5), torch.full((4, 8), float("nan")), draw(5))
    with pytest.raises(DataError, match="needed at least 1 cell for ct; 0 came"):
        ct(draw(5), draw(5), draw(5), cells=0)
