"""Training and held-out images in one reference: who is who, how many images each, and that nothing tells the sides."""

from collections import Counter

import pytest
import torch

from mi_callback.detection.pool import Pool
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.search import search


def features(subjects: list[str] | None, n: int | None = None, poses: int = 1, seed: int = 0) -> Features:
    n = len(subjects) if subjects is not None else n
    generator = torch.Generator().manual_seed(seed)
    return Features(
        {f"layer{i}": torch.randn(poses, n, d, generator=generator) for i, d in enumerate((6, 9))},
        torch.randint(256, (n, 4, 4), generator=generator, dtype=torch.uint8),
        subjects,
        None,
    )


def people(prefix: str, slices: list[int], **options) -> Features:
    return features([f"{prefix}{g}" for g, size in enumerate(slices) for _ in range(size)], **options)


def fit_reference(images: Features) -> Reference:
    return Reference.fit(images, "shrunk")


def origin(pool: Pool, sides: tuple[Features, Features]) -> list[tuple[int, int]]:
    """Side and row in it of every image of the pool, found by its pixels."""
    rows = {image.numpy().tobytes(): (s, i) for s, side in enumerate(sides) for i, image in enumerate(side.thumbnails)}
    return [rows[image.numpy().tobytes()] for image in pool.images.thumbnails]


# Definition


def test_every_image_is_labelled_with_its_subject_and_every_subject_with_its_side():
    sides = people("a", [3, 2, 3]), people("b", [2, 3], seed=1)
    pool = Pool.of(*sides, fit_reference, seed=0)
    assert len(pool.images) == len(pool.subject)
    assert pool.trained.tolist() == [True] * 3 + [False] * 2
    names: dict[int, str] = {}
    for image, (side, row) in enumerate(origin(pool, sides)):
        number = int(pool.subject[image])
        assert bool(pool.trained[number]) == (side == 0)
        assert names.setdefault(number, sides[side].subjects[row]) == sides[side].subjects[row]
        for layer, bank in sides[side].layers.items():
            assert torch.equal(pool.images.layers[layer][0, image], bank[0, row])
    assert sorted(names.values()) == ["a0", "a1", "a2", "b0", "b1"]


def test_the_reference_is_fitted_on_the_images_of_the_pool():
    seen = []
    pool = Pool.of(people("a", [5, 5]), people("b", [2, 2]), lambda images: seen.append(images) or "reference", seed=0)
    assert pool.reference == "reference"
    assert seen == [pool.images]


def naive_shown(own: list[int], other: list[int]) -> list[int]:
    """Images that subjects of one side show: no more than the subject at the same quantile of the other side has."""
    own, other = sorted(own), sorted(other)
    at_quantile = [other[int((place + 0.5) / len(own) * len(other))] for place in range(len(own))]
    return [min(pair) for pair in zip(own, at_quantile, strict=True)]


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ([17, 9, 4], [4, 4, 1]),
        ([2, 1, 2], [8, 8, 8]),
        ([5, 1, 9, 3, 3], [2, 7, 1]),
        ([1] * 7, [30]),
        ([6, 2, 2, 9, 1, 4, 4], [3, 5, 1, 8, 2]),
    ],
)
def test_subjects_of_one_side_show_no_more_images_than_those_of_the_same_quantile_of_the_other(train, held_out):
    pool = Pool.of(people("a", train), people("b", held_out, seed=1), fit_reference, seed=0)
    counts = Counter(pool.subject.tolist())
    shown = [counts[i] for i in range(len(pool.trained))]
    assert sorted(shown[: len(train)]) == naive_shown(train, held_out)
    assert sorted(shown[len(train) :]) == naive_shown(held_out, train)


# Promise


def test_people_of_either_side_are_shown_alike_though_few_held_out_ones_have_many_images():
    # Most of a subject is 17 on both sides: a common cap would leave the training side with far more images.
    pool = Pool.of(people("a", [17] * 15), people("b", [17] + [4] * 14, seed=1), fit_reference, seed=0)
    counts = Counter(pool.subject.tolist())
    assert sorted(counts[i] for i in range(15)) == sorted(counts[i] for i in range(15, 30)) == [4] * 14 + [17]


def test_images_left_out_are_drawn_at_random_and_reproducibly():
    sides = people("a", [20] * 10), people("b", [2] * 10, seed=1)
    drawn = [origin(Pool.of(*sides, fit_reference, seed=seed), sides) for seed in (0, 0, *range(1, 40))]
    assert drawn[0] == drawn[1] != drawn[2]
    # 400 subjects drawn from, two of twenty slices each: Binomial(800, 1 / 20) has standard deviation 6.2.
    places = Counter(row % 20 for rows in drawn[1:] for side, row in rows if side == 0)
    assert sum(places.values()) == 800
    assert all(abs(places[place] - 40) < 5 * 6.2 for place in range(20))


@pytest.mark.parametrize("ids", ["the same", "none on one side", "none", "those that unknown ones get"])
def test_people_of_different_sides_are_different_whatever_they_are_called(ids):
    names = ["p0", "p0", "p1"] if ids == "the same" else ["0", "0", "1"]
    first = features(None if ids.startswith("none") else names, 3)
    second = features(names if ids in ("the same", "none on one side") else None, 3, seed=1)
    pool = Pool.of(first, second, fit_reference, seed=0)
    by_subject = {number: set(pool.trained[[number]].tolist()) for number in pool.subject.tolist()}
    assert set(by_subject) == set(range(len(pool.trained)))
    sides = [side for side, _ in origin(pool, (first, second))]
    assert [bool(pool.trained[number]) for number in pool.subject.tolist()] == [side == 0 for side in sides]
    # One image per subject where one side has no more; ids that say two images are one person are heeded.
    expected = {"the same": (2, 2), "none on one side": (3, 2), "none": (3, 3), "those that unknown ones get": (2, 3)}
    assert (int(pool.trained.sum()), int((~pool.trained).sum())) == expected[ids]


@pytest.mark.parametrize("seed", range(3))
def test_a_search_cannot_tell_the_sides_apart(seed):
    sides = people("a", [7, 3, 5, 1]), people("b", [2, 2, 2], seed=seed + 1)
    queries = features(None, 40, poses=2, seed=seed + 50)
    plain, swapped = Pool.of(*sides, fit_reference, seed), Pool.of(*sides[::-1], fit_reference, seed)
    assert torch.equal(plain.trained, ~swapped.trained.roll(4))
    found, again = (search(pool.reference, queries, "geometric") for pool in (plain, swapped))
    of_plain, of_swapped = origin(plain, sides), [(1 - side, row) for side, row in origin(swapped, sides[::-1])]
    assert [of_plain[i] for i in found.match.tolist()] == [of_swapped[i] for i in again.match.tolist()]
    torch.testing.assert_close(found.similarity, again.similarity, atol=1e-5, rtol=0)
    assert {side for side, _ in (of_plain[i] for i in found.match.tolist())} == {0, 1}


def test_images_are_pooled_as_they_came():
    pool = Pool.of(people("a", [2, 2], poses=4), people("b", [2, 2], poses=1, seed=1), fit_reference, seed=0)
    assert all(bank.shape[:2] == (1, 8) for bank in pool.images.layers.values())
