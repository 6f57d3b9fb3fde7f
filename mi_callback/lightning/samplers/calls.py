"""Which arguments a function takes: the number of images, a condition, the module."""

import inspect
from collections.abc import Callable
from typing import Any

from mi_callback.errors import SamplerError

NUMBERS = ("n", "num", "count", "number", "batch_size", "n_samples", "num_samples", "n_images", "num_images", "bs", "k")
"""Usual names of the number of images."""

CONDITIONS = frozenset(
    """
    y label labels c cond condition conditions conditioning context prompt prompts mask masks class_labels seg text
    """.split()  # noqa: SIM905  a list of words
)
"""Names of parameters that take what images are drawn for."""

OTHERS = CONDITIONS | frozenset(
    """
    z latent latents noise x x_t x0 batch image images img embedding embeddings shape t timesteps
    """.split()  # noqa: SIM905  a list of words
)
"""Names of first parameters that are no number of images."""


def with_count(function: Any, module: Any, name: str) -> Callable[[int], Any]:
    """`function` as a function of n alone; the module goes first where it takes two arguments.

    Raises:
        SamplerError: If it is no function of these.
    """
    _check_callable(function, name)
    if module is not None and required(function) == 2 and first(function) not in NUMBERS:
        return lambda n: function(module, n)
    if not takes_count(function):
        raise not_of_a_number(name, function)
    return function  # type: ignore[no-any-return]


def with_condition(function: Any, module: Any, name: str) -> Callable[[int, Any], Any]:
    """`function` as a function of n and of n conditions, by the names of its parameters, or else in this order.

    Args:
        function: `(n, condition)`, `(module, n, condition)` or `(condition)`; the condition may have a default.
        module: Goes first where there is a parameter for it; None for a bound method.
        name: For the message.

    Raises:
        SamplerError: If it has no parameter for a condition.
    """
    _check_callable(function, name)
    parameters = positional(function)
    needed = [each.name for each in parameters if each.default is each.empty]
    slots = _slots(needed, module is not None)
    keyword = next((each.name for each in all_parameters(function) if each.name in CONDITIONS), None)
    if slots is not None and "condition" not in slots and keyword is not None:
        return lambda n, condition: function(*_filled(slots, module, n, condition), **{keyword: condition})
    if slots is None or "condition" not in slots:
        raise SamplerError(
            f"needed {name}(n, condition) or {name}(module, n, condition), since condition_key=… was given; its "
            f"signature is {signature(function)}."
        )
    return lambda n, condition: function(*_filled(slots, module, n, condition))


def takes_count(function: Callable[..., Any]) -> bool:
    """Whether a number alone will do."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    kinds = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    return bool(kinds) and required(function) <= 1 and not keyword_only


def takes_condition(function: Callable[..., Any]) -> bool:
    """Whether a bound method can be told what to draw images for."""
    try:
        with_condition(function, None, "sample")
    except SamplerError:
        return False
    return True


def all_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """What can be passed by name or by position."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """What can be passed by position."""
    return [p for p in all_parameters(function) if p.kind is not p.KEYWORD_ONLY]


def required(function: Callable[..., Any]) -> int:
    """How many arguments must come by position."""
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        return 1
    return sum(p.default is p.empty for p in positional(function))


def first(function: Callable[..., Any]) -> str | None:
    """Name of the first parameter."""
    return next((p.name for p in positional(function)), None)


def parameters_in_words(function: Callable[..., Any]) -> str:
    """What must be passed."""
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    needed = [f"*, {p.name}" for p in keywords if p.default is p.empty]
    return f"({', '.join([*(p.name for p in positional(function)), *needed])})"


def name_of(function: Callable[..., Any]) -> str:
    """Name of a function, or of the class of an object that is called."""
    return getattr(function, "__name__", type(function).__name__)


def signature(function: Callable[..., Any]) -> str:
    """Name and parameters."""
    return f"{name_of(function)}{inspect.signature(function)}"


def not_of_a_number(name: str, function: Callable[..., Any]) -> SamplerError:
    """That a function takes no number alone, and the line that helps."""
    needs = [each for each in positional(function) if each.default is each.empty]
    more = [each.name for each in needs if each.name not in NUMBERS]
    hint = f" It needs {', '.join(more)}, too" if more and len(needs) <= 2 else ""
    call = ", ".join("n" if each.name in NUMBERS else f"{each.name}=…" for each in needs)
    fix = f": sampler=lambda module, n: module.{name}({call})." if hint and name != "sampler" else "." if hint else ""
    drawn = " Or have conditions drawn from validation batches: condition_key=…." if set(more) & CONDITIONS else ""
    return SamplerError(
        f"needed {name}(module, n) or {name}(n); its signature is {signature(function)}.{hint}{fix}{drawn}"
    )


def _slots(needed: list[str], has_module: bool) -> list[str] | None:
    """What goes where: `module`, `n`, `condition`; None where that cannot be told."""
    told = ["n" if name in NUMBERS else "condition" if name in CONDITIONS else "" for name in needed]
    order = ["module", "n", "condition"] if has_module else ["n", "condition"]
    if "" in told:
        if "module" in order and told.index("") == 0 and "" not in told[1:]:
            return ["module", *told[1:]]
        return order if len(told) == len(order) else order[1:] if len(told) == len(order) - 1 else None
    return told


def _filled(slots: list[str], module: Any, n: int, condition: Any) -> list[Any]:
    return [{"module": module, "n": n, "condition": condition}[slot] for slot in slots]


def _check_callable(function: Any, name: str) -> None:
    if not callable(function):
        raise SamplerError(f"needed a callable {name}; {type(function).__name__} came.")
