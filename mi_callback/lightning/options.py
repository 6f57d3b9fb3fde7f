"""Options of the callback, checked before anything is trained: what is accepted has an effect."""

from collections.abc import Callable, Mapping
from typing import Any

from mi_callback.arguments import known_options, switch
from mi_callback.detector import MemorizationDetector
from mi_callback.encoders import build_encoder
from mi_callback.errors import OptionError
from mi_callback.lightning.data.sides import Sides
from mi_callback.lightning.messages import say
from mi_callback.lightning.samplers import ReadySampler
from mi_callback.statistics.null import NullKind
from mi_callback.types import SubjectKey

OWN_NULL = (NullKind.CROSS_FIT, NullKind.TRAIN_HALVES)
"""Nulls that are made from training subjects."""

VOLUMES = "slices"
"""Encoder of volumes where none was asked for."""


def checked_sampler(sampler: Any) -> str | ReadySampler | Callable[..., Any] | None:
    """A name, a ready sampler, something that can be called, or None."""
    if (
        sampler is None
        or callable(sampler)
        or isinstance(sampler, ReadySampler)
        or (isinstance(sampler, str) and sampler)
    ):
        return sampler  # type: ignore[no-any-return]
    raise OptionError(f"needed a sampler as a function (module, n), a dotted name, or None; {sampler!r} came.")


def checked_key(name: str, key: Any) -> SubjectKey:
    """A key, a position, a function, or None."""
    if key is None or callable(key) or (isinstance(key, (str, int)) and not isinstance(key, bool) and key != ""):
        return key
    raise OptionError(f"needed {name} as a key, a position in a tuple, or a function of the batch; {key!r} came.")


def checked_background(background: Any, time_limit: Any) -> bool:
    """Whether samples are scored beside training.

    Raises:
        OptionError: For what is no switch, or beside a limit of the time that training waits.
    """
    if switch("background", background) and time_limit is not None:
        raise OptionError(
            "needed time_limit or background=True; both came. Scored beside training, samples take no time of it that "
            "could be limited. Leave one of them out."
        )
    return bool(background)


def checked_detector(
    detector: Any, train: Any, held_out: Any, cache: Any
) -> tuple[MemorizationDetector | None, dict[str, Any]]:
    """The user's detector, or the options to build one with.

    Raises:
        OptionError: For anything else, unknown options, or data beside a detector that uses none.
    """
    if isinstance(detector, MemorizationDetector):
        _check_use(detector, train, held_out, cache)
        return detector, {}
    if not (detector is None or isinstance(detector, Mapping)):
        raise OptionError(f"needed a MemorizationDetector or a mapping of its options; {type(detector).__name__} came.")
    options = dict(detector or {})
    known_options(options, MemorizationDetector)
    MemorizationDetector(**options | {"encoder": "pixels"})  # says at once what is wrong with the others
    if held_out is not None and options.get("null") in OWN_NULL and not options.get("contrast"):
        raise _unused("held_out=…", f"null={options['null']!r}")
    return None, options


def build_detector(options: Mapping[str, Any], sides: Sides, device: Any) -> MemorizationDetector:
    """A detector of these options; volumes get the encoder of volumes where none was asked for."""
    options = dict(options) | {"device": options.get("device") or device}
    first = sides.train[0].first(sides.subject_key, sides.image_key) if "encoder" not in options else None
    if first is not None and first.images.ndim == 5:
        say(f"training images are volumes, so they are encoded by {VOLUMES!r}: detector={{'encoder': …}} for another.")
        options["encoder"] = build_encoder(VOLUMES)
    return MemorizationDetector(**options)


def _check_use(detector: MemorizationDetector, train: Any, held_out: Any, cache: Any) -> None:
    for name, value in (("train", train), ("held_out", held_out), ("cache", cache)):
        if value is not None and detector.fitted:
            raise _unused(f"{name}=…", "a detector that is fitted already")
    if held_out is not None and detector.null_choice in OWN_NULL and not detector.contrast:
        raise _unused("held_out=…", f"null={detector.null_choice.value!r}")


def _unused(option: str, beside: str) -> OptionError:
    return OptionError(f"needed options that have an effect; {option} has none beside {beside}. Leave one of them out.")
