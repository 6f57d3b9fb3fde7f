"""Every file of a folder is read, or said, or no data."""

import pytest
from PIL import Image

from mi_callback.images import SliceFolder


@pytest.fixture
def folder(tmp_path):
    for name in ("a/0.png", "a/1.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "data" / name)
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


def test_what_looks_like_data_and_is_not_read_is_said(folder):
    for i in range(3):
        (folder / f"v{i}.mha").write_bytes(b"ObjectType = Image")
        (folder / f"n{i}.png").symlink_to("/nowhere/annex")
    with pytest.warns(UserWarning, match=r"6 files below .* are not read \(3 × .*, 3 × .*\)") as said:
        assert names(folder) == ["a/0.png", "a/1.png"]
    assert "link that leads nowhere" in str(said[0].message)
    assert ".mha" in str(said[0].message)


def test_linked_folders_are_read_once(folder, tmp_path):
    (tmp_path / "other").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "other" / "2.png")
    (folder / "site").symlink_to(tmp_path / "other")
    (folder / "a" / "round").symlink_to(folder)
    assert names(folder) == ["a/0.png", "a/1.png", "site/2.png"]


def test_the_evidence_of_an_audit_is_no_data(folder):
    for out in (folder, folder / "report"):
        (out / "evidence").mkdir(parents=True)
        for name in ("evidence_0000.png", "gallery.png"):
            Image.new("L", (4, 4)).save(out / "evidence" / name)
    assert len(names(folder)) == 6  # nothing but their names says that they are of an audit
    for out in (folder, folder / "report"):
        (out / "scores.csv").touch()
    assert names(folder) == ["a/0.png", "a/1.png"]
