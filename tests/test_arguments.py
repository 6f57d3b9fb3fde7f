"""Options of the wrong kind are refused with the mend, and those of the right kind come back as Python's own."""

import doctest

import numpy as np
import pytest
import torch

from mi_callback import arguments
from mi_callback.arguments import (
    integer,
    known_options,
    positive_integer,
    probability,
    seed_number,
    switch,
    usable_device,
)
from mi_callback.errors import CalibrationError, OptionError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_of_any_library_come_back_as_pythons(value):
    found = positive_integer("n", value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [True, False, np.True_, torch.tensor(True), 2.5, 2.0, "2", None, [2], float("nan")])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(OptionError, match=r"needed n as a whole number; .* came"):
        integer("n", value)


@pytest.mark.parametrize(("value", "message"), [(0, "at least 1; 0 came"), (-4, "at least 1; -4 came")])
def test_counts_begin_with_one(value, message):
    with pytest.raises(OptionError, match=message):
        positive_integer("n", value)


def test_bounds_are_included():
    assert [integer("n", value, least=2, most=4) for value in (2, 3, 4)] == [2, 3, 4]
    for value in (1, 5):
        with pytest.raises(OptionError, match=f"{value} came"):
            integer("n", value, least=2, most=4)


@pytest.mark.parametrize("value", [0, 1, 2**63 - 1])
def test_a_seed_seeds_every_generator(value):
    torch.Generator().manual_seed(seed_number("seed", value))
    np.random.default_rng(seed_number("seed", value))


@pytest.mark.parametrize("value", [-1, 2**63, 1.5, True, "0", None])
def test_what_is_no_seed_is_refused(value):
    with pytest.raises(OptionError, match="needed seed"):
        seed_number("seed", value)


@pytest.mark.parametrize("value", [0.05, np.float32(0.5), torch.tensor(0.25)])
def test_probabilities_come_back_as_floats(value):
    assert type(probability("alpha", value)) is float


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, 5, float("nan"), float("inf"), True, "0.05", None, [0.1]])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(OptionError, match=r"needed alpha between 0 and 1; .* came"):
        probability("alpha", value)


@pytest.mark.parametrize("value", [True, False, np.True_])
def test_a_switch_is_on_or_off(value):
    assert switch("verify", value) is bool(value)


@pytest.mark.parametrize("value", ["false", "no", 0, 1, None, [], 0.0])
def test_what_merely_passes_for_a_switch_is_refused(value):
    with pytest.raises(OptionError, match=r"needed verify True or False; .* came"):
        switch("verify", value)


def test_a_device_that_is_there_comes_back_and_none_takes_the_best():
    assert usable_device("device", "cpu") == usable_device("device", torch.device("cpu")) == torch.device("cpu")
    assert usable_device("device", None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("value", ["cuda:99", "cpu:3", "meta", "mps:7", "gpu", "", 1.5, ["cpu"]])
def test_a_device_that_is_not_there_is_refused(value):
    with pytest.raises(OptionError, match=r"needed (a )?device .* came"):
        usable_device("device", value)


def test_cuda_where_there_is_none_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"'cuda' came, and torch sees 0 of type 'cuda' here. Leave device out"):
        usable_device("device", "cuda")


def test_an_unknown_option_is_refused_with_the_closest_name():
    def search(candidates, verify): ...

    known_options(["candidates", "verify"], search)
    known_options([], search)
    with pytest.raises(OptionError, match=r"it has no 'verfy' \(verify\?\), 'zzz'"):
        known_options(["verfy", "candidates", "zzz"], search)


def test_options_of_a_class_are_those_of_its_constructor():
    class Search:
        def __init__(self, candidates): ...

    known_options(["candidates"], Search)
    with pytest.raises(OptionError, match="needed options of Search; it has no 'self'"):
        known_options(["self"], Search)


def test_another_error_of_the_family_can_be_asked_for():
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        probability("alpha", 2, CalibrationError)


def test_who_catches_one_of_pythons_own_errors_is_served():
    for kind in (ValueError, TypeError):
        with pytest.raises(kind, match="needed n"):
            positive_integer("n", 0)


def test_the_examples_are_true():
    assert doctest.testmod(arguments).failed == 0
