"""What in a path names a person: BIDS labels, patients, folders of people; not classes, splits, organs and studies."""

import doctest
from pathlib import Path

import pytest

from mi_callback.images.subjects import paths
from mi_callback.images.subjects.paths import Rule, attribute_files, names_no_person, subject_in_path


@pytest.mark.parametrize(
    "name",
    [
        "images",
        "imgs",
        "png",
        "train",
        "test",
        "val",
        "validation",
        "NORMAL",
        "PNEUMONIA",
        "normal",
        "COVID",
        "COVID-19",
        "covid19",
        "glioma",
        "no_tumor",
        "notumor",
        "Non_Demented",
        "VeryMildDemented",
        "benign",
        "Malignant",
        "HGG",
        "LGG",
        "T1",
        "T2",
        "t1w",
        "flair",
        "FLAIR",
        "axial",
        "fold1",
        "fold_2",
        "site-3",
        "class0",
        "grade4",
        "session2",
        "batch_01",
        "raw",
        "data",
        "anat",
        "held_out",
        "generated",
        "sub-study",
        "controls",
    ],
)  # fmt: skip
def test_classes_splits_kinds_of_files_and_studies_are_no_people(name):
    assert names_no_person(name.removeprefix("sub-"))


@pytest.mark.parametrize(
    "name",
    [
        "p1",
        "patient1",
        "s003",
        "0",
        "12",
        "IXI012",
        "OAS30001",
        "Ada",
        "a",
        "case7",
        "control12",
        "sub01",
        "NDARINV0A",
    ],
)
def test_people_are_people(name):
    assert not names_no_person(name)


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("/data/sub-01/anat/sub-01_T1w.nii.gz", "sub-01"),
        ("/data/sub-01/x.png", "sub-01"),
        ("sub-01_slice003.png", "sub-01"),
        ("/a/sub-Ada_T1w.png", "sub-Ada"),
        ("/data/sub-study/sub-07/x.png", "sub-07"),
        ("/data/sub-study/train/IXI012.nii.gz", "/data/sub-study/train/IXI012.nii.gz"),
        ("/data/sub-cohort2/scan.png", None),
        ("/data/sub-NDAR_INV0AB12_T1w.png", "sub-NDAR_INV0AB12"),
        ("/data/sub-NDAR_INV0AB12/ses-1/slice_003.png", "sub-NDAR_INV0AB12"),
        ("/d/sub-OAS_30001_T1w.png", "sub-OAS_30001"),
        ("/d/sub-ADNI_002_S_0413_T1w.png", "sub-ADNI_002_S_0413"),
        ("/d/sub-CC110033_T1w.png", "sub-CC110033"),
        ("/d/sub-AB_T1w.png", "sub-AB"),
        ("/d/sub-AB_slice12.png", "sub-AB"),
        ("/d/sub-01_12.png", "sub-01"),
        ("/d/brain.nii", "/d/brain.nii"),
        ("/d/brain.png", None),
        ("/d/subject-01.png", None),
    ],
)
def test_the_subject_in_a_path(path, subject):
    assert subject_in_path(path) == subject


def told(*files: str, **options) -> list[str | None]:
    root = Path("/data/sub-study/train")
    return [subject for subject, _ in attribute_files([root / file for file in files], root, **options)]


def test_folders_of_people_count_at_the_level_at_which_people_are():
    assert told("p1/a.png", "p2/a.png") == ["p1", "p2"]
    assert told("images/p1/a.png", "images/p2/a.png") == ["p1", "p2"]
    assert told("NORMAL/p1/a.png", "PNEUMONIA/p2/a.png") == ["p1", "p2"]
    assert told("fold1/NORMAL/p1/anat/a.png", "fold2/PNEUMONIA/p2/dwi/a.png") == ["p1", "p2"]
    assert told("Ada/a.png", "Bob/a.png", "Eve/b.png") == ["Ada", "Bob", "Eve"]


@pytest.mark.parametrize(
    "files",
    [
        ("images/a.png", "images/b.png"),
        ("NORMAL/person1.png", "PNEUMONIA/person2.png"),
        ("train/yes/a.png", "test/no/b.png"),
        ("T1/1.png", "T2/1.png"),
        ("a.png", "b.png"),
    ],
)
def test_folders_that_are_no_people_tell_nothing(files):
    assert told(*files) == [None, None]


def test_a_folder_that_is_no_person_among_people_tells_nothing():
    assert told("p1/a.png", "p2/a.png", "images/a.png") == ["p1", "p2", None]


def test_folders_that_are_all_one_letter_and_a_number_are_people_even_where_some_are_named_like_sequences():
    names = [f"t{i}" for i in range(30)]
    assert told(*(f"{name}/a.png" for name in names)) == names
    assert told("T0/a.png", "T1/a.png", "T2/a.png") == ["T0", "T1", "T2"]
    assert told("t1/a.png", "t2/a.png") == [None, None]
    assert told("t1/a.png", "t2/a.png", "flair/a.png") == [None, None, None]
    assert told("p1/t1/a.png", "p2/t2/a.png") == ["p1", "p2"]


def test_what_lies_above_the_root_tells_nothing():
    assert told("IXI1.png", "IXI2.png") == [None, None]
    assert told("IXI1.nii.gz", "IXI2.nii.gz") == ["IXI1.nii.gz", "IXI2.nii.gz"]


def test_patients_overrule_folders_unless_they_are_missing_and_bids_overrules_both():
    patients = {"a.dcm": " P1 ", "b.dcm": "", "c.dcm": "ANONYMOUS", "d.dcm": None, "e.dcm": "P9"}
    found = told("s1/a.dcm", "s2/b.dcm", "s3/c.dcm", "s4/d.dcm", "sub-7/e.dcm", patient=lambda p: patients[p.name])
    assert found == ["P1", "s2", "s3", "s4", "sub-7"]


def test_every_rule_is_told():
    root = Path("/r")
    files = [root / "sub-1" / "a.png", root / "p2" / "b.png", root / "c.nii", root / "d.png"]
    rules = [rule for _, rule in attribute_files(files, root)]
    assert rules == [Rule.BIDS, Rule.FOLDER, Rule.VOLUME, Rule.NOTHING]


def test_the_examples_are_true():
    assert doctest.testmod(paths).failed == 0
