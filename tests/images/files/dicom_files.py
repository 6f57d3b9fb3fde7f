"""DICOM files made in code: any transfer syntax, any tags."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

STRAIGHT = [1, 0, 0, 0, 1, 0]


def item(**tags: Any) -> Dataset:
    """A dataset with these elements."""
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def sequence(**tags: Any) -> Sequence:
    return Sequence([item(**tags)])


def write_dicom(path: Path, values: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Path:
    """A file of one frame `(h, w)`, or of several `(n, h, w)`; in colour with a last axis of 3."""
    scan = Dataset()
    scan.file_meta = FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = syntax
    scan.SOPClassUID, scan.SOPInstanceUID = MRImageStorage, generate_uid()
    scan.file_meta.MediaStorageSOPClassUID, scan.file_meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    colour = values.shape[-1] == 3
    spatial = values.shape[:-1] if colour else values.shape
    scan.Rows, scan.Columns = spatial[-2:]
    if len(spatial) == 3:
        scan.NumberOfFrames = spatial[0]
    scan.SamplesPerPixel, scan.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        scan.PlanarConfiguration = 0
    scan.BitsAllocated = scan.BitsStored = 8 * values.dtype.itemsize
    scan.HighBit, scan.PixelRepresentation = scan.BitsStored - 1, int(values.dtype.kind == "i")
    scan.PixelData = values.tobytes()
    scan["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(scan, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    scan.save_as(path, enforce_file_format=True)
    return path


def write_slice(path: Path, values: np.ndarray, place: float, **tags: Any) -> Path:
    """A slice of a series, `place` millimetres towards the head."""
    where = {"ImageOrientationPatient": STRAIGHT, "ImagePositionPatient": [0, 0, place], "PatientID": "p1"}
    return write_dicom(path, values, **{"SeriesInstanceUID": "1.2.3", **where, **tags})


def compress(path: Path, syntax: str, frames: list[bytes]) -> None:
    """Replace the pixels of a file by compressed ones."""
    scan = pydicom.dcmread(path)
    scan.PixelData = encapsulate(frames)
    scan["PixelData"].VR = "OB"
    scan.file_meta.TransferSyntaxUID = syntax
    scan.save_as(path)


def jpeg(values: np.ndarray) -> bytes:
    """8-bit baseline JPEG."""
    stream = BytesIO()
    Image.fromarray(values).save(stream, format="JPEG", quality=100)
    return stream.getvalue()


def lossless_jpeg(values: np.ndarray) -> bytes:
    """Lossless JPEG of 16-bit values (process 14, first-order prediction): the compression of most archives."""
    lengths = bytes([0, 0, 0, 0, 17]) + bytes(11)  # 17 categories of differences, each coded by 5 bits
    height, width = values.shape
    head = b"\xff\xd8"
    head += b"\xff\xc3" + struct.pack(">HBHHBBBB", 11, 16, height, width, 1, 1, 0x11, 0)
    head += b"\xff\xc4" + struct.pack(">HB", 3 + 16 + 17, 0) + lengths + bytes(range(17))
    head += b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0)
    bits = []
    for i in range(height):
        for j in range(width):
            before = values[i, j - 1] if j else values[i - 1, 0] if i else 1 << 15
            difference = int(values[i, j]) - int(before)
            category = abs(difference).bit_length()
            bits.append(f"{category:05b}")
            if category:
                low = difference if difference > 0 else difference + (1 << category) - 1
                bits.append(f"{low:0{category}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    return head + data + b"\xff\xd9"
