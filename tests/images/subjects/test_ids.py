"""One person is one id, whatever held it; a missing id is nobody; what is probably one person is known as such."""

import datetime
import doctest
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.images.subjects import ids
from mi_callback.images.subjects.ids import has_no_id, loose_id, normal_id, normal_ids, settle, spelled_in_two_ways

ONE = [
    1, 1.0, np.int64(1), np.float32(1), np.array(1), np.array([1]), torch.tensor(1), torch.tensor([1]),
    torch.tensor([[1.0]]), "1", " 1", "1 ", "1\t\n", b"1", b" 1 ", np.str_("1"), np.bytes_(b"1"), "\ufeff1", "1\u200b",
    "1\x00", [1], ("1",), pd.Series([1.0]).iloc[0],
]  # fmt: skip


@pytest.mark.parametrize("value", ONE, ids=repr)
def test_a_number_is_one_person_whatever_held_it(value):
    assert normal_id(value) == "1"


def test_a_text_is_one_person_however_its_accents_are_encoded():
    composed, decomposed = (unicodedata.normalize(form, "Müller-é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert normal_id(composed) == normal_id(decomposed) == normal_id(decomposed.encode())


def test_a_path_is_its_text():
    assert normal_id(Path("data") / "p1") == normal_id(PurePosixPath("data/p1")) == normal_id("data/p1")


MISSING = [
    None, float("nan"), np.nan, np.float32("nan"), torch.tensor(float("nan")), pd.NA, pd.NaT, np.datetime64("NaT"),
    np.ma.masked, "", " ", "\t", b"", "nan", "NaN", "None", "<NA>", "NaT", "null", "n/a", "N/A", "NA", "unknown",
    "Anonymous", "-", np.array(None), [None],
]  # fmt: skip


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_a_missing_id_is_nobody(value):
    assert normal_id(value) is None


@pytest.mark.parametrize("value", [0, False, "0", "nana", "Nan Goldin", "nan1", "none-7", datetime.date(2020, 1, 1)])
def test_what_only_resembles_a_missing_id_is_somebody(value):
    assert normal_id(value) is not None


def test_fractions_and_long_numbers_keep_their_digits():
    assert [normal_id(value) for value in (1.5, 2**60, "007", "1.0")] == ["1.5", str(2**60), "007", "1.0"]


@pytest.mark.parametrize(
    "column",
    [
        [1, 2, 2], (1, 2, 2), np.array([1, 2, 2]), np.array([[1], [2], [2]]), torch.tensor([1.0, 2, 2]),
        torch.tensor([[1], [2], [2]]), pd.Series([1, 2, 2]), pd.array([1, 2, 2], dtype="Int64"), ["1", b"2", 2.0],
        [torch.tensor(1), torch.tensor(2), torch.tensor([2])], np.array(["1", "2", "2"]), np.array([b"1", b"2", b"2"]),
        iter([1, 2, 2]), pd.Categorical([1, 2, 2]),
    ],
    ids=lambda column: type(column).__name__,
)  # fmt: skip
def test_ids_of_several_images_may_come_in_any_container(column):
    assert normal_ids(column) == ["1", "2", "2"]


@pytest.mark.parametrize("value", ["p1", b"p1", Path("p1")])
def test_one_text_is_one_id(value):
    assert normal_ids(value) == ["p1"]


@pytest.mark.parametrize("values", [torch.eye(3), np.zeros((3, 2)), [torch.zeros(2)], [{"id": 1}]])
def test_several_values_for_an_image_are_refused(values):
    with pytest.raises(DataError, match=r"subject id per image.*subject_key=lambda|one subject id per image"):
        normal_ids(values)


@pytest.mark.parametrize(
    "spellings",
    [
        ("001", "1", "01", "1.0", "1.00", "sub-1", "sub-001"),
        ("P0", "p0", "p00"),
        ("IXI 12", "ixi_12", "IXI-012", "ixi  12"),
        ("１２", "12"),
        ("s1_t02", "S01-T2"),
    ],
)
def test_probably_one_person(spellings):
    assert len({loose_id(spelling) for spelling in spellings}) == 1
    assert spelled_in_two_ways(spellings) == 1


@pytest.mark.parametrize(
    "different",
    [("1", "10", "11", "110", "1-1"), ("1.05", "1.5", "1.50"), ("1-11", "11-1", "111"), ("a", "b"), ("1.1", "1.10")],
)
def test_certainly_different_people(different):
    assert len({loose_id(spelling) for spelling in different}) == len(different)
    assert spelled_in_two_ways(different) == 0


def test_an_image_without_an_id_is_its_own_person_on_whichever_side_it_stands():
    pixels = torch.arange(5 * 16).reshape(5, 4, 4).to(torch.uint8)
    settled = settle(["a", None, None, "a", None], pixels)
    assert [settled[0], settled[3]] == ["a", "a"]
    assert len(set(settled)) == 4
    assert [has_no_id(subject) for subject in settled] == [False, True, True, False, True]
    other = settle(["b", None], torch.stack([pixels[0], pixels[2]]))
    assert other[1] == settled[2]  # the same image is the same person
    assert other[0] not in settled


def test_where_nobody_has_an_id_subjects_are_unknown():
    with pytest.warns(UserWarning, match="all 2 subject ids are missing"):
        assert settle([None, None], torch.zeros(2, 3, 3, dtype=torch.uint8)) is None
    assert settle(None, torch.zeros(2, 3, 3, dtype=torch.uint8)) is None


def test_the_examples_are_true():
    assert doctest.testmod(ids).failed == 0
