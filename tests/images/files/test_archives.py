"""Archives are read as folders; nothing in them fills the memory or leaves them."""

import io
import time
import zipfile

import nibabel
import numpy as np
import pytest
import torch
from dicom_files import write_slice
from PIL import Image

from mi_callback.errors import DataError
from mi_callback.images import SliceFolder, VolumeFolder, read_image
from mi_callback.images.files import archives
from mi_callback.images.files.accounts import LeftOut, Reason

VALUES = np.random.default_rng(0).integers(0, 255, (8, 6, 5)).astype(np.uint8)


def write_kinds(folder) -> None:
    """A file of every kind, each of a person of its own."""
    import SimpleITK

    for name in "abcdef":
        (folder / name).mkdir(parents=True)
    Image.fromarray(VALUES[0]).save(folder / "a" / "x.png")
    np.save(folder / "b" / "x.npy", VALUES[1])
    nibabel.save(nibabel.Nifti1Image(VALUES[:, :, :3], np.eye(4)), folder / "c" / "x.nii.gz")
    for k in range(2):
        write_slice(folder / "d" / f"{9 - k}.dcm", VALUES[2 + k], k, PatientID="d")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VALUES[:4]), folder / "e" / "x.mha")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VALUES[4:]), folder / "f" / "x.mhd")


def pack(folder, archive) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as whole:
        for path in sorted(folder.rglob("*")):
            whole.write(path, path.relative_to(folder))


@pytest.mark.parametrize("kind", [SliceFolder, VolumeFolder])
def test_an_archive_reads_as_the_folder_that_was_packed(tmp_path, kind):
    write_kinds(tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "plain", tmp_path / "packed" / "images.zip")
    plain, packed = kind(tmp_path / "plain"), kind(tmp_path / "packed")
    assert len(plain) == len(packed)
    assert plain.subjects[0] == ("a" if kind is SliceFolder else "c")
    assert plain.subjects == [subject.removeprefix("images/") for subject in packed.subjects]
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(plain, packed, strict=True))
    inner = [path.relative_to(tmp_path / "packed" / "images.zip") for path in packed.files.read]
    assert inner == [path.relative_to(tmp_path / "plain") for path in plain.files.read]


def test_an_archive_of_a_person_names_the_person_as_a_folder_does(tmp_path):
    for i, name in enumerate(("ada", "bea")):
        (tmp_path / name).mkdir()
        Image.fromarray(VALUES[i]).save(tmp_path / name / "x.png")
    pack(tmp_path / "bea", tmp_path / "eve.zip")
    assert SliceFolder(tmp_path).subjects == ["ada", "bea", "eve"]


def test_an_archive_that_was_overwritten_is_read_anew(tmp_path):
    for values in VALUES[:2]:
        np.save(tmp_path / "x.npy", values)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as whole:
            whole.write(tmp_path / "x.npy", "x.npy")
        assert np.array_equal(read_image(tmp_path / "a.zip" / "x.npy"), values)


def test_nothing_that_was_unpacked_is_left_behind(tmp_path, monkeypatch):
    write_kinds(tmp_path / "plain")
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "packed").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "unpacked"))
    pack(tmp_path / "plain", tmp_path / "packed" / "a.zip")
    assert len(SliceFolder(tmp_path / "packed")) > 5
    assert not list((tmp_path / "unpacked").iterdir())


def test_what_is_within_an_archive_is_accounted_for_as_in_a_folder(tmp_path):
    good = io.BytesIO()
    Image.fromarray(VALUES[0]).save(good, format="PNG")
    files = {
        "x.png": good.getvalue(),
        "y.png": b"x",
        "__MACOSX/._x.png": b"",
        "table.csv": b"",
        "z": b"",
    }
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as whole:
        for name, content in files.items():
            whole.writestr(name, content)
    with pytest.warns(UserWarning, match=r"1 of 2 files cannot be judged .*a\.zip/y\.png is damaged"):
        account = SliceFolder(tmp_path).files
    assert [path.name for path in account.read] == ["x.png"]
    assert {reason: [path.name for path in paths] for reason, paths in account.left_out.items()} == {
        LeftOut.SYSTEM: ["._x.png"],
        LeftOut.BESIDE: ["table.csv"],
        LeftOut.UNKNOWN: ["z"],
    }


def test_archives_within_archives_read_as_folders_within_folders(tmp_path):
    write_kinds(tmp_path / "plain" / "deep")
    pack(tmp_path / "plain" / "deep", tmp_path / "deep.zip")
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as whole:
        whole.write(tmp_path / "deep.zip", "site/deep.zip")
        whole.writestr("folder.zip/x.npy", (tmp_path / "plain/deep/b/x.npy").read_bytes())  # no archive
    with zipfile.ZipFile(tmp_path / "packed" / "a.zip", "w") as whole:
        whole.write(tmp_path / "b.zip", "b.zip")
    plain, packed = SliceFolder(tmp_path / "plain"), SliceFolder(tmp_path / "packed")
    images = [item["image"] for item in packed]
    assert len(images) == len(plain) + 1
    assert all(torch.equal(item["image"], image) for item, image in zip(plain, images[1:], strict=True))
    assert tmp_path / "packed/a.zip/b.zip/site/deep.zip/a/x.png" in packed.files.read
    assert not packed.files.failed


