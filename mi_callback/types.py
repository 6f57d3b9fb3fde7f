"""Names for the shapes that travel along the line; `n` images, `m` references, `d` channels."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxtyping import Float, Int, UInt8
from torch import Tensor

Images = Float[Tensor, "n channels h w"]
"""Images in any intensity range, before preprocessing."""

Thumbnails = UInt8[Tensor, "n size size"]
"""Quantile-scaled images at registration size; patient data."""

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

SubjectKey = str | Callable[[Any], Sequence[Any]] | None
"""Where the subject ids of a batch are: a dictionary key, a function of the batch, or found automatically."""
