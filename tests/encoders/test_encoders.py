"""Encoders: declared layers, declared input, pooled features out; the same answer for the same image, always."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from encoder_contract import EncoderContract
from safetensors.torch import save_file
from torch import nn

from mi_callback import encoders
from mi_callback.encoders import Encoder, HookedEncoder, Layer, available, build_encoder
from mi_callback.encoders.bundled import TAPPED, CopyNet, build_bundled
from mi_callback.encoders.catalogue import CATALOGUE
from mi_callback.encoders.pooling import generalised_mean, pool, pool_windows
from mi_callback.errors import EncoderError


class Net(nn.Module):
    """Two convolutions, a normalisation, and a head that counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6, 2)
        self.reached_the_end = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(torch.relu(self.norm(self.first(x))))
        x = self.head(x.mean(dim=(2, 3)))
        self.reached_the_end += 1
        return x


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.fixture
def images(generator):
    return torch.rand(5, 1, 8, 8, generator=generator)


# Definition: pooling


ACTIVATIONS = {
    "BCHW": ((2, 3, 4, 5), lambda a, i, c: [float(a[i, c, y, x]) for y in range(4) for x in range(5)]),
    "BHWC": ((2, 4, 5, 3), lambda a, i, c: [float(a[i, y, x, c]) for y in range(4) for x in range(5)]),
    "BNC": ((2, 20, 3), lambda a, i, c: [float(a[i, t, c]) for t in range(2, 20)]),  # two prefix tokens
    "BC": ((2, 3), lambda a, i, c: [float(a[i, c])]),
    "BCDHW": ((2, 3, 2, 4, 5), lambda a, i, c: a[i, c].flatten().tolist()),
}


