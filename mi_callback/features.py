"""Images in any container + encoder → features per layer and pose, with subjects and thumbnails, in one pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from mi_callback import regions
from mi_callback.encoders import Encoder
from mi_callback.errors import DataError, EncoderError
from mi_callback.images import subject_in_path
from mi_callback.poses import POSES
from mi_callback.preprocessing import check_images, preprocess, thumbnails
from mi_callback.registration import side_of
from mi_callback.types import Batches, LayerFeatures, SubjectKey, Subjects, Thumbnails
from mi_callback.views import views_of

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "data", "input")
SUBJECT_KEYS = ("subject", "subject_id", "patient", "patient_id", "participant_id", "subjects")
PROVENANCE = "filename_or_obj"

VOLUMES_AT_ONCE = 8
"""Volumes encoded at a time, one pose or view after another; bounds the memory."""


@dataclass(frozen=True)
class Features:
    """One pass over n images.

    Attributes:
        layers: `{layer: (poses, n, d)}` float32 on the CPU; pose 0 is the image as it came.
        thumbnails: uint8 `(n, side, side)`, of volumes `(n, side, side, side)`; patient data.
        subjects: One id per image, or None.
        sources: File of each image where its batch named one, or None.
        regions: `{layer: (poses, n, windows, d)}` float16, the same per window of the image, NaN where it shows
            no anatomy; empty where they were not asked for or the encoder has none.
        views: `{view: {layer: (poses, n, d)}}`, the images in other `views`, those of the training images alone as they
            came; empty where not asked for.
    """

    layers: dict[str, Tensor]
    thumbnails: Thumbnails
    subjects: list[str] | None
    sources: list[str] | None
    regions: dict[str, Tensor] = field(default_factory=dict)
    views: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.thumbnails)

    @property
    def dims(self) -> int:
        """Spatial dimensions: 2 for images, 3 for volumes."""
        return self.thumbnails.ndim - 1

    def pose(self, position: int) -> LayerFeatures:
        """`{layer: (n, d)}` for one pose."""
        return {layer: features[position] for layer, features in self.layers.items()}

    def in_pose(self, position: int) -> "Features":
        """The same images in one pose alone, in memory of their own; views of training images alone have but pose 0."""
        return self._each(lambda features: features[position : position + 1].clone())

    def as_they_are(self) -> "Features":
        """The same images without regions and views."""
        return replace(self, regions={}, views={})

    def seen_as(self, view: str) -> "Features":
        """The same images in one of their views alone."""
        return replace(self.as_they_are(), layers=self.views[view])

    @property
    def ids(self) -> list[str]:
        """One id per image: its subject, or where subjects are unknown its row."""
        return self.subjects or [f"row {i}" for i in range(len(self))]

    def digests(self) -> list[bytes]:
        """A hash per thumbnail: equal for identical images."""
        return [digest(thumbnail) for thumbnail in self.thumbnails]

    def where(self, rows: Tensor) -> "Features":
        """The images at `rows` (positions or a bool mask)."""
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        places = rows.tolist()
        return replace(
            self._each(lambda features: features[:, rows]),
            thumbnails=self.thumbnails[rows],
            subjects=None if self.subjects is None else [self.subjects[i] for i in places],
            sources=None if self.sources is None else [self.sources[i] for i in places],
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """The same with what a change makes of all that was pooled."""

        def changed(pooled: dict[str, Tensor]) -> dict[str, Tensor]:
            return {layer: change(features) for layer, features in pooled.items()}

        views = {view: changed(pooled) for view, pooled in self.views.items()}
        return replace(self, layers=changed(self.layers), regions=changed(self.regions), views=views)


def digest(thumbnail: Tensor) -> bytes:
    """A hash of one thumbnail `(side, side)`."""
    return blake2b(thumbnail.contiguous().numpy().tobytes(), digest_size=16).digest()


def concatenate(one: Features, other: Features) -> Features:
    """The images of both, with the layers, regions and views that both have; of nobody, for ids of different sources
    may coincide.
    """

    def both(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {layer: torch.cat([ours[layer], theirs[layer]], dim=1) for layer in ours if layer in theirs}

    views = {view: both(one.views[view], other.views[view]) for view in one.views if view in other.views}
    thumbs = torch.cat([one.thumbnails, other.thumbnails])
    return Features(both(one.layers, other.layers), thumbs, None, None, both(one.regions, other.regions), views)


def join(one: Features, other: Features) -> Features:
    """The images of both, in pose 0; subjects of different sides are different people, and unknown ones their own."""
    people = [f"{side} {subject}" for side, features in enumerate((one, other)) for subject in features.ids]
    return replace(concatenate(one.in_pose(0), other.in_pose(0)), subjects=people)


@dataclass(frozen=True)
class Batch:
    """What is read from one batch: images as they came, subject ids and files where there are any."""

    images: Tensor
    subjects: list[str] | None
    sources: list[str] | None


class Reservoir:
    """A random sample of a stream of images whose length is not known, as they came.

    Attributes:
        rows: Position of each in the stream.
        images: `(c, h, w)` each.

    References:
        Vitter, "Random sampling with a reservoir", ACM TOMS 1985 (algorithm R).
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.rows, self.images = size, list[int](), list[Tensor]()
        self._generator = torch.Generator().manual_seed(seed)
        self._seen = 0

    @classmethod
    def of(cls, rows: list[int], images: list[Tensor]) -> "Reservoir":
        """One that was filled before."""
        reservoir = cls(len(rows))
        reservoir.rows, reservoir.images = rows, images
        return reservoir

    def offer(self, images: Tensor) -> None:
        """The next images of the stream, `(n, c, h, w)`."""
        for image in images:
            if len(self.rows) < self.size:
                self.rows.append(self._seen)
                self.images.append(image.cpu().clone())
            elif (place := int(torch.randint(self._seen + 1, (1,), generator=self._generator))) < self.size:
                self.rows[place], self.images[place] = self._seen, image.cpu().clone()
            self._seen += 1


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
        regional: Pool over windows too, where the encoder can (`HookedEncoder.with_regions`).
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
            thumbs.append(thumbnails(some, side_of(dims)).cpu())
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
        with_regions = getattr(encoder, "with_regions", None) if regional else None
        pooled, parts = with_regions(batch) if with_regions else (encoder(batch), {})
        background = ~regions.structured(batch)[..., None] if parts else None
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


