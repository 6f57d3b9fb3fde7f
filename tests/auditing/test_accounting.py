"""What became of every file: in the verdict, in the summary without names, and file by file for its owner."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from factories import write_blocks
from PIL import Image

from mi_callback import audit
from mi_callback.auditing.accounting import UNJUDGED, doubts_of_files, files_table
from mi_callback.auditing.reports.contents import Contents
from mi_callback.cli.audit_command import COMMAND
from mi_callback.images.files import FileAccount, Reason, SliceFolder
from mi_callback.images.files.accounts import Failure, LeftOut
from mi_callback.reporting.tables import csv_text

OPTIONS = {"encoder": "pixels", "verify": False, "alpha": 0.1, "power": 0, "size": 32, "views": False, "poses": "none"}


def account(read: int, failed: int, reason: Reason = Reason.DAMAGED) -> FileAccount:
    failures = [Failure(Path(f"bad{i}.png"), reason, f"needed better; bad{i}.png came.") for i in range(failed)]
    return FileAccount([Path(f"{i}.png") for i in range(read)], {LeftOut.BESIDE: [Path("=table.csv")]}, failures)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """30 training subjects, 30 held out, 40 novel and 40 synthetic images of which 20 are copies."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    people = rng.integers(0, 255, (120, 6, 6), dtype=np.uint8)
    names = [f"train/sub-{i:02}/a.png" for i in range(30)] + [f"held/sub-{i:02}/a.png" for i in range(30, 60)]
    names += [f"novel/{i:02}.png" for i in range(40)] + [f"synthetic/{i:02}.png" for i in range(20)]
    copies = [f"synthetic/copy{i}.png" for i in range(20)]
    write_blocks(root, [*names, *copies], np.concatenate([people[: len(names)], people[:20]]))
    return root


BAD = {
    "blank.png": lambda path: Image.new("L", (48, 48)).save(path),
    "nan.npy": lambda path: np.save(path, np.full((48, 48), np.nan)),
    "empty.png": lambda path: path.touch(),
    "damaged.nii.gz": lambda path: path.write_bytes(b"x" * 500),
    "pointer.png": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "link.png": lambda path: path.symlink_to("/nowhere/annex"),
}  # fmt: skip


# Promise: one bad file ends no audit, and does not read as clean


def test_bad_generated_files_are_listed_and_the_rest_is_judged(folders, tmp_path):
    bad = [folders / "novel" / name for name in BAD]
    for path in bad:
        BAD[path.name](path)
    with pytest.warns(UserWarning, match="below .* 6 of 46 files cannot be judged"):
        found = audit(folders / "train", folders / "novel", folders / "held", tmp_path, **OPTIONS)
    for path in bad:
        path.unlink()
    assert (found.verdict, len(found)) == ("inconclusive", 40)
    assert found.doubts[0].startswith("6 of 46 generated files could not be judged (2 × a pointer or link whose")
    rows = list(csv.DictReader((tmp_path / "files.csv").open()))
    assert {row["file"] for row in rows if row["state"] == "failed"} == {str(path) for path in bad}
    assert sum(row["state"] == "read" for row in rows) == 100
    summary = json.loads((tmp_path / "report.json").read_text())
    assert summary["files"]["generated"]["read"] == 40
    assert sum(summary["files"]["generated"]["failed"].values()) == 6
    assert not any(name in json.dumps(summary) for name in BAD)


