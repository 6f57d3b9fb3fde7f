"""How long sampling and scoring may take at a validation: what is not done by then is said, and training goes on."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from mi_callback.errors import MemorizationError, OptionError
from mi_callback.judging.calibration import FEWEST, ONCE

FOR_SAMPLING = 0.5
"""Share of the time that sampling may take before it is known how long scoring takes."""


class TimeUp(MemorizationError):
    """The time limit was reached before anything could be scored."""


class TimeLimit:
    """The time of one validation, for sampling first and scoring then.

    While samples are drawn, time is looked at between batches and whenever a network is called, so that a thousand
    steps of diffusion end in time without being cut within one. While they are scored, it is looked at whenever torch
    is called. How long scoring took tells how many samples can be scored next time. What is done once for samples of a
    new quality, that real images are treated as they are, is finished however long it takes, and measures nothing.

    Args:
        seconds: None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._left = seconds or 0.0
        self._each: float | None = None
        self._cut = False

    @property
    def each(self) -> float | None:
        """Seconds that scoring a sample takes; None where it is not known."""
        return self._each

    @property
    def cut(self) -> bool:
        """Whether time was up while samples were drawn at this validation."""
        return self._cut

    def shorten(self) -> None:
        """Time was up on another rank."""
        self._cut = True

    def expect(self, seconds: float | None) -> None:
        """A sample takes about so long to score, as far as that is known before the first one was."""
        self._each = seconds

    def begin(self) -> None:
        """A new validation has all the time."""
        self._left, self._cut = self.seconds or 0.0, False

    @contextmanager
    def sampling(self, drawn: int) -> Iterator[None]:
        """A batch may be drawn in time, beside the images that were drawn already and are to be scored.

        Raises:
            TimeUp: Within, when time is up.
        """
        if self.seconds is None:
            yield
            return
        kept = FOR_SAMPLING * self.seconds if self._each is None else min(self._left, drawn * self._each)
        clock = _Clock(self._left - kept, f"sampling took longer than time_limit={self.seconds:g} s allows")
        hook = register_module_forward_pre_hook(clock.at_a_call)
        try:
            clock.look()
            yield
        finally:
            hook.remove()
            self._left -= clock.passed
            self._cut = self._cut or clock.raised

    def affordable(self, n: int, asked: int | None = None) -> int:
        """How many of n samples can be scored in the time that is left; all where that is not known yet.

        Never so few that real images could not be made as sharp and noisy as they are: that would be another test.

        Args:
            n: Samples that were drawn.
            asked: Samples that were to be drawn; n when None.

        Raises:
            TimeUp: If none can, or fewer than `FEWEST` where more were asked for. All are tried next time.
        """
        if self.seconds is None:
            return n
        fewest = FEWEST if (n if asked is None else asked) >= FEWEST else 1
        few = "" if fewest == 1 else f"; fewer than {FEWEST} samples are not scored, for their quality cannot be told"
        if self._cut and n < fewest:
            raise TimeUp(f"{n} samples were drawn before sampling took longer than time_limit={self.seconds:g} s{few}")
        if self._each is None:
            return n
        each, count = self._each, min(n, int(max(self._left, 0) / self._each))
        if count < min(n, fewest):
            self._each = None
            raise TimeUp(
                f"scoring a sample takes {each:.2g} s, and of time_limit={self.seconds:g} s "
                f"{max(self._left, 0):.2g} s are left{few}"
            )
        return count

    @contextmanager
    def scoring(self, n: int) -> Iterator[None]:
        """n samples may be scored in time, beside what is done once for samples of a new quality.

        Raises:
            TimeUp: Within, when time is up.
        """
        if self.seconds is None:
            yield
            return
        clock = _Clock(self._left, f"scoring {n} samples takes longer than time_limit={self.seconds:g} s leaves")
        token = ONCE.set(clock.lift)
        try:
            with clock:
                yield
        finally:
            ONCE.reset(token)
            self._left -= clock.passed
            if not clock.lifted:
                # What was cut short takes longer than it took.
                self._each = clock.passed / n * (2 if clock.raised else 1)


class _Clock(TorchFunctionMode):
    """Raises once when time is up: what is put in order thereafter is not disturbed again."""

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__()
        self.start, self.seconds, self.reason = time.monotonic(), seconds, reason
        self.thread, self.raised, self.lifted = threading.get_ident(), False, False

    @property
    def passed(self) -> float:
        return time.monotonic() - self.start

    def lift(self) -> None:
        """What is done from here on may take as long as it takes."""
        self.lifted = True

    def look(self) -> None:
        done = self.raised or self.lifted
        if self.passed >= self.seconds and not done and threading.get_ident() == self.thread:
            self.raised = True
            raise TimeUp(self.reason)

    def at_a_call(self, module: Any, inputs: Any) -> None:
        self.look()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.look()
        return func(*args, **(kwargs or {}))


def checked_time_limit(value: Any) -> float | None:
    """Seconds, or None.

    Raises:
        OptionError: For what is no positive time.
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise OptionError(f"needed time_limit in seconds, above 0, or a timedelta; {value!r} came.")
    return float(seconds)
