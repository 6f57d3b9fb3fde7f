"""What a detector keeps of the data it was fitted on, and its file: one safetensors with a JSON header.

The file holds features, thumbnails and subject ids of the training set. It is patient data, and is created readable
by its owner alone.
"""

import hashlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from mi_callback.cache import Identity, kept_at, mark_used, states_in, tidy
from mi_callback.errors import OutputError, StateError
from mi_callback.fingerprints import content_hash
from mi_callback.images.batches import read_batches
from mi_callback.images.reservoir import Reservoir
from mi_callback.private_files import replaced
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.stored import features_from, header_of, tensors_of
from mi_callback.statistics.null import Null
from mi_callback.types import SubjectKey
from mi_callback.version import __version__

HEADER = "mi_callback"
"""Key of the header in the metadata of a file."""

CHECKSUM = "checksum"
"""Key within it: the hash of all else."""

PARTS = "reference/"
"""Begin of the keys of `Reference.parts`."""

ROWS = ("train_rows", "held_out_rows")
"""Tensors that tell the images of either side: `Batch.digests`."""

NEEDED = {"settings", "data", "train", "held_out", "null", "duplicate", "difference", "planted", "recall", "engines",
          CHECKSUM}  # fmt: skip
"""Keys within it."""


@dataclass(frozen=True)
class FittedState:
    """A training set as it is searched, and the null against which samples are judged.

    Attributes:
        train: Features of training images in pose 0, with their views; thumbnails, subjects and files.
        held_out: The same of real images of other people; None where there are none.
        reference: Whitening and index of the training images.
        null: How similar real images are that were not trained on.
        duplicate: Feature similarity beyond which two generated images are near-duplicates.
        planted: Training images kept for the power self-test; None where features came from elsewhere.
        difference: In what held-out images differ from training images, with the remedy; None where they do not.
        recall: Share of the nearest training images that approximate engines find; None where search is exact.
        checksum: Hash of all of its file, of settings and data too; None where it was neither saved nor loaded.
    """

    train: Features = field(repr=False)
    held_out: Features | None = field(repr=False)
    reference: Reference = field(repr=False)
    null: Null = field(repr=False)
    duplicate: float
    planted: Reservoir | None = field(default=None, repr=False)
    difference: str | None = None
    recall: float | None = None
    checksum: str | None = None

    def images_to_plant(self, n: int, seed: int) -> tuple[list[Tensor], list[int]]:
        """Up to n of the training images kept for the power self-test, and their rows.

        Raises:
            StateError: If none were kept.
        """
        if self.planted is None:
            raise StateError(
                "needed training images to plant; a detector fitted from features keeps none. Pass images=… and rows=…."
            )
        return self.planted.drawn(n, seed)

    def save(self, path: str | Path, settings: dict[str, Any], data: str | Identity | None = None) -> "FittedState":
        """Write the state; a file at `path` is replaced in one step. Returns it with the checksum of the file.

        Args:
            path: Where; folders are made.
            settings: All that changes what the state means, as JSON holds it.
            data: `fingerprint` of the images it was fitted on, or more than that.

        Raises:
            OutputError: If it cannot be written.
        """
        from safetensors.torch import save_file

        known = data if isinstance(data, Identity) else None
        header = {"settings": settings, "data": known.data if known else data, **_header(self)}
        header |= {"outline": known.outline} if known else {}
        path = Path(path)
        make_place(path)
        tensors = _tensors(self) | ({ROWS[0]: known.train, ROWS[1]: known.held_out} if known else {})
        checksum = _checksum(header, tensors)
        with replaced(path, shared=True) as unfinished:
            save_file(tensors, unfinished, metadata={HEADER: json.dumps(header | {CHECKSUM: checksum})})
        return replace(self, checksum=checksum)

    @classmethod
    def load(
        cls,
        path: str | Path,
        settings: dict[str, Any],
        restore: Callable[[Features, Mapping[str, Tensor]], Reference],
        data: str | None = None,
    ) -> "FittedState":
        """Read what `save` wrote.

        Args:
            path: The file.
            settings: Those that the state must have been fitted under.
            restore: Makes whitening and index from the training features and their `Reference.parts`.
            data: `fingerprint` of the data at hand; checked against the stored one when given.

        Raises:
            StateError: If there is no such file, it is no state of a detector, it is damaged, or it belongs to other
                settings, another encoder or other data; the message names what differs.
        """
        header, tensors = _checked(Path(path), settings, data)
        train = features_from(tensors, "train", header["train"])
        held_out = None if header["held_out"] is None else features_from(tensors, "held_out", header["held_out"])
        rows = header["planted"]
        planted = None if rows is None else Reservoir.of(rows, [tensors[f"planted/{row}"] for row in rows])
        null = Null(tensors["null"], usual=tensors.get("null_usual"), **header["null"])
        named = (key for key in tensors if key.startswith(PARTS))
        reference = restore(train, {key.removeprefix(PARTS): tensors[key] for key in named})
        if reference.approximate != header["engines"]:
            raise StateError(
                f"needed the engine by which the null of {path} was made, {header['engines'] or 'exact search'}; "
                f"{reference.approximate or 'exact search'} came. Fit again, or choose it: backend=…."
            )
        duplicate, difference, recall = (header[key] for key in ("duplicate", "difference", "recall"))
        return cls(train, held_out, reference, null, duplicate, planted, difference, recall, header[CHECKSUM])

    @staticmethod
    def load_train(path: str | Path, settings: dict[str, Any], data: str) -> Features:
        """The training images alone, as `load`."""
        header, tensors = _checked(Path(path), settings, data)
        return features_from(tensors, "train", header["train"])


