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

FOR_SAMPLING = 0.5
"""Share of the time that sampling may take before it is known how long scoring takes."""


class TimeUp(MemorizationError):
    """The time limit was reached before anything could be scored."""


class TimeLimit:
    """The time of one validation, for sampling first and scoring then.

    While samples are drawn, time is looked at between batches and whenever a network is called, so that a thousand
    steps of diffusion end in time without being cut within one. While they are scored, it is looked at whenever torch
    is called. How long scoring took tells how many samples can be scored next time.

    Args:
        seconds: None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._left = seconds or 0.0
        self._each: float | None = None

    def expect(self, seconds: float | None) -> None:
        """A sample takes about so long to score, as far as that is known before the first one was."""
        self._each = seconds

    def begin(self) -> None:
        """A new validation has all the time."""
        self._left = self.seconds or 0.0

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

    def affordable(self, n: int) -> int:
        """How many of n samples can be scored in the time that is left; all where that is not known yet.

        Raises:
            TimeUp: If none can.
        """
        if self.seconds is None or self._each is None:
            return n
        count = min(n, int(self._left / self._each))
        if count < 1:
            raise TimeUp(
                f"scoring a sample takes {self._each:.2g} s, and of time_limit={self.seconds:g} s "
                f"{max(self._left, 0):.2g} s are left"
            )
        return count

    @contextmanager
    def scoring(self, n: int) -> Iterator[None]:
        """n samples may be scored in time.

        Raises:
            TimeUp: Within, when time is up.
        """
        if self.seconds is None:
            yield
            return
        clock = _Clock(self._left, f"scoring {n} samples takes longer than time_limit={self.seconds:g} s leaves")
        try:
            with clock:
                yield
        finally:
            self._left -= clock.passed
            # What was cut short takes longer than it took.
            self._each = clock.passed / n * (2 if clock.raised else 1)


class _Clock(TorchFunctionMode):
    """Raises once when time is up: what is put in order thereafter is not disturbed again."""

    def __init__(self, seconds: float, reason: str) -> None:
        super().__init__()
        self.start, self.seconds, self.reason = time.monotonic(), seconds, reason
        self.thread, self.raised = threading.get_ident(), False

    @property
    def passed(self) -> float:
        return time.monotonic() - self.start

    def look(self) -> None:
        if self.passed >= self.seconds and not self.raised and threading.get_ident() == self.thread:
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
