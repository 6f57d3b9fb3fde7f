"""Features of a data set too large for one process: a job of `Trainer.predict`, on any devices and machines.

The data set is cut into shards of rows, and ranks take turns with them. A shard lies in a file of its own, under a hash
of all that it follows from: after a kill the same job goes on where it was, on as many ranks as there are then.
"""

from collections.abc import Callable, Iterator
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

from mi_callback.arguments import positive_integer
from mi_callback.cache import Kept
from mi_callback.detection.planting import PLANTED
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import DataError, StateError
from mi_callback.fingerprints import canonical_json, content_hash
from mi_callback.images.batches import Batch, read_batches
from mi_callback.images.preprocessing import check_batch
from mi_callback.images.reservoir import Reservoir
from mi_callback.lightning.data.loaders import is_random
from mi_callback.lightning.ranks import Ranks
from mi_callback.retrieval.features import Features, GrowingFeatures
from mi_callback.types import SubjectKey

LOOKED_AT = 16
"""Images of a data set, drawn at random, that tell it from others."""


class FeatureExtraction(LightningModule):
    """Encodes a data set in shards; `Trainer.predict` runs it, and `merged` gives the features of the whole.

    Features are those that `MemorizationDetector.fit` would make in one process, in the order of the rows.

    Args:
        detector: Encodes, on the device of each rank; it need not be fitted.
        dataset: Images with positions, as `MemorizationDetector.fit` takes them, without augmentation.
        folder: Where the shards go, readable by their owner alone: patient data. Every machine must reach it.
        held_out: Whether these are held-out images, and not those that the generator learns from.
        in_all_poses: Whether training images are encoded in all poses, as a null needs that is made of them.
        shard: Images of a file; a kill costs two of them at most on each rank, and two more for each worker.
        num_workers: Processes of each rank that read.
        subject_key, image_key: Where batches hold ids and images.

    Raises:
        DataError: If the data set has no length, or its images change whenever they are read.
        OptionError: If a number is below 1.

    Example:
        >>> job = FeatureExtraction(detector, dataset, "features")  # doctest: +SKIP
        >>> Trainer(devices=8, num_nodes=2).predict(job, return_predictions=False)  # doctest: +SKIP
        >>> train, planted = job.merged()  # doctest: +SKIP
    """

    def __init__(
        self,
        detector: MemorizationDetector,
        dataset: Dataset[Any],
        folder: str | Path,
        held_out: bool = False,
        in_all_poses: bool = False,
        shard: int = 512,
        num_workers: int = 0,
        subject_key: SubjectKey = None,
        image_key: SubjectKey = None,
    ) -> None:
        super().__init__()
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise DataError(f"needed a data set with positions and a length; a {type(dataset).__name__} came.")
        if is_random(dataset, image_key):
            raise DataError("needed a data set without augmentation; the same image came in two versions.")
        self.detector, self.dataset, self.training_set = detector, dataset, not held_out
        self.shard_size = self._whole_batches(positive_integer("shard", shard))
        self.num_workers, self.keys = num_workers, {"subject_key": subject_key, "image_key": image_key}
        self.poses = detector.poses if held_out or in_all_poses else detector.poses[:1]
        self.kept = Kept(Path(folder), [Features])

    @property
    def rows(self) -> list[range]:
        """Rows of each shard."""
        n = len(self.dataset)  # type: ignore[arg-type]
        return [range(start, min(n, start + self.shard_size)) for start in range(0, n, self.shard_size)]

    def setup(self, stage: str) -> None:
        """Meet the other ranks: their group is made by all at once."""
        self.ranks = Ranks.of(self.trainer)
        self.detector = copy(self.detector)
        self.detector.device = self.trainer.strategy.root_device

    def predict_dataloader(self) -> DataLoader[Any]:
        """This rank's share of the shards; those that are there already are not read."""
        shards = _Shards(self, self.ranks.share)
        generator = torch.Generator().manual_seed(0)
        return DataLoader(shards, batch_size=None, num_workers=self.num_workers, generator=generator)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Images stay where they are: the detector moves them."""
        return batch

    def predict_step(self, shard: tuple[int, list[Batch]], batch_idx: int) -> None:
        """Encode a shard, and keep it."""
        number, batches = shard
        self.kept.part(self.key(number), lambda: self._encoded(number, batches))

    def on_predict_end(self) -> None:
        """No rank goes on before all shards are there."""
        self.ranks.wait()

    def merged(self) -> tuple[Features, Reservoir | None]:
        """Features of all images, and of training images a sample of them for the power self-test, as
        `MemorizationDetector.fit_features` takes both.

        Raises:
            StateError: If a shard is missing, or damaged.
            DataError: If the data set is empty.
        """
        grown, planted = GrowingFeatures(), self._planted()
        missing = [number for number in range(len(self.rows)) if not self.kept.has(self.key(number))]
        if missing:
            raise StateError(
                f"needed {len(self.rows)} shards in {self.kept.folder}; {len(missing)} of them are missing, the first "
                f"is {missing[0]}. Run the job again: it goes on where it was."
            )
        for number in range(len(self.rows)):
            parts, subjects, images = self.kept.part(self.key(number), _damaged(number))
            for part, ids in zip(parts, subjects, strict=True):
                grown.append(part, ids)
            planted.fill(images)
        if not self.rows:
            raise DataError("needed at least one image; the data set is empty.")
        return grown.features(), planted if self.training_set else None

    def key(self, number: int) -> str:
        """Name of the file of a shard."""
        return f"{self._identity}-{number:06d}"

    def batches(self, number: int) -> list[Batch]:
        """The images of a shard, read."""
        part = Subset(self.dataset, self.rows[number])
        return list(read_batches(part, self.detector.batch_size, **self.keys, progress=None))

    def _encoded(self, number: int, batches: list[Batch]) -> tuple[list[Features], list[Any], dict[int, Tensor]]:
        drawn, row = set(self._planted().rows), self.rows[number].start
        parts: list[Features] = []
        images: dict[int, Tensor] = {}
        for batch in batches:
            checked = check_batch(batch.images, self.detector.encoder.channels, self.detector.dims, row)
            parts.append(self._features(batch.without_ids()))
            images |= {row + i: image.cpu().clone() for i, image in enumerate(checked) if row + i in drawn}
            row += len(checked)
        return parts, [batch.subjects for batch in batches], images

    def _features(self, batch: dict[str, Any]) -> Features:
        return self.detector.features([batch], self.poses, views=self.training_set)

    def _planted(self) -> Reservoir:
        """Which training images `fit` would keep for the power self-test, without them."""
        reservoir = Reservoir(PLANTED[self.detector.dims] * self.training_set, self.detector.seed)
        reservoir.pass_over(len(self.dataset))  # type: ignore[arg-type]
        return reservoir

    def _whole_batches(self, images: int) -> int:
        """A number of images that batches of the usual size fill: each is then as in one process."""
        size = self.detector.batch_size
        return size * max(1, images // size)

    @cached_property
    def _identity(self) -> str:
        """A hash of what decides the features: settings, cut, and some of the images."""
        n = len(self.dataset)  # type: ignore[arg-type]
        rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:LOOKED_AT].tolist()
        some = [
            (one.images, one.subjects)
            for one in read_batches(Subset(self.dataset, rows), 1, **self.keys, progress=None)
        ]
        settings = canonical_json(self.detector.settings())
        return content_hash(settings, list(self.poses), self.training_set, n, self.shard_size, some)


class _Shards(IterableDataset[tuple[int, list[Batch]]]):
    """A rank's shards that are not there yet, read; its workers take turns."""

    def __init__(self, job: FeatureExtraction, share: tuple[int, int]) -> None:
        self.batches, self.has, self.key = job.batches, job.kept.has, job.key
        self.numbers = range(share[0], len(job.rows), share[1])

    def __iter__(self) -> Iterator[tuple[int, list[Batch]]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in self.numbers[first::step]:
            if not self.has(self.key(number)):
                yield number, self.batches(number)


def _damaged(number: int) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise StateError(f"needed shard {number} whole; its file is damaged. Delete it, and run the job again.")

    return refuse
