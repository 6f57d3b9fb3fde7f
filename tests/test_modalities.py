"""CT, radiographs and stained tissue go through the line with their configs: on drawn images, with small networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from torch import Tensor

from mi_callback import MemorizationDetector
from mi_callback.errors import DataError
from mi_callback.images.files import SliceFolder
from mi_callback.images.preprocessing import check_images, preprocess
from mi_callback.retrieval.extraction import extract

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:the weights of")

SIDE = 56


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a small DINOv2, of which all three public models are, with random weights."""
    made: dict[int, Path] = {}

    def of(channels: int) -> Path:
        if channels not in made:
            made[channels] = tmp_path_factory.mktemp(f"of{channels}")
            config = transformers.Dinov2Config(
                hidden_size=32, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=SIDE,
                num_channels=channels,
            )  # fmt: skip
            with torch.random.fork_rng():
                torch.manual_seed(0)
                transformers.Dinov2Model(config).save_pretrained(made[channels])
        return made[channels]

    return of


def configured(name: str, folder: Path, *overrides: str) -> Any:
    with initialize_config_module(config_module="mi_callback.conf", version_base="1.3"):
        config = compose(
            overrides=[
                f"+mi_callback/encoder@encoder={name}",
                f"encoder.model={folder}",
                f"encoder.size={SIDE}",
                *overrides,
            ]
        )
    return instantiate(config.encoder)


def grid() -> tuple[Tensor, Tensor]:
    return torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")


def ct(outside: float = -1024.0, liver: float = 60.0) -> Tensor:
    """An abdomen in Hounsfield units, `(1, 1, h, w)`: air, fat, soft tissue, a vertebra, metal."""
    y, x = grid()
    image = torch.full((SIDE, SIDE), -1000.0)
    image[(x / 0.9) ** 2 + (y / 0.7) ** 2 < 1] = -100.0
    image[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = 40.0
    image[(x + 0.35) ** 2 + (y + 0.1) ** 2 < 0.08] = liver
    image[x**2 + (y - 0.35) ** 2 < 0.02] = 700.0
    image[(x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.002] = 8000.0
    image[x**2 + y**2 > 1] = outside  # beyond the field of view scanners store padding
    return image[None, None]


def radiograph() -> Tensor:
    """A chest, `(1, 1, h, w)`: dark lungs, a bright heart and spine, ribs."""
    y, x = grid()
    image = 1800 + 300 * torch.cos(9 * y)
    for side in (-0.45, 0.45):
        image = image - 1100 * torch.exp(-(((x - side) / 0.3) ** 2 + (y / 0.6) ** 2))
    return (image + 900 * torch.exp(-((x / 0.12) ** 2)) + 500 * torch.exp(-((x - 0.15) ** 2 + (y - 0.3) ** 2) / 0.05))[
        None, None
    ]


def tissue(n: int = 1, seed: int = 0) -> Tensor:
    """Patches `(n, 3, h, w)` in bytes: pink stroma on white, purple nuclei."""
    generator = torch.Generator().manual_seed(seed)
    y, x = grid()
    white, pink, purple = (torch.tensor(c, dtype=torch.float32)[:, None, None] for c in
                           ((245, 243, 246), (225, 150, 190), (95, 55, 140)))  # fmt: skip
    patches = []
    for _ in range(n):
        patch = torch.where(y + 0.6 * torch.randn(1, generator=generator) * x < 0.5, pink, white)
        for column, row in torch.rand(12, 2, generator=generator) * 2 - 1:
            patch = torch.where((x - column) ** 2 + (y - row) ** 2 < 0.02, purple, patch)
        patches.append(patch)
    return torch.stack(patches).round().to(torch.uint8)


def distance(one: Any, other: Any) -> float:
    """Largest relative difference of features."""
    pairs = [(one.layers[layer], other.layers[layer]) for layer in one.layers]
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


# CT


def test_ct_is_standardised_within_hounsfield_units(model):
    encoder = configured("ct", model(1))
    assert (encoder.intensity, encoder.channels, encoder.card.restricted) == ((-1000.0, 3000.0), 1, True)
    found = extract(ct(), encoder)
    window = ct().clamp(-1000, 3000)
    ready = (window - window.mean()) / window.std(correction=0)
    with torch.no_grad():
        states = encoder.network.backbone(ready, output_hidden_states=True).hidden_states
    for layer, features in found.layers.items():
        expected = states[int(layer.split(".")[1])][:, 1:].mean(dim=1)
        assert torch.allclose(features[0], expected, atol=1e-4)


def test_padding_beyond_the_field_of_view_and_metal_do_not_change_ct_features(model):
    encoder = configured("ct", model(1))
    one, other = extract(ct(), encoder), extract(ct(outside=-3024.0), encoder)
    assert distance(one, other) < 1e-5
    assert distance(one, extract(ct(liver=-20.0), encoder)) > 1e-4


def test_a_window_shows_soft_tissue_better_and_is_one_override_away(model):
    wide, narrow = (configured("ct", model(1), *override) for override in ((), ("encoder.intensity=[-160,240]",)))
    assert narrow.intensity == (-160.0, 240.0)
    changes = [distance(*(extract(ct(liver=value), encoder) for value in (60.0, 20.0))) for encoder in (wide, narrow)]
    assert changes[1] > 2 * changes[0]


def test_images_that_are_not_in_hounsfield_units_are_refused_by_a_window(model):
    encoder = configured("ct", model(1), "encoder.intensity=[-160,240]")
    with pytest.raises(DataError, match=r"units of the intensity window -160 to 240.*must be in Hounsfield units"):
        extract(ct() + 5000, encoder)


def write_dicom(path: Path, values: np.ndarray, interpretation: str = "MONOCHROME2", **tags: Any) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    scan.SOPClassUID, scan.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    scan.Rows, scan.Columns = values.shape
    scan.SamplesPerPixel, scan.PhotometricInterpretation, scan.PixelRepresentation = 1, interpretation, 0
    scan.BitsAllocated, scan.BitsStored, scan.HighBit = 16, 16, 15
    for tag, value in tags.items():
        setattr(scan, tag, value)
    scan.PixelData = values.astype("<u2").tobytes()
    scan.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (0.5, -1024), (2, 0)])