def read_batches(
    images: Any, batch_size: int, subject_key: SubjectKey, image_key: SubjectKey, progress: str | None
) -> Iterator[Batch]:
    """Any container of images → `Batch`es, in its own order."""
    batches: Batches
    if isinstance(images, (Tensor, np.ndarray)):
        if images.ndim not in (4, 5):
            raise DataError(
                f"needed images of shape (n, 1, h, w), or volumes (n, 1, d, h, w); {tuple(images.shape)} came."
            )
        batches = torch.as_tensor(images).split(batch_size)
    elif isinstance(images, Dataset) or (hasattr(images, "__getitem__") and not isinstance(images, (list, tuple))):
        # Its own generator: without one a loader draws its seed from the global random state.
        generator = torch.Generator().manual_seed(0)
        batches = DataLoader(images, batch_size=batch_size, shuffle=False, generator=generator)  # type: ignore[arg-type]
    elif isinstance(images, Iterable):
        batches = images
    else:
        raise DataError(
            f"needed a tensor, an array, a Dataset or an iterable of batches; {type(images).__name__} came."
        )
    try:
        total = len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a loader over an iterable data set
        total = None
    iterator = iter(tqdm(batches, desc=progress, total=total, unit="batch", disable=progress is None, leave=False))
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "equal size" not in str(error):
                raise
            raise DataError(
                "needed images of one size to make batches; the data set mixes sizes. Resize them in the data set, or "
                f"use SliceFolder(root, size=(256, 256)). ({error})"
            ) from error
        yield read_batch(batch, subject_key, image_key)


