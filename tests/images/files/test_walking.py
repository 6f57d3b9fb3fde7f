"""Every file of a folder is read, or left out and why, or failed and why."""

import os

import numpy as np
import pytest
from PIL import Image

from mi_callback.images import SliceFolder
from mi_callback.images.files.accounts import LeftOut, Reason
from mi_callback.images.files.kinds import FileKind
from mi_callback.images.files.walking import find_files


def picture(path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("a/0.png", "a/1.png"):
        picture(tmp_path / "data" / name)
    return tmp_path / "data"


def names(folder) -> list[str]:
    return [str(piece.path.relative_to(folder)) for piece in SliceFolder(folder).slices]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("litter", ["a/._0.png", "__MACOSX/._a.nii.gz", ".hidden/b.png", "@eaDir/0.png", "Thumbs.db",
                                    "participants.tsv", "a/0.json"])  # fmt: skip
def test_litter_and_what_stands_beside_images_is_passed_by(folder, litter):
    (folder / litter).parent.mkdir(exist_ok=True)
    (folder / litter).write_bytes(b"\0\5\x16\7")
    assert names(folder) == ["a/0.png", "a/1.png"]


def test_files_of_no_image_ending_are_said(folder):
    for name in ("v0.foo", "v1.foo", "notes"):
        (folder / name).write_bytes(b"?")
    with pytest.warns(UserWarning, match=r"3 files are not read \(2 × .foo, 1 × no ending\): they are no part"):
        assert names(folder) == ["a/0.png", "a/1.png"]


def test_what_may_hold_images_and_is_not_read_fails(folder):
    (folder / "scans.mat").write_bytes(b"?")
    (folder / "scans.n5" / "0").mkdir(parents=True)
    (folder / "scans.n5" / "0" / "0.0").write_bytes(b"?")
    (folder / "scan.raw").write_bytes(b"?")  # no header beside it
    for i in range(3):
        (folder / f"n{i}.png").symlink_to("/nowhere/annex")
    with pytest.warns(UserWarning, match=r"6 of 8 files cannot be judged \(3 × a .*, 3 × a .*\)"):
        files = SliceFolder(folder).files
    assert sorted(failure.path.name for failure in files.failed) == [
        "n0.png",
        "n1.png",
        "n2.png",
        "scan.raw",
        "scans.mat",
        "scans.n5",
    ]


def test_every_file_is_accounted_for_once(folder):
    for name in ("._x.png", "a/.hidden/y.png", "@eaDir/z.png", "table.csv", "odd.xyz", "damaged.png", "index.mha"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    Image.new("L", (4, 4)).save(folder / "black.png")
    files = find_files(folder, tuple(FileKind))
    with pytest.warns(UserWarning, match="3 of 5 files cannot be judged"):
        account = SliceFolder(folder).files
    assert [path.name for path in account.read] == ["0.png", "1.png"]
    left_out = {reason: sorted(path.name for path in paths) for reason, paths in account.left_out.items()}
    assert left_out == {
        LeftOut.SYSTEM: ["._x.png", ".hidden", "@eaDir"],
        LeftOut.BESIDE: ["table.csv"],
        LeftOut.UNKNOWN: ["odd.xyz"],
    }
    assert {failure.path.name: failure.reason for failure in account.failed} == {
        "damaged.png": Reason.DAMAGED, "index.mha": Reason.DAMAGED, "black.png": Reason.BLANK,
    }  # fmt: skip
    assert len(files.found) == 5


def test_files_are_in_their_natural_order(folder):
    for name in ("a/10.png", "a/9.png", "b2/1.png", "b10/1.png", "b/1.png"):
        picture(folder / name)
    assert names(folder) == ["a/0.png", "a/1.png", "a/9.png", "a/10.png", "b/1.png", "b2/1.png", "b10/1.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    with pytest.warns(UserWarning, match="1 files are not read"):
        assert len(names(folder)) == 2


def test_a_name_that_is_no_utf8_is_read(folder):
    try:
        picture(folder / os.fsdecode(b"\xff\xfe.png"))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert len(names(folder)) == 3


def test_linked_folders_are_read_once(folder, tmp_path):
    (tmp_path / "other").mkdir()
    picture(tmp_path / "other" / "2.png")
    (folder / "site").symlink_to(tmp_path / "other")
    (folder / "a" / "round").symlink_to(folder)
    assert names(folder) == ["a/0.png", "a/1.png", "site/2.png"]


def test_the_evidence_of_an_audit_is_no_data(folder):
    for out in (folder, folder / "report"):
        (out / "evidence").mkdir(parents=True)
        for name in ("evidence_0000.png", "gallery.png"):
            picture(out / "evidence" / name)
    assert len(names(folder)) == 6  # nothing but their names says that they are of an audit
    for out in (folder, folder / "report"):
        (out / "scores.csv").touch()
    assert names(folder) == ["a/0.png", "a/1.png"]
