"""Generators made of diffusers' parts are sampled as they stand: real pipelines, small and random."""

import copy
import sys
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from mi_callback.errors import SamplerError
from mi_callback.lightning.samplers import DiffusersSampler, Setting
from mi_callback.lightning.samplers.averages import averaged_weights
from mi_callback.lightning.sampling import draw, find_sampler

diffusers = pytest.importorskip("diffusers")
SIDE = 8


@cache
def _unet(classes: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=SIDE, in_channels=1, out_channels=1, block_out_channels=(4,), layers_per_block=1, norm_num_groups=2,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), num_class_embeds=classes, add_attention=False,
    )  # fmt: skip
    return network.eval()


class Mine(nn.Module):
    """As users write them: a network, a scheduler, and sometimes a pipeline of both."""

    def __init__(self, pipeline: bool = False, classes: int | None = None) -> None:
        super().__init__()
        self.unet = copy.deepcopy(_unet(classes))
        self.scheduler = diffusers.DDPMScheduler(10)
        if pipeline:
            self.pipeline = diffusers.DDPMPipeline(self.unet, self.scheduler)


def test_a_network_and_its_scheduler_are_sampled_step_by_step_and_the_scheduler_is_untouched():
    mine = Mine()
    before = mine.scheduler.timesteps.clone()
    sampler = find_sampler(mine, DiffusersSampler(steps=3))
    assert sampler.name == "Mine.unet with scheduler in 3 steps"
    drawn = draw(mine, sampler, 2, 2, seed=4)
    assert torch.equal(mine.scheduler.timesteps, before)
    own = diffusers.DDPMScheduler(10)
    own.set_timesteps(3)
    torch.manual_seed(4)
    image = torch.randn(2, 1, SIDE, SIDE)
    for t in own.timesteps:
        image = own.step(mine.unet(image, t).sample, t, image).prev_sample
    torch.testing.assert_close(drawn, image.detach())


def test_a_pipeline_is_found_and_called_for_arrays_without_a_bar(capsys: Any):
    mine = Mine(pipeline=True)
    drawn = draw(mine, find_sampler(mine, DiffusersSampler(steps=2)), 3, 2, seed=4)
    assert drawn.shape == (3, 1, SIDE, SIDE)
    assert find_sampler(mine).name == "Mine.pipeline"
    assert capsys.readouterr().err == ""
    assert mine.pipeline.scheduler is mine.scheduler
    assert len(mine.scheduler.timesteps) == 10


def test_a_pipeline_is_drawn_from_the_averaged_copy_of_its_network():
    mine, raw = Mine(pipeline=True), Mine(pipeline=True)
    mine.ema_unet = copy.deepcopy(mine.unet)
    with torch.no_grad():
        mine.ema_unet.conv_out.bias.fill_(3.0)
    one, other = (draw(each, find_sampler(each, DiffusersSampler(steps=2)), 2, 2, seed=0) for each in (mine, raw))
    assert not torch.allclose(one, other)
    assert mine.pipeline.unet is mine.unet


def test_labels_are_passed_to_a_network_that_takes_them():
    mine = Mine(classes=3)
    sampler = find_sampler(mine, DiffusersSampler(steps=2), Setting(conditional=True))
    images = []
    for labels in (torch.tensor([0, 1]), torch.tensor([2, 2])):
        torch.manual_seed(0)
        images.append(sampler(2, labels).detach())
    assert not torch.allclose(*images)


def test_samples_that_were_made_before_are_not_said_to_be_of_averaged_weights():
    from diffusers.training_utils import EMAModel

    mine = Mine()
    mine.ema_model = EMAModel(mine.unet.parameters())
    mine.validation_step = lambda batch, index: None
    found = find_sampler(mine, "validation_step")
    assert (found.late, found.averaged) == (True, False)
    assert "ema_model" not in found.name


@pytest.mark.parametrize("fails", [False, True])
def test_weights_that_a_list_averages_are_in_place_while_images_are_drawn_and_not_after(fails: bool):
    from diffusers.training_utils import EMAModel

    mine = Mine()
    mine.ema_model = EMAModel(mine.unet.parameters())
    with torch.no_grad():
        for shadow in mine.ema_model.shadow_params:
            shadow.fill_(0.125)
    before = [weight.detach().clone() for weight in mine.unet.parameters()]
    seen = []

    def sampler(module: Mine, n: int) -> Any:
        seen.extend(float(weight.detach().flatten()[0]) for weight in module.unet.parameters())
        if fails:
            raise KeyboardInterrupt
        return torch.rand(n, 1, SIDE, SIDE)

    found = find_sampler(mine, sampler)
    assert found.name == "the function sampler with the weights of ema_model"
    try:
        draw(mine, found, 2, 2, seed=0)
    except KeyboardInterrupt:
        assert fails
    assert set(seen) == {0.125}
    assert all(torch.equal(old, new) for old, new in zip(before, mine.unet.parameters(), strict=True))
    mine.ema_model.shadow_params = mine.ema_model.shadow_params[:-1]
    assert averaged_weights(mine) is None


def test_what_is_missing_is_said():
    mine = Mine()
    del mine.scheduler
    with pytest.raises(SamplerError, match=r"found a network alone. Say where: DiffusersSampler\(network='…'"):
        find_sampler(mine, "diffusers")


def test_diffusers_works_without_torchvision():
    assert "torchvision" not in sys.modules
