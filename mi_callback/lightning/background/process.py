"""The process that scores beside training: how it is started and asked, and what it does."""

import os
import pickle
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from subprocess import PIPE, Popen, TimeoutExpired
from typing import IO, Any

import torch
from torch import Tensor

from mi_callback.detector import MemorizationDetector
from mi_callback.errors import StateError
from mi_callback.lightning.background.judging import Samples, judge
from mi_callback.reporting import closest_pairs
from mi_callback.scores import Scores

PICTURES = 8
"""Pairs of a sample and its match that loggers are sent, at most."""

NICE = 10
"""By how much the priority of the process is lower than that of training, where the system has such."""

PATIENCE = 5
"""Seconds in which a process that is to end, or no longer answers, ends by itself."""

MAIN = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from mi_callback.lightning.background.process import serve; serve()"
)


def start() -> "Popen[bytes]":
    """A process that waits to be asked.

    Raises:
        StateError: If it cannot be started.
    """
    command = [sys.executable, "-P", "-c", MAIN]
    try:
        process = Popen(command, stdin=PIPE, stdout=PIPE)
    except OSError as error:
        raise StateError(
            f"needed a process that scores beside training; {command[0]} did not start ({error.strerror}). Score in "
            "training: background=False."
        ) from error
    assert process.stdin is not None
    with suppress(OSError):  # that it ended is said when it is asked
        _write([path or os.getcwd() for path in sys.path], process.stdin)
    return process


def end(process: "Popen[bytes]") -> None:
    """End a process, whatever it does; it has time to remove what it keeps elsewhere."""
    process.terminate()
    with suppress(TimeoutExpired):
        process.wait(PATIENCE)
    process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
    process.wait()


def answer_of(process: "Popen[bytes]", request: object) -> Any:
    """What the process says to a request.

    Raises:
        StateError: If it ended, or the request cannot be sent.
        Exception: Its own error.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _write(request, process.stdin)
    except Exception as error:
        if isinstance(error, OSError) or process.poll() is not None:
            raise _ended(process) from None
        end(process)  # which has half of it
        raise _unsent(error) from error
    try:
        answer = pickle.load(process.stdout)
    except Exception:
        raise _ended(process) from None
    if isinstance(request, Given) and isinstance(answer, _Failed):
        raise _unsent(answer.error) from answer.error
    return result_of(answer)


def _ended(process: "Popen[bytes]") -> StateError:
    try:
        code = process.wait(PATIENCE)
    except TimeoutExpired:
        process.kill()
        code = process.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return StateError(
        f"needed the process that scores beside training; it ended ({how}). It starts again at the next validation; "
        "where memory is short, score in training: background=False."
    )


def _unsent(error: Exception) -> StateError:
    return StateError(
        f"needed a detector that another process can take; its encoder or its index cannot be sent "
        f"({type(error).__name__}: {error}). Define it in a module rather than in the script that is run, or score in "
        "training: background=False."
    )


def result_of(answer: Any) -> Any:
    if isinstance(answer, _Failed):
        raise answer.error from (None if answer.cause is None else RuntimeError(answer.cause))
    return answer


class _Pickler(pickle.Pickler):
    """Sends tensors as their own values, without what else lies in their storage."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor:
            return NotImplemented
        try:
            return _tensor, (value.cpu().numpy(), value.device)
        except (TypeError, RuntimeError):  # sparse, with a gradient, or of a type that NumPy has not
            return NotImplemented


def _tensor(values: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)


def _write(content: object, file: IO[bytes]) -> None:
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(content)
    file.flush()


# In the process ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What the process is told first: the detector, and how torch computes where it was fitted."""

    detector: MemorizationDetector
    pictures: bool
    threads: int
    precision: str
    deterministic: bool

    @classmethod
    def here(cls, detector: MemorizationDetector, pictures: bool) -> "Given":
        """A detector that was fitted in this process."""
        precision, exact = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
        return cls(detector, pictures, torch.get_num_threads(), precision, exact)

    def take_on(self) -> None:
        """Compute as there: otherwise the last digits might differ."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)


@dataclass(frozen=True)
class _Failed:
    """An error, and what it was raised from, which pickling leaves out."""

    error: Exception
    cause: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "_Failed":
        cause = None if error.__cause__ is None else f"{type(error.__cause__).__name__}: {error.__cause__}"
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return cls(RuntimeError(f"{type(error).__name__}: {error}"), cause)
        return cls(error, cause)


def serve() -> None:
    """What the process does until its input ends: take a detector and samples, and answer each with what was found."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that of a terminal is for the process that trains
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # engines of search remove their files
    if hasattr(os, "nice"):
        os.nice(NICE)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    given: Given | None = None
    while True:
        try:
            asked = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        except Exception as error:  # what comes next cannot be told
            _write(_Failed.of(error), answers)
            return
        if isinstance(asked, Given):
            given, answer = asked, None
            given.take_on()
        else:
            assert given is not None
            answer = _found(given, asked)
        try:
            _write(answer, answers)
        except OSError:  # nobody is there any more
            return


def _found(given: Given, samples: Samples) -> Any:
    try:
        with torch.no_grad():
            judged = judge(given.detector, samples)
            return judged, _pictures(given.detector, samples, judged.scores) if given.pictures else None
    except Exception as error:
        return _Failed.of(error)


def _pictures(detector: MemorizationDetector, samples: Samples, scores: Scores) -> Any:
    try:
        return closest_pairs(detector, samples.images, scores, PICTURES)
    except Exception as error:
        return _Failed.of(error)
