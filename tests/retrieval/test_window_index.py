"""Windows of training images are found by windows of a query."""

import numpy as np
import pytest
import torch

from mi_callback.images.windows import WINDOWS
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.window_index import WindowIndex

pytestmark = pytest.mark.numeric


def with_windows(n: int, poses: int = 1, seed: int = 0, widths=(5, 8), missing: float = 0.3) -> Features:
    """Made-up features of images and of their windows, of which a share is background."""
    generator = torch.Generator().manual_seed(seed)
    whole = {f"layer{i}": torch.randn(poses, n, d, generator=generator) for i, d in enumerate(widths)}
    background = torch.rand(poses, n, WINDOWS, 1, generator=generator) < missing
    parts = {
        layer: torch.randn(poses, n, WINDOWS, features.shape[2], generator=generator)
        .half()
        .masked_fill(background, torch.nan)
        for layer, features in whole.items()
    }
    return Features(whole, torch.zeros(n, 4, 4, dtype=torch.uint8), None, None, parts)


def fit(train: Features, whitening="shrunk", backend="torch") -> WindowIndex:
    found = WindowIndex.fit(train, whitening, backend, "cpu")
    assert found is not None
    return found


def naive(
    fitted: WindowIndex, train: Features, queries: Features, pose: int, i: int, window: int
) -> dict[tuple, float]:
    """Mean cosine of one window of a query with every window of every training image that shows anatomy."""

    def whitened(features: Features, pose: int, i: int, window: int) -> list[np.ndarray]:
        vectors = []
        for layer, whitening in fitted.whitenings.items():
            vector = features.windows[layer][pose, i, window].double().numpy() - whitening.mean.numpy()
            vector = vector @ whitening.matrix.numpy()
            vectors.append(vector / np.linalg.norm(vector))
        return vectors

    ours = whitened(queries, pose, i, window)
    return {
        (j, other): float(np.mean([a @ b for a, b in zip(ours, whitened(train, 0, j, other), strict=True)]))
        for j in range(len(train))
        for other in range(WINDOWS)
        if not train.windows["layer0"][0, j, other].isnan().any()
    }


# Definition


@pytest.mark.parametrize("whitening", ["shrunk", "standard", "none"])
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_search_is_the_naive_loop_over_poses_and_windows(backend, whitening):
    if backend == "faiss":
        pytest.importorskip("faiss")
    train, queries, k = with_windows(7), with_windows(3, poses=2, seed=1), 4
    fitted = fit(train, whitening, backend)
    rows, cosines = fitted.search(queries, k)
    assert rows.shape == cosines.shape == (3, 2, WINDOWS, k)
    background = 0
    for i in range(3):
        for pose in range(2):
            for window in range(WINDOWS):
                if queries.windows["layer0"][pose, i, window].isnan().any():
                    assert (cosines[i, pose, window] == -torch.inf).all()
                    background += 1
                    continue
                best = sorted(naive(fitted, train, queries, pose, i, window).items(), key=lambda item: -item[1])[:k]
                assert cosines[i, pose, window].tolist() == pytest.approx([cosine for _, cosine in best], abs=1e-5)
                assert rows[i, pose, window].tolist() == [j for (j, _), _ in best]
    assert 0 < background < 3 * 2 * WINDOWS


def test_whitening_is_fitted_on_windows_of_training_images_in_pose_0_alone():
    train = with_windows(9, poses=2)
    fitted = fit(train, "none")
    for layer, features in train.windows.items():
        windows = features[0][~features[0].isnan().any(dim=-1)].double()
        torch.testing.assert_close(fitted.whitenings[layer].mean, windows.mean(dim=0))
    assert len(fitted.index) == len(fitted.rows) == len(windows)


# Promise


def test_a_window_is_found_by_its_copy_in_any_window_and_pose():
    train, queries = with_windows(30, widths=(16, 24)), with_windows(1, poses=4, seed=1, widths=(16, 24), missing=0.0)
    row = int((~train.windows["layer0"][0, :, 6, 0].isnan()).nonzero()[3])
    for layer, features in queries.windows.items():
        features[2, 0, 1] = train.windows[layer][0, row, 6]
    rows, cosines = fit(train).search(queries, 3)
    best = int(cosines[0].flatten().argmax())
    assert float(cosines[0].flatten()[best]) == pytest.approx(1, abs=1e-5)
    assert divmod(best, WINDOWS * 3) == (2, 1 * 3)  # pose, and the first hit of its window
    assert int(rows[0].flatten()[best]) == row


