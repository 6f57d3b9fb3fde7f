"""The encoder of SwinUNETR: features are the network's own, published weights load."""

import pytest
import torch
from encoder_contract import EncoderContract
from monai_networks import TINY_SWIN, needs_einops, the_same, weights_of

from mi_callback.encoders import Layer, build_encoder
from mi_callback.encoders.checkpoints import initialised
from mi_callback.encoders.monai import (
    build_swin_unetr,
)
from mi_callback.encoders.pooling import pool

# Promise: the contract


@needs_einops
class TestSwinUNETR(EncoderContract):
    names = ("swin_unetr",)

    def build(self, tmp_path):
        return build_encoder("swin_unetr", checkpoint="random", **TINY_SWIN)


# Definition


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


# Promise: published weights load


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
