"""Whatever constant changes, the fingerprint changes; nothing else changes it."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass, make_dataclass, replace
from enum import Enum
from hashlib import blake2b

import numpy as np
import pytest
import torch

from mi_callback.errors import StateError
from mi_callback.fingerprints import canonical_json, content_hash, fingerprint, fingerprint_of_code


class Kind(Enum):
    FIRST = 1
    SECOND = 2


@dataclass(frozen=True)
class Part:
    weight: float = 0.1
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Config:
    part: Part = Part()
    side: int = 12
    kind: Kind = Kind.FIRST
    by_dims: dict[int, float] = dataclasses.field(default_factory=lambda: {2: 0.5, 3: 0.25})
    name: str | None = None


CHANGED = [
    Config(part=Part(weight=0.1 + 2**-56)),  # the last bit
    Config(part=Part(steps=(2, 1))),
    Config(side=13),
    Config(kind=Kind.SECOND),
    Config(by_dims={2: 0.5, 3: 0.5}),
    Config(by_dims={2: 0.5}),
    Config(name=""),
    Config(name="None"),
]


def test_the_fingerprint_is_blake2b_of_canonical_json():
    expected = {
        "Config": {
            "by_dims": [[2, 0.5], [3, 0.25]], "kind": {"Kind": "FIRST"}, "name": None,
            "part": {"Part": {"steps": [1, 2], "weight": 0.1}}, "side": 12,
        }
    }  # fmt: skip
    text = json.dumps([expected], sort_keys=True, separators=(",", ":"))
    assert canonical_json((Config(),)) == text
    assert fingerprint(Config()) == blake2b(text.encode(), digest_size=16).hexdigest()


def test_it_changes_with_every_value():
    found = {fingerprint(config) for config in (Config(), *CHANGED)}
    assert len(found) == 1 + len(CHANGED)


def test_equal_configurations_have_one_fingerprint_in_every_process():
    assert fingerprint(replace(Config(), by_dims={3: 0.25, 2: 0.5})) == fingerprint(Config())
    code = "import sys; sys.path.insert(0, 'tests'); from test_fingerprints import *; print(fingerprint(Config()))"
    for seed in "12":
        other = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path),
                               "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)  # fmt: skip
        assert other.stdout.strip() == fingerprint(Config())


def test_names_of_classes_and_fields_count_and_the_order_of_fields_does_not():
    def made(name: str, **values: float) -> object:
        return make_dataclass(name, [(k, float, v) for k, v in values.items()], frozen=True)()

    assert fingerprint(made("A", x=1.0, y=2.0)) == fingerprint(made("A", y=2.0, x=1.0))
    different = [made("A", x=1.0, y=2.0), made("B", x=1.0, y=2.0), made("A", x=1.0, z=2.0), made("A", x=1.0)]
    assert len({fingerprint(one) for one in different}) == len(different)


def test_integers_floats_texts_and_booleans_are_told_apart():
    values = [1, 1.0, "1", True, 0.0, -0.0, float("inf"), float("nan"), None]
    assert len({canonical_json(value) for value in values}) == len(values)
    assert canonical_json({1: 0}) != canonical_json({"1": 0})


def test_several_configurations_are_not_their_union():
    assert fingerprint(Config(), Part()) != fingerprint(Part(), Config()) != fingerprint(Part())


@pytest.mark.parametrize("value", [np.float64(0.1), {1, 2}, object(), Part, make_dataclass("Open", ["x"])(1)])
def test_what_may_change_or_has_no_text_is_refused(value):
    with pytest.raises(StateError, match=r"needed frozen dataclasses.*came"):
        fingerprint(value)


def test_a_hash_tells_what_looks_alike_apart():
    values = [1, 1.0, "1", True, None, [1], ["1", 2], [["1"], 2], {"1": 2}, torch.ones(1), torch.ones(1, 1),
              torch.ones(1).double(), torch.ones(1).int(), "", [], {}]  # fmt: skip
    assert len({content_hash(value) for value in values}) == len(values)
    assert content_hash("ab", "c") != content_hash("a", "bc")


def test_code_that_decides_is_hashed_with_its_single_files():
    of_statistics, with_file = fingerprint_of_code("statistics"), fingerprint_of_code("statistics", "fitting.py")
    assert len({of_statistics, with_file, fingerprint_of_code("fitting.py"), fingerprint_of_code("detector.py")}) == 4