def identity_in(path: Path, settings: dict[str, Any]) -> Identity | None:
    """Of which images a state is; None where it does not say, is none, or is of other settings.

    What is read is not checked: whoever loads the state checks it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            if header["settings"] != json.loads(json.dumps(settings)):
                return None
            train, held_out = (file.get_tensor(name) for name in ROWS)
            return Identity(header["data"], train, held_out, header["outline"])
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError):
        return None


def make_place(path: Path) -> None:
    """Make the folder in which a state will lie, and see that files can be written there.

    Raises:
        OutputError: If not.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(
            f"needed a place to write a fitted state; {path.parent} is none ({error.strerror}). Name another cache=…."
        ) from error


class Fitted(ABC):
    """Something that is fitted, or not yet, and then holds a state, which it writes and reads."""

    def __init__(self) -> None:
        self._state: FittedState | None = None

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that changes what a fitted state means, as JSON holds it."""

    @abstractmethod
    def restore_reference(self, train: Features, parts: Mapping[str, Tensor]) -> Reference:
        """Whitening and index of training features, of the parts that were kept."""

    @abstractmethod
    def _take(self, state: FittedState) -> None:
        """Take on a fitted state: all of it, or when something raises, nothing."""

    def save(self, path: str | Path, data: str | Identity | None = None) -> Path:
        """Write the fitted state: one file, patient data. Returns its path.

        Args:
            path: Where; with `data` a folder too, that holds states of several data sets and settings (see `cache`).
            data: `state.fingerprint` of the images, to be checked when it is loaded; or more than that.

        Raises:
            StateError: If it is not fitted.
        """
        place = kept_at(Path(path), self.settings(), data.data if isinstance(data, Identity) else data)
        self._state = self.state.save(place, self.settings(), data)
        if place != Path(path):
            tidy(Path(path), place)
        return place

    def is_kept(self, path: str | Path, data: str | None = None) -> bool:
        """Whether there is a state to load: in a folder, one of these settings and data."""
        return kept_at(Path(path), self.settings(), data).is_file()

    def states_kept(self, path: str | Path) -> list[tuple[Path, Identity]]:
        """States of these settings in a file or folder, with what they were fitted on; the last one used first."""
        found = ((state, identity_in(state, self.settings())) for state in states_in(Path(path)))
        return [(state, identity) for state, identity in found if identity is not None]

    def load(self, path: str | Path, data: str | None = None) -> Self:
        """Restore a state that a detector of the same settings and encoder saved. Returns itself.

        Raises:
            StateError: If it is of other settings, another encoder or other data.
        """
        place = kept_at(Path(path), self.settings(), data)
        self._take(FittedState.load(place, self.settings(), self.restore_reference, data))
        mark_used(place)
        return self

    @property
    def fitted(self) -> bool:
        """Whether there is a training set to compare with."""
        return self._state is not None

    @property
    def state(self) -> FittedState:
        """What is kept of the data that it was fitted on.

        Raises:
            StateError: If it is not fitted.
        """
        if self._state is None:
            raise StateError("needed a fitted detector; call fit(train, held_out=…) first.")
        return self._state

    @property
    def train(self) -> Features:
        """Features, thumbnails and subjects of the training images."""
        return self.state.train

    @property
    def held_out(self) -> Features | None:
        """The same of held-out images; None where there are none."""
        return self.state.held_out

    @property
    def null(self) -> Null:
        """Similarity of real images that were not trained on."""
        return self.state.null


def fingerprint(*sources: Iterable[Any] | None, subject_key: SubjectKey = None, image_key: SubjectKey = None) -> str:
    """Hash of all images and subjects of several iterables of batches: changes when any pixel does."""
    read = ([] if source is None else read_batches(source, 64, subject_key, image_key, None) for source in sources)
    return fingerprint_of_rows(*([row for batch in batches for row in batch.digests()] for batches in read))


def fingerprint_of_rows(*sources: Iterable[bytes]) -> str:
    """The same of what `Batch.digests` says of their images."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in sources:
        digest.update(b"source")
        for row in rows:
            digest.update(row)
    return digest.hexdigest()


