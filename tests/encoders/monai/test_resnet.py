"""ResNets of MONAI and MedicalNet: features are the network's own, published weights load."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from encoder_contract import EncoderContract
from monai_networks import TINY_RESNET, the_same, weights_of

from mi_callback.encoders import build_encoder
from mi_callback.encoders.monai import (
    build_medicalnet,
    build_monai_resnet,
)

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


# Definition


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


# Promise: published weights load


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
