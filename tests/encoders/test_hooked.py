"""Any network becomes an encoder: named submodules are tapped, and nothing else of it changes."""

import copy

import pytest
import torch
from encoder_contract import EncoderContract
from networks import LAYOUTS, Maps, Net, VolumeMaps, hooks
from torch import nn

from mi_callback.encoders import HookedEncoder, Layer, build_encoder
from mi_callback.encoders.pooling import pool
from mi_callback.errors import EncoderError

pytestmark = pytest.mark.numeric


@pytest.fixture
def images(generator):
    return torch.rand(5, 1, 8, 8, generator=generator)


# Definition


def test_tapped_layers_give_what_the_network_computes_there(images):
    network = Net().eval()
    encoder = HookedEncoder(network, {"first": "BCHW", "second": "BCHW", "head": "BC"}, size=8)
    found = encoder(images)
    first = network.first(images)
    second = network.second(torch.relu(network.norm(first)))
    expected = {"first": first.mean(dim=(2, 3)), "second": second.mean(dim=(2, 3))}
    expected["head"] = network.head(expected["second"])
    assert list(found) == ["first", "second", "head"]
    for layer, features in expected.items():
        assert torch.allclose(found[layer], features, atol=1e-6)
        assert not found[layer].requires_grad


@pytest.mark.parametrize("pooling", ["mean", "gem", "mean_std"])
@pytest.mark.parametrize("shape", [(16, 16), (16, 8), (8, 24)])
def test_regions_are_the_map_cropped_by_hand_and_pooled(shape, pooling, generator):
    network = Maps()
    images = torch.rand(3, 1, *shape, generator=generator)
    _, parts = HookedEncoder(network, LAYOUTS, size=shape, pooling=pooling).with_windows(images)
    assert list(parts) == ["bchw", "bhwc", "bnc"]
    h, w = shape[0] // 2, shape[1] // 2
    with torch.no_grad():
        whole = network.bchw(images)
    for k in range(9):
        y, x = k // 3 * h // 4, k % 3 * w // 4
        crop = whole[:, :, y : y + h // 2, x : x + w // 2]
        expected = pool(crop, Layer("BCHW"), pooling)
        for features in parts.values():
            assert features.shape == (3, 9, expected.shape[1])
            assert torch.allclose(features[:, k], expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "gem", "mean_std"])
