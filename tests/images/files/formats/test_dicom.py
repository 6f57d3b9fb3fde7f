"""What DICOM pixels stand for, in every compression; files that say little or nothing."""

import numpy as np
import pydicom
import pytest
from dicom_files import compress, item, jpeg, lossless_jpeg, sequence, write_dicom, write_slice
from pydicom import uid
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence

from mi_callback.auditing.accounting import files_table
from mi_callback.errors import DataError, OptionError
from mi_callback.images import SliceFolder, VolumeFolder, read_image
from mi_callback.images.files.accounts import LeftOut, Reason

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 4000, (6, 5)).astype(np.uint16)
BYTES = RNG.integers(0, 255, (6, 6)).astype(np.uint8)


# Definition: transfer syntaxes


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.filterwarnings("ignore:.*big endian.*")
def test_what_is_not_compressed_is_read_as_it_is(tmp_path, syntax):
    values = VALUES.byteswap() if syntax == uid.ExplicitVRBigEndian else VALUES
    path = write_dicom(tmp_path / "a.dcm", values, syntax)
    assert np.array_equal(read_image(path), VALUES)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_what_is_compressed_without_loss_is_read_as_it_was(tmp_path, syntax):
    values = np.tile(VALUES, (11, 13))
    path = write_dicom(tmp_path / "a.dcm", values)
    scan = pydicom.dcmread(path)
    scan.compress(syntax)
    scan.save_as(path)
    assert np.array_equal(read_image(path), values)


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
def test_lossless_jpeg_is_read_as_it_was(tmp_path, syntax):
    path = write_dicom(tmp_path / "a.dcm", VALUES)
    compress(path, syntax, [lossless_jpeg(VALUES)])
    assert np.array_equal(read_image(path), VALUES)


def test_baseline_jpeg_is_read_nearly_as_it_was(tmp_path):
    values = np.tile(np.linspace(0, 255, 32), (32, 1)).astype(np.uint8)
    path = write_dicom(tmp_path / "a.dcm", values)
    compress(path, uid.JPEGBaseline8Bit, [jpeg(values)])
    assert np.abs(read_image(path).astype(float) - values).max() < 4


@pytest.mark.parametrize("syntax", [uid.JPEGExtended12Bit, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000,
                                    uid.HTJ2KLossless, uid.HTJ2K])  # fmt: skip
def test_a_decoder_of_every_other_compression_of_images_is_there(syntax):
    assert get_decoder(syntax).is_available


def test_a_decoder_that_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", VALUES)
    compress(path, uid.JPEGLossless, [lossless_jpeg(VALUES)])
    decoder = type(get_decoder(uid.JPEGLossless))
    monkeypatch.setattr(decoder, "is_available", property(lambda self: False))
    with pytest.raises(DataError, match=r"needed a decoder of JPEG Lossless.*pip install 'mi-callback\[dicom\]'"):
        SliceFolder(tmp_path)


def test_jpeg_with_losses_and_more_than_eight_bits_names_the_one_library_that_reads_it(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", VALUES)
    compress(path, uid.JPEGExtended12Bit, [jpeg(BYTES)])
    decoder = type(get_decoder(uid.JPEGExtended12Bit))
    monkeypatch.setattr(decoder, "available_plugins", property(lambda self: ("gdcm", "pillow")))
    with pytest.raises(DataError, match=r"and 16 bits to read .*pylibjpeg-libjpeg, which is under the GPL-3\.0"):
        SliceFolder(tmp_path)


# Definition: what values stand for


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.5, -1024), (2, 0)])
def test_the_rescale_of_a_file_counts(tmp_path, slope, intercept):
    path = write_dicom(tmp_path / "a.dcm", VALUES, RescaleSlope=slope, RescaleIntercept=intercept)
    assert np.allclose(read_image(path), VALUES * float(slope) + intercept)