def zipped(files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in files.items():
            whole.writestr(name, content)
    return stream.getvalue()


def test_bombs_of_archives_within_archives_are_refused_in_seconds(tmp_path, monkeypatch):
    good = io.BytesIO()
    Image.fromarray(VALUES[0]).save(good, format="PNG")
    deep = zipped({"x.png": good.getvalue()})
    for _ in range(4):
        deep = zipped({"deeper.zip": deep})
    many = zipped({f"{i}.zip": zipped({"x": b"x"}) for i in range(600)})
    wide = zipped({"0.png": bytes(1 << 20)})
    monkeypatch.setattr(archives, "FREE", 1 << 22)
    for _ in range(2):
        wide = zipped({f"{i}.zip": wide for i in range(8)})  # 64 MB
    for name, content in {"deep": deep, "many": many, "wide": wide}.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
    (tmp_path / "good.png").write_bytes(good.getvalue())
    started = time.monotonic()
    with pytest.warns(UserWarning, match="files cannot be judged"):
        folder = SliceFolder(tmp_path)
    assert time.monotonic() - started < 10
    assert len(folder) == 1
    said = {failure.path.relative_to(tmp_path).parts[0] for failure in folder.files.failed}
    assert said == {"deep.zip", "many.zip", "wide.zip"}
    messages = "\n".join(failure.message for failure in folder.files.failed)
    assert "expands to at most 100 times its size" in messages
    assert "needed at most 3 archives within one another and 500 in one" in messages


def test_a_damaged_archive_within_one_and_a_scan_of_many_files_fail_alone(tmp_path):
    good = io.BytesIO()
    Image.fromarray(VALUES[0]).save(good, format="PNG")
    files = {"x.png": good.getvalue(), "cut.zip": zipped({"y.png": good.getvalue()})[:40], "scan.zarr/zarr.json": b"{}"}
    (tmp_path / "a.zip").write_bytes(zipped(files | {"scan.zarr/c/0/0": b"0"}))
    with pytest.warns(UserWarning, match="2 of 3 files cannot be judged"):
        failed = SliceFolder(tmp_path).files.failed
    assert {failure.path.name: failure.reason for failure in failed} == {
        "cut.zip": Reason.DAMAGED, "scan.zarr": Reason.FORMAT,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "C:/x.png", "..\\x.png"])
def test_a_name_that_leads_out_of_its_archive_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as whole:
        whole.writestr(name, b"x")
    with pytest.raises(DataError, match=r"a\.zip holds one that leads out"):
        SliceFolder(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zip"]


def test_a_link_and_a_password_are_refused(tmp_path):
    link = zipfile.ZipInfo("x.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as whole:
        whole.writestr(link, "/etc/hostname")
    with pytest.raises(DataError, match=r"a\.zip holds the link 'x\.png'"):
        SliceFolder(tmp_path)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1  # the mark of an encrypted member
    content[entry + 38 : entry + 42] = bytes(4)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match="needed an archive without a password"):
        SliceFolder(tmp_path)


def test_an_archive_that_expands_too_far_is_refused_at_once(tmp_path):
    zeros = bytes(1 << 24)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as whole:
        whole.writestr("0.png", zeros)
    content = (tmp_path / "bomb.zip").read_bytes()
    large = (3 << 30).to_bytes(4, "little")
    content = content.replace((1 << 24).to_bytes(4, "little"), large)  # as if it held 3 GB
    (tmp_path / "bomb.zip").write_bytes(content)
    with pytest.raises(DataError, match="expands to at most 100 times its size"):
        SliceFolder(tmp_path)


def test_a_damaged_archive_and_a_damaged_member_fail_alone(tmp_path):
    np.save(tmp_path / "good.npy", VALUES[0])
    np.save(tmp_path / "x.npy", VALUES[1])
    with zipfile.ZipFile(tmp_path / "member.zip", "w", zipfile.ZIP_DEFLATED) as whole:
        whole.write(tmp_path / "x.npy", "x.npy")
        whole.write(tmp_path / "x.npy", "y.npy")
    content = bytearray((tmp_path / "member.zip").read_bytes())
    content[60:80] = bytes(20)
    (tmp_path / "member.zip").write_bytes(content)
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="2 of 5 files cannot be judged"):
        files = SliceFolder(tmp_path).files
    assert [(failure.path.name, failure.reason) for failure in files.failed] == [
        ("cut.zip", Reason.DAMAGED), ("x.npy", Reason.DAMAGED),
    ]  # fmt: skip
