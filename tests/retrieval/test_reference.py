"""Which training images are near, in which pose, and which are worth verifying."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from mi_callback.errors import CalibrationError, StateError
from mi_callback.images.poses import POSES, orbit
from mi_callback.images.windows import WINDOWS, middle_window
from mi_callback.retrieval.aggregation import EPSILON
from mi_callback.retrieval.config import SEARCH
from mi_callback.retrieval.duplicates import near_duplicates
from mi_callback.retrieval.features import Features, concatenate
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import search
from mi_callback.retrieval.views import VIEWS, views_of_queries


def features(n: int, poses: int = 1, seed: int = 0, widths=(5, 8), subjects=None) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(
        {f"layer{i}": torch.randn(poses, n, d, generator=generator) for i, d in enumerate(widths)},
        torch.zeros(n, 4, 4, dtype=torch.uint8),
        subjects,
        None,
    )


def with_windows(n: int, poses: int = 1, seed: int = 0, subjects=None, missing: float = 0.3, **options) -> Features:
    """Features of images and of their windows, of which a share is background."""
    generator = torch.Generator().manual_seed(1000 + seed)
    found = features(n, poses, seed, subjects=subjects, **options)
    background = torch.rand(poses, n, WINDOWS, 1, generator=generator) < missing
    for layer, bank in found.layers.items():
        windows = torch.randn(poses, n, WINDOWS, bank.shape[2], generator=generator).half()
        found.windows[layer] = windows.masked_fill(background, torch.nan)
    return found


def rows_of(source: Features, rows: list[int], poses: int, pose: int, noise: float = 0.0) -> Features:
    """Queries that equal training images in one pose and nothing in the others."""
    queries = features(len(rows), poses, seed=77, widths=[f.shape[2] for f in source.layers.values()])
    generator = torch.Generator().manual_seed(3)
    for layer, bank in source.layers.items():
        exact = bank[0, rows]
        queries.layers[layer][pose] = exact + noise * torch.randn(exact.shape, generator=generator)
    return queries


def naive_cosines(reference: Reference, train: Features, queries: Features) -> np.ndarray:
    """(poses, n, m, layers) by a loop over everything."""
    layers = list(train.layers)
    poses, n, m = len(queries.layers[layers[0]]), len(queries), len(train)
    cosines = np.zeros((poses, n, m, len(layers)))
    for k, layer in enumerate(layers):
        whitening = reference.whitenings[layer]
        mean, matrix = whitening.mean.numpy(), whitening.matrix.numpy()
        for p, i, j in itertools.product(range(poses), range(n), range(m)):
            a = (queries.layers[layer][p, i].double().numpy() - mean) @ matrix
            b = (train.layers[layer][0, j].double().numpy() - mean) @ matrix
            cosines[p, i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return cosines


def combine(cosines: np.ndarray, aggregation: str) -> np.ndarray:
    if aggregation == "geometric":
        return np.exp(np.log(np.clip(cosines, 0, None) + EPSILON).mean(axis=-1))
    return {"mean": np.mean, "minimum": np.min}[aggregation](cosines, axis=-1)


# Definition


@pytest.mark.parametrize("aggregation", ["geometric", "mean", "minimum"])
@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("poses", [1, 4])
def test_search_is_the_naive_loop_over_poses_layers_and_training_images(poses, backend, aggregation):
    if backend == "faiss":
        pytest.importorskip("faiss")
    train, queries = features(30, seed=0), features(9, poses, seed=1)
    reference = Reference.fit(train, "shrunk", backend)
    found = search(reference, queries, aggregation, candidates=30)
    cosines = naive_cosines(reference, train, queries)
    for i in range(9):
        nearest = cosines[:, i].max(axis=1)  # (poses, layers)
        by_pose = combine(nearest, aggregation)
        pose = int(by_pose.argmax())
        own = combine(cosines[:, i], aggregation)  # (poses, m)
        match = int(own[pose].argmax())
        assert float(found.similarity[i]) == pytest.approx(by_pose[pose], abs=1e-5)
        assert int(found.pose[i]) == pose
        assert found.layer_similarity[i].tolist() == pytest.approx(nearest[pose].tolist(), abs=1e-5)
        assert int(found.match[i]) == match
        assert int(found.consensus(found.match)[i]) == sum(
            match in cosines[:, i, :, k].argmax(axis=1) for k in range(2)
        )
        ranked = sorted(range(30), key=lambda j: -own[:, j].max())
        assert found.candidates.row[i, :8].tolist() == ranked[:8]
        assert found.candidates.pose[i, :8].tolist() == [int(own[:, j].argmax()) for j in ranked[:8]]


@pytest.mark.parametrize("aggregation", ["geometric", "mean", "minimum"])
@pytest.mark.parametrize("poses", [1, 4])
def test_duplicates_are_the_pairs_that_a_double_loop_over_poses_finds(poses, aggregation):
    train, images = features(30, seed=0), features(14, poses, seed=1)
    reference = Reference.fit(train, "shrunk")
    plain = Features({layer: bank[:1] for layer, bank in images.layers.items()}, images.thumbnails, None, None)
    own = combine(naive_cosines(reference, plain, images), aggregation)  # (poses, n, n): pose of the first alone
    expected = {(i, j) for i, j in itertools.combinations(range(14), 2) if own[:, i, j].max() > 0.25}
    found = near_duplicates(reference, images, aggregation, 0.25)
    assert found.dtype == torch.long
    assert set(map(tuple, found.tolist())) == expected
    assert 0 < len(expected) < 14 * 13 / 2


@pytest.mark.parametrize("poses", [1, 4])
def test_regional_candidates_are_those_of_a_naive_loop_over_poses_and_windows(poses):
    subjects = [f"s{i // 5}" for i in range(20)]
    train, queries = with_windows(20, subjects=subjects), with_windows(5, poses, seed=1)
    reference = Reference.fit(train, "shrunk")
    found = search(reference, queries, "geometric", candidates=6)
    shape = (5, 6 + SEARCH.second_poses + SEARCH.by_window + SEARCH.second_poses)
    assert found.candidates.row.shape == found.candidates.pose.shape == found.candidates.window.shape == shape
    rows, cosines = reference.windows.search(queries, k=SEARCH.by_window * SEARCH.hits)
    for i in range(5):
        best = {}  # (training row, pose) → its largest cosine, and that of each window
        for pose, window, k in itertools.product(range(poses), range(WINDOWS), range(rows.shape[3])):
            row, cosine = int(rows[i, pose, window, k]), float(cosines[i, pose, window, k])
            if np.isfinite(cosine):
                weights = best.setdefault((row, pose), [0.0] * WINDOWS)
                weights[window] = max(weights[window], cosine - float(cosines[i, pose, window, -1]) + 1e-3)
        largest = {(row, pose): float(cosines[i, pose][rows[i, pose] == row].max()) for row, pose in best}
        expected, taken = [], []
        for row, pose in sorted(largest, key=largest.get, reverse=True):
            if row not in [e[0] for e in expected] and taken.count(subjects[row]) < SEARCH.per_subject:
                expected.append((row, pose))
                taken.append(subjects[row])
        expected = expected[: SEARCH.by_window]
        for row, pose in expected[: SEARCH.second_poses]:
            others = [p for r, p in largest if r == row and p != pose]
            other = max(others, key=lambda p: largest[row, p], default=None)
            good = other is not None and largest[row, other] >= SEARCH.second_pose_share * largest[row, pose]
            expected.append((row, other) if good else (-1, None))
        regional = [
            part[i, 6 + SEARCH.second_poses :].tolist() for part in (found.candidates.row, found.candidates.pose)
        ]
        found_windows = found.candidates.window[i, 6 + SEARCH.second_poses :].tolist()
        assert regional[0] == [row for row, _ in expected]
        for place, (row, pose) in enumerate(expected):
            if row < 0:
                assert found_windows[place] == -1
                continue
            assert regional[1][place] == pose
            assert found_windows[place] == int(middle_window(torch.tensor(best[row, pose]).square()))


@pytest.mark.parametrize("mode", ["shrunk", "standard", "none"])
def test_whitened_are_the_layers_side_by_side_each_of_unit_length(mode):
    train, images = features(30, seed=0), features(5, 4, seed=1)
    reference = Reference.fit(train, mode)
    found = reference.whitened(images)
    assert (found.shape, found.dtype) == ((5, 13), torch.float32)
    for i in range(5):
        row = []
        for layer, bank in images.layers.items():
            whitening = reference.whitenings[layer]
            moved = (bank[0, i].double().numpy() - whitening.mean.numpy()) @ whitening.matrix.numpy()
            row += (moved / np.linalg.norm(moved)).tolist()
        assert found[i].tolist() == pytest.approx(row, abs=1e-5)


# Promise


@pytest.mark.parametrize("pose", range(4))
def test_near_duplicates_are_found_in_any_pose(pose):
    train, images = features(60, widths=(24, 30)), features(6, 4, seed=1, widths=(24, 30))
    for bank in images.layers.values():  # the second in one pose is the fifth as it came, but for a little
        bank[pose, 1] = bank[0, 4] + 0.05 * bank[1, 0]
    assert near_duplicates(Reference.fit(train, "shrunk"), images, "geometric", 0.9).tolist() == [[1, 4]]


def test_without_near_duplicates_there_are_no_pairs():
    reference = Reference.fit(features(30), "shrunk")
    assert near_duplicates(reference, features(9, 4, seed=1), "geometric", 0.9999).shape == (0, 2)
    assert near_duplicates(reference, features(1, 4, seed=1), "geometric", -1.0).shape == (0, 2)


def test_more_images_than_one_block_holds_are_all_compared():
    n = 2100  # blocks have 2 ** 22 / n < n rows
    train, images = features(30, widths=(3,)), features(n, seed=1, widths=(3,))
    images.layers["layer0"][0, 2095] = images.layers["layer0"][0, 2090]
    reference = Reference.fit(train, "shrunk")
    vectors = reference.whitened(images)
    expected = (vectors @ vectors.T > 0.9999).triu(1).nonzero()
    found = near_duplicates(reference, images, "mean", 0.9999)
    # Pairs at the limit itself fall to either side.
    assert len(set(map(tuple, found.tolist())) ^ set(map(tuple, expected.tolist()))) <= 0.01 * len(expected)
    assert [2090, 2095] in found.tolist()


@pytest.mark.parametrize("backend", ["auto", "faiss"])
@pytest.mark.parametrize("whitening", ["shrunk", "standard", "none"])
def test_a_training_image_finds_itself_in_every_layer(whitening, backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    train = features(40)
    found = search(Reference.fit(train, whitening, backend), train, "geometric")
    assert found.match.tolist() == list(range(40))
    assert found.candidates.row[:, 0].tolist() == list(range(40))
    assert (found.consensus(found.match) == 2).all()
    assert torch.allclose(found.similarity, torch.ones(40, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize("pose", range(4))
def test_a_copy_is_found_in_the_pose_in_which_it_is_one(pose):
    train = features(60, widths=(24, 30))
    queries = rows_of(train, [5, 17, 42], poses=4, pose=pose, noise=0.05)
    found = search(Reference.fit(train, "shrunk"), queries, "geometric")
    assert found.match.tolist() == [5, 17, 42]
    assert found.pose.tolist() == [pose] * 3
    assert found.candidates.row[:, 0].tolist() == [5, 17, 42]
    assert found.candidates.pose[:, 0].tolist() == [pose] * 3
    assert (found.similarity > 0.95).all()


def test_more_poses_never_lower_the_similarity():
    train, queries = features(30), features(12, 4, seed=1)
    reference = Reference.fit(train, "shrunk")
    as_it_came = Features({k: f[:1] for k, f in queries.layers.items()}, queries.thumbnails, None, None)
    one = search(reference, as_it_came, "mean")
    assert (search(reference, queries, "mean").similarity >= one.similarity - 1e-9).all()


@pytest.mark.parametrize("make", [features, with_windows])
def test_a_batch_of_queries_is_searched_as_its_queries_one_by_one(make):
    train, queries = make(30), make(6, 2, seed=1)
    reference = Reference.fit(train, "shrunk")
    together = search(reference, queries, "geometric", candidates=4)
    for i in range(6):
        alone = search(reference, queries.where(torch.tensor([i])), "geometric", candidates=4)
        for name in ("row", "pose", "window"):
            assert torch.equal(getattr(alone.candidates, name)[0], getattr(together.candidates, name)[i])
        assert float(alone.similarity) == pytest.approx(float(together.similarity[i]), abs=1e-6)
        assert (int(alone.match), int(alone.pose)) == (int(together.match[i]), int(together.pose[i]))


@pytest.mark.parametrize("candidates", [1, 3, 8, 50])
def test_candidates_are_distinct_rows_best_first_with_minus_one_where_there_are_fewer(candidates):
    train, queries = features(20), features(7, 4, seed=1)
    found = search(Reference.fit(train, "shrunk"), queries, "mean", candidates=candidates)
    assert (
        found.candidates.row.shape
        == found.candidates.pose.shape
        == (7, candidates + min(SEARCH.second_poses, candidates))
    )
    for row in found.candidates.row[:, :candidates].tolist():
        real = [i for i in row if i >= 0]
        assert len(set(real)) == len(real) == min(candidates, 20)
        assert row == real + [-1] * (candidates - len(real))


def test_one_subject_does_not_take_all_candidates():
    # Twenty nearly identical slices of one subject, and ten other subjects.
    train = features(30, subjects=["many"] * 20 + [f"s{i}" for i in range(10)])
    for bank in train.layers.values():
        bank[0, :20] = bank[0, :1] + 0.01 * bank[0, :20]
    found = search(Reference.fit(train, "none"), train.where(torch.tensor([3, 7])), "mean", candidates=12)
    for row in found.candidates.row.tolist():
        subjects = [train.subjects[i] for i in row if i >= 0]
        assert subjects.count("many") == SEARCH.per_subject
        assert len(subjects) > SEARCH.per_subject
    assert found.candidates.row[:, 0].tolist() == [3, 7]


def test_without_subjects_every_image_is_its_own_candidate():
    train = features(30)
    for bank in train.layers.values():
        bank[0, :20] = bank[0, :1] + 0.01 * bank[0, :20]
    found = search(Reference.fit(train, "none"), train.where(torch.tensor([3])), "mean", candidates=8)
    assert all(0 <= i < 20 for i in found.candidates.row[0, :8].tolist())


def test_a_training_set_of_two_can_be_searched():
    train = features(2)
    found = search(Reference.fit(train, "shrunk"), features(3, 4, seed=1), "geometric")
    assert found.similarity.isfinite().all()
    assert sorted(found.candidates.row[0, :2].tolist()) == [0, 1]
    assert (found.candidates.row[:, :8] == -1).sum(dim=1).tolist() == [6, 6, 6]


def test_other_images_can_be_searched_under_the_same_whitening():
    train, other = features(30), features(12, seed=5, subjects=[f"s{i}" for i in range(12)])
    reference = Reference.fit(train, "shrunk")
    moved = reference.over(other)
    assert moved.whitenings == reference.whitenings
    assert moved.subjects == other.subjects
    assert search(moved, other, "mean").match.tolist() == list(range(12))
    assert search(reference, train, "mean").match.tolist() == list(range(30))  # the old one is as it was


def test_whitening_and_index_are_made_of_the_first_pose_only():
    train = features(30, poses=4)
    first = Features({k: f[:1] for k, f in train.layers.items()}, train.thumbnails, None, None)
    one, four = Reference.fit(first, "shrunk"), Reference.fit(train, "shrunk")
    assert all(torch.equal(one.whitenings[k].matrix, four.whitenings[k].matrix) for k in train.layers)
    assert one.layers == ["layer0", "layer1"]
    assert search(four, first, "mean").match.tolist() == list(range(30))


# Promise: regions


@pytest.mark.parametrize("aggregation", ["geometric", "minimum"])
def test_what_the_whole_image_finds_does_not_depend_on_regions(aggregation):
    train, queries = with_windows(30), with_windows(9, 4, seed=1)
    with_regions = search(Reference.fit(train, "shrunk"), queries, aggregation)
    for one, other in (
        (features(30), queries),
        (train, features(9, 4, seed=1)),
        (features(30), features(9, 4, seed=1)),
    ):
        without = search(Reference.fit(one, "shrunk"), other, aggregation)
        for name in ("similarity", "layer_similarity", "match", "pose", "nearest"):
            assert torch.equal(getattr(with_regions, name), getattr(without, name))
        for name in ("row", "pose", "window"):
            ours, theirs = getattr(with_regions.candidates, name), getattr(without.candidates, name)
            assert theirs.shape == (9, 8 + SEARCH.second_poses)
            assert torch.equal(ours[:, : 8 + SEARCH.second_poses], theirs)
        assert (without.candidates.window == -1).all()


@pytest.mark.parametrize(("pose", "window"), [(0, 0), (2, 5), (3, 8)])
def test_a_copied_window_is_a_candidate_with_its_pose_and_window(pose, window):
    train = with_windows(60, widths=(24, 30), missing=0.0)
    queries = with_windows(3, 4, seed=1, widths=(24, 30))
    for layer, windows in queries.windows.items():
        windows[pose, :, window] = train.windows[layer][0, [5, 17, 42], 4]
    found = search(Reference.fit(train, "shrunk"), queries, "geometric")
    assert found.candidates.row[:, 8 + SEARCH.second_poses].tolist() == [5, 17, 42]
    assert found.candidates.pose[:, 8 + SEARCH.second_poses].tolist() == [pose] * 3
    assert found.candidates.window[:, 8 + SEARCH.second_poses].tolist() == [window] * 3
    there = found.candidates.row[:, 8 + SEARCH.second_poses :] >= 0
    windows = found.candidates.window[:, 8 + SEARCH.second_poses :]
    assert torch.equal(there, (windows >= 0) & (windows < WINDOWS))


@pytest.mark.parametrize(("pose", "window"), [(0, 26), (3, 0), (5, 13), (7, 20)])
def test_a_copied_window_of_a_volume_is_a_candidate_with_its_pose_and_window(pose, window):
    def of_volumes(n: int, poses: int, seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        windows = {"layer0": torch.randn(poses, n, 27, 24, generator=generator).half()}
        windows["layer0"][:, 0, 3] = torch.nan  # background
        whole = {"layer0": torch.randn(poses, n, 24, generator=generator)}
        return Features(whole, torch.zeros(n, 4, 4, 4, dtype=torch.uint8), None, None, windows)

    train, queries = of_volumes(30, 1, 0), of_volumes(3, 8, 1)
    queries.windows["layer0"][pose, :, window] = train.windows["layer0"][0, [5, 17, 22], 4]
    found = search(Reference.fit(train, "shrunk"), queries, "geometric")
    assert found.candidates.row[:, 8 + SEARCH.second_poses].tolist() == [5, 17, 22]
    assert [list(POSES)[k] for k in found.candidates.pose[:, 8 + SEARCH.second_poses].tolist()] == [
        orbit("flips", 3)[pose]
    ] * 3
    assert found.candidates.window[:, 8 + SEARCH.second_poses].tolist() == [window] * 3


def test_regional_candidates_are_rows_once_and_few_of_a_subject():
    # Twenty slices of one subject whose windows are nearly the same, in every window.
    train = with_windows(30, subjects=["many"] * 20 + [f"s{i}" for i in range(10)], missing=0.0)
    for windows in train.windows.values():
        windows[0, :20] = windows[0, :1, :1] + 0.01 * windows[0, :20]
    found = search(Reference.fit(train, "none"), train.where(torch.tensor([3, 7])), "mean", candidates=5)
    for row in found.candidates.row[:, 5 + SEARCH.second_poses : -SEARCH.second_poses].tolist():
        real = [i for i in row if i >= 0]
        assert len(set(real)) == len(real)
        assert [train.subjects[i] for i in real].count("many") == SEARCH.per_subject


def test_regional_candidates_that_are_missing_are_minus_one():
    train, queries = with_windows(2, missing=0.0), with_windows(3, 4, seed=1)
    for windows in queries.windows.values():
        windows[:, 1] = torch.nan
    found = search(Reference.fit(train, "shrunk"), queries, "geometric", candidates=5)
    regional = found.candidates.row[:, 5 + SEARCH.second_poses : -SEARCH.second_poses]
    assert regional[[0, 2]].sort().values.tolist() == [[-1] * (SEARCH.by_window - 2) + [0, 1]] * 2
    assert (regional[[0, 2], 2:] == -1).all()
    assert (found.candidates.row[1, 5 + SEARCH.second_poses :] == -1).all()


def test_regions_of_other_images_are_searched_after_a_move():
    train, other = with_windows(30), with_windows(12, seed=5, missing=0.0)
    moved = Reference.fit(train, "shrunk").over(other)
    assert search(moved, other, "mean").candidates.row[:, 8 + SEARCH.second_poses].tolist() == list(range(12))


# Refusal


def test_queries_of_other_layers_are_refused():
    reference = Reference.fit(features(10), "shrunk")
    with pytest.raises(StateError, match=r"features of the layers \['layer0', 'layer1'\]; \['layer0'\] came"):
        search(reference, features(3, widths=(5,)), "mean")


def test_one_training_image_is_refused():
    with pytest.raises(CalibrationError, match="at least 2 training images"):
        Reference.fit(features(1), "shrunk")


def test_an_unknown_backend_is_refused():
    with pytest.raises(StateError, match="needed backend"):
        Reference.fit(features(10), "shrunk", backend="annoy")


# Views

OWN = [name for name, view in VIEWS.items() if not view.recoloured]
OTHERS = [name for name, view in VIEWS.items() if view.recoloured]


def seen(n: int, poses: int = 1, seed: int = 5, **options) -> Features:
    """Features of volumes, with others in every view, of queries (which have poses) in those that they take on too."""
    names = VIEWS if poses == 1 else views_of_queries(3)
    views = {name: features(n, poses, seed + k).layers for k, name in enumerate(names, start=1)}
    thumbnails = torch.zeros(n, 4, 4, 4, dtype=torch.uint8)
    return replace(features(n, poses, seed, **options), views=views, thumbnails=thumbnails)


def resembling(train: Features, name: str, pose: int) -> Features:
    """Three queries that resemble rows 4, 7 and 21 in a view, if they take on that pose."""
    queries = seen(3, 4, seed=90)
    beside = VIEWS[name].beside
    theirs = queries.layers if beside is None else queries.views[beside]
    for layer, viewed in train.views[name].items():
        theirs[layer][pose] = viewed[0, [4, 7, 21]]
    return queries


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("pose", range(4))
def test_a_query_that_resembles_a_view_is_matched_to_its_volume_in_that_pose(name, pose):
    train = seen(40)
    queries = resembling(train, name, pose)
    found = search(Reference.fit(train, "shrunk"), queries, "geometric")
    assert found.match.tolist() == found.candidates.row[:, 0].tolist() == [4, 7, 21]
    assert found.pose.tolist() == found.candidates.pose[:, 0].tolist() == [pose] * 3
    assert found.similarity.min() > 0.999
    assert (found.consensus(found.match) == 2).all()
    others = replace(train, views={other: view for other, view in train.views.items() if other != name})
    assert search(Reference.fit(others, "shrunk"), queries, "geometric").similarity.max() < 0.99
    if VIEWS[name].beside is not None:
        plain = replace(queries, views={})
        assert search(Reference.fit(train, "shrunk"), plain, "geometric").similarity.max() < 0.99


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("pose", range(4))
def test_what_resembles_an_image_in_another_contrast_is_a_candidate_beside_the_others(name, pose):
    train = seen(40)
    queries = resembling(train, name, pose)
    found = search(Reference.fit(train, "shrunk"), queries, "geometric")
    first = 8 + SEARCH.second_poses
    assert (
        found.candidates.row.shape
        == found.candidates.by_edges.shape
        == (3, first + SEARCH.by_edges + SEARCH.second_poses)
    )
    assert found.candidates.row[:, first].tolist() == [4, 7, 21]
    assert found.candidates.pose[:, first].tolist() == [pose] * 3
    assert (
        found.candidates.by_edges.tolist() == [[False] * first + [True] * (SEARCH.by_edges + SEARCH.second_poses)] * 3
    )
    assert (found.candidates.window == -1).all()
    # What decides without verification is of the contrast of the image.
    own = replace(train, views={name: train.views[name] for name in OWN})
    plain = search(Reference.fit(own, "shrunk"), queries, "geometric")
    assert torch.equal(found.similarity, plain.similarity)
    assert plain.candidates.row.shape == (3, first)
    assert not plain.candidates.by_edges.any()


def test_every_view_has_its_own_whitening_and_rows_without_some_images_are_those_of_the_others():
    train = seen(40)
    offset = {name: {layer: 3 * f + 10 for layer, f in view.items()} for name, view in train.views.items()}
    train = replace(train, views=offset)
    reference, some = Reference.fit(train, "shrunk"), torch.arange(0, 40, 2)
    for name, view in train.views.items():
        for layer, own in view.items():
            assert torch.allclose(reference.views[name].whitenings[layer].mean, own[0].double().mean(dim=0))
    moved = reference.over(train.where(some))
    assert {name: len(view.indexes["layer0"]) for name, view in moved.views.items()} == dict.fromkeys(VIEWS, 20)
    assert search(moved, train.where(torch.tensor([6, 18])), "geometric").match.tolist() == [3, 9]
    assert reference.over(replace(train, views={})).views == {}


def repeated(train: Features) -> tuple[Features, torch.Tensor]:
    """Every other image four times more, in between, and the row of the first of each."""
    order = torch.tensor(sorted([*range(len(train)), *(4 * list(range(0, len(train), 2)))]))
    return train.where(order), torch.searchsorted(order, torch.arange(len(train)))


@pytest.mark.parametrize("make", [lambda n, poses=1, **o: with_windows(n, poses, **o), seen], ids=["windows", "views"])
def test_images_that_are_there_several_times_are_searched_once(make):
    once, queries = make(40, subjects=[f"s{i // 8}" for i in range(40)]), make(6, poses=4, seed=3)
    train, first = repeated(once)
    alone = Reference.fit(once, "shrunk")
    for reference in (
        Reference.fit(train, "shrunk"),
        Reference.fit(once.where(torch.arange(0, 40, 3)), "shrunk").over(train),
    ):
        assert reference.rows.tolist() == first.tolist()
    reference = Reference.fit(train, "shrunk")
    ours, theirs = search(reference, queries, "geometric"), search(alone, queries, "geometric")
    assert torch.equal(ours.similarity, theirs.similarity)
    assert torch.equal(ours.match, first[theirs.match])
    assert torch.equal(ours.nearest, first[theirs.nearest])
    expected = first[theirs.candidates.row].where(theirs.candidates.row >= 0, torch.tensor(-1))
    assert torch.equal(ours.candidates.row, expected)
    assert torch.equal(ours.consensus(ours.match), theirs.consensus(theirs.match))
    siblings = alone.siblings(torch.tensor([3, 39]), "geometric", 9)
    assert (siblings[:, 7:] == -1).all()
    assert torch.equal(reference.siblings(first[[3, 39]], "geometric", 9)[:, :7], first[siblings[:, :7]])
    restored = Reference.restored(train, reference.parts(), "auto", "cpu")
    assert torch.equal(restored.rows, first)
    assert torch.equal(search(restored, queries, "geometric").candidates.row, ours.candidates.row)


def test_the_same_image_of_two_subjects_and_nearly_the_same_of_one_are_searched_both():
    one = features(4, subjects=["a", "a", "b", "b"])
    other = replace(one, subjects=["c", "c", "b", "b"])
    nearly = replace(one, layers={name: layer + 1e-6 for name, layer in one.layers.items()})
    darker = replace(one, thumbnails=one.thumbnails + 1)
    both = concatenate(concatenate(one, other), concatenate(nearly, darker))
    both = replace(both, subjects=[*one.subjects, *other.subjects, *one.subjects, *one.subjects])
    assert both.distinct.tolist() == [0, 1, 2, 3, 4, 5, *range(8, 16)]
    assert replace(both, subjects=None).distinct.tolist() == [0, 1, 2, 3, *range(8, 16)]


@pytest.mark.parametrize("whitening", ["shrunk", "pca", "none"])
def test_a_reference_is_made_again_of_its_parts(whitening):
    for each in (with_windows(40, subjects=[f"s{i // 2}" for i in range(40)]), seen(40)):
        first = Reference.fit(each, whitening)
        parts = {name: part.clone() for name, part in first.parts().items()}
        second = Reference.restored(each, parts, first.backend, "cpu")
        assert (list(second.whitenings), list(second.views), second.subjects) == (
            list(first.whitenings), list(first.views), first.subjects
        )  # fmt: skip
        assert {name: (part.dtype, part.tolist()) for name, part in second.parts().items()} == {
            name: (part.dtype, part.tolist()) for name, part in parts.items()
        }
        ours, theirs = (search(one, each, "geometric") for one in (first, second))
        assert torch.equal(ours.similarity, theirs.similarity)
        assert torch.equal(ours.candidates.row, theirs.candidates.row)
        assert torch.equal(ours.candidates.by_edges, theirs.candidates.by_edges)


def test_queries_without_their_edges_are_looked_up_without():
    train, queries = seen(40), seen(5, 4, seed=90)
    drawn = {name: view for name, view in train.views.items() if VIEWS[name].recoloured and VIEWS[name].beside}
    reference = Reference.fit(replace(train, views=drawn), "shrunk")
    assert search(reference, queries, "geometric").candidates.by_edges.any()
    assert not search(reference, replace(queries, views={}), "geometric").candidates.by_edges.any()


def test_one_image_is_one_candidate_in_whatever_views_it_is_near():
    train = seen(30, subjects=[str(i) for i in range(30)])
    train = replace(train, views=dict.fromkeys(VIEWS, train.layers))
    found = search(Reference.fit(train, "none"), train.where(torch.tensor([3, 7])), "mean", candidates=6)
    for part in (found.candidates.row[:, :6], found.candidates.row[:, 6 + SEARCH.second_poses :][:, : SEARCH.by_edges]):
        for row in part.tolist():
            assert len(set(row)) == len(row)
            assert -1 not in row


def test_few_of_a_subject_are_candidates_by_edges():
    people = [str(i // 5) for i in range(40)]
    train, queries = seen(40, subjects=people), seen(6, 4, seed=90)
    found = search(Reference.fit(train, "shrunk"), queries, "mean")
    for row in found.candidates.row[:, 8 + SEARCH.second_poses :][:, : SEARCH.by_edges].tolist():
        assert len(set(row)) == SEARCH.by_edges
        assert max(sum(people[k] == one for k in row) for one in set(people)) <= SEARCH.per_subject


# Second poses


@pytest.mark.parametrize(("poses", "second", "alike"), [(4, 2, 0.9), (4, 2, 0.5), (1, 0, 0.9)])
def test_the_first_candidates_are_tried_in_a_second_pose_where_they_are_nearly_as_similar(poses, second, alike):
    train = features(60, widths=(24, 30))
    queries = rows_of(train, [5, 17, 42], poses=poses, pose=poses - 1)
    generator = torch.Generator().manual_seed(8)
    for layer, bank in train.layers.items():
        if poses > 1:  # in another pose they resemble it, too, to this cosine
            exact = bank[0, [5, 17, 42]]
            other = torch.randn(exact.shape, generator=generator) * (1 / alike**2 - 1) ** 0.5
            queries.layers[layer][second] = exact + other
    found = search(Reference.fit(train, "none"), queries, "mean")
    assert found.candidates.row[:, 0].tolist() == [5, 17, 42]
    assert found.candidates.pose[:, 0].tolist() == [poses - 1] * 3
    if poses > 1 and alike > SEARCH.second_pose_share:
        assert found.candidates.row[:, 8].tolist() == [5, 17, 42]
        assert found.candidates.pose[:, 8].tolist() == [second] * 3
    else:
        assert found.candidates.row[:, 8].tolist() == [-1] * 3


# Siblings


@pytest.mark.parametrize("aggregation", ["geometric", "mean", "minimum"])
@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_siblings_are_the_other_images_of_the_subject_most_alike_first(most, backend, aggregation):
    if backend == "faiss":
        pytest.importorskip("faiss")
    subjects = [f"s{i % 5}" for i in range(24)] + ["alone"]
    train = features(25, subjects=subjects)
    reference = Reference.fit(train, "shrunk", backend)
    own = combine(naive_cosines(reference, train, train), aggregation)[0]
    rows = [24, 3, 7, 12]
    found = reference.siblings(torch.tensor(rows), aggregation, most)
    assert found.shape == (4, most)
    for row, siblings in zip(rows, found.tolist(), strict=True):
        others = [j for j in range(25) if subjects[j] == subjects[row] and j != row]
        expected = sorted(others, key=lambda j: -own[row, j])[:most]
        assert siblings == expected + [-1] * (most - len(expected))


def test_images_of_unknown_subjects_have_no_siblings():
    reference = Reference.fit(features(10), "shrunk")
    assert (reference.siblings(torch.arange(10), "mean", 4) == -1).all()


def test_distinct_images_are_taken_out_of_the_training_set_once():
    train, _ = repeated(with_windows(40, subjects=[f"s{i // 8}" for i in range(40)]))
    assert train.once is train.once
    assert len(train.once) == 40
    assert train.once.once is train.once
    without = train.without_thumbnails()
    assert len(without) == len(train)
    assert without.thumbnails.numel() == 0
    for layer, features in without.where(train.distinct).layers.items():
        assert torch.equal(features, train.once.layers[layer])