def test_the_rescale_of_each_frame_counts_and_that_of_all_where_it_has_none(tmp_path):
    frames = np.stack([VALUES, VALUES, VALUES])
    line = lambda slope, intercept: sequence(RescaleSlope=slope, RescaleIntercept=intercept)  # noqa: E731
    shared = sequence(PixelValueTransformationSequence=line(1, -1024))
    each = Sequence([item(PixelValueTransformationSequence=line(2, 0)), item(), item()])
    write_dicom(tmp_path / "a.dcm", frames, SharedFunctionalGroupsSequence=shared,
                PerFrameFunctionalGroupsSequence=each)  # fmt: skip
    found = [read["image"][0].numpy() for read in SliceFolder(tmp_path)]
    assert all(np.allclose(*pair) for pair in zip(found, (2 * VALUES, VALUES - 1024.0, VALUES - 1024.0), strict=True))


def test_a_modality_lut_counts(tmp_path):
    curve = (np.abs(np.arange(256) - 128) ** 2).astype(np.uint16)
    lut = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US", LUTData=curve.tobytes())
    lut["LUTData"].VR = "OW"
    path = write_dicom(tmp_path / "a.dcm", BYTES, ModalityLUTSequence=Sequence([lut]))
    assert np.array_equal(read_image(path), curve[BYTES])


def test_a_voi_lut_counts_and_a_window_does_not_cut_values_off(tmp_path):
    curve = np.arange(256, dtype=np.uint16)[::-1] * 16
    lut = item(LUTDescriptor=[256, 0, 16], LUTData=curve.tobytes())
    lut["LUTData"].VR = "OW"
    path = write_dicom(tmp_path / "a.dcm", BYTES, VOILUTSequence=Sequence([lut]))
    assert np.array_equal(read_image(path), curve[BYTES])
    path = write_dicom(tmp_path / "b.dcm", BYTES, WindowCenter="100", WindowWidth="20")
    assert np.array_equal(read_image(path), BYTES)


@pytest.mark.parametrize("bright_is_low", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_values_of_interest_are_those_asked_for_whatever_is_stored(tmp_path, bright_is_low, signed):
    units = np.array([[-1000, -160, -60, 40], [140, 240, 1000, 3000]])
    slope, intercept = (1, 0) if signed else (2, -1024)
    stored = ((units - intercept) // slope).astype(np.int16 if signed else np.uint16)
    tags = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": [50, 90], "WindowWidth": [21, 9]}
    tags |= {"PhotometricInterpretation": "MONOCHROME1"} if bright_is_low else {}
    write_dicom(tmp_path / "a.dcm", stored, **tags)
    turned = -1 if bright_is_low else 1

    def seen(voi):
        pixels = turned * SliceFolder(tmp_path, voi=voi)[0]["image"][0].double().numpy()
        return (pixels - pixels.min()) / (pixels.max() - pixels.min())

    assert np.allclose(seen(None), (units + 1000) / 4000)
    assert np.allclose(seen((40, 400)), (units.clip(-160, 240) + 160) / 400)
    assert np.allclose(
        seen("file"), (units.clip(39.5, 59.5) - 39.5) / 20, atol=1e-3
    )  # the first window, PS3.3 C.11.2.1.2


def test_each_frame_has_a_window_of_its_own_and_a_file_without_one_keeps_all_values(tmp_path):
    windows = [{"FrameVOILUTSequence": sequence(WindowCenter=center, WindowWidth=200)} for center in (1000, 3000)]
    each = Sequence([item(**window) for window in windows])
    write_dicom(tmp_path / "a" / "a.dcm", np.stack([VALUES, VALUES]), PerFrameFunctionalGroupsSequence=each)
    for found, center in zip(SliceFolder(tmp_path / "a", voi="file"), (1000, 3000), strict=True):
        image = found["image"][0].numpy()
        cut = VALUES.clip(center - 100, center + 100)
        assert np.corrcoef(image.ravel(), cut.ravel())[0, 1] > 0.9999
    write_dicom(tmp_path / "b" / "b.dcm", VALUES)
    assert np.array_equal(SliceFolder(tmp_path / "b", voi="file")[0]["image"][0], VALUES)


@pytest.mark.parametrize("voi", ["brain", [40], [40, 0], [40, "wide"], [40, np.inf], 40, [True, 2]])
def test_other_values_of_interest_are_refused(tmp_path, voi):
    with pytest.raises(OptionError, match=r"needed voi as \[center, width\] of a window, 'file', or None"):
        SliceFolder(tmp_path, voi=voi)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int8])
