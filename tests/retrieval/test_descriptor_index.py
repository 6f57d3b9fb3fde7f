"""Which training images does a descriptor resemble, and in which pose of the query?"""

import pytest
import torch
import torch.nn.functional as F

from mi_callback.encoders.descriptor import AS_IT_IS
from mi_callback.images.poses import POSES, descriptor_poses, orbit
from mi_callback.retrieval.candidates import Candidates
from mi_callback.retrieval.descriptor_index import DescriptorIndex
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import search


def described(n: int, poses: int, seed: int, subjects: list[str] | None = None) -> Features:
    generator = torch.Generator().manual_seed(seed)
    layers = {"all": torch.randn(max(1, poses // 2), n, 6, generator=generator)}
    vectors = F.normalize(torch.randn(poses, n, 16, generator=generator) + 0.5, dim=2)
    return Features(layers, torch.zeros(n, 4, 4, dtype=torch.uint8), subjects, None, descriptors={AS_IT_IS: vectors})


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_the_nearest_are_those_of_a_loop_over_poses_and_images(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    train, queries = described(20, 1, 0), described(5, 8, 1)
    index = DescriptorIndex.fit(train, backend, "cpu")
    rows, cosines = index.search(queries.descriptors[AS_IT_IS], 4)
    assert rows.shape == cosines.shape == (5, 8, 4)
    known = train.descriptors[AS_IT_IS][0]
    mean = known.double().mean(dim=0)
    for i in range(5):
        for pose in range(8):
            ours = queries.descriptors[AS_IT_IS][pose, i].double() - mean
            alike = [
                float(F.cosine_similarity(ours, one.double() - mean, dim=0)) for one in train.descriptors[AS_IT_IS][0]
            ]
            expected = sorted(range(20), key=lambda j: -alike[j])[:4]
            assert rows[i, pose].tolist() == expected
            assert cosines[i, pose].tolist() == pytest.approx([alike[j] for j in expected], abs=1e-5)


def test_what_was_not_described_has_no_index():
    assert DescriptorIndex.fit(described(20, 1, 0).as_they_are(), "torch", "cpu") is None


def ways(found: Candidates, query: int, row: int) -> set[tuple[str, int, bool]]:
    """Pose, window and whether by edges in which a row is a candidate of a query, no two alike."""
    places = (found.row[query] == row).nonzero().flatten().tolist()
    parts = (part[query] for part in (found.pose, found.window, found.by_edges))
    each = [
        (list(POSES)[pose], window, edges)
        for pose, window, edges in zip(*(p[places].tolist() for p in parts), strict=False)
    ]
    assert len(each) == len(set(each))
    return set(each)


def test_a_query_is_a_candidate_by_its_descriptor_in_the_pose_in_which_it_was_found():
    train, queries = described(60, 1, 0), described(3, 8, 1)
    poses = descriptor_poses(orbit("flips"))
    copied = ((7, 0), (33, 5), (51, 2))
    for i, (row, pose) in enumerate(copied):
        queries.descriptors[AS_IT_IS][pose, i] = train.descriptors[AS_IT_IS][0, row]
    found = search(Reference.fit(train, "none"), queries, "mean", candidates=2).candidates
    for i, (row, pose) in enumerate(copied):
        assert {(poses[pose], -1, False), (poses[pose], -1, True)} <= ways(found, i, row)


def test_what_resembles_an_image_in_another_look_is_a_candidate_in_that_pose():
    train, queries = described(60, 1, 0), described(2, 8, 1)
    train.descriptors["recoloured"] = described(60, 1, 5).descriptors[AS_IT_IS]
    queries.descriptors[AS_IT_IS][3, :] = train.descriptors["recoloured"][0, [4, 9]]
    found = search(Reference.fit(train, "none"), queries, "mean", candidates=2).candidates
    for i, row in enumerate((4, 9)):
        assert (descriptor_poses(orbit("flips"))[3], -1, True) in ways(found, i, row)


def test_what_was_found_otherwise_is_aligned_by_its_edges_too():
    train, queries = described(60, 1, 0), described(2, 8, 1)
    queries.layers["all"][1] = train.layers["all"][0, [4, 9]]
    found = search(Reference.fit(train, "none"), queries, "mean", candidates=2).candidates
    for i, row in enumerate((4, 9)):
        assert {("flip_horizontal", -1, False), ("flip_horizontal", -1, True)} <= ways(found, i, row)


def test_no_candidate_comes_twice():
    row = torch.tensor([[3, 5, 3, 3, 5, -1, -1]])
    pose = torch.tensor([[0, 1, 0, 2, 1, 0, 0]])
    whole = Candidates.of_kind(row, pose)
    assert whole.once().row.tolist() == [[3, 5, -1, 3, -1, -1, -1]]
    both = whole.beside(whole.by_their_edges(), Candidates.of_kind(row, pose, window=torch.full_like(row, 4))).once()
    assert both.row.tolist() == [[3, 5, -1, 3, -1, -1, -1] * 3]
    assert both.by_edges.sum() == 7
    assert whole.first(2).row.tolist() == [[3, 5]]


def test_where_one_side_was_not_described_nothing_is_found_by_descriptors():
    train, queries = described(20, 1, 0), described(3, 8, 1)
    without = search(Reference.fit(train.as_they_are(), "none"), queries, "mean", candidates=2).candidates
    assert without.row.shape[1] == 4  # each in a second pose too
    assert not without.by_edges.any()
