"""Files on disk → slices that know their subject."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from torch.utils.data import DataLoader

from mi_callback.errors import DataError, MemorizationError
from mi_callback.images.files import SliceFolder, VolumeFolder, split_by_subject


def pixels(seed: int = 0, shape: tuple[int, ...] = (6, 5), most: int = 255) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, shape)


def write_array(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)
    return path


def write_picture(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def write_volume(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def write_dicom(path: Path, values: np.ndarray, patient: str | None) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dicom = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dicom.SOPClassUID, dicom.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    if patient is not None:
        dicom.PatientID = patient
    dicom.Rows, dicom.Columns = values.shape
    dicom.SamplesPerPixel, dicom.PhotometricInterpretation, dicom.PixelRepresentation = 1, "MONOCHROME2", 0
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit = 16, 16, 15
    dicom.PixelData = values.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom.save_as(path, enforce_file_format=True)
    return path


def write_manifest(path: Path, rows: list[tuple[str, str]], encoding: str = "utf-8") -> None:
    path.write_text("file,subject\n" + "".join(f"{file},{subject}\n" for file, subject in rows), encoding=encoding)


# Definition


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.bmp", "a.PNG"])
def test_an_8_bit_picture_gives_its_pixels(tmp_path, name):
    values = pixels().astype(np.uint8)
    write_picture(tmp_path / name, values)
    image = SliceFolder(tmp_path)[0]["image"]
    assert image.dtype == torch.float32
    assert np.array_equal(image.numpy(), values[None])


def test_a_16_bit_png_keeps_its_range(tmp_path):
    values = pixels(most=60000).astype(np.uint16)
    write_picture(tmp_path / "a.png", values)
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"].numpy(), values[None])


def test_a_jpeg_is_read_nearly_as_it_was(tmp_path):
    values = np.tile(np.linspace(0, 255, 32), (32, 1)).astype(np.uint8)
    write_picture(tmp_path / "a.jpg", values)
    assert np.abs(SliceFolder(tmp_path)[0]["image"].numpy() - values).max() < 6


def test_grey_values_stored_as_rgb_are_one_channel(tmp_path):
    values = pixels().astype(np.uint8)
    write_picture(tmp_path / "a.png", np.stack([values] * 3, axis=-1))
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"].numpy(), values[None])


def test_a_grey_picture_with_a_palette_gives_grey_values(tmp_path):
    values = pixels(most=4).astype(np.uint8)
    picture = Image.fromarray(values, mode="P")
    picture.putpalette([level for i in range(256) for level in [min(255, 60 * i)] * 3])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"].numpy(), 60.0 * values[None])


@pytest.mark.parametrize(("mode", "name"), [("LA", "a.png"), ("RGBA", "a.png"), ("CMYK", "a.tif"), ("P", "a.bmp")])
def test_grey_values_in_any_mode_are_those_that_are_shown(tmp_path, mode, name):
    values = pixels().astype(np.uint8)
    Image.fromarray(values).convert("L" if mode in ("P", "LA") else "RGB").convert(mode).save(tmp_path / name)
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"].numpy(), values[None])


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (6, 5, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_an_array_with_or_without_a_channel_axis_is_a_slice(tmp_path, shape, dtype):
    values = pixels(shape=shape).astype(dtype)
    write_array(tmp_path / "a.npy", values)
    image = SliceFolder(tmp_path)[0]["image"]
    assert image.dtype == torch.float32
    assert np.array_equal(image.numpy(), values.reshape(1, 6, 5).astype(np.float32))


def test_a_dicom_slice_gives_its_stored_values(tmp_path):
    values = pixels(most=4000)
    write_dicom(tmp_path / "a.dcm", values, "P7")
    assert np.array_equal(SliceFolder(tmp_path)[0]["image"].numpy(), values[None])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_slice_of_a_volume_along_the_axis_is_an_image(tmp_path, axis, ending):
    values = pixels(shape=(3, 4, 5)).astype(np.float32)
    write_volume(tmp_path / f"v{ending}", values)
    folder = SliceFolder(tmp_path, axis=axis)
    assert len(folder) == values.shape[axis]
    for i in range(len(folder)):
        image = folder[i]["image"][0].numpy()
        first, second = (side for k, side in enumerate(values.shape) if k != axis)
        assert image.shape == (second, first)
        for x in range(first):
            for y in range(second):
                index = [x, y]
                index.insert(axis, i)
                # The second axis (anterior or superior) points up, the first (right) to the right.
                assert image[second - 1 - y, x] == values[tuple(index)]


def test_slices_do_not_depend_on_how_a_volume_is_stored(tmp_path):
    values = pixels(shape=(3, 4, 5)).astype(np.float32)
    write_volume(tmp_path / "ras" / "v.nii", values)
    flipped = np.diag([-1.0, 1.0, -1.0, 1.0])
    write_volume(tmp_path / "las" / "v.nii", values[::-1, :, ::-1].copy(), flipped)
    ras, las = SliceFolder(tmp_path / "ras"), SliceFolder(tmp_path / "las")
    assert len(ras) == len(las) == 5
    assert all(torch.equal(ras[i]["image"], las[i]["image"]) for i in range(5))


def test_all_kinds_of_files_are_found_at_any_depth_and_others_are_left_alone(tmp_path):
    write_picture(tmp_path / "s1" / "deep" / "a.png", pixels().astype(np.uint8))
    write_array(tmp_path / "s2" / "b.npy", pixels())
    write_volume(tmp_path / "s3" / "c.nii.gz", pixels(shape=(4, 4, 2)).astype(np.int16))
    write_dicom(tmp_path / "s4" / "d.dcm", pixels(), None)
    (tmp_path / "notes.txt").write_text("not an image")
    folder = SliceFolder(tmp_path)
    assert [Path(folder[i]["filename_or_obj"]).name for i in range(len(folder))] == [
        "a.png", "b.npy", "c.nii.gz", "c.nii.gz", "d.dcm",
    ]  # fmt: skip
    assert folder.subjects == ["s1", "s2", "s3", "s3", "s4"]


# Promise: the subject


def test_the_function_overrules_the_manifest_which_overrules_bids(tmp_path):
    for name in ("sub-1_a.npy", "sub-2_b.npy"):
        write_array(tmp_path / name, pixels())
    write_manifest(tmp_path / "manifest.csv", [("sub-1_a.npy", "Ada")])
    assert SliceFolder(tmp_path).subjects == ["Ada", "sub-2"]
    assert SliceFolder(tmp_path, subject_of=lambda path: path.stem[-1]).subjects == ["a", "b"]


def test_a_manifest_may_lie_beside_the_folder_or_deep_inside(tmp_path):
    write_array(tmp_path / "images" / "a.npy", pixels())
    write_array(tmp_path / "images" / "deep" / "b.npy", pixels())
    write_manifest(tmp_path / "manifest.csv", [("images/a.npy", "A")])
    write_manifest(tmp_path / "images" / "deep" / "manifest.csv", [("b.npy", "B")])
    assert SliceFolder(tmp_path / "images").subjects == ["A", "B"]


def test_a_manifest_saved_by_a_spreadsheet_counts_too(tmp_path):
    write_array(tmp_path / "a.npy", pixels())
    write_manifest(tmp_path / "manifest.csv", [("a.npy", "A")], encoding="utf-8-sig")
    assert SliceFolder(tmp_path).subjects == ["A"]


def test_a_dicom_knows_its_patient_unless_the_path_is_bids(tmp_path):
    write_dicom(tmp_path / "site" / "a.dcm", pixels(), "P1")
    write_dicom(tmp_path / "sub-9" / "b.dcm", pixels(), "P1")
    assert SliceFolder(tmp_path).subjects == ["P1", "sub-9"]


def test_volumes_are_subjects_of_their_own_when_nothing_else_is_known(tmp_path):
    write_volume(tmp_path / "x.nii.gz", pixels(shape=(4, 4, 2)).astype(np.int16))
    write_volume(tmp_path / "y.nii", pixels(shape=(4, 4, 1)).astype(np.int16))
    first, second, other = SliceFolder(tmp_path).subjects
    assert first == second != other
    assert first.startswith("x")
    assert other.startswith("y")


def test_an_unknown_subject_is_absent_and_not_made_up(tmp_path):
    write_array(tmp_path / "a.npy", pixels())
    folder = SliceFolder(tmp_path)
    assert folder.subjects is None
    assert "subject" not in folder[0]


def test_a_folder_in_which_only_some_subjects_are_known_can_be_batched(tmp_path):
    write_array(tmp_path / "ada" / "a.npy", pixels())
    write_array(tmp_path / "z.npy", pixels(1))
    folder = SliceFolder(tmp_path)
    assert folder.subjects is None
    batch = next(iter(DataLoader(folder, batch_size=2)))
    assert len(batch["image"]) == 2


# Promise: what is read is what lies on disk


def test_mixed_sizes_can_be_batched_when_a_size_is_given(tmp_path):
    write_array(tmp_path / "a.npy", pixels(shape=(20, 10)))
    write_array(tmp_path / "b.npy", pixels(shape=(7, 13)))
    batch = next(iter(DataLoader(SliceFolder(tmp_path, size=(16, 16)), batch_size=2)))
    assert batch["image"].shape == (2, 1, 16, 16)


def test_changing_an_item_in_place_does_not_change_what_is_read_next(tmp_path):
    write_array(tmp_path / "a.npy", pixels().astype(np.float32))
    folder = SliceFolder(tmp_path)
    before = folder[0]["image"].clone()
    folder[0]["image"].zero_()
    assert torch.equal(folder[0]["image"], before)


def test_a_file_that_was_overwritten_is_read_anew(tmp_path):
    for ending, write in ((".npy", write_array), (".nii", write_volume)):
        write(tmp_path / f"a{ending}", np.eye(4))
        folder = SliceFolder(tmp_path)
        assert folder[0]["image"].sum() == 4
        write(tmp_path / f"a{ending}", 3 * np.eye(4))
        assert folder[0]["image"].sum() == 12
        (tmp_path / f"a{ending}").unlink()


def test_where_keeps_the_chosen_slices_and_leaves_the_folder_as_it_was(tmp_path):
    for name in "abc":
        write_array(tmp_path / name / "x.npy", pixels())
    folder = SliceFolder(tmp_path)
    assert folder.where([True, False, True]).subjects == ["a", "c"]
    assert folder.where(torch.tensor([False, True, False])).subjects == ["b"]
    assert len(folder) == 3


# Promise: the split


def test_a_split_never_cuts_a_subject_in_two():
    subjects = [f"s{i % 40}" for i in range(200)]
    side = split_by_subject(subjects, 0.5)
    sides = {subject: {bool(s) for s, other in zip(side, subjects, strict=True) if other == subject}
             for subject in subjects}  # fmt: skip
    assert all(len(found) == 1 for found in sides.values())
    assert 0 < side.sum() < 200


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8, 1.0])
def test_the_share_of_subjects_is_as_asked(share):
    found = split_by_subject([f"s{i}" for i in range(4000)], share).double().mean()
    assert abs(found - share) <= 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_subject_stays_on_its_side_when_others_join():
    some = [f"s{i}" for i in range(50)]
    more = [f"t{i}" for i in range(50)] + some
    assert torch.equal(split_by_subject(some, 0.5, seed=3), split_by_subject(more, 0.5, seed=3)[50:])
    assert not torch.equal(split_by_subject(some, 0.5, seed=3), split_by_subject(some, 0.5, seed=4))


# Refusal


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        SliceFolder(tmp_path / "nowhere")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=r"at least one image .* found none"):
        SliceFolder(tmp_path)


def test_a_colour_picture_is_refused(tmp_path):
    write_picture(tmp_path / "a.png", pixels(shape=(6, 5, 3)).astype(np.uint8))
    with pytest.raises(DataError, match=r"single-channel.*a\.png has colour"):
        SliceFolder(tmp_path)[0]


@pytest.mark.parametrize("shape", [(7,), (5, 6, 7), (2, 5, 6, 7)])
def test_an_array_that_is_no_slice_is_refused(tmp_path, shape):
    write_array(tmp_path / "a.npy", pixels(shape=shape))
    with pytest.raises(DataError, match=r"one \(h, w\) slice.*a\.npy has shape"):
        SliceFolder(tmp_path)[0]


def test_a_volume_with_time_points_is_refused(tmp_path):
    write_volume(tmp_path / "v.nii", pixels(shape=(3, 4, 5, 2)).astype(np.int16))
    with pytest.raises(DataError, match=r"3D volume.*v\.nii has shape \(3, 4, 5, 2\)"):
        SliceFolder(tmp_path)


def test_an_array_of_pickled_objects_is_not_executed(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        SliceFolder(tmp_path)[0]


def test_a_broken_file_is_refused_by_name(tmp_path):
    (tmp_path / "a.png").write_bytes(b"this is no picture")
    with pytest.raises(MemorizationError, match=r"a\.png"):
        SliceFolder(tmp_path)[0]


def test_where_refuses_another_number_of_truth_values(tmp_path):
    write_array(tmp_path / "a.npy", pixels())
    with pytest.raises(DataError, match=r"one truth value per slice \(1\); 2 came"):
        SliceFolder(tmp_path).where([True, False])


def test_the_dicom_made_here_is_a_real_one(tmp_path):
    values = pixels(most=4000)
    assert np.array_equal(pydicom.dcmread(write_dicom(tmp_path / "a.dcm", values, "P")).pixel_array, values)


# Whole volumes


def test_a_volume_is_read_whole_from_foot_to_head_from_front_to_back_from_left_to_right(tmp_path):
    import nibabel

    pixels = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)  # x to the right, y to the front, z to the head
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), tmp_path / "sub-7_T1w.nii.gz")
    nibabel.save(nibabel.Nifti1Image(pixels[::-1], np.diag([-1, 1, 1, 1])), tmp_path / "sub-8_T1w.nii.gz")
    (tmp_path / "picture.png").touch()  # no volume: not read
    folder = VolumeFolder(tmp_path)
    assert folder.subjects == ["sub-7", "sub-8"]
    for item in folder:
        assert item["image"].shape == (1, 4, 3, 2)
        for z, y, x in itertools.product(range(4), range(3), range(2)):
            assert item["image"][0, z, 2 - y, x] == pixels[x, y, z]


def test_volumes_of_several_sizes_are_fitted(tmp_path):
    for k, shape in enumerate(((4, 6, 8), (8, 6, 4))):
        write_volume(tmp_path / f"{k}.nii", pixels(shape=shape).astype(np.float32))
    folder = VolumeFolder(tmp_path, (8, 8, 8))
    assert [tuple(item["image"].shape) for item in folder] == [(1, 8, 8, 8)] * 2
    assert len(set(folder.subjects)) == 2


def test_a_folder_without_volumes_is_refused(tmp_path):
    (tmp_path / "picture.png").touch()
    with pytest.raises(DataError, match=r"found none. Read are \.nii, \.nii\.gz"):
        VolumeFolder(tmp_path)


# Colour


def test_colours_are_kept_where_asked_for_and_grey_is_repeated(tmp_path, generator):
    red = torch.randint(0, 255, (4, 5, 3), generator=generator, dtype=torch.uint8).numpy()
    Image.fromarray(red).save(tmp_path / "a.png")
    Image.fromarray(red[..., 0]).save(tmp_path / "b.png")
    one, other = SliceFolder(tmp_path, colour=True)
    assert torch.equal(one["image"], torch.from_numpy(red).permute(2, 0, 1).float())
    assert torch.equal(other["image"], torch.from_numpy(red[..., 0]).float().expand(3, 4, 5))
    with pytest.warns(UserWarning, match=r"1 of 2 files cannot be judged .*has colour.*colour=True"):
        assert len(SliceFolder(tmp_path)) == 1
