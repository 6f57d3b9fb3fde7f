"""Every constant of the registration stands in one place, cannot change by accident, and changes the fingerprint."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest

from mi_callback.errors import DataError
from mi_callback.fingerprints import fingerprint
from mi_callback.registration.config import REGISTRATION, FoundBy, registration_config


def changed(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The configuration with each of its constants changed, one at a time."""
    for field in fields(config):
        value = getattr(config, field.name)
        name = f"{path}{field.name}"
        if is_dataclass(value):
            yield from ((at, replace(config, **{field.name: part})) for at, part in changed(value, f"{name}."))
        else:
            other = value[:-1] if isinstance(value, tuple) else value + 1
            yield name, replace(config, **{field.name: other})


@pytest.mark.parametrize("dims", [2, 3])
def test_the_fingerprint_changes_with_every_constant(dims):
    config = registration_config(dims)
    others = dict(changed(config))
    assert len(others) > 50
    found = {fingerprint(other) for other in others.values()}
    assert len(found | {fingerprint(config)}) == len(others) + 1


def test_images_and_volumes_have_their_own_constants():
    assert registration_config(2) is REGISTRATION[2]
    assert registration_config(3) is REGISTRATION[3]
    assert fingerprint(REGISTRATION[2]) != fingerprint(REGISTRATION[3])


def test_constants_cannot_be_assigned():
    with pytest.raises(FrozenInstanceError):
        registration_config(2).search.side = 24


def test_there_is_a_quota_for_each_way_to_be_found():
    for config in REGISTRATION.values():
        assert len(config.schedule.quotas) == len(FoundBy)
        assert config.schedule.quotas[FoundBy.EDGES] == config.schedule.edges


@pytest.mark.parametrize("dims", [1, 4])
def test_other_numbers_of_dimensions_are_refused(dims):
    with pytest.raises(DataError, match=f"2 or 3 dimensions to register; {dims} came"):
        registration_config(dims)
