"""What happens at an alarm beside its being said: training stops, no checkpoint is kept, an error ends the program."""

from collections.abc import Iterable
from typing import Any

from mi_callback.errors import AlarmError, OptionError, choice

ACTS = ("stop", "veto", "raise")


def checked_acts(act: Any) -> tuple[str, ...]:
    """Names of acts, each once.

    Raises:
        OptionError: For another name.
    """
    asked = () if act is None else (act,) if isinstance(act, str) else act
    if not isinstance(asked, Iterable):
        raise OptionError(f"needed act out of {list(ACTS)}, one or several; {act!r} came.")
    return tuple(dict.fromkeys(choice("act", one, ACTS, OptionError) for one in asked))


class Acting:
    """Acts on the alarm of a run.

    Args:
        acts: `stop`: training ends after the validation. `veto`: no checkpoint is kept after it, so the best and the
            last one are from before. `raise`: `AlarmError` at the end of `fit`, after all was saved and logged, for CI.
    """

    def __init__(self, acts: tuple[str, ...]) -> None:
        self.acts = acts
        self._vetoed: list[tuple[Any, Any, Any]] = []

    def look(self, trainer: Any, alarm: bool) -> None:
        """A validation is over, on every rank: act where the alarm is raised, from the first that raised it."""
        if not alarm or trainer.state.fn != "fit":
            return
        if "stop" in self.acts:
            trainer.should_stop = True
        if "veto" in self.acts and not self._vetoed:
            for callback in trainer.checkpoint_callbacks:
                # What another callback vetoed is put back by it.
                if hasattr(callback, "save_top_k") and (callback.save_top_k or callback.save_last):
                    self._vetoed.append((callback, callback.save_top_k, callback.save_last))
                    callback.save_top_k, callback.save_last = 0, False

    def put_back(self, failed: bool = False) -> None:
        """The veto ends: checkpoint callbacks keep what they kept before it.

        Args:
            failed: An error ends the run. Callbacks that save at an error, which they do after this, wait for the next
                run.
        """
        waiting = []
        for callback, top, last in self._vetoed:
            if failed and getattr(callback, "save_on_exception", False):
                waiting.append((callback, top, last))
            else:
                callback.save_top_k, callback.save_last = top, last
        self._vetoed = waiting

    def end(self, alarmed: bool) -> None:
        """`fit` ends.

        Raises:
            AlarmError: After an alarm, where that was asked for.
        """
        raising = alarmed and "raise" in self.acts
        self.put_back(failed=raising)
        if raising:
            raise AlarmError(
                "needed a generator that does not copy its training set; samples of this one do (see the table above). "
                "Release no checkpoint from after the alarm, or train without act='raise'."
            )
