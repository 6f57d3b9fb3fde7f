"""A query is found by its features and decided by its registration."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mi_callback.detection.matching import Matcher
from mi_callback.encoders.descriptor import AS_IT_IS
from mi_callback.images.perturbations.geometric import affine
from mi_callback.images.poses import POSES, orbit
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from mi_callback.registration.config import LNCC_LEVELS
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference

SIDE = THUMBNAIL_SIDE[2]

ORBIT = orbit("flips")
ALIKE = LNCC_LEVELS.index(0.9)


def people(n: int) -> torch.Tensor:
    """Smooth random images `(n, 1, 48, 48)` with dark borders."""
    coarse = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    axis = torch.linspace(-1, 1, 48)
    outline = (axis[:, None] ** 2 + axis**2 < 0.8).float()
    return (0.2 + F.interpolate(coarse, (48, 48), mode="bicubic").clamp_min(0)) * outline


def features(images: torch.Tensor, vectors: torch.Tensor) -> Features:
    """Images with made-up features `(poses, n, d)`."""
    return Features({"all": vectors}, make_thumbnails(images, SIDE), None, None)


def matcher(**options) -> Matcher:
    settings = {"aggregation": "geometric", "candidates": 4, "verify": True}
    return Matcher(**(settings | options), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def case() -> tuple[Features, Reference, Features]:
    """Five training images, and a moved and flipped copy of row 2 whose features look more like those of row 4."""
    images, vectors = people(5), torch.eye(5)
    train = features(images, vectors[None])
    copy = affine(images[2:3], rotation=4.0, shift_x=0.02).flip(-1)
    query = torch.full((4, 1, 5), -1.0)
    query[0, 0] = vectors[4] + 0.2 * vectors[1]
    query[ORBIT.index("flip_horizontal"), 0] = 0.5 * vectors[2] + 0.4 * vectors[3]
    return train, Reference.fit(train, "none"), features(copy, query)


def test_the_best_aligned_candidate_is_the_match(case):
    train, reference, query = case
    found = matcher()(query, reference, train.thumbnails)
    assert found.neighbours.match.tolist() == [4]
    assert found.row.tolist() == [2]
    assert list(POSES)[int(found.pose)] == "flip_horizontal"
    assert found.similarity.dtype == torch.float64
    assert float(found.verified) > 0.9
    assert float(found.shares[0, ALIKE]) > 0.7
    assert torch.equal(found.similarity, found.verified)


def test_without_verification_the_features_decide_and_nothing_is_said_about_alignment(case):
    train, reference, query = case
    found = matcher(verify=False)(query, reference, train.thumbnails)
    assert (int(found.row), int(found.pose)) == (4, 0)
    assert torch.equal(found.similarity, found.neighbours.similarity)
    assert found.verified.isnan().all()
    assert found.shares.isnan().all()


def test_what_is_no_candidate_is_not_aligned(case):
    train, reference, query = case
    found = matcher(candidates=1)(query, reference, train.thumbnails)
    assert int(found.row) == 4
    assert float(found.shares[0, ALIKE]) < 0.7


def test_fewer_training_images_than_candidates_are_no_problem(case):
    train, _, query = case
    two = train.where(torch.tensor([0, 2]))
    found = matcher(candidates=8)(query, Reference.fit(two, "none"), two.thumbnails)
    assert int(found.row) == 1
    assert (found.neighbours.candidates.row[0, :8] == -1).sum() == 6


def test_a_batch_is_matched_as_its_queries_one_by_one(case):
    train, reference, query = case
    other = features(people(5)[:1], torch.eye(5)[0].expand(4, 1, 5))
    both = Features({"all": torch.cat([query.layers["all"], other.layers["all"]], dim=1)},
                    torch.cat([query.thumbnails, other.thumbnails]), None, None)  # fmt: skip
    together = matcher()(both, reference, train.thumbnails)
    for i, one in enumerate((query, other)):
        alone = matcher()(one, reference, train.thumbnails)
        assert (int(alone.row), int(alone.pose)) == (int(together.row[i]), int(together.pose[i]))
        assert float(alone.verified) == pytest.approx(float(together.verified[i]), abs=1e-4)
    assert together.row.tolist() == [2, 0]


@pytest.fixture(scope="module")
def part() -> tuple[Features, Reference, Features]:
    """Eight training images, and a query whose whole looks like row 0 and of which a mirrored window is from row 5."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(9, 1, 14, 14, generator=generator)
    images = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    mixed = images[8:].clone()
    half = SIDE // 2
    mixed[..., half:, half:] = affine(images[5:6], rotation=5.0, shift_x=0.03)[..., half:, half:]  # window 8
    train = features(images[:8], torch.eye(8)[None])
    train.windows["all"] = torch.randn(1, 8, 9, 12, generator=generator).half()
    vectors = torch.full((4, 1, 8), -1.0)
    vectors[0, 0, 0] = 1.0
    query = features(mixed.flip(-1), vectors)
    windows = torch.randn(4, 1, 9, 12, generator=generator)
    windows[ORBIT.index("flip_horizontal"), 0, 8] = train.windows["all"][0, 5, 7].float()
    query.windows["all"] = windows.half()
    return train, Reference.fit(train, "none"), query


def test_a_copied_part_is_matched_with_its_window_and_pose(part):
    train, reference, query = part
    found = matcher(candidates=2)(query, reference, train.thumbnails)
    assert (int(found.row), int(found.window)) == (5, 8)
    assert list(POSES)[int(found.pose)] == "flip_horizontal"
    assert float(found.verified) > 0.95
    assert 0.1 < float(found.shares[0, ALIKE]) < 0.5