def test_fewer_training_windows_than_hits_leave_the_rest_empty():
    train, queries, k = with_windows(3, missing=0.8, seed=2), with_windows(2, seed=1), 40
    windows = int((~train.windows["layer0"][0, ..., 0].isnan()).sum())
    assert 2 <= windows < k
    rows, cosines = fit(train).search(queries, k)
    there = ~queries.windows["layer0"][0, ..., 0].isnan()
    found = cosines.view(2, WINDOWS, k).isfinite()
    assert torch.equal(found.sum(dim=2), windows * there)
    assert found[there][:, :windows].all()  # the best ones first
    assert ((rows >= 0) & (rows < 3)).all()


def test_a_query_of_background_alone_finds_nothing():
    queries = with_windows(2, seed=1)
    for features in queries.windows.values():
        features[:, 1] = torch.nan
    _, cosines = fit(with_windows(7)).search(queries, 3)
    assert cosines[0].isfinite().any()
    assert (cosines[1] == -torch.inf).all()
    _, alone = fit(with_windows(7)).search(queries.where(torch.tensor([1])), 3)
    assert (alone == -torch.inf).all()


def test_a_batch_is_searched_as_its_queries_one_by_one():
    queries, fitted = with_windows(4, poses=2, seed=1), fit(with_windows(7))
    rows, cosines = fitted.search(queries, 3)
    for i in range(4):
        alone, cosine = fitted.search(queries.where(torch.tensor([i])), 3)
        assert torch.equal(alone[0], rows[i])
        assert torch.allclose(cosine[0], cosines[i], atol=1e-6)


def test_other_images_are_searched_under_the_whitening_fitted_before():
    train, other = with_windows(9), with_windows(5, seed=3)
    fitted = fit(train)
    moved = WindowIndex.of(other, fitted.whitenings, "torch")
    assert moved.whitenings is fitted.whitenings
    rows, cosines = moved.search(other, 1)
    there = ~other.windows["layer0"][0, ..., 0].isnan()
    assert torch.equal(rows.view(5, WINDOWS)[there], torch.arange(5)[:, None].expand(5, WINDOWS)[there])
    assert torch.allclose(cosines.view(5, WINDOWS)[there], torch.ones(int(there.sum())), atol=1e-5)


def found_in(weights: dict[int, float], other: float = 0.1, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Hits of one query in one pose: row 5 is found by these windows, row 9 by all of them, less and less."""
    rows, cosines = torch.full((1, 1, WINDOWS, k), 9), torch.linspace(other, 0.0, k).repeat(1, 1, WINDOWS, 1)
    for window, cosine in weights.items():
        rows[0, 0, window, 0], cosines[0, 0, window, 0] = 5, cosine
    return rows, cosines


@pytest.mark.parametrize(
    ("weights", "window"),
    [
        ({4: 1.0}, 4),
        ({8: 0.62, 5: 0.6, 7: 0.58, 4: 0.54, 6: 0.53, 3: 0.52, 0: 0.5, 1: 0.5, 2: 0.5}, 4),  # the middle was copied
        ({0: 0.8, 3: 0.8, 6: 0.8, 1: 0.5, 4: 0.5, 7: 0.5}, 3),  # the left half
        ({2: 0.9, 1: 0.5, 5: 0.5, 4: 0.3}, 2),  # a corner
        ({2: 0.9, 6: 0.2}, 2),  # one by chance
        ({7: 1e-6}, 7),
    ],
)
def test_the_copy_is_in_the_middle_of_the_windows_that_found_it(weights, window):
    rows, cosines = found_in(weights)
    chosen, poses = torch.tensor([[5, -1]]), torch.tensor([[0, 0]])
    assert WindowIndex.locate(rows, cosines, chosen, poses).tolist() == [[window, -1]]


def test_windows_that_found_nothing_and_hits_in_other_poses_do_not_move_the_middle():
    rows, cosines = (torch.cat(both, dim=1) for both in zip(found_in({2: 0.9}), found_in({6: 0.9}), strict=True))
    cosines[0, 0, 7] = -torch.inf
    found = WindowIndex.locate(rows, cosines, torch.tensor([[5, 5]]), torch.tensor([[0, 1]]))
    assert found.tolist() == [[2, 6]]


# Refusal: nothing to look up


def test_without_windows_there_is_nothing_to_fit():
    train = with_windows(5)
    assert WindowIndex.fit(Features(train.layers, train.thumbnails, None, None), "shrunk", "torch", "cpu") is None
    assert WindowIndex.fit(with_windows(5, missing=1.1), "shrunk", "torch", "cpu") is None


def test_one_window_is_too_few_to_whiten():
    train = with_windows(5, missing=1.1)
    for features in train.windows.values():
        features[0, 2, 4] = torch.randn(features.shape[-1], generator=torch.Generator().manual_seed(0))
    assert WindowIndex.fit(train, "shrunk", "torch", "cpu") is None
