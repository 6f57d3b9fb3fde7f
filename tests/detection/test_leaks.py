"""What must not be on both sides, or under two ids: found, said, and kept out of the null."""

import warnings

import pytest
import torch

from mi_callback.detection.leaks import merge_identical, without_leaks
from mi_callback.errors import DataError
from mi_callback.images.thumbnails import make_thumbnails
from mi_callback.retrieval.features import Features


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
