"""The power self-test: copies of training images, as sharp and as noisy as samples are, and judged alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mi_callback.detection.kept_power import kept_power
from mi_callback.detection.matching import Match
from mi_callback.detection.planting import Planted, measure_power
from mi_callback.errors import DataError, StateError
from mi_callback.fingerprints import content_hash, fingerprint_of_code
from mi_callback.judging.calibration import Calibration
from mi_callback.state import FittedState
from mi_callback.statistics.flagging import FlagRule
from mi_callback.statistics.power import Power
from mi_callback.types import Images

MEASURING = ("judging", "detector.py")
"""Room and file whose code decides what the power self-test finds, beside what a state is made with."""


@dataclass(frozen=True)
class Planting:
    """Copies that are planted for the power self-test, and how they are judged.

    Attributes:
        images: The training images of which they are.
        changes: What is done to each; None for every change there is.
        calibration: Gives them the quality of samples, and judges them.
    """

    images: Planted
    changes: Sequence[str] | None
    calibration: Calibration

    def measure(
        self,
        look: Callable[[Images], Match],
        state: FittedState,
        alpha: float,
        seed: int,
        cache: str | Path | None,
        label: str | None = None,
    ) -> Power:
        """The share of the copies that is found.

        Args:
            look: Looks images up as samples are.
            state: Of the detector that looks.
            alpha: Level of the flags.
            seed: Of noise and warps.
            cache: File in which the result is kept; None for no file.
            label: Of the progress bar; None for no bar.

        Raises:
            StateError: If it is to be kept, and the state was neither saved nor loaded.
        """

        def find(planted: Tensor) -> tuple[Tensor, Tensor]:
            found = look(self.calibration.alter(planted, seed))
            return FlagRule(alpha).flag(self.calibration.null.p_values(found.similarity)), found.row

        def measured() -> Power:
            return measure_power(find, self.images, alpha, state.train.subjects, self.changes, seed, label)

        return measured() if cache is None else kept_power(Path(cache), self._key(state, alpha, seed), measured)

    def _key(self, state: FittedState, alpha: float, seed: int) -> str:
        """Hash of all that the result follows from; what the state was made of and with is in its checksum."""
        if state.checksum is None:
            raise StateError(
                "needed a saved state to keep the result of its power self-test; this one has no file. Call save(…) "
                "first, or leave cache=… out."
            )
        quality = self.calibration.degradation
        changed = None if quality is None else [quality.gain, quality.noise]
        planted, changes = self.images, self.images.changes if self.changes is None else list(self.changes)
        what = [list(planted.images), list(planted.rows), changes, changed]
        return content_hash(state.checksum, fingerprint_of_code(*MEASURING), alpha, seed, *what)


def to_plant(
    state: FittedState, n: int, seed: int, images: Sequence[Tensor] | None, rows: Sequence[int] | None
) -> Planted:
    """Training images to copy: those that are named with their rows, else up to n of those that the state keeps.

    Raises:
        DataError: For images without rows, or rows without images.
        StateError: If none are named and none were kept.
    """
    if (images is None) != (rows is None):
        raise DataError("needed images=… and rows=… together, a row for each image; one of them came alone.")
    if images is None or rows is None:
        images, rows = state.images_to_plant(n, seed)
    return Planted(images, rows, None if state.held_out is None else state.held_out.thumbnails[:, None])
