"""Set-level scores of the literature: each against its definition, then what it says of copies and of novel images."""

import math

import pytest
import torch
from monai.metrics.fid import get_fid_score
from torchmetrics.image.kid import poly_mmd
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from mi_callback.errors import DataError
from mi_callback.statistics.set_scores import features as module
from mi_callback.statistics.set_scores import set_scores
from mi_callback.statistics.set_scores.authpct import authpct
from mi_callback.statistics.set_scores.ct import ct
from mi_callback.statistics.set_scores.features import nearest
from mi_callback.statistics.set_scores.fid import fid
from mi_callback.statistics.set_scores.kid import kid
from mi_callback.statistics.set_scores.mifid import COSINE_FLOOR, memorization_penalty, mifid
from mi_callback.statistics.set_scores.vendi import vendi

ON_TWO_SETS = {"authpct": authpct, "fid": fid, "kid": kid, "mifid": mifid, "memorization_penalty": memorization_penalty}


@pytest.fixture
def draw(generator):
    """Images of one distribution: `(n, d)` standard normal features, new ones at every call."""
    return lambda n, d=8: torch.randn(n, d, generator=generator)


def copies_of(train: torch.Tensor, n: int, noise: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(len(train), (n,), generator=generator)
    return train[rows] + noise * torch.randn(n, train.shape[1], generator=generator)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double()) / math.sqrt(float(a.double() @ a.double()) * float(b.double() @ b.double()))


def naive_z_score(train: list, held_out: list, generated: list) -> float:
    far = [min(distance(x, t) for t in train) for x in generated]
    usual = [min(distance(x, t) for t in train) for x in held_out]
    u = sum((f > s) + 0.5 * (f == s) for f in far for s in usual)
    g, h = len(far), len(usual)
    return (u - g * h / 2) / math.sqrt(g * h * (g + h + 1) / 12)


def naive_kid(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a, b):
        return (float(a.double() @ b.double()) / len(a) + 1) ** 3

    def within(rows):
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(across) / len(across)


# Definition


def test_nearest_is_the_row_at_the_smallest_distance(draw, monkeypatch):
    queries, reference = draw(23).double(), draw(17).double()
    for block in (1, 40, 2**24):
        monkeypatch.setattr(module, "BLOCK", block)
        found, row = nearest(queries, reference)
        for i, query in enumerate(queries):
            distances = [distance(query, t) for t in reference]
            assert int(row[i]) == distances.index(min(distances))
            assert float(found[i]) == pytest.approx(min(distances), rel=1e-12)


@pytest.mark.parametrize("block", [1, 2**24])
def test_ct_of_one_cell_is_the_z_score_of_a_mann_whitney_u(draw, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
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


def test_authpct_asks_the_nearest_training_image_for_its_own_nearest(draw):
    train, generated = draw(30, 3), torch.cat([draw(25, 3), copies_of(draw(30, 3), 8, 0.2)])
    generated = torch.cat([generated, train[:3]])
    authentic, wrongly = 0, 0
    for i, x in enumerate(generated):
        distances = [distance(x, t) for t in train]
        t = distances.index(min(distances))
        own = min(distance(train[t], other) for j, other in enumerate(train) if j != t)
        authentic += distances[t] > own
        misplaced = i % len(train)  # the known fault: the position of the generated image
        wrongly += distances[t] > min(distance(train[misplaced], o) for j, o in enumerate(train) if j != misplaced)
    assert authpct(train, generated) == pytest.approx(authentic / len(generated), abs=1e-12)
    assert authentic != wrongly  # so this test would see the fault


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 6), (40, 4, 6), (5, 7, 12), (2, 2, 3), (30, 9, 1)])
def test_fid_is_the_frechet_distance_of_gaussians(draw, n, m, d):
    x, y = draw(n, d) + 1, 2 * draw(m, d)
    moments = [(f.double().mean(dim=0), torch.cov(f.double().T).reshape(d, d)) for f in (x, y)]
    (mean_x, c_x), (mean_y, c_y) = moments
    values, vectors = torch.linalg.eigh(c_x)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ c_y @ root).clamp_min(0).sqrt().sum()
    expected = (mean_x - mean_y).square().sum() + c_x.trace() + c_y.trace() - 2 * shared
    assert fid(x, y) == pytest.approx(float(expected), abs=1e-6)
    if d > 1:
        assert fid(x, y) == pytest.approx(float(get_fid_score(y, x)), abs=1e-6)


