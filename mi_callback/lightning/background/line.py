"""The line in which validations wait to be scored beside training, as the process that trains sees it."""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import StateError
from mi_callback.lightning.background.judging import Judged, Samples
from mi_callback.lightning.background.process import Given, answer_of, end, result_of, start

IN_LINE = 2
"""Validations whose samples are being scored, or wait for it, at most: beyond that training waits."""


@dataclass(frozen=True)
class Fetched:
    """What came back of samples.

    Attributes:
        samples: Which.
        found: What was found, or why nothing was.
        pairs: Makes pictures of the closest pairs; None where nobody asked for any.
    """

    samples: Samples
    found: Judged | Exception
    pairs: Callable[[], Tensor] | None = None


class Background:
    """A process that scores; it is started at once, ends with `close`, and at the latest with this one.

    Args:
        pictures: Whether pictures of the closest pairs are asked for.

    Raises:
        StateError: If it cannot be started.
    """

    def __init__(self, pictures: bool = False) -> None:
        self.pictures = pictures
        self._calls = ThreadPoolExecutor(1, thread_name_prefix="memorization")
        self._line: deque[_Asked] = deque()
        self._given: object = None
        self._start()

    @property
    def busy(self) -> int:
        """Validations that are not scored yet."""
        return sum(not asked.answer.done() for asked in self._line)

    def give(self, detector: MemorizationDetector) -> None:
        """Hand the detector over, unless the process has it as it is fitted now; returns when it is there.

        Raises:
            StateError: If it cannot be sent, or the process ended.
        """
        if self._process.poll() is not None:
            self._end()  # closes its pipes
            self._start()
        if self._given is not detector.state:
            self._ask(Given.here(detector, self.pictures)).result()
            self._given = detector.state

    def put(self, samples: Samples) -> None:
        """Have samples scored; does not wait."""
        self._line.append(_Asked(samples, self._ask(samples)))

    def fetch(self, most: int) -> Iterator[Fetched]:
        """What was found, in the order of `put`: of all samples that are scored now.

        Args:
            most: How many may be left in line; for more than that it is waited.
        """
        while self._line and (len(self._line) > most or self._line[0].answer.done()):
            asked = self._line[0]
            problem = asked.answer.exception()  # waits
            self._line.popleft()
            yield self._fetched(asked) if problem is None else Fetched(asked.samples, self._why(problem))

    def close(self) -> None:
        """End the process; what it had not scored by now is fetched as an error."""
        self._end()
        self._calls.shutdown()

    def _fetched(self, asked: "_Asked") -> Fetched:
        judged, pairs = asked.answer.result()
        return Fetched(asked.samples, judged, None if pairs is None else partial(result_of, pairs))

    def _why(self, problem: BaseException) -> Exception:
        if not self._end.alive:
            return StateError("needed scores before training ended; it was stopped before.")
        if isinstance(problem, Exception):
            return problem
        raise problem

    def _start(self) -> None:
        self._process, self._given = start(), None
        self._end = weakref.finalize(self, end, self._process)

    def _ask(self, request: object) -> "Future[Any]":
        return self._calls.submit(answer_of, self._process, request)


@dataclass(frozen=True)
class _Asked:
    """Samples in line, and what the process will answer."""

    samples: Samples
    answer: "Future[Any]"