def test_copies_beside_a_bad_file_are_memorized_still(folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    options = ["train=train", "held_out=held", "detector.alpha=0.1", "power=0", "size=32", "detector.verify=false"]
    options += ["detector.encoder=pixels", "detector.views=false", "detector.poses=none"]
    for side, code in (("synthetic", 2), ("novel", 3)):
        (folders / side / "empty.png").touch()
        with pytest.warns(UserWarning, match="1 of 41 files cannot be judged"):
            assert COMMAND.execute([*options, f"generated={side}"]) == code
        (folders / side / "empty.png").unlink()
    assert "! 1 of 41 generated files could not be judged (1 × an empty file)" in capsys.readouterr().out


# Definition: which files speak against clean


@pytest.mark.parametrize(
    ("generated", "train", "said"),
    [
        (account(100, 0), account(100, 0), []),
        (account(100, 2), account(100, 0), ["2 of 102 generated files could not be judged"]),
        (account(99, 1), account(99, 1), []),
        (account(100, 0), account(100, 2), ["2 of 102 training files could not be searched"]),
        (account(100, 50, Reason.BLANK), account(100, 0), ["50 of 150 generated files"]),
        (account(100, 0), account(100, 50, Reason.BLANK), []),
    ],
)
def test_more_failed_files_than_a_small_share_are_a_doubt(generated, train, said):
    found = doubts_of_files({"train": train, "generated": generated})
    assert [doubt.startswith(start) for doubt, start in zip(found, said, strict=True)] == [True] * len(said)
    assert UNJUDGED == 0.01


def test_every_file_is_a_row_and_no_count_names_one():
    sides = {"train": account(2, 1), "generated": account(1, 0)}
    rows = list(csv.reader(files_table(sides).splitlines()))
    assert rows == [
        ["side", "file", "state", "reason"],
        ["train", "0.png", "read", ""],
        ["train", "1.png", "read", ""],
        ["train", "'=table.csv", "left out", "text or tables beside the images"],
        ["train", "bad0.png", "failed", "damaged, or not what its name says: needed better; bad0.png came."],
        ["generated", "0.png", "read", ""],
        ["generated", "'=table.csv", "left out", "text or tables beside the images"],
    ]
    assert sides["train"].counts == {
        "read": 2,
        "left_out": {"text or tables beside the images": 1},
        "failed": {"damaged, or not what its name says": 1},
        "empty_slices": 0,
        "unlisted": 0,
        "missing_slices": 0,
    }


def test_no_cell_is_a_formula_and_numbers_stay_numbers():
    text = csv_text(["a", "b"], [["=1+1", -0.5], ["+x", 1], ["-x", None], ["@x", True], ["\tx", "a=1"], ["\rx", ""]])
    cells = list(csv.reader(text.splitlines(keepends=True)))
    assert [row[0] for row in cells[1:6]] == ["'=1+1", "'+x", "'-x", "'@x", "'\tx"]
    assert [row[1] for row in cells[1:6]] == ["-0.5", "1", "", "True", "a=1"]


def test_columns_of_a_manifest_are_named_on_the_command_line(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    rows = [f"sub-{i:02}/a.png,person{i}" for i in range(30)]
    (folders / "train" / "manifest.csv").write_text("\n".join(["scan,who", *rows]))
    options = ["held_out=held", "detector.alpha=0.1", "power=0", "size=32", "detector.verify=false", "evidence=0"]
    options += ["detector.encoder=pixels", "detector.views=false", "detector.poses=none", "generated=synthetic"]
    assert COMMAND.execute(["train=train", *options]) == 1
    assert "name yours by columns=" in capsys.readouterr().err
    assert COMMAND.execute(["train=train", *options, "columns={file: scan, subject: who}", f"out={tmp_path}"]) == 2
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert {f"person{i}" for i in range(20)} <= {row["match_subject"] for row in rows}
    (folders / "train" / "manifest.csv").unlink()


def test_a_scan_that_is_a_folder_is_known_by_all_that_is_in_it(tmp_path):
    zarr = pytest.importorskip("zarr")
    for name, top in {"a": 1, "b": 1, "c": 2}.items():
        group = zarr.open_group(str(tmp_path / name / "scan.zarr"), mode="w")
        group["image"] = np.pad(np.ones((2, 8, 8)), ((0, 0), (1, 1), (1, 1))) * top
    hashes = [Contents([side]).side(side).sha256 for side in map(SliceFolder, (tmp_path / name for name in "abc"))]
    assert hashes[0] == hashes[1] != hashes[2]
