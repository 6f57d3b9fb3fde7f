"""The table of formats in the documentation says what is read, by which library, and which test reads it."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mi_callback.images import SliceFolder
from mi_callback.images.files.archives import ARCHIVE
from mi_callback.images.files.kinds import ARRAYS, ENDINGS, PICTURES

ROOT = Path(__file__).parents[3]
LIBRARIES = {"Pillow": "PIL", "tifffile": "tifffile", "NumPy": "numpy", "pydicom": "pydicom", "nibabel": "nibabel",
             "SimpleITK": "SimpleITK", "h5py": "h5py", "zarr": "zarr", "the standard library": "zipfile"}  # fmt: skip
VALUES = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16)


def rows() -> list[list[str]]:
    text = (ROOT / "docs" / "auditing.md").read_text()
    table = text.partition("| files | read by |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_names_every_ending_that_is_read_and_no_other():
    told = {ending for row in rows() for ending in re.findall(r"`(\.[a-z0-9.]+)`", row[0])}
    assert told - {".img"} == {ending for endings in ENDINGS.values() for ending in endings} | {ARCHIVE}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:20])
def test_the_library_of_each_is_there_and_its_test_reads_every_ending(row):
    endings, by, _, tested = row
    library = re.split(r"[,;]", by)[0]
    assert find_spec(LIBRARIES[library])
    source = (ROOT / "tests" / tested.strip("`")).read_text()
    for ending in set(re.findall(r"`(\.[a-z0-9.]+)`", endings)) - {".img"}:
        assert ending in source or ending in (*PICTURES, *ARRAYS), ending


@pytest.mark.parametrize("ending", PICTURES)
def test_every_kind_of_picture_is_read(tmp_path, ending):
    options = {"lossless": True} if ending == ".webp" else {}
    Image.fromarray(VALUES).save(tmp_path / f"a{ending}", **options)
    lossy = ending in (".jpg", ".jpeg")
    found = SliceFolder(tmp_path)[0]["image"][0].numpy()
    assert np.allclose(found, VALUES, atol=8 if lossy else 0)


@pytest.mark.parametrize("ending", ARRAYS)
def test_every_kind_of_array_is_read(tmp_path, ending):
    (np.save if ending == ".npy" else np.savez)(tmp_path / f"a{ending}", VALUES)
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"][0], VALUES)