def test_ct_in_dicom_is_read_in_hounsfield_units(slope, intercept, tmp_path):
    hounsfield = ct().clamp(-1024 if intercept else 0, 3000).round()[0].numpy()
    stored = (hounsfield[0] - intercept) / slope
    write_dicom(tmp_path / "a.dcm", stored, RescaleSlope=slope, RescaleIntercept=intercept)
    assert pydicom.dcmread(tmp_path / "a.dcm").pixel_array.min() >= 0
    assert np.allclose(SliceFolder(tmp_path)[0]["image"], hounsfield, atol=abs(slope))


# Radiographs


def test_radiographs_have_the_same_features_at_any_exposure(model):
    encoder = configured("xray", model(3))
    assert (encoder.channels, encoder.card.licence) == (3, "MIT")
    assert distance(extract(radiograph(), encoder), extract(0.3 * radiograph() + 500, encoder)) < 1e-4
    assert distance(extract(radiograph(), encoder), extract(radiograph().flip(2), encoder)) > 1e-3


def test_a_radiograph_stored_bright_as_low_has_the_features_of_the_other(model, tmp_path):
    values = radiograph()[0, 0].round().numpy()
    found = []
    for name, stored in (("MONOCHROME2", values), ("MONOCHROME1", 4095 - values)):
        (tmp_path / name).mkdir()
        write_dicom(tmp_path / name / "a.dcm", stored, name)
        found.append(extract(SliceFolder(tmp_path / name)[0]["image"][None], configured("xray", model(3))))
    assert distance(*found) < 1e-5
    assert distance(found[0], extract(4095 - torch.tensor(values)[None, None], configured("xray", model(3)))) > 1e-3


# Stained tissue


def test_patches_keep_their_colours(model):
    encoder = configured("histopathology", model(3))
    ready = preprocess(check_images(tissue(), 3), encoder.size, encoder.channels, encoder.intensity)
    assert torch.allclose(ready, tissue() / 255)
    assert (ready[:, 0] - ready[:, 1]).abs().max() > 0.2
    found = extract(tissue(), encoder)
    with torch.no_grad():
        states = encoder.network.backbone((tissue() / 255 - 0.5) / 0.5, output_hidden_states=True).hidden_states
    for layer, features in found.layers.items():
        assert torch.allclose(features[0], states[int(layer.split(".")[1])][:, 1:].mean(dim=1), atol=1e-4)


def test_another_stain_has_other_features(model):
    encoder = configured("histopathology", model(3))
    plain = extract(tissue(), encoder)
    assert distance(plain, extract(tissue().flip(1), encoder)) > 1e-3
    assert distance(plain, extract(tissue().float().mean(dim=1, keepdim=True), encoder)) > 1e-3
    assert distance(plain, extract(tissue() // 2, encoder)) > 1e-3  # a window, not each patch's own range


def test_floats_have_the_window_of_floats(model):
    bytes_, floats = (
        configured("histopathology", model(3), *override) for override in ((), ("encoder.intensity=[0,1]",))
    )
    assert distance(extract(tissue(), bytes_), extract(tissue() / 255, floats)) < 1e-5


def test_a_copied_patch_stands_out_from_new_ones(model):
    encoder = configured("histopathology", model(3))
    train, new = tissue(40, seed=1), tissue(12, seed=2)
    detector = MemorizationDetector(encoder=encoder, poses="none", verify=False, windows=False, views=False)
    detector.fit(train, held_out=tissue(40, seed=3))
    scores = detector.score(torch.cat([train[7:8], new]))
    assert scores.mi.argmax() == 0
    assert int(scores.match[0]) == 7