@pytest.mark.parametrize("pooling", ["mean", "gem", "mean_std"])
@pytest.mark.parametrize("layout", ACTIVATIONS)
def test_pooling_runs_over_everything_that_is_not_a_channel(layout, pooling, generator):
    shape, places = ACTIVATIONS[layout]
    activation = torch.rand(shape, generator=generator)
    found = pool(activation, Layer(layout, prefix_tokens=2 if layout == "BNC" else 0), pooling)
    for i in range(2):
        for c in range(3):
            values = places(activation, i, c)
            mean = sum(values) / len(values)
            if layout == "BC":
                expected = [values[0]]
            elif pooling == "mean":
                expected = [mean]
            elif pooling == "gem":
                expected = [(sum(v**3 for v in values) / len(values)) ** (1 / 3)]
            else:
                expected = [mean, (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5]
            assert found[i, c::3].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_first_token_is_the_cls_token(generator):
    activation = torch.rand(2, 5, 3, generator=generator)
    assert torch.equal(pool(activation, Layer("BNC", prefix_tokens=1), "cls"), activation[:, 0])


def test_the_generalised_mean_lies_between_mean_and_maximum(generator):
    places = torch.rand(10, 50, generator=generator)
    assert torch.allclose(generalised_mean(places, p=1), places.mean(dim=1), atol=1e-5)
    assert torch.allclose(generalised_mean(places, p=100), places.amax(dim=1), atol=0.05)
    assert (generalised_mean(places) > places.mean(dim=1)).all()
    assert (generalised_mean(places) < places.amax(dim=1)).all()


class Maps(nn.Module):
    """The same map of 4 channels in every layout; `BNC` with two tokens in front, which are none of the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bchw = nn.Conv2d(1, 4, 2, stride=2)
        self.bhwc, self.bnc, self.bc, self.bcdhw = (nn.Identity() for _ in range(4))

    def forward(self, x: torch.Tensor) -> None:
        x = self.bchw(x)
        self.bhwc(x.permute(0, 2, 3, 1))
        tokens = x.flatten(2).transpose(1, 2)
        self.bnc(torch.cat([torch.full_like(tokens[:, :2], 100.0), tokens], dim=1))
        self.bc(x.mean(dim=(2, 3)))
        self.bcdhw(x[:, :, None])


LAYOUTS = {"bchw": "BCHW", "bhwc": "BHWC", "bnc": Layer("BNC", prefix_tokens=2), "bc": "BC", "bcdhw": "BCDHW"}


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


class VolumeMaps(nn.Module):
    """The same map of 3 channels of a volume in every layout; `BNC` with one token in front."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bcdhw = nn.Conv3d(1, 3, 2, stride=2)
        self.bdhwc, self.bnc = nn.Identity(), nn.Identity()

    def forward(self, x: torch.Tensor) -> None:
        x = self.bcdhw(x)
        self.bdhwc(x.movedim(1, -1))
        tokens = x.flatten(2).transpose(1, 2)
        self.bnc(torch.cat([torch.full_like(tokens[:, :1], 100.0), tokens], dim=1))


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


@pytest.mark.parametrize("pooling", ["mean", "gem", "mean_std"])
@pytest.mark.parametrize("shape", [(6, 6), (7, 5)])
def test_cells_that_a_window_cuts_count_by_the_part_inside(shape, pooling, generator):
    # Each cell repeated twelve times along each side is cut by no window.
    maps = torch.rand(2, 3, *shape, generator=generator) - 0.3
    fine = maps.repeat_interleave(12, 2).repeat_interleave(12, 3)
    found = pool_windows(maps, Layer("BCHW"), pooling, shape)
    h, w = (12 * side for side in shape)
    for k in range(9):
        y, x = k // 3 * h // 4, k % 3 * w // 4
        expected = pool(fine[:, :, y : y + h // 2, x : x + w // 2], Layer("BCHW"), pooling)
        assert torch.allclose(found[:, k], expected, atol=1e-5)


@pytest.mark.parametrize("p", [1.0, 3.0, 7.0])
def test_the_weighted_generalised_mean_is_its_formula(p, generator):
    places, weights = torch.rand(2, 3, 10, generator=generator) - 0.2, torch.rand(4, 10, generator=generator)
    weights = weights / weights.sum(dim=1, keepdim=True)
    found = generalised_mean(places, p, weights=weights)
    assert found.shape == (2, 3, 4)
    for i in range(2):
        for c in range(3):
            for k in range(4):
                terms = zip(weights[k].tolist(), places[i, c].tolist(), strict=True)
                total = sum(weight * max(value, 1e-6) ** p for weight, value in terms)
                assert float(found[i, c, k]) == pytest.approx(total ** (1 / p), abs=1e-5)
    even = torch.full((1, 10), 0.1)
    assert torch.allclose(generalised_mean(places, p, weights=even)[..., 0], generalised_mean(places, p), atol=1e-6)


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


@pytest.mark.parametrize("sides", [(8, 16), (4,), (2, 4, 8)])
def test_the_pixel_encoder_is_block_means(sides, generator):
    encoder = build_encoder("pixels", sides=sides, size=16)
    images = torch.rand(3, 1, 16, 16, generator=generator)
    found = list(encoder(images).values())
    assert [features.shape for features in found] == [(3, side**2) for side in sides]
    for side, features in zip(sides, found, strict=True):
        step = 16 // side
        for y in range(side):
            for x in range(side):
                block = images[:, 0, y * step : (y + 1) * step, x * step : (x + 1) * step]
                assert torch.allclose(features[:, y * side + x], block.mean(dim=(1, 2)), atol=1e-6)


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


# Promise: regions


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


def test_the_bundled_encoder_has_regions_in_every_layer(generator):
    encoder = build_bundled()
    images = torch.rand(2, 1, 96, 96, generator=generator)
    whole, parts = encoder.with_windows(images)
    assert list(parts) == list(whole) == list(TAPPED)
    assert all(parts[layer].shape == (2, 9, whole[layer].shape[1]) for layer in TAPPED)
    assert all(torch.equal(whole[layer], features) for layer, features in encoder(images).items())


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


# Promise: the registry


def test_every_available_encoder_without_arguments_satisfies_the_protocol(generator):
    for name in {"bundled", "pixels"} & set(available()):
        encoder = build_encoder(name)
        assert isinstance(encoder, Encoder)
        features = encoder(torch.rand(2, encoder.channels, *encoder.size, generator=generator))
        assert list(features) == list(encoder.layers)
        assert all(f.ndim == 2 and len(f) == 2 and f.isfinite().all() for f in features.values())
    assert {"bundled", "pixels", "module"} <= set(available())


def test_any_network_becomes_an_encoder_by_name(images):
    encoder = build_encoder("module", network=Net(), layers={"second": "BCHW"}, size=8)
    assert encoder(images)["second"].shape == (5, 6)


def test_an_encoder_is_returned_as_it_is():
    encoder = build("nothing")
    assert build_encoder(encoder) is encoder


def test_a_registered_builder_is_called_with_its_options(monkeypatch):
    monkeypatch.setitem(CATALOGUE, "mine", None)  # takes it out again
    encoders.register("mine", lambda side: build_encoder("pixels", sides=(side,)))
    assert "mine" in available()
    assert list(build_encoder("mine", side=4).layers) == ["levels.0"]


def test_an_encoder_needs_no_base_class(images):
    class Plain:
        name, layers, size, channels, intensity = "plain", {"all": Layer("BC")}, (8, 8), 1, "none"

        def __call__(self, images):
            return {"all": images.flatten(1)}

        def fingerprint(self):
            return "plain"

    plain = Plain()
    assert build_encoder(plain) is plain


# Promise: the bundled network


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


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(EncoderError, match=r"needed an encoder out of \[.*'bundled'.*\]; 'resnet' came"):
        build_encoder("resnet")


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), 3, None])
def test_what_is_no_encoder_is_refused_with_the_way_out(thing):
    with pytest.raises(EncoderError, match=r"Wrap it: build_encoder\('module', network=net"):
        build_encoder(thing)


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


