"""Images, ids and files are found in batches of any make; what is ambiguous is refused with the option that decides."""

from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.images.batches import read_batch, read_batches
from mi_callback.images.finding import find_images, find_sources

N = 3
IMAGES, OTHER = torch.rand(N, 1, 6, 5), torch.rand(N, 1, 6, 5)
VOLUMES = torch.rand(N, 1, 4, 6, 5)
LABELS, MASK = torch.arange(N), torch.ones(N, 1, 6, 5, dtype=torch.int64)
Pair = namedtuple("Pair", "scan label")


@pytest.mark.parametrize(
    "batch",
    [
        IMAGES,
        [IMAGES],
        (IMAGES, LABELS),
        [IMAGES, ["a", "b", "c"]],
        {"image": IMAGES, "T2": OTHER},
        {"x": torch.rand(N, 3), "image": IMAGES},
        [{"image": IMAGES}, LABELS],
        {"image": {"array": IMAGES, "affine": torch.rand(N, 4, 4)}},
        (IMAGES, MASK),
        (IMAGES, {"subject": ["a", "b", "c"]}),
    ],
)
def test_images_in_their_usual_place_are_taken_without_a_word(batch):
    found = find_images(batch)
    assert torch.equal(found.pixels, IMAGES)
    assert not found.guessed


@pytest.mark.parametrize(
    ("batch", "place"),
    [
        ({"T1": IMAGES}, "batch['T1']"),
        ({"mri": IMAGES, "mask": OTHER, "age": torch.rand(N)}, "batch['mri']"),
        ({"mri": IMAGES, "tumour_seg": OTHER, "labels": MASK}, "batch['mri']"),
        ({"mri": IMAGES.numpy(), "affine": np.zeros((N, 4, 4))}, "batch['mri']"),
        ({"image": ["a", "b", "c"], "pixels": IMAGES}, "batch['pixels']"),
        ({"t1": {"data": IMAGES, "path": ["a", "b", "c"]}}, "batch['t1']['data']"),
        ((LABELS, IMAGES), "batch[1]"),
        ((["a", "b", "c"], LABELS, IMAGES), "batch[2]"),
        ([{"id": ["a", "b", "c"]}, {"scan": IMAGES}], "batch[1]['scan']"),
    ],
)
def test_the_only_entry_that_looks_like_images_is_taken_and_said(batch, place):
    found = find_images(batch)
    assert torch.equal(found.pixels, IMAGES)
    assert (found.place, found.guessed) == (place, True)
    with pytest.warns(UserWarning, match=r"images are taken from batch.*image_key="):
        (read,) = read_batches([batch], 8, None, None, None)
    assert torch.equal(read.images, IMAGES)


def test_volumes_look_like_images_too():
    assert torch.equal(find_images({"ct": VOLUMES, "z": torch.rand(N, 4, 1, 1)}).pixels, VOLUMES)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"t1": IMAGES, "t2": OTHER}, r"batch\['t1'\], batch\['t2'\] all look like some.*image_key='t1'"),
        ((IMAGES, OTHER), r"batch\[0\], batch\[1\] all look like some.*image_key=0"),
        ({"t1": {"data": IMAGES}, "t2": {"data": OTHER}}, r"image_key=lambda batch: batch\['t1'\]\['data'\]"),
        ({"image": [IMAGES, OTHER]}, r"batch\['image'\]\[0\], batch\['image'\]\[1\] all look like some"),
        ((LABELS, IMAGES, VOLUMES), r"batch\[1\], batch\[2\]"),
    ],
)
def test_several_that_look_like_images_are_refused_with_the_option_that_decides(batch, message):
    with pytest.raises(DataError, match=message):
        read_batch(batch)


@pytest.mark.parametrize(
    ("batch", "key"),
    [
        ({"t1": OTHER, "t2": IMAGES}, "t2"),
        ((OTHER, IMAGES), 1),
        ((OTHER, IMAGES), -1),
        (Pair(IMAGES, OTHER), 0),
        ((OTHER, {"scan": IMAGES}), "scan"),
        ({"t1": {"data": IMAGES}, "t2": {"data": OTHER}}, lambda batch: batch["t1"]["data"]),
    ],
)
def test_images_are_where_the_user_says(batch, key):
    assert torch.equal(read_batch(batch, image_key=key).images, IMAGES)


def test_a_position_that_is_not_there_is_refused():
    with pytest.raises(DataError, match=r"needed the images at position 2; the batch has 2 entries"):
        read_batch((IMAGES, OTHER), image_key=2)


@pytest.mark.parametrize(
    "batch",
    [
        {"image": IMAGES, "subject": ["a", "b", "a"]},
        {"image": IMAGES, "PatientID": ["a", "b", "a"]},
        {"image": IMAGES, "meta": {"participant_id": ["a", "b", "a"]}},
        (IMAGES, {"subject": ["a", "b", "a"], "age": LABELS}),
        {"T1": IMAGES, "Subject": np.array(["a", "b", "a"])},
    ],
)
def test_ids_are_found_under_their_usual_names_wherever_they_are(batch):
    assert read_batch(batch).subjects == ["a", "b", "a"]


def test_texts_beside_the_images_are_ids_unless_they_name_classes_or_files():
    assert read_batch((IMAGES, ["p1", "p2", "p1"])).subjects == ["p1", "p2", "p1"]
    assert read_batch((LABELS, IMAGES, ("p1", "p2", "p1"))).subjects == ["p1", "p2", "p1"]
    assert read_batch((IMAGES, ["NORMAL", "PNEUMONIA", "NORMAL"])).subjects is None
    files = read_batch((IMAGES, ["/d/sub-1/a.png", "/d/sub-1/b.png", "/d/sub-2/a.png"]))
    assert files.subjects == ["sub-1", "sub-1", "sub-2"]
    assert files.sources == ["/d/sub-1/a.png", "/d/sub-1/b.png", "/d/sub-2/a.png"]


def test_numbers_beside_the_images_are_labels_unless_the_user_says_that_they_are_ids():
    assert read_batch((IMAGES, LABELS)).subjects is None
    assert read_batch((IMAGES, LABELS), subject_key=1).subjects == ["0", "1", "2"]


def test_missing_ids_are_known_as_missing_and_what_told_the_ids_is_known():
    read = read_batch({"image": IMAGES, "subject": ["a", None, "nan"]})
    assert read.subjects == ["a", None, None]
    assert read.rule == "under 'subject'"
    assert read_batch({"image": IMAGES}, subject_key=lambda batch: [1, 1.0, "1 "]).subjects == ["1", "1", "1"]


@pytest.mark.parametrize("key", ["filename_or_obj", "filename", "path", "image_path"])
def test_files_are_found_and_tell_the_subject(key):
    files = [Path(f"/d/sub-{i}/x.png") for i in range(N)]
    read = read_batch({"image": IMAGES, key: files})
    assert read.sources == [str(file) for file in files]
    assert read.subjects == ["sub-0", "sub-1", "sub-2"]
    assert read.rule == "BIDS labels (sub-…) in file names"


def test_the_file_of_a_volume_is_that_of_all_its_slices():
    assert find_sources({"image": IMAGES, "filename_or_obj": "/d/v.nii.gz"}, IMAGES) == ["/d/v.nii.gz"] * N
