"""What must not be on both sides, or under two ids: found, said, and kept out of the null."""

import warnings

import pytest
import torch

from mi_callback.detection.leaks import merge_identical, without_leaks
from mi_callback.errors import DataError
from mi_callback.images.thumbnails import make_thumbnails
from mi_callback.retrieval.features import Features
from mi_callback.statistics.outliers import copies_in_null, few_enough, suspects
from mi_callback.statistics.subjects import merge_subjects


def features(thumbnails: torch.Tensor, subjects: list[str] | None = None) -> Features:
    return Features({"layer": torch.rand(1, len(thumbnails), 4)}, thumbnails, subjects, None)


def pictures(n: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 255, (n, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_subjects_that_share_an_image_become_one_through_any_chain():
    a, b, c, d = pictures(4, 0)
    thumbnails = torch.stack([a, b, b, c, c, d])
    merged = merge_identical(features(thumbnails, ["1", "1", "2", "2", "3", "4"]))
    assert len(set(merged[:5])) == 1
    assert merged[5] not in merged[:5]
    assert len(set(merge_identical(features(pictures(6, 1))))) == 6


def test_people_on_both_sides_are_left_out_with_all_their_images_and_named_by_position():
    train = features(pictures(5, 0), list("abcde"))
    shared_image = train.thumbnails[4].flip(-1)  # mirrored: still that image
    others = pictures(6, 1)
    held_out = features(
        torch.stack([others[0], others[1], shared_image, *others[3:]]), ["x", "secret", "x", "d", "y", "z"]
    )
    with pytest.warns(UserWarning, match=r"1 of 6 held-out images .* 1 held-out subjects .* held-out image 2") as said:
        left = without_leaks(train, held_out)
    assert left.subjects == ["secret", "y", "z"]
    assert "secret" not in str(said[0].message)
    assert torch.equal(left.thumbnails, held_out.thumbnails[[1, 4, 5]])


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-3,), (-1, -3), (-1, -2, -3)])
def test_a_flipped_training_volume_among_the_held_out_ones_is_left_out(axes):
    train = features(pictures(40, 0).view(5, 8, 8, 8))
    others = pictures(32, 1).view(4, 8, 8, 8)
    held_out = features(torch.cat([others[:2], train.thumbnails[3:4].flip(axes), others[2:]]))
    with pytest.warns(UserWarning, match=r"1 of 5 held-out images .* held-out image 2"):
        left = without_leaks(train, held_out)
    assert torch.equal(left.thumbnails, others)


@pytest.mark.parametrize("shape", [(61, 61), (20, 26, 22), (35, 51, 36)])
def test_a_flipped_image_is_the_same_but_for_rounding(shape, generator):
    images = torch.rand(6, 1, *shape, generator=generator)
    side = 33 if len(shape) == 2 else 24
    flips = [tuple(range(-k, 0)) for k in range(1, len(shape) + 1)]
    train = features(make_thumbnails(images, side))
    held_out = features(
        torch.cat([make_thumbnails(images[k : k + 1].flip(axes), side) for k, axes in enumerate(flips)])
    )
    rounded = held_out.thumbnails.clone()
    for k in range(len(flips)):
        rounded[k].flatten()[::97] += 1 - 2 * (rounded[k].flatten()[::97] > 128).to(torch.uint8)
    others = features(make_thumbnails(torch.rand(3, 1, *shape, generator=generator), side))
    for mixed in (held_out.thumbnails, rounded):
        with pytest.warns(UserWarning, match=f"{len(flips)} of {len(flips) + 3} held-out images"):
            left = without_leaks(train, features(torch.cat([mixed, others.thumbnails])))
        assert torch.equal(left.thumbnails, others.thumbnails)


def test_nothing_is_left_out_or_said_of_disjoint_sides():
    train, held_out = features(pictures(5, 0), list("abcde")), features(pictures(3, 1), ["x", "y", "z"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert without_leaks(train, held_out) is held_out


def test_without_ids_only_the_identical_images_are_left_out():
    train = features(pictures(5, 0))
    held_out = features(torch.cat([train.thumbnails[1:3], pictures(4, 1)]))
    with pytest.warns(UserWarning, match="2 of 6"):
        assert len(without_leaks(train, held_out)) == 4


def test_a_held_out_set_of_training_people_is_refused():
    train = features(pictures(5, 0), list("abcde"))
    with pytest.raises(DataError, match=r"nothing is left\. Split by subject"):
        without_leaks(train, features(pictures(4, 1), list("abca")))


def test_patients_under_another_id_stand_out_of_the_null(generator):
    similarity = 0.6 + 0.05 * torch.randn(60, generator=generator, dtype=torch.float64)
    similarity[[7, 31]] = 0.97
    assert copies_in_null(similarity).nonzero().flatten().tolist() == [7, 31]
    who, people = suspects(similarity, [f"s{i // 3}" for i in range(60)])
    assert who.nonzero().flatten().tolist() == [6, 7, 8, 30, 31, 32]
    assert people == 2
    who, people = suspects(similarity, None)
    assert who.nonzero().flatten().tolist() == [7, 31]
    assert people == 2


@pytest.mark.parametrize("centre", [0.3, 0.6, 0.95])
def test_people_who_merely_look_alike_are_not_suspected(centre):
    # Normal on Fisher's scale: beyond six robust deviations with a probability of 1e-9.
    z = torch.atanh(torch.tensor(centre)) + 0.2 * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    who, people = suspects(z.tanh(), None)
    assert people == 0
    assert not who.any()


@pytest.mark.parametrize(("people", "total", "few"), [(1, 5, True), (2, 150, False), (2, 200, True), (11, 1000, False)])
def test_one_person_or_one_in_a_hundred_may_be_left_out(people, total, few):
    assert few_enough(people, total) is few


def test_of_a_small_null_nothing_can_be_told():
    assert not copies_in_null(torch.tensor([0.1] * 8 + [0.99])).any()


def test_linked_subjects_become_one():
    assert len(set(merge_subjects(list("abcd"), [("a", "b"), ("c", "b")]))) == 2
    assert merge_subjects(list("abab"), []) == list("abab")
