"""Images are drawn from any reasonable module, reproducibly, and the module does not notice."""

import functools
import random
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mi_callback.errors import DataError, SamplerError
from mi_callback.lightning.sampling import METHODS, PARTS, draw, evaluating, find_sampler

SIDE = 8


def noise(n: int) -> Tensor:
    return torch.randn(n, 1, SIDE, SIDE)


class Decoder(nn.Module):
    """forward(z) with a declared latent_dim."""

    def __init__(self, latent_dim: int = 3) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.linear = nn.Linear(latent_dim, SIDE * SIDE)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z).view(-1, 1, SIDE, SIDE)


class Recorder(nn.Module):
    """Counts its calls; draws Gaussian noise."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def sample(self, n: int) -> Tensor:
        self.asked.append(n)
        return noise(n)


def with_method(name: str) -> nn.Module:
    return type("Drawing", (nn.Module,), {name: lambda self, n: torch.full((n, 1, 2, 2), 7.0)})()


# Finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_the_module_is_found(method: str):
    assert find_sampler(with_method(method))(2).shape == (2, 1, 2, 2)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_a_part_of_the_module_is_found(part: str, method: str):
    module = nn.Module()
    setattr(module, part, with_method(method))
    assert find_sampler(module)(3).unique().tolist() == [7.0]


def test_a_part_need_not_be_a_torch_module():
    module = nn.Module()
    module.diffusion = SimpleNamespace(sample=lambda n: torch.full((n, 1, 2, 2), 5.0))
    assert find_sampler(module)(3).unique().tolist() == [5.0]


def test_the_module_itself_comes_before_its_parts_and_sample_before_generate():
    module = with_method("generate")
    module.generator = with_method("sample")
    type(module).sample = lambda self, n: torch.full((n, 1, 2, 2), 1.0)
    assert find_sampler(module)(1).unique().tolist() == [1.0]
    del type(module).sample
    type(module).generate = lambda self, n: torch.full((n, 1, 2, 2), 2.0)
    assert find_sampler(module)(1).unique().tolist() == [2.0]


def test_a_method_that_needs_more_than_a_number_is_passed_over():
    methods = {"sample": lambda self, batch, steps: None, "generate": lambda self, n: noise(n)}
    module = type("Odd", (nn.Module,), methods)()
    assert find_sampler(module)(2).shape == (2, 1, SIDE, SIDE)


def test_a_method_with_further_defaults_counts_as_taking_a_number():
    module = type("Odd", (nn.Module,), {"sample": lambda self, n, steps=50, *, eta=0.0: noise(n)})()
    assert find_sampler(module)(2).shape == (2, 1, SIDE, SIDE)


def test_a_keyword_only_requirement_is_passed_over():
    def sample(self, n, *, condition):
        raise AssertionError("cannot be called with a number alone")

    with pytest.raises(SamplerError, match=r"found only sample\(n, \*, condition\), which need more"):
        find_sampler(type("Odd", (nn.Module,), {"sample": sample})())


def test_a_forward_of_latents_is_fed_standard_normal_ones():
    module = Decoder(latent_dim=3)
    torch.manual_seed(5)
    drawn = find_sampler(module)(4)
    torch.manual_seed(5)
    assert torch.equal(drawn, module(torch.randn(4, 3)))


@pytest.mark.parametrize("part", PARTS)
def test_a_forward_of_latents_of_a_part_is_found(part: str):
    module = nn.Module()
    setattr(module, part, Decoder())
    assert find_sampler(module)(4).shape == (4, 1, SIDE, SIDE)


def test_latents_have_the_precision_of_the_weights():
    assert find_sampler(Decoder().double())(2).dtype == torch.float64


def test_a_function_of_module_and_number_is_used():
    module = Decoder()
    sampler = find_sampler(module, lambda m, n: m(torch.zeros(n, m.latent_dim)))
    assert torch.equal(sampler(2), module(torch.zeros(2, 3)))


@pytest.mark.parametrize(
    "function",
    [
        noise,
        lambda n: noise(n),
        lambda n, steps=5: noise(n),
        lambda *a: noise(*a),
        functools.partial(noise),
        functools.partial(lambda scale, n: scale * noise(n), 2.0),
    ],
)
def test_a_function_of_a_number_alone_is_used(function):
    assert find_sampler(nn.Identity(), function)(3).shape == (3, 1, SIDE, SIDE)


def test_an_explicit_sampler_wins_over_what_could_be_found():
    sampler = find_sampler(with_method("sample"), lambda n: torch.full((n, 1, 2, 2), -1.0))
    assert sampler(1).unique().tolist() == [-1.0]


def test_a_dotted_name_is_followed():
    module = nn.Module()
    module.inner = nn.Module()
    module.inner.prior = with_method("my_draw")
    assert find_sampler(module, "inner.prior.my_draw")(2).shape == (2, 1, 2, 2)


def test_a_wrong_name_is_refused_with_the_part_that_lacks_it():
    module = nn.Module()
    module.inner = Decoder()
    with pytest.raises(SamplerError, match=r"needed Module\.inner\.draw; Decoder has no 'draw'"):
        find_sampler(module, "inner.draw")


def test_a_name_of_something_that_cannot_be_called_is_refused():
    with pytest.raises(SamplerError, match=r"needed a callable latent_dim; int came"):
        find_sampler(Decoder(), "latent_dim")


def test_a_function_of_three_is_refused_with_its_signature():
    with pytest.raises(SamplerError, match=r"needed sampler\(module, n\) or sampler\(n\); its signature .*\(a, b, c\)"):
        find_sampler(nn.Identity(), lambda a, b, c: None)


def test_a_module_without_sampler_is_told_what_was_looked_for_and_the_line_that_fixes_it():
    with pytest.raises(SamplerError) as raised:
        find_sampler(nn.Linear(2, 2))
    message = str(raised.value)
    for looked_for in ("Linear", *METHODS, *PARTS, "latent_dim"):
        assert looked_for in message
    assert "MemorizationCallback(sampler=lambda module, n: module.my_method(n))" in message


def test_averaged_parts_come_before_others_also_inside_a_wrapper():
    module = nn.Module()
    module.model, module.ema_model = with_method("sample"), with_method("generate")
    assert find_sampler(module).name == "Module.ema_model.generate"
    module.ema_model = torch.optim.swa_utils.AveragedModel(with_method("sample"))
    assert find_sampler(module).name == "Module.ema_model.module.sample"
    del module.ema_model
    assert find_sampler(module).name == "Module.model.sample"


@pytest.mark.parametrize("name", ["z", "x", "batch", "noise", "y", "labels", "prompt", "cond", "shape"])
def test_a_method_of_something_else_than_a_number_is_passed_over_and_named_where_nothing_else_is_found(name):
    methods: dict = {}
    exec(f"def sample(self, {name}): raise AssertionError", methods)
    module = type("Odd", (nn.Module,), {"sample": methods["sample"]})()
    with pytest.raises(SamplerError, match=rf"found only sample\({name}\), which need"):
        find_sampler(module)
    with pytest.raises(SamplerError, match=rf"its signature is sample\({name}\)"):
        find_sampler(module, "sample")
    type(module).generate = lambda self, n: noise(n)
    assert find_sampler(module).name == "Odd.generate"


def test_what_a_sampler_needs_beside_the_number_is_said():
    module = type("Conditional", (nn.Module,), {"sample": lambda self, n, y: noise(n)})()
    with pytest.raises(SamplerError, match=r"found only sample\(n, y\)"):
        find_sampler(module)
    with pytest.raises(SamplerError, match=r"It needs y, too: sampler=lambda module, n: module.sample\(n, y=…\)"):
        find_sampler(module, "sample")
    with pytest.raises(SamplerError, match="It needs y, too"):
        find_sampler(module, lambda n, y: noise(n))


# Drawing ---------------------------------------------------------------------------------------------------------


def test_images_are_drawn_in_batches_and_joined():
    module = Recorder()
    drawn = draw(module, module.sample, n=7, batch_size=3, seed=0)
    assert module.asked == [3, 3, 1]
    assert drawn.shape == (7, 1, SIDE, SIDE)
    assert len(drawn.unique(dim=0)) == 7


def test_a_seed_gives_the_same_images_each_time_and_another_seed_others():
    module = Recorder()
    first = draw(module, module.sample, 4, 2, seed=3)
    torch.randn(5)
    assert torch.equal(first, draw(module, module.sample, 4, 2, seed=3))
    assert not torch.equal(first, draw(module, module.sample, 4, 2, seed=4))


@pytest.mark.parametrize(
    "latents",
    [
        lambda n: torch.from_numpy(np.random.randn(n, 1, 4, 4)),
        lambda n: torch.tensor([random.random() for _ in range(n * 16)]).view(n, 1, 4, 4),
    ],
    ids=["numpy", "python"],
)
def test_samplers_that_use_the_random_numbers_of_numpy_or_python_repeat_too(latents):
    module = nn.Identity()
    first = draw(module, latents, 4, 2, seed=3)
    np.random.rand(3), random.random()
    assert torch.equal(first, draw(module, latents, 4, 2, seed=3))


def test_sampling_sees_eval_mode_and_no_gradient():
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1))
    seen = []

    def sampler(n: int) -> Tensor:
        seen.append((module.training, module[0].training, module[1].training, torch.is_grad_enabled()))
        return noise(n)

    drawn = draw(module, sampler, 2, 2, seed=0)
    assert seen == [(False, False, False, False)]
    assert not drawn.requires_grad


def test_batch_statistics_are_not_updated_by_sampling():
    module = nn.BatchNorm2d(1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    draw(module, lambda n: module(noise(n)), 4, 4, seed=0)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_images_come_back_as_float32_whatever_was_drawn():
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.uint8):
        drawn = draw(nn.Identity(), lambda n, dtype=dtype: noise(n).mul(50).abs().to(dtype), 2, 2, seed=0)
        assert drawn.dtype == torch.float32


def test_the_context_of_the_precision_plugin_surrounds_every_call():
    inside = []

    @contextmanager
    def context():
        inside.append("in")
        yield
        inside.append("out")

    def sampler(n: int) -> Tensor:
        assert inside[-1] == "in"
        return noise(n)

    draw(nn.Identity(), sampler, 3, 2, seed=0, context=context)
    assert inside[-1] == "out"


# No trace --------------------------------------------------------------------------------------------------------


def random_state() -> int:
    return hash(
        repr(
            (
                random.getstate(),
                np.random.get_state()[1].tobytes(),
                np.random.get_state()[2:],
                torch.get_rng_state().tolist(),
            )
        )
    )


def spend(n: int) -> Tensor:
    random.random(), np.random.rand(), torch.rand(1)
    return noise(n)


def fail(n: int) -> Tensor:
    spend(n)
    raise RuntimeError("out of memory")


def test_the_global_random_state_is_put_back():
    before = random_state()
    draw(nn.Identity(), spend, 4, 2, seed=0)
    assert random_state() == before


def test_the_global_random_state_is_put_back_when_the_sampler_raises():
    before = random_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        draw(nn.Identity(), fail, 4, 2, seed=0)
    assert random_state() == before


def test_the_global_random_state_is_put_back_when_the_images_are_refused():
    before = random_state()
    with pytest.raises(DataError, match="constant"):
        draw(nn.Identity(), lambda n: spend(n) * 0, 4, 2, seed=0)
    assert random_state() == before


@pytest.mark.parametrize("sampler", [spend, fail])
def test_the_mode_of_every_submodule_is_put_back(sampler):
    module = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.BatchNorm2d(1), nn.ReLU()))
    module.train()
    module[1].eval()
    module[1][1].train()
    before = [part.training for part in module.modules()]
    assert True in before
    assert False in before
    try:
        draw(module, sampler, 2, 2, seed=0)
    except RuntimeError:
        assert sampler is fail
    assert [part.training for part in module.modules()] == before


def test_a_sampler_that_changes_the_mode_itself_leaves_no_trace():
    module = nn.Sequential(nn.Dropout(0.5))
    module.train()
    with evaluating(module):
        assert not module[0].training
        module.eval()
    assert module[0].training


@pytest.mark.parametrize("channels", [1, 2])
def test_volumes_are_drawn_as_images_are(channels):
    drawn = draw(nn.Identity(), lambda n: torch.rand(n, channels, 4, 6, 5), 5, 2, 0)
    assert drawn.shape == (5, channels, 4, 6, 5)
    with pytest.raises(DataError, match=r"generated images 0 to 1: needed images with content; images \[1\] of 2"):
        draw(nn.Identity(), lambda n: torch.rand(n, 1, 4, 6, 5) * (torch.arange(n) < 1).view(n, 1, 1, 1, 1), 2, 2, 0)


@pytest.mark.parametrize("error", [StopIteration("empty"), TypeError("no"), AttributeError("none")])
def test_errors_that_would_mislead_are_those_of_the_sampler(error):
    module = nn.Sequential(nn.Dropout())

    def sampler(n: int) -> Tensor:
        raise error

    with pytest.raises(SamplerError, match=rf"the function sampler; it raised {type(error).__name__}") as raised:
        draw(module, find_sampler(module, sampler), 2, 2, seed=0)
    assert raised.value.__cause__ is error
    assert all(part.training for part in module.modules())


# Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            None,
            r"needed a tensor \(n, 1, h, w\), or .*, from the sampler, .*; NoneType came.*sampler=lambda module, n",
        ),
        ([None] * 4, "needed a tensor .* a list of NoneType came"),
        ([], "needed a tensor .* list came"),
        ("abcd", "needed a tensor .* str came"),
        ([torch.rand(1, 4, 4), torch.rand(1, 5, 5)], r"images of one shape.*\(1, 4, 4\), \(1, 5, 5\)"),
        (
            torch.rand(4, 16),
            r"needed 4 images, shape \(4, 1, h, w\), or volumes .* a tensor of shape \(4, 16\)",
        ),
        (torch.rand(3, 1, 4, 4), r"needed 4 images.*shape \(3, 1, 4, 4\) came"),
        (torch.rand(5, 1, 4, 4), r"needed 4 images.*shape \(5, 1, 4, 4\) came"),
        (torch.rand(1, 4, 4), r"needed 4 images.*shape \(1, 4, 4\) came"),
    ],
    ids=["none", "list", "empty", "text", "sizes", "flat", "too few", "too many", "no batch"],
)
def test_what_is_no_batch_of_images_is_refused(returned, message: str):
    with pytest.raises(SamplerError, match=message):
        draw(nn.Identity(), lambda n: returned, 4, 4, seed=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), r"generated images 4 to 5: .*finite.*\[1\]"), (float("inf"), r"generated images 4 to 5: .*finite")],
)
def test_broken_pixels_are_refused_with_their_place(value: float, message: str):
    def sampler(n: int) -> Tensor:
        images = noise(n)
        if n == 2:
            images[1, 0, 0, 0] = value
        return images

    with pytest.raises(DataError, match=message):
        draw(nn.Identity(), sampler, 6, 4, seed=0)


def test_constant_images_are_refused():
    with pytest.raises(DataError, match=r"generated images 0 to 1: .*constant.*look at the generator"):
        draw(nn.Identity(), lambda n: torch.ones(n, 1, 4, 4), 2, 2, seed=0)


def test_images_of_several_sizes_are_refused():
    sizes = iter([4, 5])
    with pytest.raises(SamplerError, match=r"images of one shape; the sampler returned \[\(1, 4, 4\), \(1, 5, 5\)\]"):
        draw(nn.Identity(), lambda n: torch.rand(n, 1, *2 * [next(sizes)]), 4, 2, seed=0)
