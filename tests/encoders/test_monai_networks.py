"""MONAI's networks: published key layouts load, features are the network's own, nothing stays random by accident."""

import json
import re
import sys
from functools import partial
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from encoder_contract import EncoderContract
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import nn

from mi_callback.encoders import Layer, build_encoder, entry
from mi_callback.encoders.checkpoints import initialised
from mi_callback.encoders.monai import (
    build_medicalnet,
    build_monai_bundle,
    build_monai_resnet,
    build_monai_vit,
    build_swin_unetr,
)
from mi_callback.encoders.pooling import pool
from mi_callback.errors import EncoderError

needs_einops = pytest.mark.skipif(find_spec("einops") is None, reason="MONAI's ViT and SwinUNETR need einops")

TINY_RESNET = {"depth": 10, "widen": 1 / 16, "size": (32, 32, 32)}
TINY_VIT = {"size": (8, 12, 8), "patch": 4, "width": 12, "depth": 6, "heads": 3}
TINY_SWIN = {"size": (32, 32, 32), "feature_size": 12, "depths": (1, 1, 1, 1), "window": 3}
UNET = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
UNET_LAYERS = {"model.0": "BCDHW", "model.1.submodule": "BCDHW"}


def weights_of(encoder, seed: int = 1) -> dict[str, torch.Tensor]:
    """Other weights than the encoder has, under the keys of its network."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) * 0.1 + 0.01 if value.is_floating_point() else value.clone()
        for key, value in encoder.network.state_dict().items()
    }


def the_same(encoder, weights) -> bool:
    return all(torch.equal(value, weights[key]) for key, value in encoder.network.state_dict().items())


def bundle_in(folder, network=None, weights=None, **more):
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    content = {"network_def": network or UNET, "device": "$torch.device('cuda')", **more}
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_def": {"_target_": "os.system"}}))
    if weights is not None:
        torch.save({"model": weights}, folder / "models" / "model.pt")
    return folder


# Promise: the contract


class TestMonaiResNet(EncoderContract):
    names = ("monai_resnet",)

    def build(self, tmp_path):
        return build_encoder("monai_resnet", checkpoint="random", **TINY_RESNET)


class TestMonaiResNetOfImages(EncoderContract):
    def build(self, tmp_path):
        options = {**TINY_RESNET, "size": (32, 40)}
        return build_encoder("monai_resnet", checkpoint="random", dims=2, channels=3, **options)


class TestMedicalNet(EncoderContract):
    names = ("medicalnet",)

    def build(self, tmp_path):
        plain = build_medicalnet("random", **TINY_RESNET)
        state = {f"module.{key}": value for key, value in plain.network.state_dict().items()}
        torch.save({"epoch": 80, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "resnet_10_23dataset.pth")
        return build_encoder("medicalnet", checkpoint=tmp_path / "resnet_10_23dataset.pth", **TINY_RESNET)


class TestMedicalNetWithShortcutsOfTypeA(EncoderContract):
    def build(self, tmp_path):
        return build_encoder("medicalnet", checkpoint="random", **{**TINY_RESNET, "depth": 18})


@needs_einops
class TestMonaiViT(EncoderContract):
    names = ("monai_vit",)

    def build(self, tmp_path):
        return build_encoder("monai_vit", checkpoint="random", **TINY_VIT)


@needs_einops
class TestMonaiViTOfImages(EncoderContract):
    def build(self, tmp_path):
        options = {**TINY_VIT, "size": (16, 24)}
        return build_encoder("monai_vit", checkpoint="random", dims=2, class_token=True, pooling="cls", **options)


@needs_einops
class TestSwinUNETR(EncoderContract):
    names = ("swin_unetr",)

    def build(self, tmp_path):
        return build_encoder("swin_unetr", checkpoint="random", **TINY_SWIN)


class TestMonaiBundle(EncoderContract):
    names = ("monai_bundle",)

    def build(self, tmp_path):
        folder = bundle_in(tmp_path / "bundle")
        return build_encoder("monai_bundle", bundle=folder, checkpoint="random", layers=UNET_LAYERS, size=(16, 16, 16))


# Definition: features are the network's own, pooled


def test_resnet_features_are_the_means_of_its_stages(generator):
    encoder = build_monai_resnet("random", **TINY_RESNET)
    images, net = torch.rand(2, 1, 32, 32, 32, generator=generator), encoder.network
    maps = net.layer1(net.maxpool(net.act(net.bn1(net.conv1(images)))))
    for name in ("layer2", "layer3", "layer4"):
        maps = getattr(net, name)(maps)
        assert torch.allclose(encoder(images)[name], maps.mean((2, 3, 4)), atol=1e-6)


@pytest.mark.parametrize("depth", [10, 18])
def test_medicalnet_is_the_network_that_was_trained(generator, depth):
    """Stride 2 at the start, then at an eighth of the resolution: the last stages dilate by 2 and 4."""
    encoder = build_medicalnet("random", **{**TINY_RESNET, "depth": depth})
    images, w = torch.rand(2, 1, 32, 32, 32, generator=generator), encoder.network.state_dict()

    def norm(x, key):
        return F.batch_norm(x, w[f"{key}.running_mean"], w[f"{key}.running_var"], w[f"{key}.weight"], w[f"{key}.bias"])

    x = F.relu(norm(F.conv3d(images, w["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool3d(x, 3, stride=2, padding=1)
    expected = {}
    for stage, stride, rate in ((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)):
        for block in range(1 if depth == 10 else 2):
            at, step = f"layer{stage}.{block}", stride if block == 0 else 1
            y = F.conv3d(x, w[f"{at}.conv1.weight"], stride=step, padding=rate, dilation=rate)
            y = F.conv3d(F.relu(norm(y, f"{at}.bn1")), w[f"{at}.conv2.weight"], padding=rate, dilation=rate)
            if block == 0 and stage > 1:
                if depth == 10:
                    x = norm(F.conv3d(x, w[f"{at}.downsample.0.weight"], stride=step), f"{at}.downsample.1")
                else:
                    x = x[:, :, ::step, ::step, ::step]
                    x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            x = F.relu(x + norm(y, f"{at}.bn2"))
        expected[f"layer{stage}"] = x
    assert expected["layer4"].shape[2:] == (4, 4, 4)
    for name, features in encoder(images).items():
        assert torch.allclose(features, expected[name].mean((2, 3, 4)), atol=1e-5)
    strided = build_medicalnet("random", dilated=False, **{**TINY_RESNET, "depth": depth})
    assert not torch.allclose(strided(images)["layer4"], encoder(images)["layer4"], atol=1e-5)


def test_medicalnet_takes_the_arguments_that_monai_says_its_weights_need():
    from monai.networks.nets.resnet import get_medicalnet_pretrained_resnet_args

    for depth in (10, 18, 34, 50):
        encoder = build_medicalnet("random", **{**TINY_RESNET, "depth": depth})
        bias, shortcut = get_medicalnet_pretrained_resnet_args(depth)
        downsample = encoder.network.layer2[0].downsample
        assert isinstance(downsample, partial) == (shortcut == "A")
        if shortcut == "B":
            assert (downsample[0].bias is not None) == bias


@needs_einops
@pytest.mark.parametrize("class_token", [True, False])
def test_vit_features_are_the_means_of_the_patch_tokens_of_its_blocks(generator, class_token):
    encoder = build_monai_vit("random", class_token=class_token, **TINY_VIT)
    images = torch.rand(2, 1, *encoder.size, generator=generator)
    assert list(encoder.layers) == ["blocks.1", "blocks.3", "blocks.5"]
    hidden = encoder.network(images)[1]
    for block in (1, 3, 5):
        tokens = hidden[block]
        assert tokens.shape[1] == 2 * 3 * 2 + class_token
        expected = tokens[:, int(class_token) :].mean(1)
        assert torch.allclose(encoder(images)[f"blocks.{block}"], expected, atol=1e-6)


@needs_einops
def test_swin_features_are_those_that_the_decoder_of_swinunetr_gets_before_they_are_normalised(generator):
    from monai.networks.nets import SwinUNETR

    whole = initialised(
        lambda: SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), window_size=3, patch_size=2), seed=3
    ).eval()
    encoder = build_swin_unetr("random", seed=5, **TINY_SWIN)
    encoder.network.load_state_dict(whole.swinViT.state_dict())
    images = torch.rand(2, 1, 32, 32, 32, generator=generator)
    with torch.no_grad():
        maps = whole.swinViT(images, normalize=False)
    for name, expected in zip(("layers2.0", "layers3.0", "layers4.0"), maps[2:], strict=True):
        assert torch.allclose(encoder(images)[name], expected.mean((2, 3, 4)), atol=1e-6)


@needs_einops
@pytest.mark.parametrize(
    "build",
    [
        lambda: build_medicalnet("random", **TINY_RESNET),
        lambda: build_monai_vit("random", class_token=True, **TINY_VIT),
        lambda: build_swin_unetr("random", **TINY_SWIN),
    ],
    ids=["medicalnet", "vit", "swin"],
)
def test_volumes_have_27_windows(build, generator):
    encoder = build()
    images = torch.rand(2, 1, *encoder.size, generator=generator)
    whole, parts = encoder.with_windows(images)
    assert parts.keys() == whole.keys()
    for layer, features in parts.items():
        assert features.shape == (2, 27, whole[layer].shape[1])
    assert (whole[layer] - encoder(images)[layer]).abs().max() == 0


@needs_einops
def test_blocks_are_spread_evenly_over_a_vit_b():
    expected = {12: ["blocks.3", "blocks.7", "blocks.11"], 24: ["blocks.7", "blocks.15", "blocks.23"]}
    for depth, names in expected.items():
        assert list(build_monai_vit("random", **{**TINY_VIT, "depth": depth}).layers) == names


# Promise: published layouts of keys load


@pytest.mark.parametrize("depth", [10, 18])
def test_a_medicalnet_file_loads_and_its_head_is_left_out(tmp_path, depth):
    options = {**TINY_RESNET, "depth": depth}
    weights = weights_of(build_medicalnet("random", **options))
    state = {f"module.{key}": value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    state["module.conv_seg.0.weight"] = torch.zeros(3)
    torch.save({"epoch": 80, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "m.pth")
    encoder = build_medicalnet(tmp_path / "m.pth", **options)
    assert the_same(encoder, weights)
    assert encoder.name == f"medicalnet{depth}"


def test_a_resnet_of_monai_loads_without_its_classifier(tmp_path):
    from monai.networks.nets import resnet18

    torch.save(resnet18(spatial_dims=2, n_input_channels=1, num_classes=3).state_dict(), tmp_path / "r.pt")
    encoder = build_monai_resnet(tmp_path / "r.pt", depth=18, dims=2, size=32)
    assert encoder.size == (32, 32)


@needs_einops
@pytest.mark.parametrize("around", ["", "module.", "backbone.", "module.backbone.", "vit."])
@pytest.mark.parametrize("class_token", [True, False])
def test_a_vit_loads_from_older_versions_and_from_within_models(tmp_path, around, class_token):
    weights = weights_of(build_monai_vit("random", class_token=class_token, **TINY_VIT))
    stale = {"blocks.0.cross_attn.to_q.weight": torch.zeros(2), "classification_head.0.weight": torch.zeros(2)}
    torch.save({"state_dict": {around + k: v for k, v in (weights | stale).items()}}, tmp_path / "v.ckpt")
    assert the_same(build_monai_vit(tmp_path / "v.ckpt", class_token=class_token, **TINY_VIT), weights)


def swin_layouts():
    def ssl(key):
        return key.replace(".mlp.linear", ".mlp.fc")

    return {
        "model_swinvit.pt": lambda key: f"module.{ssl(key)}",
        "BrainSegFounder": lambda key: f"module.swinViT.{key}",
        "SSL head": lambda key: f"swin_vit.{ssl(key)}",
        "SwinUNETR": lambda key: f"swinViT.{key}",
        "disruptive autoencoder": lambda key: "encoder." + key.replace("s1.0.", "s1.0.0.").replace("s2.0.", "s2.0.0."),
        "plain": lambda key: key,
    }


@needs_einops
@pytest.mark.parametrize("layout", swin_layouts())
def test_a_swin_encoder_loads_from_each_published_layout(tmp_path, layout):
    weights = weights_of(build_swin_unetr("random", **TINY_SWIN))
    state = {swin_layouts()[layout](key): value for key, value in weights.items()}
    around = "module." if "module" in next(iter(state)) else ""
    state |= {f"{around}{key}": torch.zeros(2) for key in ("rotation_head.weight", "encoder1.layer.weight", "out.bias")}
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {"state": {}}}, tmp_path / "s.pt")
    assert the_same(build_swin_unetr(tmp_path / "s.pt", **TINY_SWIN), weights)


@needs_einops
def test_weights_as_monai_itself_loads_them_give_the_same_features(tmp_path, generator):
    """Through SwinUNETR.load_from, MONAI's own reader of model_swinvit.pt."""
    from monai.networks.nets import SwinUNETR

    weights = weights_of(build_swin_unetr("random", **TINY_SWIN))
    content = {"state_dict": {f"module.{k.replace('.mlp.linear', '.mlp.fc')}": v for k, v in weights.items()}}
    torch.save(content, tmp_path / "model_swinvit.pt")
    whole = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), window_size=3).eval()
    whole.load_from(content)
    images = torch.rand(1, 1, 32, 32, 32, generator=generator)
    found = build_swin_unetr(tmp_path / "model_swinvit.pt", **TINY_SWIN)(images)
    with torch.no_grad():
        expected = whole.swinViT(images, normalize=False)[4]
    assert torch.allclose(found["layers4.0"], pool(expected, Layer("BCDHW"), "mean"), atol=1e-6)


