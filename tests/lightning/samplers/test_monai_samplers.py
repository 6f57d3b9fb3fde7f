"""Generators made of MONAI's parts are sampled as they stand: real networks, small and random."""

import copy
import json
from functools import cache
from typing import Any

import pytest
import torch
from monai.inferers import ControlNetDiffusionInferer, DiffusionInferer, LatentDiffusionInferer
from monai.networks.nets import (
    VQVAE,
    AutoencoderKL,
    ControlNet,
    DiffusionModelUNet,
    SPADEDiffusionModelUNet,
    VarAutoEncoder,
)
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, PNDMScheduler, RFlowScheduler
from torch import Tensor, nn

from mi_callback.errors import SamplerError
from mi_callback.lightning.samplers import BundleSampler, DecoderSampler, DiffusionSampler, Setting
from mi_callback.lightning.sampling import draw, find_sampler

SIDE = 8
SETTING = Setting(lambda: torch.linspace(0, 1, SIDE).expand(1, SIDE, SIDE))
SMALL: dict[str, Any] = {
    "spatial_dims": 2, "in_channels": 1, "num_res_blocks": 1, "channels": (4, 4), "attention_levels": (False, False),
    "norm_num_groups": 2, "num_head_channels": 4,
}  # fmt: skip


def alive(network: nn.Module) -> nn.Module:
    """With random weights where the paper starts from zeros: nothing would depend on the network."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    return network.eval()


@cache
def _unet(key: str, channels: int = 1) -> nn.Module:
    options = {"label_nc": 3, "spade_intermediate_channels": 4} if key == "spade" else {}
    options |= {"classes": {"num_class_embeds": 3}, "context": {"with_conditioning": True, "cross_attention_dim": 2,
                "num_head_channels": 2, "attention_levels": (False, True)}}.get(key, {})  # fmt: skip
    kind = SPADEDiffusionModelUNet if key == "spade" else DiffusionModelUNet
    return alive(kind(**SMALL | {"in_channels": channels, "out_channels": 1} | options))


def unet(key: str = "plain", channels: int = 1) -> nn.Module:
    return copy.deepcopy(_unet(key, channels))


@cache
def _autoencoder() -> nn.Module:
    options = {key: value for key, value in SMALL.items() if key not in ("num_res_blocks", "num_head_channels")}
    return alive(
        AutoencoderKL(
            **options, out_channels=1, latent_channels=1, num_res_blocks=1,
            with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )
    ).eval()  # fmt: skip


def module(**parts: Any) -> nn.Module:
    made = type("Mine", (nn.Module,), {})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


SCHEDULERS = [DDPMScheduler(10), DDIMScheduler(10), PNDMScheduler(10, skip_prk_steps=True), RFlowScheduler(10)]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: type(scheduler).__name__)
def test_a_diffusion_model_is_found_and_sampled_as_its_inferer_does_and_its_scheduler_is_untouched(scheduler: Any):
    mine = module(inferer=DiffusionInferer(scheduler), unet=unet())
    before = copy.deepcopy(vars(scheduler))
    sampler = find_sampler(mine, DiffusionSampler(steps=3), SETTING)
    assert sampler.name == "Mine.inferer with unet in 3 steps"
    drawn = draw(mine, sampler, 4, 4, seed=5)
    assert str(vars(scheduler)) == str(before)
    own = copy.deepcopy(scheduler)
    own.set_timesteps(3)
    torch.manual_seed(5)
    noise = torch.randn(4, 1, SIDE, SIDE)
    expected = mine.inferer.sample(noise, mine.unet, scheduler=own, verbose=False)
    torch.testing.assert_close(drawn, expected)
    assert find_sampler(mine, None, SETTING).name == "Mine.inferer with unet in 10 steps"


def test_latents_have_the_shape_of_those_of_a_real_image_and_are_decoded():
    inferer = LatentDiffusionInferer(DDPMScheduler(3), scale_factor=2.0)
    mine = module(inferer=inferer, unet=unet(), vae=copy.deepcopy(_autoencoder()))
    drawn = draw(mine, find_sampler(mine, "monai", SETTING), 2, 2, seed=5)
    torch.manual_seed(5)
    noise = torch.randn(2, 1, SIDE // 2, SIDE // 2)
    expected = inferer.sample(noise, mine.vae, mine.unet, verbose=False)
    assert drawn.shape == (2, 1, SIDE, SIDE)
    torch.testing.assert_close(drawn, expected)
    del mine.vae
    with pytest.raises(SamplerError, match="needed an autoencoder beside the inferer of Mine; found none"):
        find_sampler(mine, "monai", SETTING)


CONDITIONS = {
    "classes": torch.tensor([0, 2]),
    "context": torch.tensor([[0.0, 1.0], [5.0, -5.0]]),
    "concat": torch.stack([torch.zeros(1, SIDE, SIDE), torch.ones(1, SIDE, SIDE)]),
    "spade": torch.stack([torch.zeros(3, SIDE, SIDE), torch.ones(3, SIDE, SIDE)]),
    "controlnet": torch.stack([torch.zeros(1, SIDE, SIDE), torch.ones(1, SIDE, SIDE)]),
}


@pytest.mark.parametrize("key", CONDITIONS)
def test_images_are_drawn_for_conditions_of_every_kind(key: str):
    mine = module(inferer=DiffusionInferer(DDIMScheduler(10)), unet=unet(key, 2 if key == "concat" else 1))
    if key == "controlnet":
        mine.inferer = ControlNetDiffusionInferer(DDIMScheduler(10))
        mine.controlnet = alive(ControlNet(**SMALL, conditioning_embedding_num_channels=(2,)))
    sampler = find_sampler(mine, DiffusionSampler(steps=2), Setting(SETTING.example, conditional=True))
    with torch.no_grad():
        torch.manual_seed(5)
        drawn = sampler(2, CONDITIONS[key])
        torch.manual_seed(5)
        others = sampler(2, CONDITIONS[key].flip(0))
    assert drawn.shape == (2, 1, SIDE, SIDE)
    assert not torch.allclose(drawn, others)


def test_a_decoder_decodes_normal_latents_and_a_codebook_uniform_codes():
    vae = module(autoencoder=copy.deepcopy(_autoencoder()))
    drawn = draw(vae, find_sampler(vae, None, SETTING), 3, 3, seed=2)
    torch.manual_seed(2)
    torch.testing.assert_close(drawn, vae.autoencoder.decode_stage_2_outputs(torch.randn(3, 1, 4, 4)).detach())
    options = {"channels": (4,), "num_res_channels": (4,), "num_res_layers": 1, "num_embeddings": 8, "embedding_dim": 2}
    scales = {"downsample_parameters": ((2, 4, 1, 1),), "upsample_parameters": ((2, 4, 1, 1, 0),)}
    book = module(vqvae=alive(VQVAE(2, 1, 1, **options, **scales)))
    found = find_sampler(book, None, SETTING)
    assert found.name == "Mine.vqvae, which decodes codes drawn uniformly"
    assert draw(book, found, 3, 3, seed=0).shape == (3, 1, SIDE, SIDE)
    flat = module(vae=alive(VarAutoEncoder(2, (1, SIDE, SIDE), 1, 3, channels=(2,), strides=(2,))))
    assert draw(flat, find_sampler(flat, "decoder", SETTING), 3, 3, seed=0).shape == (3, 1, SIDE, SIDE)
    with pytest.raises(SamplerError, match=r"needed an autoencoder of MONAI .* in Mine; found none"):
        find_sampler(module(), DecoderSampler())


def test_an_autoencoder_beside_a_diffusion_network_is_not_the_generator():
    with pytest.raises(SamplerError, match="needed a way to draw images from Mine"):
        find_sampler(module(autoencoder=copy.deepcopy(_autoencoder()), unet=unet()), None, SETTING)


def test_volumes_are_drawn_in_three_dimensions():
    options = SMALL | {"spatial_dims": 3, "out_channels": 1}
    mine = module(inferer=DiffusionInferer(DDPMScheduler(2)), unet=alive(DiffusionModelUNet(**options)))
    drawn = draw(mine, find_sampler(mine, None, Setting(lambda: torch.rand(1, 4, 8, 4))), 2, 2, seed=0)
    assert drawn.shape == (2, 1, 4, 8, 4)


@pytest.mark.parametrize("name", ["ema_model", "ema_unet", "unet_ema", "wrapper"])
def test_an_averaged_copy_of_the_network_is_preferred_and_named(name: str):
    mine, averaged = module(inferer=DiffusionInferer(DDPMScheduler(2)), unet=unet()), unet()
    with torch.no_grad():
        averaged.out[-1].conv.bias.fill_(9.0)
    if name == "wrapper":
        mine.ema_model = torch.optim.swa_utils.AveragedModel(averaged)
    else:
        setattr(mine, name, averaged)
    found = find_sampler(mine, None, SETTING)
    assert found.averaged
    assert ("ema_model.module" if name == "wrapper" else name) in found.name
    raw = module(inferer=mine.inferer, unet=mine.unet)
    one, other = (draw(each, find_sampler(each, None, SETTING), 2, 2, seed=0) for each in (mine, raw))
    assert not torch.allclose(one, other)


def test_what_is_missing_is_said():
    with pytest.raises(
        SamplerError, match=r"found no inferer. Say where: DiffusionSampler\(inferer='…', network='…'\)"
    ):
        find_sampler(module(unet=unet()), "monai", SETTING)
    mine = module(inferer=DiffusionInferer(DDPMScheduler(2)), unet=unet())
    with pytest.raises(SamplerError, match=r"Mine\.diffuser; Mine has no 'diffuser'"):
        find_sampler(mine, DiffusionSampler(inferer="diffuser"), SETTING)
    with pytest.raises(SamplerError, match=r"needed a real image .* pass shape=\(1, h, w\)"):
        find_sampler(mine)(2)
    assert find_sampler(mine, DiffusionSampler(shape=(1, 4, 4)))(2).shape == (2, 1, 4, 4)


def test_an_item_of_a_bundle_makes_images_with_the_network_that_is_trained(tmp_path: Any):
    config = {
        "imports": ["$import torch"],
        "batch_size": 1,
        "network": None,
        "scheduler": {"_target_": "monai.networks.schedulers.DDPMScheduler", "num_train_timesteps": 3},
        "inferer": {"_target_": "monai.inferers.DiffusionInferer", "scheduler": "@scheduler"},
        "noise": "$torch.randn(@batch_size, 1, 8, 8)",
        "sample": "$@inferer.sample(@noise, @network, @scheduler, verbose=False)",
    }
    (tmp_path / "inference.json").write_text(json.dumps(config))
    mine = module(unet=unet())
    sampler = find_sampler(mine, BundleSampler(tmp_path / "inference.json", network="unet"))
    drawn = draw(mine, sampler, 3, 2, seed=1)
    assert drawn.shape == (3, 1, 8, 8)
    torch.manual_seed(1)
    expected: Tensor = DiffusionInferer(DDPMScheduler(3)).sample(torch.randn(2, 1, 8, 8), mine.unet, verbose=False)
    torch.testing.assert_close(drawn[:2], expected)
    with pytest.raises(SamplerError, match="needed the configuration of a bundle"):
        find_sampler(mine, BundleSampler(tmp_path / "nothing.json"))
