"""A manifest that is there is used, however a spreadsheet wrote it, or an error says why not."""

import zipfile

import pytest
import torch
from PIL import Image

from mi_callback.errors import DataError, OptionError
from mi_callback.images import SliceFolder
from mi_callback.images.files.accounts import LeftOut

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


def parquet(path, **columns) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


def test_parquet_is_read_and_whole_numbers_stay_so(folder):
    parquet(folder / "manifest.parquet", File=[file for file, _ in ROWS], patient=[1.0, 1.0, 2.0], age=[40, None, 50])
    read = SliceFolder(folder)
    assert read.subjects == ["1", "1", "2"]
    assert [read.details[piece.path] for piece in read.slices] == [{"age": "40"}, {}, {"age": "50"}]


def test_a_damaged_parquet_and_a_missing_library_are_said(folder, monkeypatch):
    (folder / "manifest.parquet").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"manifest\.parquet; it is damaged or no Parquet"):
        SliceFolder(folder)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needed pyarrow to read .*pip install 'mi-callback\[formats\]'"):
        SliceFolder(folder)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_told_by_its_zeros(folder, encoding):
    (folder / "manifest.tsv").write_bytes(table("\t").encode(encoding))
    assert SliceFolder(folder).subjects == SUBJECTS


def test_the_separator_that_a_spreadsheet_names_counts(folder):
    (folder / "manifest.csv").write_text("sep=;\r\n" + table(";"))
    assert SliceFolder(folder).subjects == SUBJECTS


def test_sessions_sites_sex_and_age_are_kept(folder):
    rows = [(file, subject, "1", "A", "f", "40") for file, subject in ROWS]
    header = ("file", "subject", "Session ID", "Centre", "gender", "age")
    (folder / "manifest.csv").write_text(table(header=header, rows=rows))
    details = SliceFolder(folder).details
    assert list(details.values()) == [{"session": "1", "site": "A", "sex": "f", "age": "40"}] * 3


def test_columns_may_be_named(folder):
    (folder / "manifest.csv").write_text(table(header=("scan", "who")))
    assert SliceFolder(folder, columns={"file": "scan", "subject": "who"}).subjects == SUBJECTS
    with pytest.raises(DataError, match=r"it has \['scan', 'who'\]\. Rename them, name yours by columns="):
        SliceFolder(folder, columns={"file": "scan", "subject": "patient"})
    with pytest.raises(OptionError, match=r"needed columns out of \['file', 'subject', .*; \['scan'\] came"):
        SliceFolder(folder, columns={"scan": "file"})
    (folder / "manifest.csv").unlink()
    with pytest.raises(OptionError, match=r"needed a manifest in .* for columns to have any effect"):
        SliceFolder(folder, columns={"file": "scan"})


def test_files_in_an_archive_are_named_as_in_a_folder(folder):
    with zipfile.ZipFile(folder / "more.zip", "w") as whole:
        whole.write(folder / "images" / "0.png", "a/9.png")
    rows = [*ROWS, ("more/a/9.png", "p9")]
    (folder / "manifest.csv").write_text(table(rows=rows))
    assert SliceFolder(folder).subjects == [*SUBJECTS, "p9"]


def test_rows_without_files_and_files_without_rows_are_listed(folder):
    (folder / "manifest.csv").write_text(table(rows=[*ROWS[:2], ("images/9.png", "p9")]))
    with (
        pytest.warns(UserWarning, match="1 of the 3 files that .* are not there"),
        pytest.warns(UserWarning, match="1 of 3 files below .* are in no manifest"),
    ):
        files = SliceFolder(folder).files
    assert files.left_out[LeftOut.ROW] == (folder / "images" / "9.png",)
    assert files.unlisted == (folder / "images" / "2.png",)


def test_two_subjects_of_one_file_are_refused(folder):
    (folder / "manifest.csv").write_text(table(rows=[*ROWS, ("images/0.png", "p2")]))
    with pytest.raises(DataError, match=r"needed one subject for each file in .*; 'images/0\.png' has two"):
        SliceFolder(folder)


@pytest.mark.parametrize("cell", ["x" * 200_000, '"' + "x\n" * 200_000, "a\0b"])
def test_cells_of_no_sense_are_an_error_of_ours_or_no_matter(folder, cell):
    (folder / "manifest.csv").write_text(table(rows=[*ROWS, ("images/0.png", "p1")]) + f"images/1.png,{cell}\n")
    with pytest.raises(DataError, match=r"manifest\.csv"):
        SliceFolder(folder)
