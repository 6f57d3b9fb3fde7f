"""HDF5 and Zarr: which array holds the images, and what it must not be."""

import time

import numpy as np
import pytest

from mi_callback.errors import DataError
from mi_callback.images import SliceFolder, VolumeFolder
from mi_callback.images.files.accounts import Reason

h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")

SLICES = np.random.default_rng(0).random((4, 9, 11)).astype(np.float32)
COILS = SLICES[:, None].repeat(6, axis=1).astype(np.complex64)


def write_hdf5(path, arrays, **attributes):
    with h5py.File(path.with_suffix(".hdf5" if attributes else ".h5"), "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes)


def write_zarr(path, arrays, **attributes):
    group = zarr.open_group(str(path.with_suffix(".zarr")), mode="w")
    for name, array in arrays.items():
        group[name] = array
    group.attrs.update(attributes)


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")

both = pytest.mark.parametrize("write", [write_hdf5, write_zarr])


@both
@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"any": SLICES}, SLICES),
        ({"one": SLICES[0]}, SLICES[:1]),
        ({"many": SLICES[:, None, :, :, None]}, SLICES),
        ({"kspace": COILS, "reconstruction_rss": SLICES, "other": np.zeros((9, 20, 20))}, SLICES),  # fastMRI
        ({"Mask": np.ones((5, 9, 11)), "x": SLICES, "table": np.zeros((1000, 3)), "line": np.zeros(9)}, SLICES),
        ({"deep/down/x": SLICES, "table": np.zeros((50, 3))}, SLICES),
        ({"image": SLICES[:2], "image_before": SLICES}, SLICES[:2]),
        ({"x": SLICES * np.exp(1j * SLICES)}, SLICES),  # the magnitude
        ({"x": (255 * SLICES).astype(np.uint8)}, (255 * SLICES).astype(np.uint8)),
    ],
)
def test_the_array_that_holds_images_is_read(tmp_path, write, arrays, expected):
    write(tmp_path / "scan", arrays)
    folder = SliceFolder(tmp_path)
    assert np.allclose(np.stack([item["image"][0] for item in folder]), expected, rtol=1e-5)
    assert np.allclose(VolumeFolder(tmp_path)[0]["image"][0], expected, rtol=1e-5)
    assert len(folder.files.read) == 1
    assert set(folder.subjects) == {next(tmp_path.iterdir()).name}


@both
def test_who_is_shown_is_told_by_the_file_and_files_of_one_person_are_one(tmp_path, write):
    for name in "ab":
        write(tmp_path / name, {"image": SLICES}, patient_id="p7")
    folder = SliceFolder(tmp_path)
    assert set(folder.subjects) == {"p7"}
    assert "the PatientID in the file (8 images)" in folder.subject_rules


@both
@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"kspace": SLICES}, "none of that shape came, among its arrays kspace"),
        ({"a": SLICES, "b": SLICES}, "several came, among its arrays a .*, b "),
        ({"a": SLICES, "b": SLICES[:2]}, "several came, among its arrays a .*, b "),
        ({f"sub-{k}/image": SLICES for k in range(3)}, "several came, among its arrays sub-0/image "),  # three people
        ({"x": COILS}, "none of that shape came"),
        ({"table": np.zeros((50, 3))}, "none of that shape came"),
        ({"names": np.zeros((9, 9), "S4")}, "none of that shape came"),
    ],
)
def test_what_may_be_meant_is_not_guessed(tmp_path, write, arrays, said):
    write(tmp_path / "scan", arrays)
    with pytest.raises(DataError, match=rf"needed one array of slices .*; {said}"):
        SliceFolder(tmp_path)


def test_nothing_is_read_that_lies_in_another_file(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    write_hdf5(tmp_path / "elsewhere" / "other", {"x": SLICES})
    (tmp_path / "elsewhere" / "raw").write_bytes(SLICES.tobytes())
    folder = tmp_path / "folder"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["image"] = h5py.ExternalLink("../elsewhere/other.h5", "x")
        raw = [(str(tmp_path / "elsewhere" / "raw"), 0, SLICES.nbytes)]
        file.create_dataset("data", SLICES.shape, "f4", external=raw)
        layout = h5py.VirtualLayout(SLICES.shape, "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "elsewhere" / "other.h5"), "x", SLICES.shape)
        file.create_virtual_dataset("volume", layout)
    with pytest.raises(DataError, match="none of that shape came, among its arrays none"):
        SliceFolder(folder)


@both
def test_what_claims_more_than_it_holds_is_refused_at_once(tmp_path, write):
    if write is write_hdf5:
        with h5py.File(tmp_path / "bomb.h5", "w") as file:
            file.create_dataset("image", (500, 1000, 1000), "f4", chunks=(1, 1000, 1000), fillvalue=0)
    else:
        group = zarr.open_group(str(tmp_path / "bomb.zarr"), mode="w")
        group.create_array("image", shape=(500, 1000, 1000), chunks=(1, 1000, 1000), dtype="f4", fill_value=0)
    started = time.monotonic()
    with pytest.raises(DataError, match="needed a file that holds what its header says"):
        SliceFolder(tmp_path)
    assert time.monotonic() - started < 5


@both
def test_damaged_and_foreign_files_fail_alone(tmp_path, write):
    write(tmp_path / "good", {"image": SLICES})
    if write is write_hdf5:
        whole = (tmp_path / "good.h5").read_bytes()
        for name, content in {"cut": whole[: len(whole) // 2], "text": b"image", "empty": b""}.items():
            (tmp_path / f"{name}.h5").write_bytes(content)
        reasons = {"cut.h5": Reason.DAMAGED, "text.h5": Reason.DAMAGED, "empty.h5": Reason.NO_BYTES}
    else:
        (tmp_path / "empty.zarr").mkdir()
        reasons = {"empty.zarr": Reason.DAMAGED}
    with pytest.warns(UserWarning, match="files cannot be judged"):
        folder = SliceFolder(tmp_path)
    assert {failure.path.name: failure.reason for failure in folder.files.failed} == reasons
    assert len(folder) == 4
