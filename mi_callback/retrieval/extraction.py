"""Images in any container + encoder → features per layer and pose, with subjects and thumbnails, in one pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mi_callback.encoders import Encoder
from mi_callback.errors import DataError, EncoderError
from mi_callback.images.batches import _as_ids, read_batches
from mi_callback.images.poses import POSES
from mi_callback.images.preprocessing import check_images, preprocess
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.thumbnails import THUMBNAIL_SIDE, make_thumbnails
from mi_callback.images.windows import structured_windows
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.views import views_of
from mi_callback.types import SubjectKey, Subjects

VOLUMES_AT_ONCE = 8
"""Volumes encoded at a time, one pose or view after another; bounds the memory."""


def extract(
    images: Any,
    encoder: Encoder,
    poses: Sequence[str] = ("identity",),
    subjects: Subjects | None = None,
    subject_key: SubjectKey = None,
    image_key: SubjectKey = None,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    progress: str | None = None,
    keep: Reservoir | None = None,
    regional: bool = False,
    views: Sequence[str] = (),
) -> Features:
    """Encode every image once per pose, without gradient and outside autocast.

    Args:
        images: Tensor or array `(n, 1, h, w)`, or volumes `(n, 1, d, h, w)`, a Dataset, or an iterable of batches.
        encoder: On `device` already.
        poses: Names out of `POSES`; the query's orbit.
        subjects: One id per image; overrides what the batches say.
        subject_key: Where a batch holds its subject ids: a key, or a function of the batch.
        image_key: The same for the images.
        progress: Label of the progress bar, or None for no bar.
        keep: Takes a sample of the images on the way.
        regional: Pool over windows too, where the encoder can (`HookedEncoder.with_windows`).
        views: Encode every image in these views (`views.views_of`) too, in every pose those that are of both sides.

    Volumes are encoded `VOLUMES_AT_ONCE` at most, whatever the size of a batch.

    Raises:
        DataError: For no image at all, mixed sizes, ids that do not match the images, or broken images (see
            `check_images`), with the position of the batch.
    """
    collected: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in ("layers", "regions", *views)}
    changes = [POSES[pose] for pose in poses]
    dims = len(encoder.size)
    thumbs: list[Tensor] = []
    found_subjects: list[str] | None = []
    found_sources: list[str] | None = []
    done = 0
    for batch in read_batches(images, batch_size, subject_key, image_key, progress):
        try:
            checked = check_images(batch.images, encoder.channels, dims)
        except DataError as error:
            raise DataError(f"in the batch that begins at image {done}: {error}") from error
        if keep is not None:
            keep.offer(checked)
        for some in checked.split(len(checked) if dims == 2 else VOLUMES_AT_ONCE):
            some = some.to(device)
            thumbs.append(make_thumbnails(some, THUMBNAIL_SIDE[dims]).cpu())
            whole, windows = encode(some, encoder, changes, regional)
            pooled = {"layers": whole, "regions": windows}
            for name in views:
                view = views_of(dims)[name]
                turned = changes if view.beside == name else changes[:1]
                pooled[name] = encode(view.of(some, encoder.intensity), encoder, turned)[0]
            for kind, found in pooled.items():
                for layer, features in found.items():
                    collected[kind].setdefault(layer, []).append(features)
        found_subjects = _extend(found_subjects, batch.subjects)
        found_sources = _extend(found_sources, batch.sources)
        done += len(checked)
    if not done:
        raise DataError("needed at least one image; the data set or iterable is empty.")
    if subjects is not None:
        found_subjects = _as_ids(subjects)
        if len(found_subjects) != done:
            raise DataError(f"needed one subject per image ({done}); {len(found_subjects)} came.")
    joined = {
        kind: {layer: torch.cat(batches, dim=1) for layer, batches in found.items()}
        for kind, found in collected.items()
    }
    whole, windows = joined.pop("layers"), joined.pop("regions")
    return Features(whole, torch.cat(thumbs), found_subjects, found_sources, windows, joined)


@torch.no_grad()
def encode(
    images: Tensor, encoder: Encoder, changes: Sequence[Callable[[Tensor], Tensor]], regional: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Checked images `(n, c, h, w)` under each change → features and those of regions, as in `Features`, on the CPU.

    Images go through the encoder under all changes at once, volumes under one after another.

    Raises:
        EncoderError: If the encoder returns other layers than it declared, another number of rows, or NaN.
    """
    if images.ndim == 5 and len(changes) > 1:
        each = [encode(images, encoder, [change], regional) for change in changes]
        whole, windows = ({key: torch.cat([one[k][key] for one in each]) for key in each[0][k]} for k in (0, 1))
        return whole, windows
    with torch.autocast(images.device.type, enabled=False):
        turned = [preprocess(change(images), encoder.size, encoder.channels, encoder.intensity) for change in changes]
        # Quarter turns swap height and width, but the input size of the encoder is the same for all.
        batch = torch.cat(turned)
        with_regions = getattr(encoder, "with_windows", None) if regional else None
        pooled, parts = with_regions(batch) if with_regions else (encoder(batch), {})
        background = ~structured_windows(batch)[..., None] if parts else None
    if list(pooled) != list(encoder.layers):
        raise EncoderError(f"needed the layers {list(encoder.layers)} from {encoder.name!r}; {list(pooled)} came.")
    for layer, features in pooled.items():
        if features.ndim != 2 or len(features) != len(changes) * len(images):
            raise EncoderError(
                f"needed ({len(changes) * len(images)}, d) features of {layer!r}; {tuple(features.shape)} came."
            )
        if not features.isfinite().all():
            raise EncoderError(f"needed finite features; {encoder.name!r} returned NaN or infinity in {layer!r}.")
    shape, most = (len(changes), len(images)), torch.finfo(torch.float16).max
    parts = {layer: f.clamp(-most, most).half().masked_fill(background, torch.nan) for layer, f in parts.items()}
    return (
        {layer: features.float().cpu().unflatten(0, shape) for layer, features in pooled.items()},
        {layer: features.cpu().unflatten(0, shape) for layer, features in parts.items()},
    )


def _extend(collected: list[str] | None, new: list[str] | None) -> list[str] | None:
    """Known for all, or for none."""
    return None if collected is None or new is None else collected + new
