"""Networks of MONAI bundles: what could run code is refused, and not run."""

import json

import pytest
import torch
from encoder_contract import EncoderContract
from monai_networks import (
    UNET,
    UNET_LAYERS,
    bundle_in,
    the_same,
)
from torch import nn

from mi_callback.encoders import build_encoder
from mi_callback.encoders.checkpoints import initialised
from mi_callback.encoders.monai import (
    build_monai_bundle,
)
from mi_callback.errors import EncoderError


def bundled(folder, **options):
    return build_monai_bundle(folder, UNET_LAYERS, (16, 16, 16), **options)


# Promise: the contract


class TestMonaiBundle(EncoderContract):
    names = ("monai_bundle",)

    def build(self, tmp_path):
        folder = bundle_in(tmp_path / "bundle")
        return build_encoder("monai_bundle", bundle=folder, checkpoint="random", layers=UNET_LAYERS, size=(16, 16, 16))


# Definition


def test_a_bundle_is_its_network_with_its_weights(tmp_path, generator):
    from monai.networks.nets import UNet

    network = initialised(lambda: UNet(3, 1, 2, (4, 8), (2,))).eval()
    folder = bundle_in(tmp_path / "spleen", weights={f"module.{k}": v for k, v in network.state_dict().items()})
    encoder = bundled(folder)
    images = torch.rand(2, 1, 16, 16, 16, generator=generator)
    with torch.no_grad():
        expected = network.model[0](images).mean((2, 3, 4))
    assert torch.allclose(encoder(images)["model.0"], expected, atol=1e-6)
    assert encoder.name == "spleen"


# Promise


@pytest.mark.parametrize("target", ["UNet", "monai.networks.nets.UNet", "monai.networks.nets.unet.UNet"])
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_references_are_resolved_in_json_and_yaml(tmp_path, target, suffix):
    folder = bundle_in(tmp_path / "b")
    network = {**UNET, "_target_": target, "in_channels": "@channels::in", "act": "@act"}
    content = {"network_def": network, "channels": {"in": 1}, "act": ["relu", {"inplace": True}]}
    text = json.dumps(content)  # JSON is YAML
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / f"train.{suffix}").write_text(text)
    encoder = bundled(folder, checkpoint="random")
    assert any(isinstance(module, nn.ReLU) for module in encoder.network.modules())


def test_a_trusted_bundle_may_hold_expressions(tmp_path):
    network = {**UNET, "in_channels": "$1 + 0", "out_channels": "$len('ab') if @bundle_root else 0"}
    folder = bundle_in(tmp_path / "b", network)
    trusted = bundled(folder, checkpoint="random", trusted=True)
    plain = bundled(bundle_in(tmp_path / "p"), checkpoint="random")
    weights = plain.network.state_dict()
    assert the_same(trusted, weights)
    with pytest.raises(EncoderError, match=r"the expression '\$1 \+ 0' at network_def::in_channels.*trusted=True"):
        bundled(folder, checkpoint="random")


def test_the_config_and_the_node_can_be_named(tmp_path):
    folder = bundle_in(tmp_path / "b", "$broken", student=UNET)
    (folder / "configs" / "mine.json").write_text(json.dumps({"network": UNET}))
    assert bundled(folder, checkpoint="random", node="student")
    assert bundled(folder, checkpoint="random", config="mine")
    with pytest.raises(EncoderError, match="needed teacher in one of"):
        bundled(folder, checkpoint="random", node="teacher")


def test_nothing_is_downloaded_for_a_bundle_that_asks_for_pretrained_weights(tmp_path):
    network = {"_target_": "ResNetFeatures", "model_name": "resnet10", "pretrained": True}
    folder = bundle_in(tmp_path / "b", network)
    encoder = build_monai_bundle(folder, {"layer1": "BCDHW"}, (16, 16, 16), checkpoint="random")
    assert list(encoder.layers) == ["layer1"]


def test_the_fingerprint_of_a_bundle_knows_its_configuration(tmp_path):
    plain = bundled(bundle_in(tmp_path / "a" / "b"), checkpoint="random")
    again = bundled(bundle_in(tmp_path / "c" / "b"), checkpoint="random")
    other = bundled(bundle_in(tmp_path / "d" / "b", {**UNET, "num_res_units": 0, "dropout": 0.0}), checkpoint="random")
    assert plain.fingerprint() == again.fingerprint() != other.fingerprint()


# Refusal


@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "os.mkdir", "path": "TRACE"},
        {"_target_": "monai.networks.utils.torch.os.mkdir", "path": "TRACE"},
        {"_target_": "torch.nn.modules.module.torch.os.mkdir", "path": "TRACE"},
        {"_target_": "monai.networks.nets.resnet.Path", "path": "TRACE"},
        {"_target_": "monai.networks.nets.resnet.hf_hub_download"},
        {"_target_": "monai.bundle.download"},
        {"_target_": "torch.hub.load"},
        {"_target_": "subprocess.Popen"},
        {"_target_": "UNet", "act": {"_target_": "os.mkdir", "path": "TRACE"}},
        {"_target_": "UNet", "act": "$__import__('os').mkdir('TRACE')"},
        {"_target_": "UNet", "act": ["relu", {"inplace": "$__import__('os').mkdir('TRACE')"}]},
        {"_target_": "UNet", "act": "@elsewhere"},
        {"_target_": "UNet", "act": "%other.json::act"},
        {"_target_": "UNet", "act": "@missing::one"},
        {"_target_": "UNet", "_requires_": "$__import__('os').mkdir('TRACE')"},
        {"_target_": "UNet", "_mode_": "debug"},
        {"_target_": "monai.networks.nets.HoVerNet", "pretrained_url": "http://example.org/w.pt"},
        {"_target_": 3},
        "$__import__('os').mkdir('TRACE')",
    ],
)
def test_what_could_run_code_is_refused_and_not_run(tmp_path, network):
    trace = tmp_path / "trace"

    def placed(value):
        return json.loads(json.dumps(value).replace("TRACE", str(trace)))

    folder = bundle_in(tmp_path / "b", placed(network), elsewhere=placed("$__import__('os').mkdir('TRACE')"))
    with pytest.raises(EncoderError, match=r"plain values and of modules.*trusted=True"):
        bundled(folder, checkpoint="random")
    assert not trace.exists()


def test_references_in_a_circle_are_refused(tmp_path):
    folder = bundle_in(tmp_path / "b", {**UNET, "act": "@a"}, a="@b", b=["@a"])
    with pytest.raises(EncoderError, match=r"'@a' refers to itself"):
        bundled(folder, checkpoint="random")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "configs" / "inference.json").unlink(), r"needed a MONAI bundle"),
        (lambda f: (f / "configs" / "inference.json").write_text("{"), r"in JSON or YAML"),
        (lambda f: (f / "configs" / "inference.json").write_text("{}"), r"needed network_def or network in one of"),
        (lambda f: bundle_in(f, {"a": 1}), r"needed a network at 'network_def'.*dict is there"),
        (lambda f: bundle_in(f, {**UNET, "colour": 1}), r"needed arguments of UNet;.*colour"),
        (lambda f: None, r"needed the weights of the bundle; there is none of .*model\.pt"),
    ],
)
def test_a_folder_that_is_no_whole_bundle_is_refused(tmp_path, change, told):
    folder = bundle_in(tmp_path / "b")
    change(folder)
    options = {} if "weights" in told else {"checkpoint": "random"}
    with pytest.raises(EncoderError, match=told):
        bundled(folder, **options)
