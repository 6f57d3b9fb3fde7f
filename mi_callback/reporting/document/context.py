"""What a report says beyond the scores: who gets what, which data, under which settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from mi_callback.errors import OptionError, choice
from mi_callback.reporting.record.reviews import Review
from mi_callback.statistics.gate import GateResult

NOT_STATED = "not stated"


class Given(StrEnum):
    """What is given away."""

    MODEL = "model"
    SAMPLES = "samples"
    BOTH = "both"


@dataclass(frozen=True)
class Release:
    """What is to be released, to whom, and who answers for it. What is left out is shown as *not stated*.

    Args:
        generator: Name and version of the generator.
        gives: What is given away: `model`, `samples` or `both`.
        recipients: Who gets it.
        terms: Under which terms: open, by contract, inside the hospital.
        purpose: What it is given away for.
        responsible: Who answers for the release.
        reviewer: Who reviews this report, a data-protection officer for example.
        review_by: Date by which it is looked at again.

    Raises:
        OptionError: If `gives` is another word, or a value is no text.
    """

    generator: str | None = None
    gives: Literal["model", "samples", "both"] | None = None
    recipients: str | None = None
    terms: str | None = None
    purpose: str | None = None
    responsible: str | None = None
    reviewer: str | None = None
    review_by: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.stated.items():
            if not isinstance(value, str) or not value.strip():
                raise OptionError(f"needed release.{name} as a text; {value!r} came. Leave it out if it is not known.")
        if self.gives is not None:
            choice("release.gives", self.gives, Given, OptionError)

    @property
    def stated(self) -> dict[str, str]:
        """What was filled in."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def shown(self) -> dict[str, str]:
        """Everything, with `NOT_STATED` where nothing was filled in."""
        return {each.name: self.stated.get(each.name, NOT_STATED) for each in fields(self)}

    @property
    def gives_model(self) -> bool:
        """Whether the model may leave the house, which is assumed where nothing is stated."""
        return self.gives != Given.SAMPLES


class Side(NamedTuple):
    """One of the folders.

    Attributes:
        images: Images, slices or volumes in it.
        people: Whose they are; None where that is unknown.
        files: Files that they are in.
        sha256: Hash of the hashes of all files: it changes with any of them, and not with their names.
    """

    images: int
    people: int | None
    files: int
    sha256: str


@dataclass(frozen=True)
class Context:
    """All that a report says beyond the scores.

    Attributes:
        sides: Folders by their names: `train`, `held_out`, `generated`, `control`.
        keys: Of each generated image and its match, by their contents.
        gate: Whether it may be released.
        release: What is to be released.
        settings: Of the audit and the detector, by name.
        versions: Of this package and of those that compute, by name.
        fingerprints: Of settings and code, by name.
        null_mi: Memorization Index of the images of the null; None where they are not at hand.
        set_scores: Set-level scores, by name.
        subgroups: Name of the subgroup of each generated image; None where there are none.
        reviews: Decisions of people, by key.
        files: What became of the files of each folder, in numbers: read, left out, failed, and why.
    """

    sides: Mapping[str, Side | None]
    keys: Sequence[str]
    gate: GateResult
    release: Release
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    fingerprints: Mapping[str, str]
    null_mi: Float[Tensor, " m"] | None = None
    set_scores: Mapping[str, float] = field(default_factory=dict)
    subgroups: Sequence[str] | None = None
    reviews: Mapping[str, Review] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
