"""Images in any container + encoder → features per layer and pose, with subjects and thumbnails, in one pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mi_callback.encoders import Encoder
from mi_callback.encoders.descriptor import AS_IT_IS, DescriptorNet, describe
from mi_callback.errors import DataError, EncoderError
from mi_callback.images.batches import Batch, read_batches
from mi_callback.images.patterns import without_patterns
from mi_callback.images.poses import POSES, descriptor_poses
from mi_callback.images.preprocessing import check_batch, preprocess
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.subjects.ids import normal_ids, settle
from mi_callback.images.windows import structured_windows
from mi_callback.retrieval.features import Features, extended
from mi_callback.retrieval.growing import GrowingColumns, GrowingTensor
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
    windowed: bool = False,
    views: Sequence[str] = (),
    descriptor: DescriptorNet | None = None,
    looks: Sequence[str] = (AS_IT_IS,),
    described: Sequence[str] | None = None,
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
        windowed: Pool over windows too, where the encoder can (`HookedEncoder.with_windows`).
        views: Encode every image in these views (`views.views_of`) too, in every pose those that are of both sides.
        descriptor: Describes the thumbnails of images too; on `device` already.
        looks: Names out of `descriptor.LOOKS` in which they are described, those beside the first as they came.
        described: Poses in which they are described in the first look; `descriptor_poses` of `poses` when None.

    Volumes are encoded `VOLUMES_AT_ONCE` at most, whatever the size of a batch.

    Raises:
        DataError: For no image at all, mixed sizes, ids that do not match the images, or broken images (see
            `check_images`), with the position of the batch.
    """
    if described is None and descriptor is not None:
        described = descriptor_poses(poses)
    descriptors = _Descriptors(descriptor, described or (), looks)
    collector = _Collector(encoder, poses, windowed, views, descriptors, torch.device(device))
    for batch in read_batches(images, batch_size, subject_key, image_key, progress):
        checked = check_batch(batch.images, encoder.channels, len(encoder.size), collector.done)
        if keep is not None:
            keep.offer(checked)
        collector.add(checked, batch)
    return collector.features(subjects)


class _Collector:
    """What one pass over the images has seen so far."""

    def __init__(
        self,
        encoder: Encoder,
        poses: Sequence[str],
        windowed: bool,
        views: Sequence[str],
        descriptors: "_Descriptors",
        device: torch.device,
    ) -> None:
        self.encoder, self.windowed, self.device = encoder, windowed, device
        self.dims = len(encoder.size)
        self.poses = [POSES[pose] for pose in poses]
        self.descriptors = descriptors
        self.views = {name: views_of(self.dims)[name] for name in views}
        self.pooled = {kind: GrowingColumns() for kind in ("layers", "windows", *views)}
        self.thumbnails: GrowingTensor | None = None
        self.subjects: list[str | None] | None = []
        self.sources: list[str] | None = []
        self.done = 0

    def add(self, images: Tensor, batch: Batch) -> None:
        """Encode the checked images of a batch, of volumes a few at a time."""
        for some in images.split(len(images) if self.dims == 2 else VOLUMES_AT_ONCE):
            self._encode(some.to(self.device))
        self.subjects = extended(self.subjects, batch.subjects)
        self.sources = extended(self.sources, batch.sources)
        self.done += len(images)

    def features(self, subjects: Subjects | None) -> Features:
        """All that was collected, under these subjects, or when None under those of the batches."""
        if not self.done:
            raise DataError("needed at least one image; the data set or iterable is empty.")
        found = self.subjects if subjects is None else normal_ids(subjects)
        if found is not None and len(found) != self.done:
            raise DataError(f"needed one subject per image ({self.done}); {len(found)} came.")
        assert self.thumbnails is not None
        joined = {kind: columns.tensors() for kind, columns in self.pooled.items()}
        whole, windows = joined.pop("layers"), joined.pop("windows")
        thumbnails = self.thumbnails.tensor()
        described = self.descriptors.features()
        return Features(whole, thumbnails, settle(found, thumbnails), self.sources, windows, joined, described)

    def _encode(self, images: Tensor) -> None:
        images, thumbnails = without_patterns(images)
        if self.thumbnails is None:
            self.thumbnails = GrowingTensor(thumbnails.shape[1:], thumbnails.dtype)
        self.thumbnails.append(thumbnails)
        self.descriptors.add(thumbnails)
        whole, windows = encode(images, self.encoder, self.poses, self.windowed)
        pooled = {"layers": whole, "windows": windows}
        for name, view in self.views.items():
            poses = self.poses if view.beside == name else self.poses[:1]
            pooled[name] = encode(view.of(images, self.encoder.intensity), self.encoder, poses)[0]
        for kind, found in pooled.items():
            self.pooled[kind].append(found)


class _Descriptors:
    """What a descriptor has said of thumbnails so far, in these poses in the first look, and as they came in others."""

    def __init__(self, descriptor: DescriptorNet | None, poses: Sequence[str], looks: Sequence[str]) -> None:
        self.descriptor, self.found = descriptor, GrowingColumns()
        self.poses, self.looks = list(poses), looks

    def add(self, thumbnails: Tensor) -> None:
        if self.descriptor is None:
            return
        for look in self.looks:
            poses = self.poses if look == AS_IT_IS else self.poses[:1]
            self.found.append({look: describe(self.descriptor, thumbnails, poses, look)})

    def features(self) -> dict[str, Tensor]:
        return self.found.tensors()


@torch.no_grad()
def encode(
    images: Tensor, encoder: Encoder, changes: Sequence[Callable[[Tensor], Tensor]], windowed: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Checked images `(n, c, h, w)` under each change → features and those of windows, as in `Features`, on the CPU.

    Images go through the encoder under all changes at once, volumes under one after another.

    Raises:
        EncoderError: If the encoder returns other layers than it declared, another number of rows, or NaN.
    """
    if images.ndim == 5 and len(changes) > 1:
        each = [encode(images, encoder, [change], windowed) for change in changes]
        whole, windows = ({key: torch.cat([one[k][key] for one in each]) for key in each[0][k]} for k in (0, 1))
        return whole, windows
    with torch.autocast(images.device.type, enabled=False):
        turned = [preprocess(change(images), encoder.size, encoder.channels, encoder.intensity) for change in changes]
        # Quarter turns swap height and width, but the input size of the encoder is the same for all.
        batch = torch.cat(turned)
        with_windows = getattr(encoder, "with_windows", None) if windowed else None
        pooled, parts = with_windows(batch) if with_windows else (encoder(batch), {})
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