def test_fid_of_known_gaussians():
    # Two points at ±a on an axis have the variance 2a²; √ of it counts per axis.
    x, y = torch.tensor([[-1.0, 0], [1, 0]]), torch.tensor([[-3.0, 5], [3, 5]])
    assert fid(x, y) == pytest.approx(25 + (math.sqrt(18) - math.sqrt(2)) ** 2)


@pytest.mark.parametrize("block", [1, 2**24])
@pytest.mark.parametrize(("n", "m"), [(9, 14), (12, 12), (2, 2)])
def test_kid_averages_the_kernel_over_all_pairs_of_different_images(draw, n, m, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    x, y = draw(n), draw(m) + 0.5
    assert kid(x, y) == pytest.approx(naive_kid(x, y), abs=1e-10)
    if n == m:
        assert kid(x, y) == pytest.approx(float(poly_mmd(x.double(), y.double())), abs=1e-10)


@pytest.mark.parametrize(("m", "d"), [(5, 9), (20, 4), (1, 3)])
def test_vendi_is_the_exponential_of_the_entropy_of_the_cosine_matrix(draw, m, d):
    x = draw(m, d)
    cosines = torch.tensor([[cosine(a, b) for b in x] for a in x], dtype=torch.float64)
    entropy = -sum(v * math.log(v) for v in torch.linalg.eigvalsh(cosines / m).tolist() if v > 1e-14)
    assert vendi(x) == pytest.approx(math.exp(entropy), abs=1e-9)


@pytest.mark.parametrize("block", [1, 2**24])
def test_the_memorization_penalty_is_the_mean_distance_of_generated_images_to_training_images(draw, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    train = draw(30)
    near, novel = copies_of(train, 12, 0.1), draw(12)
    expected = [sum(1 - max(cosine(x, t) for t in train) for x in images) / 12 for images in (near, novel)]
    assert expected[0] < 0.1 < expected[1]
    assert memorization_penalty(train, near) == pytest.approx(expected[0], abs=1e-9)
    assert memorization_penalty(train, novel) == 1
    assert memorization_penalty(train, novel, epsilon=1.0) == pytest.approx(expected[1], abs=1e-9)
    assert mifid(train, near) == pytest.approx(fid(train, near) / expected[0], rel=1e-6)


def test_mifid_is_that_of_torchmetrics_with_the_sets_the_other_way_round(draw):
    # Theirs averages over what it is told is real. Features are positive here, so that |cos| = cos.
    train = draw(30).abs()
    near = (copies_of(train, 20, 0.05)).abs()
    theirs = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
    theirs.update(near.double(), real=True)
    theirs.update(train.double(), real=False)
    assert mifid(train, near) == pytest.approx(float(theirs.compute()), rel=1e-5)


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
def test_copies_are_seen_and_novel_images_are_not(draw, d, noise):
    train, held_out, novel = draw(300, d), draw(150, d), draw(150, d)
    copies = copies_of(train, 150, noise)
    of_copies, of_novel = set_scores(train, held_out, copies), set_scores(train, held_out, novel)
    assert abs(of_novel["ct"]) < 3
    assert of_copies["ct"] < (-6 if d > 2 or noise == 0 else -3)
    assert of_novel["authpct"] > 0.3
    assert of_copies["authpct"] < (0.01 if d > 2 or noise == 0 else 0.2)


@pytest.mark.parametrize(("d", "mutual"), [(1, 2 / 3), (2, 0.6215)])
def test_authpct_of_novel_images_is_the_share_of_points_that_are_not_mutual_neighbours(generator, d, mutual):
    # A novel image is not authentic when it and t are each other's nearest: for points that are uniform on a line this
    # has probability 2/3, in the plane 0.6215 (Clark and Evans, Science 1955).
    train, novel = torch.rand(2, 1500, d, generator=generator)
    assert authpct(train, novel) == pytest.approx(1 - mutual, abs=0.05)


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


def test_duplicates_in_the_training_set_make_no_copy_authentic(draw):
    train = draw(20).repeat(3, 1)
    assert authpct(train, train[:20]) == 0
    assert ct(train, draw(40), train) < -3
    assert math.isfinite(ct(train, draw(40), train, cells=30))  # more cells than distinct rows


def test_training_images_that_are_all_the_same_make_one_cell(draw):
    assert math.isfinite(ct(torch.ones(10, 4), draw(30, 4), draw(30, 4)))


@pytest.mark.parametrize(("n", "d"), [(50, 4), (10, 40)])
def test_fid_of_a_set_with_itself_is_zero(draw, n, d):
    x = draw(n, d)
    assert fid(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    assert fid(x, x.flip(0)) >= 0
    assert fid(x, x + 2) == pytest.approx(4 * d, rel=1e-5)


def test_kid_of_one_distribution_is_zero_in_expectation(draw):
    found = torch.tensor([kid(draw(20), draw(31)) for _ in range(300)])
    assert float(found.mean()) == pytest.approx(0, abs=4 * float(found.std()) / 300**0.5)
    assert min(found) < 0 < max(found)
    assert kid(draw(100), draw(100) + 1) > 10 * float(found.std())


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("d", [6, 60])
def test_vendi_counts_distinct_images(k, d):
    assert vendi(torch.eye(d)[:k].repeat(5, 1) * 7) == pytest.approx(k, abs=1e-9)


def test_vendi_counts_images_without_features_as_similar_to_nothing():
    assert vendi(torch.tensor([[1.0, 0], [1, 0], [0, 0], [0, 0]])) == pytest.approx(
        math.exp(0.5 * math.log(2) + 0.5 * math.log(4))
    )


def test_mifid_is_fid_for_novel_images_and_larger_for_copies(draw):
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


def test_the_order_of_images_is_irrelevant(draw, generator):
    train, held_out, generated = draw(80), draw(40), draw(50)
    expected = set_scores(train, held_out, generated)
    shuffled = [x[torch.randperm(len(x), generator=generator)] for x in (train, held_out, generated)]
    assert set_scores(*shuffled) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_seed_decides_the_cells_and_no_global_state_is_touched(draw):
    train, held_out, generated = draw(80), draw(40), draw(50)
    before = torch.get_rng_state()
    first = ct(train, held_out, generated, seed=5)
    assert ct(train, held_out, generated, seed=5) == first
    assert torch.equal(torch.get_rng_state(), before)


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


def test_one_training_image_has_no_next_of_kin(draw):
    with pytest.raises(DataError, match="at least 2 train images for a set score; 1 came"):
        authpct(draw(1), draw(5))
    assert authpct(draw(5), draw(1)) in (0.0, 1.0)


def test_ct_refuses_broken_sets(draw):
    with pytest.raises(DataError, match="at least 1 held_out image for a set score; 0 came"):
        ct(draw(5), draw(0), draw(5))
    with pytest.raises(DataError, match="held_out has 3 a row, the first set 8"):
        ct(draw(5), draw(5, 3), draw(5))
    with pytest.raises(DataError, match="needed finite held_out features"):
        set_scores(draw(5), torch.full((4, 8), float("nan")), draw(5))
    with pytest.raises(DataError, match="needed at least 1 cell for ct; 0 came"):
        ct(draw(5), draw(5), draw(5), cells=0)


def test_vendi_refuses_nothing_and_broken_features():
    with pytest.raises(DataError, match="at least 1 generated image for a set score; 0 came"):
        vendi(torch.empty(0, 3))
    with pytest.raises(DataError, match="needed finite generated features"):
        vendi(torch.tensor([[float("nan")]]))
    with pytest.raises(DataError, match="generated has 0 a row"):
        vendi(torch.empty(3, 0))