def read_batch(batch: Any, subject_key: SubjectKey = None, image_key: SubjectKey = None) -> Batch:
    """Find images, subject ids and files in a batch as a DataLoader gives it.

    Images are the tensor itself, the first entry of a tuple, or the first of `IMAGE_KEYS`. Subjects are under the
    first of `SUBJECT_KEYS`; else they are read from MONAI's `filename_or_obj` (see `images.subject_in_path`).

    Raises:
        DataError: If no images are found or a named key is missing.
    """
    images = _images_of(batch, image_key)
    sources = _sources_of(batch, images)
    subjects = _subjects_of(batch, subject_key)
    if subjects is None and sources is not None:
        found = [subject_in_path(source) for source in sources]
        subjects = None if None in found else [subject for subject in found if subject is not None]
    for name, values in (("subjects", subjects), ("file names", sources)):
        if values is not None and len(values) != len(images):
            raise DataError(f"needed one of {name} per image ({len(images)}); the batch holds {len(values)}.")
    return Batch(images, subjects, sources)


def _images_of(batch: Any, key: SubjectKey) -> Tensor:
    if callable(key):
        found = key(batch)
    elif isinstance(batch, Mapping):
        keys = (key,) if key is not None else IMAGE_KEYS
        name = next((name for name in keys if name in batch), None)
        if name is None:
            raise DataError(
                f"needed images under {' or '.join(map(repr, keys))}; the batch has the keys "
                f"{list(batch)}. Name the right one: image_key='…'."
            )
        found = batch[name]
    elif isinstance(batch, (list, tuple)) and len(batch):
        found = batch[0]
        if isinstance(found, Mapping):
            return _images_of(found, key)
    else:
        found = batch
    if not isinstance(found, (Tensor, np.ndarray)):
        raise DataError(
            f"needed a tensor of images in each batch; {type(found).__name__} came. Name where it is: "
            "image_key='…' or image_key=lambda batch: …."
        )
    return found if isinstance(found, Tensor) else torch.from_numpy(found)


def _subjects_of(batch: Any, key: SubjectKey) -> list[str] | None:
    if callable(key):
        return _as_ids(key(batch))
    if isinstance(batch, (list, tuple)) and len(batch) and isinstance(batch[0], Mapping):
        return _subjects_of(batch[0], key)
    if not isinstance(batch, Mapping):
        if key is not None:
            raise DataError(
                f"needed a dictionary batch for subject_key={key!r}; {type(batch).__name__} came. Use a "
                "function: subject_key=lambda batch: …."
            )
        return None
    if key is not None and key not in batch:
        raise DataError(f"needed the subject ids under {key!r}; the batch has the keys {list(batch)}.")
    name = key if key is not None else next((name for name in SUBJECT_KEYS if name in batch), None)
    return None if name is None else _as_ids(batch[name])


def _sources_of(batch: Any, images: Tensor) -> list[str] | None:
    meta = getattr(images, "meta", None)
    found = meta.get(PROVENANCE) if isinstance(meta, Mapping) else None
    if found is None and isinstance(batch, Mapping):
        found = batch.get(PROVENANCE)
    if isinstance(found, (str, Path)):  # slices of one volume share its file
        return [str(found)] * len(images)
    return None if found is None else _as_ids(found)


def _as_ids(values: Any) -> list[str]:
    if isinstance(values, (str, Path)):
        return [str(values)]
    if isinstance(values, (Tensor, np.ndarray)):
        return [str(value) for value in values.tolist()]
    return [str(value) for value in values]


def _extend(collected: list[str] | None, new: list[str] | None) -> list[str] | None:
    """Known for all, or for none."""
    return None if collected is None or new is None else collected + new
