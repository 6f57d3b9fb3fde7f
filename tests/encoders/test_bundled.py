"""The network that ships, its weights and others for it."""

import pytest
import torch
from encoder_contract import EncoderContract
from safetensors.torch import save_file

from mi_callback.encoders import build_encoder
from mi_callback.encoders.bundled import TAPPED, CopyNet, build_bundled
from mi_callback.encoders.pooling import generalised_mean
from mi_callback.errors import EncoderError

pytestmark = pytest.mark.numeric

# Promise


def test_every_stage_of_the_bundled_network_halves_the_resolution(generator):
    maps = CopyNet()(torch.rand(2, 1, 96, 96, generator=generator))
    assert [m.shape[2:] for m in maps] == [(48, 48), (24, 24), (12, 12), (6, 6)]
    widths = [m.shape[1] for m in maps]
    assert widths == sorted(widths)


def test_the_bundled_encoder_taps_its_later_stages_and_is_deterministic(generator):
    encoder = build_bundled()
    images = torch.rand(3, 1, 96, 96, generator=generator)
    found = encoder(images)
    maps = encoder.network(images)
    assert list(found) == list(TAPPED)
    for layer, features in found.items():
        activation = maps[int(layer.rsplit(".", 1)[1])]
        assert torch.allclose(features, generalised_mean(activation.flatten(2)), atol=1e-5)
    assert all(torch.equal(found[layer], again) for layer, again in encoder(images).items())


def test_the_bundled_encoder_has_regions_in_every_layer(generator):
    encoder = build_bundled()
    images = torch.rand(2, 1, 96, 96, generator=generator)
    whole, parts = encoder.with_windows(images)
    assert list(parts) == list(whole) == list(TAPPED)
    assert all(parts[layer].shape == (2, 9, whole[layer].shape[1]) for layer in TAPPED)
    assert all(torch.equal(whole[layer], features) for layer, features in encoder(images).items())


def test_bundled_weights_can_be_replaced_by_another_training_of_the_same_network(tmp_path):
    torch.manual_seed(1)
    other = CopyNet()
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    loaded = build_bundled(tmp_path / "other.safetensors")
    assert all(torch.equal(value, loaded.network.state_dict()[key]) for key, value in other.state_dict().items())
    assert loaded.fingerprint() != build_bundled().fingerprint()
    by_name = build_encoder("bundled", checkpoint=str(tmp_path / "other.safetensors"))
    assert by_name.fingerprint() == loaded.fingerprint()


def test_a_narrower_training_is_built_as_wide_as_its_weights_are(tmp_path, generator):
    other = CopyNet((4, 6, 8, 10)).eval()
    save_file(other.state_dict(), tmp_path / "narrow.safetensors")
    images = torch.rand(2, 1, 96, 96, generator=generator)
    found = build_bundled(tmp_path / "narrow.safetensors")(images)
    assert [features.shape[1] for features in found.values()] == [6, 8, 10]
    for features, maps in zip(found.values(), other(images)[1:], strict=True):
        assert torch.allclose(features, generalised_mean(maps.flatten(2)), atol=1e-5)


# Refusal


def test_weights_that_are_not_there_are_refused_with_their_path(tmp_path):
    with pytest.raises(EncoderError, match=r"needed a checkpoint file; there is no .*none\.safetensors"):
        build_bundled(tmp_path / "none.safetensors")


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_weights_of_another_network_are_refused_with_the_keys_at_fault(tmp_path, fault):
    weights = CopyNet().state_dict()
    if fault == "missing":
        del weights["stages.1.conv1.weight"]
    elif fault == "unknown":
        weights["stages.9.conv1.weight"] = torch.zeros(1)
    else:
        weights["stages.1.conv1.weight"] = torch.zeros(2, 2, 3, 3)
    save_file(weights, tmp_path / "w.safetensors")
    key = "stages.9.conv1.weight" if fault == "unknown" else "stages.1.conv1.weight"
    with pytest.raises(EncoderError, match=rf"needed the weights of CopyNet.*{key}"):
        build_bundled(tmp_path / "w.safetensors")


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(EncoderError, match=r"w\.safetensors"):
        build_bundled(tmp_path / "w.safetensors")


# Promise: the contract


class TestBundled(EncoderContract):
    names = ("bundled",)

    def build(self, tmp_path):
        return build_encoder("bundled")
