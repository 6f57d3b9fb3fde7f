"""Volumes of any number of axes, DICOM of any age; whatever is wrong with a file is told with its name."""

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from mi_callback.errors import DataError, OptionError
from mi_callback.images import SliceFolder, VolumeFolder

VOXELS = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)


def write(path, voxels, affine=None):
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_further_axes_of_one_place_change_nothing(tmp_path, axes):
    write(tmp_path / "plain" / "a.nii", VOXELS)
    write(tmp_path / "more" / "a.nii", VOXELS.reshape(VOXELS.shape + (1,) * axes))
    for kind in (SliceFolder, VolumeFolder):
        plain, more = kind(tmp_path / "plain"), kind(tmp_path / "more")
        assert len(plain) == len(more)
        assert all(torch.equal(one["image"], other["image"]) for one, other in zip(plain, more, strict=True))


def test_two_axes_are_a_volume_of_one_slice(tmp_path):
    write(tmp_path / "flat" / "a.nii", VOXELS[..., 0])
    write(tmp_path / "deep" / "a.nii", VOXELS[..., :1])
    (flat,), (deep,) = SliceFolder(tmp_path / "flat"), SliceFolder(tmp_path / "deep")
    assert torch.equal(flat["image"], deep["image"])


def test_an_odd_affine_turns_the_volume_and_its_number_of_slices(tmp_path):
    affine = np.eye(4)[[2, 0, 1, 3]] * [-1, 1, 1, 1]  # x, y, z of the file point up or down, right, front
    write(tmp_path / "a.nii", VOXELS, affine)
    canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / "a.nii"))
    for axis in range(3):
        assert len(SliceFolder(tmp_path, axis=axis)) == canonical.shape[axis]
    expected = canonical.get_fdata(dtype=np.float32).transpose(2, 1, 0)[:, ::-1]
    assert np.array_equal(VolumeFolder(tmp_path)[0]["image"][0], expected)


def dicom(path, preamble: bool):
    scan = pydicom.Dataset()
    scan.Rows, scan.Columns, scan.BitsAllocated, scan.BitsStored, scan.HighBit = 4, 5, 16, 16, 15
    scan.SamplesPerPixel, scan.PhotometricInterpretation, scan.PixelRepresentation = 1, "MONOCHROME2", 0
    scan.PatientID, scan.PixelData = "someone", np.arange(20, dtype="<u2").tobytes()
    scan.SOPClassUID, scan.SOPInstanceUID = pydicom.uid.CTImageStorage, pydicom.uid.generate_uid()
    if preamble:
        scan.file_meta = pydicom.dataset.FileMetaDataset()
        scan.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    scan.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=preamble)


@pytest.mark.parametrize(
    ("name", "preamble"), [("a.dcm", True), ("a.dcm", False), ("IM000001", True), ("1.2.84", True)]
)
def test_dicom_is_read_without_an_ending_and_without_a_preamble(tmp_path, name, preamble):
    dicom(tmp_path / name, preamble)
    folder = SliceFolder(tmp_path)
    assert np.array_equal(folder[0]["image"][0], np.arange(20, dtype=np.float32).reshape(4, 5))
    assert folder.subjects == ["someone"]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.dcm", "a.png", "a.npy", "a.npz", "a.tif", "a.mha", "a.zip"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"x" * 500, "is damaged or not what its name says"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n",
            "is a pointer of Git-LFS: git lfs",
        ),
    ],
    ids=["empty", "damaged", "pointer"],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"1 came and failed, such as: needed .*{name} .*({said})"):
        SliceFolder(tmp_path)


def test_a_cut_file_is_refused_by_name(tmp_path):
    write(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20)).astype(np.float32))
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:9000])
    with pytest.raises(DataError, match=r"a\.nii\.gz is damaged"):
        SliceFolder(tmp_path)[0]


def test_complex_values_text_and_nothing_are_refused(tmp_path):
    write(tmp_path / "volumes" / "a.nii", (VOXELS * 1j).astype(np.complex64))
    with pytest.raises(DataError, match=r"needed real values; .*a.nii holds complex ones\. Save their magnitude"):
        VolumeFolder(tmp_path / "volumes")[0]
    for values, said in (
        (np.eye(4) * 1j, "holds complex ones"),
        (np.full((4, 4), "text"), "holds values of type <U4"),
        (np.zeros((0, 5)), r"has shape \(0, 5\)"),
    ):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(DataError, match=said):
            SliceFolder(tmp_path)


@pytest.mark.parametrize("axis", [3, -1, 1.5])
def test_an_axis_that_there_is_not_is_refused(tmp_path, axis):
    with pytest.raises(OptionError, match="needed axis"):
        SliceFolder(tmp_path, axis=axis)
