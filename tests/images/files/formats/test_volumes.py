"""Volumes of every format lie alike; headers that lie and files that would fill the memory are refused."""

import gzip
import time

import nibabel
import numpy as np
import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.images import SliceFolder, VolumeFolder
from mi_callback.images.files.accounts import Reason

VOXELS = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)


def write(path, voxels, affine=None) -> None:
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


# Definition


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.nii.gz"])
def test_itk_writes_what_is_read_as_nifti_has_it(tmp_path, name):
    import SimpleITK

    image = SimpleITK.GetImageFromArray(VOXELS.T)
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    (tmp_path / "itk").mkdir()
    SimpleITK.WriteImage(image, tmp_path / "itk" / name)
    (tmp_path / "nifti").mkdir()
    SimpleITK.WriteImage(image, tmp_path / "nifti" / "a.nii")
    for kind in (SliceFolder, VolumeFolder):
        one, other = kind(tmp_path / "itk"), kind(tmp_path / "nifti")
        assert len(one) == len(other) > 0
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(one, other, strict=True))
    assert len(VolumeFolder(tmp_path / "itk").files.read) == 1


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh", "a.hdr"])
def test_freesurfer_and_pairs_of_files_are_read(tmp_path, name):
    image = nibabel.MGHImage(VOXELS, np.eye(4)) if "mg" in name else nibabel.Nifti1Pair(VOXELS, np.eye(4))
    (tmp_path / "one").mkdir()
    nibabel.save(image, tmp_path / "one" / name)
    write(tmp_path / "other" / "a.nii", VOXELS)
    assert torch.equal(VolumeFolder(tmp_path / "one")[0]["image"], VolumeFolder(tmp_path / "other")[0]["image"])


def test_an_oblique_affine_is_turned_as_nearly_as_it_can_be(tmp_path):
    turn = np.radians(20)
    affine = np.eye(4)
    affine[:2, :2] = [[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    write(tmp_path / "a" / "a.nii", VOXELS, affine)
    write(tmp_path / "b" / "a.nii", VOXELS[::-1].copy())
    assert torch.equal(VolumeFolder(tmp_path / "a")[0]["image"], VolumeFolder(tmp_path / "b")[0]["image"])


def test_pages_of_a_tiff_are_the_slices_of_a_volume(tmp_path):
    import tifffile

    pages = (VOXELS * 1000).astype(np.uint16)
    tifffile.imwrite(tmp_path / "plain.tif", pages, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "ome.ome.tif", pages[:, None], metadata={"axes": "ZCYX"}, ome=True, photometric="minisblack"
    )
    folder, volumes = SliceFolder(tmp_path), VolumeFolder(tmp_path)
    assert len(folder) == 2 * len(pages)
    assert all(np.array_equal(folder[i]["image"][0], page) for i, page in enumerate([*pages, *pages]))
    assert all(np.array_equal(volume["image"][0], pages) for volume in volumes)
    assert len(SliceFolder(tmp_path, axis=0)) == 2 * pages.shape[2]


@pytest.mark.parametrize("axes", ["TYX", "CYX"])
def test_time_points_and_channels_of_a_tiff_are_refused(tmp_path, axes):
    import tifffile

    tifffile.imwrite(tmp_path / "a.ome.tif", VOXELS, metadata={"axes": axes}, ome=True, photometric="minisblack")
    with pytest.raises(DataError, match=rf"needed slices of one channel and time in .*a\.ome\.tif.*'{axes[0]}': 5"):
        SliceFolder(tmp_path)


def test_a_tiff_of_64_bits_is_read(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", VOXELS[0].astype(np.float64))
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"][0], VOXELS[0])


def test_the_only_array_of_an_npz_is_read_and_one_of_several_is_not_guessed(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=VOXELS[0])
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"][0], VOXELS[0])
    np.savez(tmp_path / "a.npz", x=VOXELS[0], y=VOXELS[1])
    with pytest.raises(DataError, match=r"needed one array in .*a\.npz; it holds 2 \['x', 'y'\]"):
        SliceFolder(tmp_path)


@pytest.mark.parametrize(("module", "name", "said"), [("SimpleITK", "a.mha", "itk"), ("tifffile", "a.tif", "formats")])
def test_a_library_that_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch, module, name, said):
    import SimpleITK
    import tifffile

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS), tmp_path / "a.mha")
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, photometric="minisblack")
    next(path for path in tmp_path.iterdir() if path.name != name).unlink()
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(DataError, match=rf"needed {module} to read .*{name}: pip install 'mi-callback\[{said}\]'"):
        SliceFolder(tmp_path)


# Promise: what is empty, and what lies beyond the field of view


