"""Where ids may not tell people apart that is said, by counts and without the ids; where they do nothing is."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from mi_callback.detection.leaks import without_leaks
from mi_callback.detection.people import neighbours_alike, warn_of_ids
from mi_callback.errors import DataError
from mi_callback.images.subjects.ids import settle
from mi_callback.retrieval.features import Features


def thumbnails(n, seed=0):
    noise = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (96, 96), mode="bicubic").clamp(0, 1).mul(255).to(torch.uint8)[:, 0]


def slices(people, each, seed=0):
    """Slices in order: each person moves from one image to another."""
    ends = thumbnails(2 * people, seed).float().unflatten(0, (people, 2))
    weight = torch.linspace(0, 1, each).view(1, each, 1, 1)
    return ((1 - weight) * ends[:, :1] + weight * ends[:, 1:]).flatten(0, 1).to(torch.uint8)


def features(images, subjects=None):
    return Features({"x": torch.zeros(1, len(images), 1)}, images, subjects, None)


def said(images, subjects) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_ids(features(images, settle(subjects, images)), "training")
    return "\n".join(str(one.message) for one in caught)


def test_good_ids_need_no_word():
    assert said(thumbnails(20), [f"p{i // 2}" for i in range(20)]) == ""
    assert said(thumbnails(20), [f"p{i}" for i in range(20)]) == ""
    assert said(thumbnails(20), None) == ""
    assert said(slices(4, 8), [f"p{i // 8}" for i in range(32)]) == ""


def test_missing_ids_are_said_by_their_number():
    assert "training images: 3 of 20 have no subject id" in said(thumbnails(20), ["a", "b"] * 8 + ["a"] + [None] * 3)


def test_ids_that_are_all_equal_are_said():
    assert "all 20 have the same subject id" in said(thumbnails(20), ["site-secret"] * 20)


def test_ids_that_differ_in_spelling_alone_are_said_by_their_number():
    text = said(thumbnails(20), ["p1", "P1", "p01", "q2", "q02"] + [f"r{i}" for i in range(15)])
    assert "2 subjects have ids that differ only in capitals, leading zeros" in text


@pytest.mark.parametrize("subjects", [None, [f"slice-{i}" for i in range(32)]])
def test_as_many_ids_as_slices_are_said_where_neighbours_are_of_one_person(subjects):
    assert "neighbours in the data set look like slices of one person" in said(slices(4, 8), subjects)


def test_no_message_holds_an_id():
    for subjects in (["secret"] * 32, ["secret", "SECRET", *[None] * 30], [f"secret{i}" for i in range(32)]):
        text = said(slices(4, 8), subjects)
        assert text
        assert "secret" not in text.lower()


def test_strangers_in_any_order_are_seldom_taken_for_neighbours():
    assert not any(neighbours_alike(features(thumbnails(n, seed))) for seed in range(20) for n in (2, 9, 30))


@pytest.mark.parametrize("seed", range(5))
def test_slices_in_order_are(seed):
    assert neighbours_alike(features(slices(5, 10, seed)))


@pytest.mark.parametrize("seed", range(5))
def test_some_pairs_of_neighbours_of_many_tell_the_same(monkeypatch, seed):
    monkeypatch.setattr("mi_callback.detection.people.MOST", 20)
    assert neighbours_alike(features(slices(10, 10, seed)))
    assert not neighbours_alike(features(thumbnails(100, seed)))


def test_a_person_written_in_another_way_is_left_out_of_the_held_out_images():
    train = features(thumbnails(4, 1), ["001", "P2", "sub-3", "4"])
    held_out = features(thumbnails(6, 2), ["1", "p2", "3", "4", "8", "9"])
    with pytest.warns(UserWarning, match=r"4 held-out subjects were trained on \(3 of them .* in another way\)"):
        assert without_leaks(train, held_out).subjects == ["8", "9"]


def test_people_who_are_all_on_both_sides_under_other_spellings_are_refused():
    train, held_out = (features(thumbnails(4, s), [f"{p}{i}" for i in range(4)]) for s, p in ((1, "p"), (2, "P0")))
    with pytest.raises(DataError, match=r"nothing is left.*different sites different ids.*subject_key=…"):
        without_leaks(train, held_out)


def test_images_without_ids_are_on_both_sides_only_if_they_are_the_same_image():
    ours, theirs = thumbnails(6, 1), thumbnails(6, 2)
    train = features(ours, settle([None, "a", "b", "c", "d", "e"], ours))
    held_out = features(theirs, settle([None, None, "f", "g", "h", "i"], theirs))
    assert without_leaks(train, held_out) is held_out
