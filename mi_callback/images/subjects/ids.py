"""One normal form of subject ids: which are certainly the same person, which probably, and which are nobody."""

import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

from mi_callback.errors import DataError
from mi_callback.types import Thumbnails

NOBODY = frozenset(
    """
    nan none null nil <na> na n/a #n/a nat - -- ? . unknown undefined missing anonymous anonymized anonymised
    """.split()  # noqa: SIM905  a list of words
) | {""}
"""What stands for a missing id where ids are text, in small letters."""

INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\x00"
"""Characters without width, which spreadsheets, web pages and fixed-length fields leave at the ends of an id."""

ALONE = "no id: image "
"""Beginning of the subject of an image without an id; a hash of the image follows."""


def normal_id(value: Any) -> str | None:
    """The id of a person as text, the same for whatever held it; None where it is missing.

    `1`, `1.0`, `np.int64(1)`, `torch.tensor([1])`, `"1"`, `b"1"` and `" 1 "` are one person; so are a path and its
    text, and letters with accents however they are encoded. None, NaN, `pd.NA`, NaT, blanks and `NOBODY` are no person.

    Example:
        >>> normal_id(1.0), normal_id(b"p0 "), normal_id(float("nan"))
        ('1', 'p0', None)
    """
    value = _scalar(value)
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.as_posix() if isinstance(value, PurePath) else str(value)
    text = unicodedata.normalize("NFC", text).strip().strip(INVISIBLE).strip()
    return None if text.casefold() in NOBODY else text


def normal_ids(values: Any) -> list[str | None]:
    """Ids of several images, in any container, in their normal form.

    Args:
        values: A sequence, an array or tensor `(n,)` or `(n, 1)`, a column of a table, or one id.

    Raises:
        DataError: If an array holds several values per image.
    """
    if isinstance(values, (str, bytes, PurePath)) or not isinstance(values, Iterable):
        return [normal_id(values)]
    if isinstance(values, (Tensor, np.ndarray)):
        if values.ndim > 1 and math.prod(values.shape[1:]) != 1:
            raise DataError(
                f"needed one subject id per image; an array of shape {tuple(values.shape)} came. Name or make the "
                "right ones: subject_key=lambda batch: …."
            )
        values = values.reshape(-1)
    return [normal_id(value) for value in values]


def loose_id(subject: str) -> str:
    """What remains of an id where capitals, leading zeros, separators, a final `.0` and `sub-` do not count.

    Equal remains are probably the same person: `"001"` and `"1"`, `"P0"` and `"p0"`, `"sub-1"` and `"1"`.

    Example:
        >>> loose_id("sub-P_007"), loose_id("p-7"), loose_id("1.05")
        ('p-7', 'p-7', '1.05')
    """
    text = re.sub(r"[\s_\-]+", "-", unicodedata.normalize("NFKC", subject).casefold()).removeprefix("sub-")
    text = re.sub(r"^(\d+)\.0+$", r"\1", text)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def spelled_in_two_ways(subjects: Iterable[str]) -> int:
    """Number of people who probably have more than one id among these."""
    spellings: dict[str, set[str]] = {}
    for subject in subjects:
        spellings.setdefault(loose_id(subject), set()).add(subject)
    return sum(len(found) > 1 for found in spellings.values())


def settle(ids: Sequence[str | None] | None, thumbnails: Thumbnails) -> list[str] | None:
    """A subject per image: where an id is missing the image is its own, on whichever side it stands.

    Args:
        ids: In their normal form, or None where there are none.
        thumbnails: Of the same images.

    Returns:
        None where nobody has an id: then every image is its own subject.
    """
    if ids is None:
        return None
    if all(subject is None for subject in ids):
        warnings.warn(
            f"all {len(ids)} subject ids are missing (None, NaN, blank, unknown); each image is its own subject.",
            stacklevel=2,
        )
        return None
    return [
        ALONE + blake2b(image.contiguous().numpy().tobytes(), digest_size=12).hexdigest()
        if subject is None
        else subject
        for subject, image in zip(ids, thumbnails, strict=True)
    ]


def has_no_id(subject: str) -> bool:
    """Whether a settled subject stands for an image without an id."""
    return subject.startswith(ALONE)


def _scalar(value: Any) -> Any:
    """What a container of one value holds; None where it is missing."""
    if value is np.ma.masked:
        return None
    if isinstance(value, Mapping):
        raise DataError("needed a subject id per image; a dictionary came. Use subject_key=lambda batch: ….")
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        if value.size != 1 if not isinstance(value, Tensor) else value.numel() != 1:
            raise DataError(f"needed one subject id per image; one of shape {tuple(value.shape)} came.")
        value = value.item()
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return _scalar(value[0])
    try:
        return value if value == value else None  # NaN and NaT differ from themselves
    except (TypeError, ValueError):  # pd.NA is neither equal nor different
        return None
