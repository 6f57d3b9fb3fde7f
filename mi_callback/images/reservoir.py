"""A random sample of a stream of images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mi_callback.types import Images


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
    def of(cls, rows: Sequence[int], images: Sequence[Tensor]) -> "Reservoir":
        """One that was filled before."""
        reservoir = cls(len(rows))
        reservoir.rows, reservoir.images = list(rows), list(images)
        return reservoir

    def offer(self, images: Images) -> None:
        """The next images of the stream."""
        for image in images:
            if (place := self._place()) is not None:
                self.images[place] = image.cpu().clone()

    def pass_over(self, n: int) -> None:
        """The next n images of the stream, which are elsewhere: those that are drawn come with `fill`."""
        for _ in range(n):
            self._place()

    def fill(self, images: Mapping[int, Tensor]) -> None:
        """Images that were passed over, by their positions in the stream; those that were not drawn are left out."""
        self.images = [images.get(row, image) for row, image in zip(self.rows, self.images, strict=True)]

    def held(self) -> dict[int, Tensor]:
        """The images that are here, by their positions in the stream."""
        return {row: image for row, image in zip(self.rows, self.images, strict=True) if image.numel()}

    def drawn(self, n: int, seed: int) -> tuple[list[Tensor], list[int]]:
        """Up to n of the images, drawn at random, and their rows: the first places are no random sample."""
        places = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))[:n].tolist()
        return [self.images[i] for i in places], [self.rows[i] for i in places]

    def _place(self) -> int | None:
        """The place that the next image takes, empty; None where it is not drawn."""
        row, place = self._seen, len(self.rows)
        self._seen += 1
        if place < self.size:
            self.rows.append(row)
            self.images.append(torch.empty(0))
            return place
        place = int(torch.randint(row + 1, (1,), generator=self._generator))
        if place >= self.size:
            return None
        self.rows[place], self.images[place] = row, torch.empty(0)
        return place
