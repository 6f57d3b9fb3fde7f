"""What the catalogue of encoders holds, and how large and how fast here those are that need no file."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from mi_callback.encoders.catalogue import Entry
from mi_callback.encoders.protocol import Encoder
from mi_callback.encoders.registry import available, build_encoder, entry

RESTRICTED = "*"
"""Mark of licences that exclude some uses or ask for an agreement first."""

RUNS = 5
SECONDS = 1.0
"""Time spent on the runs of one encoder, about, at most."""

BATCH = {2: 16, 3: 1}
"""Images, or volumes, encoded at a time."""


@dataclass(frozen=True)
class Listed:
    """One entry of the catalogue.

    Attributes:
        name: For `build_encoder`.
        entry: Licence, citation, what it needs.
        parameters: Number of weights; None where it was not built.
        megabytes: What weights and buffers take in memory.
        seconds: To encode one image or volume, in the size that the encoder takes.
        error: Why it could not be built although it needs nothing.
    """

    name: str
    entry: Entry
    parameters: int | None = None
    megabytes: float | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def call(self) -> str:
        """The call that builds it."""
        options = re.match(r"\w+=[^,]+(, \w+=[^,]+)*", self.entry.needs)
        return f'build_encoder("{self.name}"{f", {options[0]}" if options else ""})'

    @property
    def licence(self) -> str:
        return self.entry.card.licence + (RESTRICTED if self.entry.card.restricted else "")

    @property
    def speed(self) -> str:
        if self.seconds is None:
            return ""
        return f"{1 / self.seconds:.0f} images/s" if self.entry.dims == 2 else f"{self.seconds:.2f} s/volume"

    @property
    def size(self) -> str:
        if self.parameters is None or self.megabytes is None:
            return ""
        return f"{self.parameters / 1e6:.1f} M, {self.megabytes:.1f} MB"

    def __str__(self) -> str:
        """In full."""
        card = self.entry.card
        lines = [
            ("build", self.call),
            ("needs", self.entry.needs or "nothing"),
            ("takes", "images" if self.entry.dims == 2 else "volumes"),
            ("trained on", card.modality),
            ("licence", self.licence + (" (excludes some uses, or asks for an agreement first)" * card.restricted)),
            ("citation", card.citation),
            ("source", card.source),
            ("parameters", self.size),
            ("speed here", self.speed),
            ("error", self.error or ""),
        ]
        return "\n".join([self.name, *(f"  {key:11} {value}" for key, value in lines if value)])


def list_encoders(names: Sequence[str] | None = None, measure: bool = True) -> list[Listed]:
    """Entries of the catalogue by name; when None all of them, those that need nothing first.

    Args:
        measure: Build those that need nothing, and say how large and how fast they are.

    Raises:
        EncoderError: If there is none of a name.
    """
    rows = []
    for name in sorted(available(), key=lambda name: bool(entry(name).needs)) if names is None else names:
        known = entry(name)
        if known.needs or not measure:
            rows.append(Listed(name, known))
            continue
        try:
            encoder = build_encoder(name)
            rows.append(Listed(name, known, *count_weights(encoder), time_encoder(encoder)))
        except Exception as error:
            rows.append(Listed(name, known, error=f"{type(error).__name__}: {error}"))
    return rows


def count_weights(encoder: Encoder) -> tuple[int, float]:
    """Number of parameters, and megabytes of parameters and buffers."""
    if not isinstance(encoder, torch.nn.Module):
        return 0, 0.0
    held = [*encoder.parameters(), *encoder.buffers()]
    return sum(p.numel() for p in encoder.parameters()), sum(t.numel() * t.element_size() for t in held) / 1e6


def time_encoder(encoder: Encoder) -> float:
    """Median over a few runs on random images, after one that is not counted, where the encoder lies."""
    batch = BATCH[len(encoder.size)]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, encoder.channels, *encoder.size, generator=generator)
    if isinstance(encoder, torch.nn.Module) and (held := next(encoder.parameters(), None)) is not None:
        images = images.to(held.device)
    runs: list[float] = []
    for run in range(RUNS + 1):
        start = time.perf_counter()
        with torch.no_grad():
            # Copied to the CPU: an accelerator is waited for.
            [features.cpu() for features in encoder(images).values()]
        if run:
            runs.append(time.perf_counter() - start)
        if sum(runs) > SECONDS:
            break
    return median(runs) / batch
