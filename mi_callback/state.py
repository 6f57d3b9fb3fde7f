"""A fitted detector on disk: one safetensors file with a JSON header, refused when it belongs to something else.

The file holds features, thumbnails and subject ids of the training set. It is patient data, and is created readable
by its owner alone.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mi_callback import __version__
from mi_callback.errors import StateError
from mi_callback.images.batches import read_batches
from mi_callback.images.reservoir import Reservoir
from mi_callback.retrieval.features import Features
from mi_callback.statistics.null import Null
from mi_callback.types import SubjectKey

if TYPE_CHECKING:
    from mi_callback.detector import MemorizationDetector

FORMAT = 12
"""Also another one where the same images would give another null: novel images would be judged by an older measure."""


def save(detector: "MemorizationDetector", path: str | Path, data_fingerprint: str | None = None) -> None:
    """Write a fitted detector.

    Raises:
        StateError: If it is not fitted.
    """
    from safetensors.torch import save_file

    if detector.train is None or detector.null is None:
        raise StateError("needed a fitted detector to save; call fit(train, held_out=…) first.")
    train = detector.train
    tensors = _in_pose_0("train", train)
    tensors |= {"thumbnails": train.thumbnails.contiguous(), "null": detector.null.similarity.contiguous()}
    if detector.null.usual is not None:
        tensors["null_usual"] = detector.null.usual.contiguous()
    held_out = detector.held_out
    if held_out is not None:
        tensors |= _in_pose_0("held_out", held_out)
        tensors["held_out_thumbnails"] = held_out.thumbnails.contiguous()
    planted = detector.planted
    if planted is not None:
        tensors |= {
            f"planted/{row}": image.contiguous() for row, image in zip(planted.rows, planted.images, strict=True)
        }
    header = {
        "format": FORMAT,
        "settings": settings(detector),
        "data": data_fingerprint,
        "subjects": train.subjects,
        "sources": train.sources,
        "layers": list(train.layers),
        "layers_with_regions": list(train.regions),
        "views": list(train.views),
        "views_of_held_out": [] if held_out is None else list(held_out.views),
        "null_kind": detector.null.kind,
        "null_subjects": None if detector.null.subjects is None else list(detector.null.subjects),
        "duplicate": detector.duplicate,
        "null_correction": detector.null.correction,
        "null_suspects": detector.null.suspects,
        "held_out_subjects": None if held_out is None else held_out.subjects,
        "planted": None if planted is None else planted.rows,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(path.suffix + ".part")
    unfinished.touch(mode=0o600)
    save_file(tensors, unfinished, metadata={"mi_callback": json.dumps(header)})
    os.chmod(unfinished, 0o600)
    unfinished.replace(path)


def load(detector: "MemorizationDetector", path: str | Path, data_fingerprint: str | None = None) -> None:
    """Restore what `save` wrote into a detector of the same settings and encoder.

    Args:
        data_fingerprint: `fingerprint` of the data at hand; checked against the stored one when given.

    Raises:
        StateError: If there is no such file, it is no state of a detector, or it belongs to other settings, another
            encoder or other data; the message names what differs.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise StateError(f"needed the fitted state {path}; there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["mi_callback"])
            stored = header["settings"] | {"format": header["format"]}
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise StateError(f"needed a state written by MemorizationDetector.save; {path} is none ({error}).") from error
    here = settings(detector) | {"format": FORMAT}
    differ = sorted(key for key in here.keys() | stored.keys() if here.get(key) != stored.get(key))
    if data_fingerprint is not None and header["data"] != data_fingerprint:
        differ.append("data")
    if differ:
        raise StateError(f"needed a state of the same settings and data; {path} differs in {differ}. Fit again.")

    def side(
        name: str, pictures: str, views: list[str], subjects: list[str] | None, sources: list[str] | None
    ) -> Features:
        def pooled(kind: str, layers: list[str]) -> dict[str, Tensor]:
            return {layer: tensors[f"{name}/{kind}{layer}"][None] for layer in layers}

        whole, windows = pooled("", header["layers"]), pooled("regions/", header["layers_with_regions"])
        seen = {view: pooled(f"{view}/", header["layers"]) for view in views}
        return Features(whole, tensors[pictures], subjects, sources, windows, seen)

    train = side("train", "thumbnails", header["views"], header["subjects"], header["sources"])
    held_out = None
    if "held_out_thumbnails" in tensors:
        views = header["views_of_held_out"]
        held_out = side("held_out", "held_out_thumbnails", views, header["held_out_subjects"], None)
    null = Null(
        tensors["null"],
        header["null_subjects"],
        header["null_kind"],
        header["null_correction"],
        header["null_suspects"],
        tensors.get("null_usual"),
    )
    planted = None
    if header["planted"] is not None:
        planted = Reservoir.of(header["planted"], [tensors[f"planted/{row}"] for row in header["planted"]])
    detector.restore(train, held_out, detector.fit_reference(train), null, header["duplicate"], planted)


def _in_pose_0(name: str, images: Features) -> dict[str, Tensor]:
    kinds = {"": images.layers, "regions/": images.regions}
    kinds |= {f"{view}/": pooled for view, pooled in images.views.items()}
    return {
        f"{name}/{kind}{layer}": features[0].contiguous()
        for kind, pooled in kinds.items()
        for layer, features in pooled.items()
    }


def settings(detector: "MemorizationDetector") -> dict[str, Any]:
    """Everything that changes what a fitted state means, as JSON holds it."""
    aggregation = detector.aggregation
    return {
        "version": __version__,  # the null depends on code as well as on settings
        "encoder": detector.encoder.fingerprint(),
        "whitening": detector.whitening,
        "aggregation": aggregation if isinstance(aggregation, str) else dict(aggregation),
        "poses": list(detector.poses),
        "null": detector.null_choice,
        "verify": detector.verify,
        "candidates": detector.candidates,
        "regions": detector.regions,
        "views": detector.views,
        "null_size": detector.null_size,
        "seed": detector.seed,
    }


def fingerprint(*sources: Iterable[Any] | None, subject_key: SubjectKey = None, image_key: SubjectKey = None) -> str:
    """Hash of all images and subjects of several iterables of batches: changes when any pixel does."""
    digest = hashlib.blake2b(digest_size=16)
    for source in sources:
        digest.update(b"source")
        batches = () if source is None else read_batches(source, 64, subject_key, image_key, None)
        for batch in batches:
            images = torch.as_tensor(batch.images).detach().cpu().contiguous()
            digest.update(repr((images.dtype, tuple(images.shape[1:]), batch.subjects)).encode())
            digest.update(images.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
