"""What people decided about flags: the last decision on each counts, whatever is audited again."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mi_callback.reporting.record.log import Entry


class Decision(StrEnum):
    """What a person says of a flag. Members are strings.

    Attributes:
        CONFIRMED: The sample shows what the training image shows.
        FALSE_ALARM: It does not: another image of the same kind.
        OPEN: Not decided: takes an earlier decision back.
    """

    CONFIRMED = "confirmed"
    FALSE_ALARM = "false_alarm"
    OPEN = "open"


@dataclass(frozen=True)
class Review:
    """A decision on one flag.

    Attributes:
        key: Of the sample and its match, by their contents: the same wherever the files lie and whatever they are
            called.
        decision: What was decided.
        by: By whom.
        time: When.
        note: Why; may be empty.
    """

    key: str
    decision: Decision
    by: str
    time: str
    note: str


def reviews_of(entries: Iterable[Entry]) -> dict[str, Review]:
    """The decision that counts for each key, without those that were taken back."""
    found: dict[str, Review] = {}
    for entry in entries:
        if entry.event == "review":
            content = entry.content
            decision = Decision(content["decision"])
            found[content["key"]] = Review(content["key"], decision, content["by"], entry.time, content["note"])
    return {key: review for key, review in found.items() if review.decision is not Decision.OPEN}