def test_bright_stored_as_low_is_turned_without_wrapping_around(tmp_path, kind):
    limits = np.iinfo(kind)
    values = np.array([[limits.min, limits.max, 0, 1], [1, 2, 3, 7]], kind)
    path = write_dicom(tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_image(path), float(limits.min) + limits.max - values.astype(float))


def test_a_palette_of_greys_gives_greys_and_one_of_colours_is_colour(tmp_path):
    curve = RNG.permutation(256).astype(np.uint16) * 256
    palettes = {"grey": (curve, curve, curve), "colour": (curve, curve[::-1].copy(), curve)}
    for name, table in palettes.items():
        tags = {"PhotometricInterpretation": "PALETTE COLOR"}
        for colour, values in zip(("Red", "Green", "Blue"), table, strict=True):
            tags |= {f"{colour}PaletteColorLookupTableDescriptor": [256, 0, 16]}
            tags |= {f"{colour}PaletteColorLookupTableData": values.tobytes()}
        write_dicom(tmp_path / name / "a.dcm", BYTES, **tags)
    assert np.array_equal(read_image(tmp_path / "grey" / "a.dcm"), curve[BYTES])
    with pytest.raises(DataError, match=r"has colour.*colour=True"):
        read_image(tmp_path / "colour" / "a.dcm")
    (coloured,) = SliceFolder(tmp_path / "colour", colour=True)
    assert np.array_equal(coloured["image"][1], curve[::-1][BYTES])


def test_colour_of_one_and_of_several_frames_is_kept_where_it_is_asked_for(tmp_path):
    frames = RNG.integers(0, 255, (2, 4, 5, 3)).astype(np.uint8)
    write_dicom(tmp_path / "a.dcm", frames)
    found = [read["image"].numpy() for read in SliceFolder(tmp_path, colour=True)]
    assert np.array_equal(np.stack(found), frames.transpose(0, 3, 1, 2))


# Promise: series lie as the body does


def test_slices_of_a_series_are_in_the_order_of_their_places_whatever_their_names(tmp_path):
    places = [30.0, 10.0, 20.0, 0.0]
    for k, place in enumerate(places):
        write_slice(tmp_path / f"{k}.dcm", VALUES + int(place), place, InstanceNumber=k)
    folder = SliceFolder(tmp_path)
    assert [piece.path.name for piece in folder.slices] == ["3.dcm", "1.dcm", "2.dcm", "0.dcm"]
    assert {piece.volume for piece in folder.slices} == {tmp_path / "3.dcm"}
    (volume,) = VolumeFolder(tmp_path)
    # Rows of a straight axial slice begin at the front and at the right of the person, who is seen from the feet.
    expected = np.stack([VALUES + int(place) for place in sorted(places)])[:, :, ::-1]
    assert np.array_equal(volume["image"][0], expected)
    assert volume["subject"] == "p1"