@needs_einops
def test_a_named_prefix_is_taken_and_one_that_is_not_there_refused(tmp_path):
    weights = weights_of(build_monai_vit("random", **TINY_VIT))
    save_file(
        {f"student.trunk.{k}": v for k, v in weights.items()} | {"head": torch.ones(1)}, tmp_path / "w.safetensors"
    )
    assert the_same(build_monai_vit(tmp_path / "w.safetensors", prefix="student.trunk.", **TINY_VIT), weights)
    with pytest.raises(EncoderError, match=r"needed keys that begin with 'trunk\.'; the checkpoint has \['head'"):
        build_monai_vit(tmp_path / "w.safetensors", prefix="trunk.", **TINY_VIT)


# Refusal: weights


def test_einops_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "einops", None)
    for build, options in ((build_monai_vit, TINY_VIT), (build_swin_unetr, TINY_SWIN)):
        with pytest.raises(EncoderError, match=r"needed einops.*pip install 'mi-callback\[monai\]'"):
            build("random", **options)


BUILDERS = {
    "monai_resnet": TINY_RESNET,
    "medicalnet": TINY_RESNET,
    "monai_vit": TINY_VIT,
    "swin_unetr": TINY_SWIN,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_no_checkpoint_is_an_error_and_never_random_weights(name):
    with pytest.raises(EncoderError, match=r"needed a checkpoint; none was named.*checkpoint='random'"):
        build_encoder(name, **BUILDERS[name])
    assert "checkpoint" in entry(name).needs
    assert entry(name).dims == 3


WITH_EINOPS = [pytest.param(n, marks=needs_einops) if n in ("monai_vit", "swin_unetr") else n for n in BUILDERS]


@pytest.mark.parametrize("name", WITH_EINOPS)
def test_partial_weights_are_an_error_that_lists_the_keys(tmp_path, name):
    weights = weights_of(build_encoder(name, checkpoint="random", **BUILDERS[name]))
    key = next(key for key in weights if "layer4" in key or "layers4" in key or "blocks.5" in key)
    del weights[key]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=rf"missing \['{key}'\]\.$"):
        build_encoder(name, checkpoint=tmp_path / "w.safetensors", **BUILDERS[name])


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("monai_resnet", {"widen": 1 / 8}, "of another shape ['conv1.weight (4, 1, 7, 7, 7) for (8, 1, 7, 7, 7)'"),
        ("monai_resnet", {"depth": 18}, "missing ['layer1.1."),
        ("monai_vit", {"size": (8, 8, 8)}, "of another shape ['patch_embedding.position_embeddings (1, 12, 12)"),
        ("monai_vit", {"class_token": True}, "missing ['cls_token']"),
        ("swin_unetr", {"channels": 2}, "of another shape ['patch_embed.proj.weight (12, 1, 2, 2, 2)"),
        ("swin_unetr", {"use_v2": True}, "missing ['layers1c.0."),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, name, other, told):
    if name in ("monai_vit", "swin_unetr"):
        pytest.importorskip("einops")
    save_file(weights_of(build_encoder(name, checkpoint="random", **BUILDERS[name])), tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=re.escape(told)):
        build_encoder(name, checkpoint=tmp_path / "w.safetensors", **{**BUILDERS[name], **other})


