"""Errors and the one way to refuse a kind that does not exist."""

import doctest
from enum import StrEnum

import pytest

from mi_callback import errors
from mi_callback.errors import CalibrationError, DataError, choice


class Fruit(StrEnum):
    APPLE = "apple"
    PEAR = "pear"


@pytest.mark.parametrize("value", ["pear", Fruit.PEAR])
def test_a_kind_comes_back_as_a_member_whether_named_by_string_or_member(value):
    assert choice("fruit", value, Fruit) is Fruit.PEAR


def test_a_name_comes_back_as_it_is():
    assert choice("fruit", "pear", ["apple", "pear"]) == "pear"


@pytest.mark.parametrize("value", ["Pear", "plum", None, 1, ["pear"], {"pear": 1}])
@pytest.mark.parametrize("kinds", [Fruit, ["apple", "pear"]])
def test_other_values_are_refused_with_what_there_is(value, kinds):
    with pytest.raises(DataError, match=r"needed fruit out of \['apple', 'pear'\]; .* came"):
        choice("fruit", value, kinds)
    with pytest.raises(CalibrationError, match="needed fruit"):
        choice("fruit", value, kinds, CalibrationError)


def test_the_examples_run():
    assert doctest.testmod(errors).failed == 0