def test_empty_slices_are_skipped_and_counted(tmp_path):
    voxels = VOXELS.copy()
    voxels[..., 0] = voxels[..., -1] = 0
    write(tmp_path / "a.nii", voxels)
    folder = SliceFolder(tmp_path)
    assert [piece.position for piece in folder.slices] == [1, 2]
    assert folder.files.empty_slices == 2
    assert folder.files.counts == {"read": 1, "left_out": {}, "failed": {}, "empty_slices": 2, "unlisted": 0,
                                   "missing_slices": 0}  # fmt: skip


def test_a_volume_without_any_content_fails(tmp_path):
    write(tmp_path / "a.nii", VOXELS)
    write(tmp_path / "b.nii", 0 * VOXELS)
    for kind in (SliceFolder, VolumeFolder):
        with pytest.warns(UserWarning, match=r"1 of 2 files cannot be judged \(1 × blank"):
            assert [failure.reason for failure in kind(tmp_path).files.failed] == [Reason.BLANK]


def test_nan_outside_the_field_of_view_is_as_dark_as_the_darkest(tmp_path):
    voxels = VOXELS + 1
    voxels[0] = voxels[:, -1] = voxels[..., 0] = np.nan
    write(tmp_path / "a.nii", voxels)
    (found,) = VolumeFolder(tmp_path)
    expected = np.where(np.isnan(voxels), np.nanmin(voxels), voxels).transpose(2, 1, 0)[:, ::-1]
    assert np.array_equal(found["image"][0], expected)
    assert SliceFolder(tmp_path).files.empty_slices == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_within_fails(tmp_path, value):
    voxels = VOXELS.copy()
    voxels[2, 3, 1] = value
    write(tmp_path / "a.nii", voxels)
    with pytest.raises(DataError, match=r"needed finite .*a\.nii holds NaN"):
        VolumeFolder(tmp_path)


def test_values_beyond_32_bits_are_not_finite(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(4) * 1e300)
    with pytest.raises(DataError, match=r"a\.npy holds NaN or infinity"):
        SliceFolder(tmp_path)


# Refusal: headers that lie


def damaged(**fields) -> bytes:
    """A NIfTI file of which some fields of the header were overwritten."""
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, nibabel.nifti1.header_dtype, 1)
    header.flags.writeable  # noqa: B018  a view of the bytes
    for name, value in fields.items():
        header[name][0] = value
    return bytes(content)


@pytest.mark.parametrize(
    "fields",
    [
        {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
        {"dim": [7, 32767, 32767, 32767, 32767, 32767, 32767, 32767]},
        {"dim": [3, 50, 60, 40, 1, 1, 1, 1]},
        {"dim": [3, -5, 6, 4, 1, 1, 1, 1]},
        {"dim": [3, 0, 6, 4, 1, 1, 1, 1]},
        {"dim": [99, 5, 6, 4, 1, 1, 1, 1]},
        {"datatype": 9999},
        {"datatype": 128},  # RGB
        {"bitpix": 3, "datatype": 1},
        {"vox_offset": -100.0},
        {"vox_offset": 1e9},
        {"vox_offset": np.nan},
        {"srow_x": [np.nan] * 4},
        {"srow_x": [0] * 4},
        {"magic": b"abcd"},
    ],
    ids=str,
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_lies_is_an_error_of_ours_within_a_second(tmp_path, fields, packed):
    content = damaged(**fields)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(content) if packed else content)
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"such as: needed .*a\.nii"):
        SliceFolder(tmp_path)
    assert time.perf_counter() - start < 1


def test_a_gzip_that_expands_without_end_is_refused_at_once(tmp_path):
    content = damaged(dim=[3, 1200, 1200, 350, 1, 1, 1, 1], datatype=2, bitpix=8)
    with gzip.open(tmp_path / "a.nii.gz", "wb", compresslevel=9) as file:
        file.write(content + bytes(1 << 24))
    with pytest.raises(DataError, match=r"needed a file that holds what its header says; .*a\.nii\.gz has"):
        SliceFolder(tmp_path)


def test_arrays_and_pictures_that_claim_too_much_are_refused(tmp_path):
    import struct
    import zlib

    for name, shape in (("large.npy", (1 << 20, 1 << 20)), ("cut.npy", (2000, 2000))):
        with (tmp_path / name).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
            file.write(bytes(100))
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    header = part(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    pixels = part(b"IDAT", zlib.compress(bytes(1 << 20)))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + part(b"IEND", b""))
    np.save(tmp_path / "good.npy", VOXELS[0])
    with pytest.warns(UserWarning, match="3 of 4 files cannot be judged"):
        files = SliceFolder(tmp_path).files
    assert {failure.path.name: failure.reason for failure in files.failed} == {
        "bomb.png": Reason.TOO_LARGE, "large.npy": Reason.TOO_LARGE, "cut.npy": Reason.DAMAGED,
    }  # fmt: skip