def test_a_series_is_the_volume_that_nifti_would_hold_whatever_its_direction(tmp_path):
    import nibabel

    voxels = RNG.integers(1, 4000, (4, 5, 3)).astype(np.uint16)  # sagittal: columns to the back, rows to the feet
    for k in range(3):
        write_slice(tmp_path / "dicom" / f"{k}.dcm", voxels[:, :, k].T.copy(), 0,
                    ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[4.0 * k, 0, 0])  # fmt: skip
    to_ras = np.array([[0, 0, -4.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    (tmp_path / "nifti").mkdir()
    nibabel.save(nibabel.Nifti1Image(voxels, to_ras), tmp_path / "nifti" / "a.nii")
    one, other = (VolumeFolder(tmp_path / name)[0]["image"] for name in ("dicom", "nifti"))
    assert np.array_equal(one, other)


def test_series_directions_and_echoes_are_volumes_of_their_own(tmp_path):
    for k in range(3):
        write_slice(tmp_path / f"a{k}.dcm", VALUES + k, k, InstanceNumber=2 * k)
        write_slice(tmp_path / f"b{k}.dcm", VALUES + 10 + k, k, InstanceNumber=2 * k + 1)  # an echo in the same places
        write_slice(tmp_path / f"c{k}.dcm", VALUES + 20 + k, k, SeriesInstanceUID="1.2.4")
        write_slice(tmp_path / f"d{k}.dcm", VALUES + 30 + k, 0, ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
                    ImagePositionPatient=[0, -k, 0])  # fmt: skip
    folder = VolumeFolder(tmp_path)
    assert sorted(float(read["image"].min() - VALUES.min()) for read in folder) == [0, 10, 20, 30]
    assert all(read["image"].shape[-3:].numel() == 90 for read in folder)


def test_frames_of_an_enhanced_file_are_ordered_by_their_places(tmp_path):
    frames = np.stack([VALUES + k for k in range(3)])
    each = Sequence(
        item(PlanePositionSequence=sequence(ImagePositionPatient=[0, 0, place])) for place in (5.0, -5.0, 0.0)
    )
    shared = sequence(PlaneOrientationSequence=sequence(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    write_dicom(tmp_path / "IM1", frames, PerFrameFunctionalGroupsSequence=each, SharedFunctionalGroupsSequence=shared)
    folder = SliceFolder(tmp_path)
    assert [piece.position for piece in folder.slices] == [1, 2, 0]
    assert [float(read["image"].min() - VALUES.min()) for read in folder] == [1, 2, 0]
    assert VolumeFolder(tmp_path)[0]["image"].shape == (1, 3, 6, 5)


def test_without_places_numbers_order_and_without_numbers_names_as_people_count(tmp_path):
    for name, number in (("1.dcm", 3), ("2.dcm", 1), ("10.dcm", 2)):
        write_dicom(tmp_path / "numbered" / name, VALUES, InstanceNumber=number, SeriesInstanceUID="1.2")
        write_dicom(tmp_path / "named" / name, VALUES, SeriesInstanceUID="1.2")
    names = lambda folder: [piece.path.stem for piece in SliceFolder(tmp_path / folder).slices]  # noqa: E731
    assert names("numbered") == ["2", "10", "1"]
    assert names("named") == ["1", "2", "10"]


def test_empty_end_slices_of_a_series_are_skipped_and_counted(tmp_path):
    for k in range(4):
        write_slice(tmp_path / f"{k}.dcm", VALUES * (k in (1, 2)), k)
    folder = SliceFolder(tmp_path)
    assert len(folder) == 2
    assert folder.files.empty_slices == 2
    assert not folder.files.failed


# Promise: files without images, and files that are not there


def test_an_index_is_left_out_and_what_it_names_and_is_not_there_fails(tmp_path):
    write_dicom(tmp_path / "scans" / "im1", VALUES)
    index = write_dicom(tmp_path / "DICOMDIR", VALUES)
    scan = pydicom.dcmread(index)
    for name in ("Rows", "Columns", "PixelData", "SOPClassUID"):
        delattr(scan, name)
    records = [item(ReferencedFileID=["SCANS", "IM1"]), item(ReferencedFileID=["SCANS", "IM2"]), item()]
    scan.DirectoryRecordSequence = Sequence(records)
    scan.save_as(index)
    with pytest.warns(UserWarning, match="IM2 that .*DICOMDIR names; it is not there"):
        folder = SliceFolder(tmp_path)
    assert [piece.path.name for piece in folder.slices] == ["im1"]
    assert folder.files.left_out == {LeftOut.NO_PIXELS: (index,)}


def test_a_report_is_left_out_and_an_image_that_lost_its_pixels_fails(tmp_path):
    write_dicom(tmp_path / "a.dcm", VALUES)
    for name, kind in (("report", uid.BasicTextSRStorage), ("lost", uid.CTImageStorage)):
        scan = pydicom.dcmread(write_dicom(tmp_path / f"{name}.dcm", VALUES, SOPClassUID=kind))
        for element in ("Rows", "Columns", "PixelData"):
            delattr(scan, element)
        scan.save_as(tmp_path / f"{name}.dcm")
    with pytest.warns(UserWarning, match="1 of 2 files cannot be judged"):
        files = SliceFolder(tmp_path).files
    assert [path.name for path in files.left_out[LeftOut.NO_PIXELS]] == ["report.dcm"]
    assert [(failure.path.name, failure.reason) for failure in files.failed] == [("lost.dcm", Reason.DAMAGED)]


def test_cut_files_fail_wherever_they_are_cut(tmp_path):
    whole = write_dicom(tmp_path / "whole.dcm", VALUES).read_bytes()
    for share in range(1, 20):
        (tmp_path / f"cut{share}.dcm").write_bytes(whole[: len(whole) * share // 20])
    with pytest.warns(UserWarning, match="19 of 20 files cannot be judged"):
        assert len(SliceFolder(tmp_path)) == 1


def test_a_file_that_claims_more_than_it_holds_is_refused_at_once(tmp_path):
    write_dicom(tmp_path / "a.dcm", VALUES, Rows=60000, Columns=60000)
    write_dicom(tmp_path / "b.dcm", VALUES, NumberOfFrames=100000)
    write_dicom(tmp_path / "c.dcm", VALUES)
    with pytest.warns(UserWarning, match="2 of 3 files cannot be judged"):
        assert {failure.path.name for failure in SliceFolder(tmp_path).files.failed} == {"a.dcm", "b.dcm"}


def test_a_deflated_file_that_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mi_callback.images.files.formats.dicom.MOST_BYTES", 1 << 20)
    write_dicom(tmp_path / "a.dcm", np.zeros((1100, 1000), np.uint8), uid.DeflatedExplicitVRLittleEndian)
    write_dicom(tmp_path / "b.dcm", VALUES, uid.DeflatedExplicitVRLittleEndian)
    with pytest.warns(UserWarning, match=r"1 of 2 files cannot be judged .*a\.dcm; it expands to more"):
        assert len(SliceFolder(tmp_path)) == 1


def test_slices_that_are_missing_within_a_series_are_told_and_the_others_read(tmp_path):
    for folder, places in {"p1": (0, 3, 6, 15, 18), "p2": (0, 3, 6, 9, 12), "p3": (0, 2.5, 5.4, 8.1, 12.1)}.items():
        for k, place in enumerate(places):
            write_slice(
                tmp_path / folder / f"{k}.dcm", VALUES + k, place, SeriesInstanceUID=folder[1:], PatientID=folder
            )
    with pytest.warns(UserWarning, match="2 slices seem to be missing within DICOM series, such as behind .*2.dcm"):
        folder = SliceFolder(tmp_path)
    assert len(folder) == 15
    assert folder.files.gaps == {tmp_path / "p1" / "2.dcm": 2}
    assert folder.files.counts["missing_slices"] == 2
    assert f"train,{tmp_path}/p1/2.dcm,read,2 slices of its series seem to be missing behind it\n" in files_table(
        {"train": folder.files}
    )