def test_without_regions_the_copied_part_is_not_looked_up(part):
    train, _, query = part
    plain = Features(train.layers, train.thumbnails, None, None)
    found = matcher(candidates=2)(query, Reference.fit(plain, "none"), train.thumbnails)
    assert int(found.window) == -1
    assert found.neighbours.candidates.row.shape == (1, 4)  # each in a second pose too
    assert (found.neighbours.candidates.window == -1).all()


def test_without_verification_no_window_decides(part):
    train, reference, query = part
    found = matcher(verify=False)(query, reference, train.thumbnails)
    assert (int(found.row), int(found.window)) == (0, -1)


@pytest.fixture(scope="module")
def slices() -> tuple[Features, Features]:
    """Ten slices of each of three people, which share anatomy; a moved copy of row 17 that looks like row 15."""
    generator = torch.Generator().manual_seed(2)
    shared, own = (torch.rand(n, 1, 14, 14, generator=generator) for n in (3, 30))
    images = F.interpolate(0.6 * shared.repeat_interleave(10, 0) + 0.4 * own, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    train = features(images, torch.randn(1, 30, 16, generator=generator))
    train = replace(train, subjects=[f"s{i // 10}" for i in range(30)])
    copy = affine(images[17:18], rotation=4.0, shift_x=0.05)
    return train, features(copy, train.layers["all"][:, 15:16])


def test_a_slice_that_retrieval_missed_is_found_among_the_siblings_of_the_best(slices):
    train, query = slices
    found = matcher(candidates=1)(query, Reference.fit(train, "none"), train.thumbnails)
    assert found.neighbours.candidates.row[0, 0] == 15
    assert 17 not in found.neighbours.candidates.row[0].tolist()
    assert int(found.row) == 17
    assert float(found.verified) > 0.97
    assert float(found.shares[0, ALIKE]) > 0.7


def test_a_candidate_far_down_the_list_is_searched_and_aligned_if_it_agrees(slices):
    train, query = slices
    train = replace(train, subjects=None)
    # Of unlike vectors the copied row's is the eleventh by similarity.
    alike = torch.tensor([0.1] * 30)
    alike[:10], alike[17] = torch.linspace(0.9, 0.5, 10), 0.4
    vectors = torch.cat([torch.eye(30) * (1 - alike.square()).sqrt(), alike[:, None]], dim=1)
    train = replace(train, layers={"all": vectors[None]})
    query = replace(query, layers={"all": F.pad(torch.ones(1, 1, 1), (30, 0))})
    reference = Reference.fit(train, "none")
    few, more = (matcher(candidates=count)(query, reference, train.thumbnails) for count in (4, 12))
    assert 17 not in few.neighbours.candidates.row[0].tolist()
    assert more.neighbours.candidates.row[0].tolist().index(17) == 10
    assert int(more.row) == 17
    assert float(more.verified) > 0.97


def test_of_unknown_people_only_the_candidates_are_aligned(slices):
    train, query = slices
    train = replace(train, subjects=None)
    found = matcher(candidates=1)(query, Reference.fit(train, "none"), train.thumbnails)
    assert int(found.row) == 15
    assert float(found.verified) < 0.95


@pytest.fixture(scope="module")
def recoloured() -> tuple[torch.Tensor, Features, Features]:
    """Eight training images with descriptors, and a moved copy of row 5 in another contrast."""
    generator = torch.Generator().manual_seed(3)
    labels = F.interpolate(torch.rand(8, 1, 10, 10, generator=generator), (SIDE, SIDE), mode="bicubic")
    images = labels.clamp(0, 1).mul(4).round() / 4
    train = replace(features(images, torch.eye(8)[None]), descriptors={AS_IT_IS: torch.eye(8)[None]})
    copy = affine(1 - (2 * images[5:6] - 1).abs(), rotation=4.0)
    vectors = torch.eye(8)[0].expand(1, 1, 8)
    return images, train, replace(features(copy, vectors), descriptors={AS_IT_IS: torch.eye(8)[5].expand(2, 1, 8)})


def test_a_copy_in_another_contrast_is_found_by_its_edges_and_compared_under_a_curve(recoloured):
    _, train, query = recoloured
    found = matcher(candidates=1)(query, Reference.fit(train, "none"), train.thumbnails)
    assert (int(found.row), bool(found.by_edges)) == (5, True)
    assert float(found.verified) > 0.95
    plain = replace(train, descriptors={})
    without = matcher(candidates=1)(query, Reference.fit(plain, "none"), train.thumbnails)
    assert not without.by_edges.any()
    assert float(without.verified) < 0.9


def test_siblings_of_what_was_found_by_edges_are_compared_under_a_curve_too(recoloured):
    images, train, query = recoloured
    # Row 6 is another slice of that person and found by its edges; the copied one is a candidate by grey values alone.
    images = torch.cat([images[:6], 0.75 * images[5:6] + 0.25 * images[6:7], images[7:]])
    train = replace(train, thumbnails=make_thumbnails(images, SIDE), subjects=[f"s{i // 4}" for i in range(8)])
    found_by = torch.eye(8)
    found_by[5] = -1.0
    train = replace(train, descriptors={AS_IT_IS: found_by[None]})
    grey, described = torch.eye(8)[5].expand(1, 1, 8), torch.eye(8)[6].expand(2, 1, 8)
    query = replace(query, layers={"all": grey}, descriptors={AS_IT_IS: described})
    found = matcher(candidates=1)(query, Reference.fit(train, "none"), train.thumbnails)
    assert (int(found.row), bool(found.by_edges)) == (5, True)
    assert float(found.verified) > 0.95
