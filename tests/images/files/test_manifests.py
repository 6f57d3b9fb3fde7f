"""A manifest that is there is used, however a spreadsheet wrote it, or an error says why not."""

import pytest
import torch
from PIL import Image

from mi_callback.errors import DataError
from mi_callback.images import SliceFolder

ROWS = [("images/0.png", "p1"), ("images/1.png", "p1"), ("images/2.png", "Müller")]
SUBJECTS = ["p1", "p1", "Müller"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = torch.randint(0, 255, (4, 5), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def table(separator=",", header=("file", "subject"), rows=ROWS) -> str:
    return "\n".join(separator.join(row) for row in [header, *rows]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        table(),
        table(";"),
        table("\t"),
        table(", "),
        table(header=("File", " Subject ")),
        table(header=("filename", "patient-id")),
        table(rows=[(file, subject, "x") for file, subject in ROWS], header=("path", "participant_id", "site")),
        table(rows=[(file.replace("/", "\\"), subject) for file, subject in ROWS]),
        table(rows=[(file.partition("/")[2], subject) for file, subject in ROWS]),
        table(rows=[("./" + file, subject) for file, subject in ROWS]),
        table().replace("\n", "\r\n"),
    ],
    ids=["plain", "semicolons", "tabs", "blanks", "capitals", "names", "more columns", "backslashes", "file names",
         "dots", "carriage returns"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_whatever_a_spreadsheet_writes_is_read(folder, text, encoding):
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    assert SliceFolder(folder).subjects == SUBJECTS


def test_paths_may_lead_up(folder):
    (folder / "images" / "manifest.csv").write_text(table(rows=[("../" + file, subject) for file, subject in ROWS]))
    assert SliceFolder(folder).subjects == SUBJECTS


def test_files_that_no_row_names_and_rows_that_name_no_file_are_said(folder):
    (folder / "manifest.csv").write_text(table(rows=[*ROWS[:2], ("images/9.png", "p9")]))
    with (
        pytest.warns(UserWarning, match="1 of the 3 files that .* are not there, such as 'images/9.png'"),
        pytest.warns(UserWarning, match=r"1 of 3 files below .* are in no manifest, such as 2\.png"),
    ):
        SliceFolder(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (table(header=("scan", "subject")), r"needed the columns file and subject in .*; it has \['scan', 'subject'\]"),
        (table(header=("file", "who")), "needed the columns file and subject"),
        (table(rows=[("elsewhere/0.png", "p1")]), r"1 of the 1 files that .* names are not there"),
        ("", "needed the columns file and subject"),
    ],
)
def test_a_manifest_of_no_use_is_refused(folder, text, said):
    (folder / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        SliceFolder(folder)


def test_a_manifest_beside_the_folder_may_be_about_others(folder):
    (folder / "manifest.csv").write_text(table(header=("scan", "who")))
    assert len(SliceFolder(folder / "images")) == 3
