"""The input is that which the model was trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers_models import BLOCKS, SIDE, SQUARE, saved

from mi_callback.encoders.huggingface import build_huggingface

transformers = pytest.importorskip("transformers")


def with_processor(folder: Path, target: Path, file: str = "preprocessor_config.json", **settings: Any) -> Path:
    shutil.copytree(folder, target)
    (target / file).write_text(json.dumps(settings))
    return target


def test_mean_std_and_size_are_those_of_the_models_preprocessor(folders, tmp_path):
    folder = with_processor(
        folders("vit"), tmp_path / "m", size={"height": 32, "width": 48}, image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6], do_normalize=True, do_rescale=True, rescale_factor=1 / 255,
    )  # fmt: skip
    encoder = build_huggingface(folder)
    assert encoder.size == (32, 48)
    assert encoder.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert encoder.std.tolist() == pytest.approx([0.4, 0.5, 0.6])
    own = build_huggingface(folder, size=64, mean=[0.0, 0.0, 0.1], std=2.0)
    assert (own.size, own.mean.tolist(), own.std.tolist()) == ((64, 64), pytest.approx([0, 0, 0.1]), [2.0])


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"shortest_edge": 56}, "crop_size": {"height": 48, "width": 48}}, (48, 48)),
        ({"size": 32, "crop_size": 24, "do_center_crop": False}, (32, 32)),
        ({"size": {"longest_edge": 32}, "crop_size": None}, (32, 32)),
        ({"crop_size": 48, "clip_below_air": True}, (48, 48)),
        ({"do_resize": False}, (64, 64)),
    ],
    ids=["crop", "no crop", "longest edge", "crop alone", "nothing"],
)
def test_the_size_is_what_the_model_saw_in_the_end(settings, size, folders, tmp_path):
    assert build_huggingface(with_processor(folders("dinov2"), tmp_path / "m", **settings)).size == size


def test_a_processor_inside_that_of_several_parts_is_read(folders, tmp_path):
    inner = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 32, "width": 32}}
    folder = with_processor(folders("vit"), tmp_path / "m", "processor_config.json", image_processor=inner)
    encoder = build_huggingface(folder)
    assert (encoder.size, encoder.mean.tolist(), encoder.std.tolist()) == ((32, 32), [0.5] * 3, [0.25] * 3)


def test_another_scale_than_that_of_bytes_goes_into_mean_and_std(folders, tmp_path, images):
    folder = with_processor(
        folders("vit"), tmp_path / "m", image_mean=[1.0] * 3, image_std=[2.0] * 3, rescale_factor=1 / 127.5
    )
    encoder = build_huggingface(folder)
    assert torch.allclose(encoder._ready(images), (images * 255 / 127.5 - 1) / 2)


def test_a_model_that_is_not_normalised_gets_the_scaled_image(folders, tmp_path):
    folder = with_processor(folders("vit"), tmp_path / "m", do_normalize=False, image_mean=[0.5] * 3, image_std=[1] * 3)
    encoder = build_huggingface(folder)
    assert (encoder.mean.tolist(), encoder.std.tolist()) == ([0.0], [1.0])


def test_without_a_preprocessor_mean_and_std_are_those_of_imagenet(folders):
    encoder = build_huggingface(folders("vit"))
    assert encoder.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert encoder.std.tolist() == pytest.approx([0.229, 0.224, 0.225])


def test_a_model_of_one_channel_takes_one(tmp_path, generator):
    folder = saved(transformers.Dinov2Config(**BLOCKS, **SQUARE, num_channels=1), tmp_path)
    encoder = build_huggingface(folder)
    assert (encoder.channels, encoder.mean.tolist(), encoder.std.tolist()) == (1, [0.0], [1.0])
    assert len(encoder(torch.rand(2, 1, SIDE, SIDE, generator=generator))) == 3


def test_standardised_images_have_no_brightness_and_contrast(folders, images):
    encoder = build_huggingface(folders("vit"), standardise=True)
    plain = build_huggingface(folders("vit"), mean=0.0, std=1.0)
    spread, centre = torch.std_mean(images, dim=(2, 3), correction=0, keepdim=True)
    expected = plain((images - centre) / spread)
    for layer, features in encoder(0.3 * images + 5).items():
        assert torch.allclose(features, expected[layer], atol=1e-4)
