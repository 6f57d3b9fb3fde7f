"""Which training volume do the slices of a volume match, in its order?"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Alike:
    """The training volume that most slices of a volume match in order.

    Attributes:
        volume: Its number.
        slices: Which slices of the generated volume match it in order, positions from 0.
        reversed: Whether they do so from its last slice to its first.
    """

    volume: int
    slices: list[int]
    reversed: bool


def most_alike(matches: Sequence[tuple[int, int]]) -> Alike:
    """From the training volume, and the place in it, that each slice of a volume matches."""
    of_volume: dict[int, list[int]] = defaultdict(list)
    for position, (volume, _) in enumerate(matches):
        of_volume[volume].append(position)
    best = Alike(-1, [], False)
    for volume, positions in of_volume.items():
        for backwards in (False, True):
            sign = -1 if backwards else 1
            kept = longest_rise([sign * matches[position][1] for position in positions])
            if len(kept) > len(best.slices):
                best = Alike(volume, [positions[k] for k in kept], backwards)
    return best


def longest_rise(values: Sequence[int]) -> list[int]:
    """Positions of the longest subsequence that does not fall (patience sorting, Fredman 1975)."""
    tails: list[int] = []  # the smallest last value of a rise of each length, …
    last: list[int] = []  # … where it stands …
    before: list[int] = []  # … and what comes before each value
    for position, value in enumerate(values):
        length = bisect_right(tails, value)
        before.append(last[length - 1] if length else -1)
        tails[length : length + 1], last[length : length + 1] = [value], [position]
    rise = []
    position = last[-1] if last else -1
    while position >= 0:
        rise.append(position)
        position = before[position]
    return rise[::-1]
