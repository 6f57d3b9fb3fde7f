"""A random sample of a stream of images."""

from collections.abc import Sequence

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
            if len(self.rows) < self.size:
                self.rows.append(self._seen)
                self.images.append(image.cpu().clone())
            elif (place := int(torch.randint(self._seen + 1, (1,), generator=self._generator))) < self.size:
                self.rows[place], self.images[place] = self._seen, image.cpu().clone()
            self._seen += 1

    def drawn(self, n: int, seed: int) -> tuple[list[Tensor], list[int]]:
        """Up to n of the images, drawn at random, and their rows: the first places are no random sample."""
        places = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))[:n].tolist()
        return [self.images[i] for i in places], [self.rows[i] for i in places]