@pytest.mark.parametrize("layer", [Layer("BCHW"), Layer("BNC")])
def test_a_cls_token_that_is_not_there_is_refused(layer, generator):
    shape = (2, 3, 4, 4) if layer.layout == "BCHW" else (2, 5, 3)
    with pytest.raises(EncoderError, match="needed a BNC layer with a CLS token"):
        pool(torch.rand(shape, generator=generator), layer, "cls")


def test_an_unknown_pooling_is_refused(generator):
    with pytest.raises(EncoderError, match=r"needed pooling out of \['mean', 'gem', 'mean_std', 'cls'\]; 'max' came"):
        pool(torch.rand(2, 3, 4, 4, generator=generator), Layer("BCHW"), "max")


# Promise: the contract that every encoder keeps


class TestBundled(EncoderContract):
    names = ("bundled",)

    def build(self, tmp_path):
        return build_encoder("bundled")


class TestPixels(EncoderContract):
    names = ("pixels",)

    def build(self, tmp_path):
        return build_encoder("pixels")


class TestModule(EncoderContract):
    names = ("module",)

    def build(self, tmp_path):
        with torch.random.fork_rng():
            network = Net()
        return build_encoder("module", network=network, layers={"first": "BCHW", "second": "BCHW"}, size=(8, 12))


def test_every_encoder_of_the_catalogue_keeps_the_contract():
    kept, contracts = set(), {"EncoderContract"}
    for path in Path(__file__).parent.glob("test_*.py"):
        for family in ast.parse(path.read_text()).body:
            if not isinstance(family, ast.ClassDef) or contracts.isdisjoint(map(ast.unparse, family.bases)):
                continue
            contracts.add(family.name)
            for line in family.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "names":
                    kept |= set(ast.literal_eval(line.value))
    assert kept == set(available())
