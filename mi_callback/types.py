"""Names for the shapes that travel along the line; `n` images, `m` references, `d` channels of a feature."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

from jaxtyping import Float, Int, UInt8
from torch import Tensor

Images = Float[Tensor, "n c *spatial"]
"""Images `(n, c, h, w)` or volumes `(n, c, d, h, w)`, in any intensity range, before preprocessing."""

Thumbnails = UInt8[Tensor, "n *spatial"]
"""Quantile-scaled images `(n, h, w)` or volumes `(n, d, h, w)` at registration size; patient data."""

GreyImages = Float[Tensor, "n *spatial"]
"""Images `(n, h, w)` or volumes `(n, d, h, w)` in [0, 1]."""

LayerFeatures = dict[str, Float[Tensor, "n d"]]
"""One matrix of pooled features per encoder layer, in layer order."""

Similarity = Float[Tensor, " n"]
"""Cosine or LNCC; larger is closer, 1 is identical."""

Indices = Int[Tensor, "n k"]
"""Rows of the training set."""

Subjects = Sequence[str]
"""One subject id per image. Images of one subject are one unit of evidence."""

Batches = Iterable[Any]
"""Batches as a DataLoader yields them: tensors, tuples or dictionaries."""

SubjectKey = str | int | Callable[[Any], Sequence[Any]] | None
"""Where the subject ids of a batch are: a dictionary key, a position in a tuple, a function of the
batch, or found automatically when None."""


class Kind(StrEnum):
    """A choice that users name by a string. It compares, hashes and prints as that string, in fingerprints too."""

    def __repr__(self) -> str:
        return repr(self.value)