@needs_einops
def test_another_digest_is_refused(tmp_path):
    save_file(weights_of(build_monai_vit("random", **TINY_VIT)), tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match="with the SHA-256"):
        build_monai_vit(tmp_path / "w.safetensors", sha256="0" * 64, **TINY_VIT)


@needs_einops
def test_random_weights_are_those_of_their_seed_and_say_so():
    first, again, other = (build_encoder("monai_vit", checkpoint="random", seed=s, **TINY_VIT) for s in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.name == "monai_vit (random, seed 1)"
    assert first.card.licence == "none: random weights"


@needs_einops
def test_the_fingerprint_knows_what_neither_weights_nor_modules_show(tmp_path):
    weights = weights_of(build_monai_vit("random", **TINY_VIT))
    save_file(weights, tmp_path / "w.safetensors")
    three, two = (build_monai_vit(tmp_path / "w.safetensors", **{**TINY_VIT, "heads": h}) for h in (3, 2))
    assert three.fingerprint() != two.fingerprint()


@pytest.mark.parametrize(
    ("build", "options", "told"),
    [
        (build_monai_resnet, {"depth": 12}, "needed a depth out of"),
        (build_monai_resnet, {"dims": 4}, "needed dims 2"),
        (build_monai_resnet, {"size": (32, 32)}, "needed a size of one number or 3"),
        (build_monai_vit, {"size": 20, "patch": 16}, "multiples of the patch"),
        (build_monai_vit, {"width": 10, "heads": 3}, "one of the heads"),
        (build_monai_vit, {"taps": 13}, "1 to depth taps"),
        (build_swin_unetr, {"size": 48}, "multiples of 32"),
        (build_swin_unetr, {"feature_size": 10}, "one of 12"),
        (build_swin_unetr, {"depths": (2, 2)}, "four depths"),
    ],
)
def test_options_that_make_no_network_are_refused_before_it_is_built(build, options, told):
    with pytest.raises(EncoderError, match=told):
        build("random", **options)


# Bundles


def bundled(folder, **options):
    return build_monai_bundle(folder, UNET_LAYERS, (16, 16, 16), **options)


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


def test_the_config_and_the_node_can_be_named(tmp_path):
    folder = bundle_in(tmp_path / "b", "$broken", student=UNET)
    (folder / "configs" / "mine.json").write_text(json.dumps({"network": UNET}))
    assert bundled(folder, checkpoint="random", node="student")
    assert bundled(folder, checkpoint="random", config="mine")
    with pytest.raises(EncoderError, match="needed teacher in one of"):
        bundled(folder, checkpoint="random", node="teacher")


# Configs


@pytest.mark.parametrize(
    ("name", "options"),
    [("medicalnet", {"depth": 10}), pytest.param("swin_unetr", {"feature_size": 12}, marks=needs_einops)],
)
def test_configs_instantiate_with_overrides(tmp_path, name, options):
    size = [32, 32, 32]
    weights = build_encoder(name, checkpoint="random", size=size, **options).network.state_dict()
    save_file({key: value.clone() for key, value in weights.items()}, tmp_path / "w.safetensors")
    overrides = [f"encoder.{key}={value}" for key, value in options.items()]
    overrides += [f"encoder.checkpoint={tmp_path / 'w.safetensors'}", f"encoder.size={size}".replace(" ", "")]
    with initialize_config_module(config_module="mi_callback.conf", version_base="1.3"):
        config = compose(overrides=[f"+encoder={name}", *overrides])
    encoder = instantiate(config.encoder)
    assert encoder.size == (32, 32, 32)
    assert the_same(encoder, weights)
