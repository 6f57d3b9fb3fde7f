"""Options that would have no effect beside the others are refused."""

from collections.abc import Iterable
from typing import NamedTuple

from mi_callback.errors import OptionError


class Rule(NamedTuple):
    """When an option has an effect.

    Attributes:
        option: As it was written, for the message.
        asked: Whether it was asked for.
        works: Whether it would change anything.
        needs: What it needs to do so.
    """

    option: str
    asked: bool
    works: bool
    needs: str


def refuse_without_effect(rules: Iterable[Rule]) -> None:
    """Raise `OptionError` for the first option that was asked for and would change nothing."""
    for rule in rules:
        if rule.asked and not rule.works:
            raise OptionError(
                f"needed {rule.needs} for {rule.option} to have any effect; none came. Give it, or leave "
                f"{rule.option.partition('=')[0]} out."
            )