@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 24, 16)])
def test_regions_of_volumes_are_the_map_cropped_by_hand_and_pooled(shape, pooling, generator):
    network = VolumeMaps()
    layers = {"bcdhw": "BCDHW", "bdhwc": "BDHWC", "bnc": Layer("BNC", prefix_tokens=1)}
    volumes = torch.rand(2, 1, *shape, generator=generator)
    encoder = HookedEncoder(network, layers, size=shape, pooling=pooling)
    whole, parts = encoder.with_windows(volumes)
    assert list(parts) == list(layers)
    assert all(torch.equal(whole[layer], features) for layer, features in encoder(volumes).items())
    with torch.no_grad():
        maps = network.bcdhw(volumes)
    for k in range(27):
        window = tuple(
            slice(at * side // 4, at * side // 4 + side // 2)
            for at, side in zip((k // 9, k // 3 % 3, k % 3), maps.shape[2:], strict=True)
        )
        expected = pool(maps[(..., *window)], Layer("BCDHW"), pooling)
        for features in parts.values():
            assert features.shape == (2, 27, expected.shape[1])
            assert torch.allclose(features[:, k], expected, atol=1e-5)


# Promise: a tapped network


def test_layers_come_in_the_order_in_which_they_were_declared(images):
    assert list(HookedEncoder(Net(), {"second": "BCHW", "first": "BCHW"}, size=8)(images)) == ["second", "first"]


def test_the_forward_stops_after_the_last_layer_that_is_wanted(images):
    network = Net()
    HookedEncoder(network, {"first": "BCHW"}, size=8)(images)
    assert network.reached_the_end == 0
    network(images)
    assert network.reached_the_end == 1


def test_hooks_are_gone_after_a_forward(images):
    network = Net()
    encoder = HookedEncoder(network, {"first": "BCHW", "head": "BC"}, size=8)
    encoder(images)
    assert hooks(network) == 0


def test_hooks_are_gone_and_the_error_is_heard_when_the_forward_raises(images):
    network = Net()
    encoder = HookedEncoder(network, {"first": "BCHW", "head": "BC"}, size=8)
    with pytest.raises(RuntimeError, match="channels"):
        encoder(images.expand(-1, 3, -1, -1))
    assert hooks(network) == 0
    assert encoder(images)["head"].shape == (5, 2)


def test_a_batch_is_encoded_as_its_images_one_by_one_also_when_the_owner_trains(images):
    encoder = HookedEncoder(Net(), {"second": "BCHW"}, size=8)
    owner = nn.Sequential(encoder)
    owner.train()
    before = copy.deepcopy(encoder.network.state_dict())
    together = encoder(images)["second"]
    alone = torch.cat([encoder(image[None])["second"] for image in images])
    assert torch.allclose(together, alone, atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in encoder.network.state_dict().items())


def test_the_network_gets_no_gradient():
    encoder = HookedEncoder(Net(), {"second": "BCHW"}, size=8)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_of_a_module_that_returns_a_tuple_the_first_entry_counts(images):
    class Pair(nn.Module):
        def forward(self, x):
            return x * 2, x * 0

    found = HookedEncoder(nn.Sequential(Pair()), {"0": "BCHW"}, size=8)(images)
    assert torch.allclose(found["0"][:, 0], 2 * images.mean(dim=(1, 2, 3)), atol=1e-6)


def test_half_precision_activations_give_float32_features(images):
    encoder = HookedEncoder(Net().to(torch.bfloat16), {"second": "BCHW"}, size=8)
    assert encoder(images.to(torch.bfloat16))["second"].dtype == torch.float32


# Promise: windows


@pytest.mark.parametrize("pooling", ["mean", "gem", "mean_std"])
def test_whole_features_beside_regions_are_those_without(pooling, generator):
    encoder = HookedEncoder(Maps(), LAYOUTS, size=(16, 8), pooling=pooling)
    images = torch.rand(3, 1, 16, 8, generator=generator)
    whole, _ = encoder.with_windows(images)
    expected = encoder(images)
    assert list(whole) == list(expected)
    assert all(torch.equal(whole[layer], expected[layer]) for layer in expected)


def test_a_class_token_has_no_regions(generator):
    encoder = HookedEncoder(Maps(), {"bnc": LAYOUTS["bnc"]}, size=16, pooling="cls")
    images = torch.rand(3, 1, 16, 16, generator=generator)
    whole, parts = encoder.with_windows(images)
    assert parts == {}
    assert torch.equal(whole["bnc"], encoder(images)["bnc"])


def test_vectors_volumes_and_tokens_that_fill_no_rectangle_have_no_regions(generator):
    layers = {"bc": "BC", "bcdhw": "BCDHW", "bnc": Layer("BNC", prefix_tokens=1)}  # 65 tokens beside one: 8 × 8.1
    whole, parts = HookedEncoder(Maps(), layers, size=16).with_windows(torch.rand(3, 1, 16, 16, generator=generator))
    assert list(whole) == list(layers)
    assert parts == {}


def test_a_change_in_one_corner_is_seen_by_the_windows_that_hold_it_alone(generator):
    encoder = HookedEncoder(Maps(), {"bchw": "BCHW"}, size=16)
    images = torch.rand(2, 1, 16, 16, generator=generator)
    changed = images.clone()
    changed[..., :4, 12:] = 0  # upper right, beyond where the middle windows end
    before, after = (encoder.with_windows(x)[1]["bchw"] for x in (images, changed))
    differs = ((before - after).abs().amax(dim=2) > 1e-6).all(dim=0)
    assert differs.nonzero().flatten().tolist() == [2]


# Promise: the fingerprint


def build(change: str) -> HookedEncoder:
    network = Net()
    options = {"layers": {"first": "BCHW", "second": "BCHW"}, "size": 8, "name": "net"}
    match change:
        case "weight":
            network.first.weight.data[0, 0, 0, 0] += 1e-4
        case "running_statistics":
            network.norm.running_mean[0] += 1e-4
        case "size":
            options["size"] = 9
        case "intensity":
            options["intensity"] = "zscore"
        case "pooling":
            options["pooling"] = "gem"
        case "channels":
            options["channels"] = 3
        case "layers":
            options["layers"] = {"first": "BCHW"}
        case "layout":
            options["layers"] = {"first": "BCHW", "second": "BHWC"}
        case "name":
            options["name"] = "other"
    return HookedEncoder(network, **options)


def test_the_fingerprint_is_the_same_for_the_same_encoder_before_and_after_use(images):
    encoder = build("nothing")
    before = encoder.fingerprint()
    encoder(images)
    assert encoder.fingerprint() == before == build("nothing").fingerprint()


@pytest.mark.parametrize(
    "change",
    ["weight", "running_statistics", "size", "intensity", "pooling", "channels", "layers", "layout", "name"],
)
def test_the_fingerprint_changes_with_whatever_could_change_a_feature(change):
    assert build(change).fingerprint() != build("nothing").fingerprint()


def test_the_order_of_weights_in_memory_is_irrelevant_to_the_fingerprint():
    encoder = build("nothing")
    before = encoder.fingerprint()
    encoder.network.to(memory_format=torch.channels_last)
    assert encoder.fingerprint() == before


# Refusal


def test_a_layer_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(EncoderError, match=r"needed submodules \['third'\].*\['first', 'norm', 'second', 'head'\]"):
        HookedEncoder(Net(), {"first": "BCHW", "third": "BCHW"}, size=8)


def test_no_layers_are_refused():
    with pytest.raises(EncoderError, match="at least one layer to tap"):
        HookedEncoder(Net(), {}, size=8)


def test_an_unknown_layout_is_refused():
    with pytest.raises(EncoderError, match=r"needed a layout out of .*; 'BWH' came"):
        HookedEncoder(Net(), {"first": "BWH"}, size=8)


def test_a_layer_that_the_forward_does_not_reach_is_refused(images):
    network = nn.ModuleDict({"used": nn.Identity(), "unused": nn.Identity()})
    network.forward = lambda x: network["used"](x)
    with pytest.raises(EncoderError, match=r"outputs of \['unused'\].*'half' did not reach them"):
        HookedEncoder(network, {"used": "BCHW", "unused": "BCHW"}, size=8, name="half")(images)


def test_an_output_of_another_layout_than_declared_is_refused(images):
    with pytest.raises(EncoderError, match=r"needed a BNC output of 'first'; it has shape \(5, 4, 8, 8\)"):
        HookedEncoder(Net(), {"first": "BNC"}, size=8)(images)


def test_an_output_that_is_no_tensor_is_refused(images):
    class Dictionary(nn.Module):
        def forward(self, x):
            return {"features": x}

    with pytest.raises(EncoderError, match="'0'"):
        HookedEncoder(nn.Sequential(Dictionary()), {"0": "BCHW"}, size=8)(images)


# Promise: the contract


class TestModule(EncoderContract):
    names = ("module",)

    def build(self, tmp_path):
        with torch.random.fork_rng():
            network = Net()
        return build_encoder("module", network=network, layers={"first": "BCHW", "second": "BCHW"}, size=(8, 12))