def _checked(path: Path, settings: dict[str, Any], data: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a state, as they were written, of these settings and data."""
    header, tensors = _read(path)
    stored = header["settings"]
    differ = sorted(key for key in settings.keys() | stored.keys() if settings.get(key) != stored.get(key))
    if data is not None and header["data"] != data:
        differ.append("data")
    if differ:
        raise StateError(f"needed a state of the same settings and data; {path} differs in {differ}. Fit again.")
    if header[CHECKSUM] != _checksum(header, tensors):
        raise StateError(f"needed the state as it was written; {path} is damaged. Fit again.")
    return header, tensors


def _header(state: FittedState) -> dict[str, Any]:
    """All of a state that is no tensor, as JSON holds it."""
    null, held_out, planted = state.null, state.held_out, state.planted
    return {
        "version": __version__,
        "train": header_of(state.train),
        "held_out": None if held_out is None else header_of(held_out),
        "null": {
            "subjects": None if null.subjects is None else list(null.subjects),
            "kind": str(null.kind),
            "correction": null.correction,
            "suspects": null.suspects,
        },
        "duplicate": state.duplicate,
        "difference": state.difference,
        "recall": state.recall,
        "engines": state.reference.approximate,
        "planted": None if planted is None else planted.rows,
    }


def _tensors(state: FittedState) -> dict[str, Tensor]:
    tensors = tensors_of("train", state.train) | {"null": state.null.similarity.contiguous()}
    if state.null.usual is not None:
        tensors["null_usual"] = state.null.usual.contiguous()
    tensors |= {PARTS + key: part for key, part in state.reference.parts().items()}
    if state.held_out is not None:
        tensors |= tensors_of("held_out", state.held_out)
    if state.planted is not None:
        images = zip(state.planted.rows, state.planted.images, strict=True)
        tensors |= {f"planted/{row}": image.contiguous() for row, image in images}
    return tensors


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise StateError(f"needed the fitted state {path}; there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            if missing := NEEDED - header.keys():
                raise KeyError(sorted(missing))
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, KeyError, AttributeError, TypeError, json.JSONDecodeError) as error:
        raise StateError(f"needed a state written by MemorizationDetector.save; {path} is none ({error}).") from error


def _checksum(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return content_hash(json.dumps({key: header[key] for key in header if key != CHECKSUM}), sorted(tensors.items()))
