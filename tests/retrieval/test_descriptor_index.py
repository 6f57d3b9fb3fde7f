"""Which training images does a descriptor resemble, and in which pose of the query?"""

import pytest
import torch
import torch.nn.functional as F

from mi_callback.encoders.descriptor import AS_IT_IS
from mi_callback.images.poses import POSES, descriptor_poses, orbit
from mi_callback.retrieval.config import SEARCH
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


def test_a_query_is_a_candidate_by_its_descriptor_in_the_pose_in_which_it_was_found():
    train, queries = described(20, 1, 0), described(3, 8, 1)
    for i, (row, pose) in enumerate(((7, 0), (3, 5), (11, 2))):
        queries.descriptors[AS_IT_IS][pose, i] = train.descriptors[AS_IT_IS][0, row]
    found = search(Reference.fit(train, "none"), queries, "mean", candidates=2).candidates
    width = SEARCH.by_descriptor + SEARCH.second_poses
    poses = descriptor_poses(orbit("flips"))
    for i, (row, pose) in enumerate(((7, 0), (3, 5), (11, 2))):
        for start, by_edges in ((-2 * width, False), (-width, True)):
            assert int(found.row[i, start]) == row
            assert int(found.pose[i, start]) == list(POSES).index(poses[pose])
            assert bool(found.by_edges[i, start]) == by_edges
            assert int(found.window[i, start]) == -1


def test_what_resembles_an_image_in_another_contrast_is_a_candidate_in_that_pose():
    train, queries = described(20, 1, 0), described(2, 8, 1)
    train.descriptors["recoloured"] = described(20, 1, 5).descriptors[AS_IT_IS]
    queries.descriptors[AS_IT_IS][3, :] = train.descriptors["recoloured"][0, [4, 9]]
    found = search(Reference.fit(train, "none"), queries, "mean", candidates=2).candidates
    width = SEARCH.by_descriptor + SEARCH.second_poses
    assert found.row[:, -width].tolist() == [4, 9]
    assert found.pose[:, -width].tolist() == [list(POSES).index(descriptor_poses(orbit("flips"))[3])] * 2


def test_where_one_side_was_not_described_nothing_is_found_by_descriptors():
    train, queries = described(20, 1, 0), described(3, 8, 1)
    without = search(Reference.fit(train.as_they_are(), "none"), queries, "mean", candidates=2).candidates
    assert without.row.shape[1] == 4  # each in a second pose too
    assert not without.by_edges.any()
