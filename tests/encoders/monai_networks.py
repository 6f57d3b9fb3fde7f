"""Small networks of MONAI, other weights for them, and bundles."""

import json
from importlib.util import find_spec

import pytest
import torch

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
