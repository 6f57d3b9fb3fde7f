"""Conditional generators get conditions of validation images, and steps of the module give samples."""

from typing import Any

import lightning.pytorch as lp
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from watching import HELD_OUT, SIDE, TRAIN, Slices, Tiny, callback, fit, images, loader, scalars

from mi_callback.errors import DataError, SamplerError
from mi_callback.lightning.samplers import Setting, StepSampler
from mi_callback.lightning.samplers.conditions import Conditions
from mi_callback.lightning.sampling import find_sampler

CONDITIONAL = Setting(conditional=True)


class Labelled(Slices):
    """Slices with a label, as text and as number."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.pixels[i], "label": i % 2, "prompt": f"sub-Janssen {'left' if i % 2 else 'right'}"}


class Conditional(Tiny):
    """Repeats training image 3 for label 1 and is novel for label 0."""

    def sample(self, n: int, y: Any = None) -> Any:
        if y is None:
            return super().sample(n)
        self.seen = [*getattr(self, "seen", []), y]
        copied = [str(one) in ("1", "sub-Janssen left") for one in (y.tolist() if isinstance(y, Tensor) else y)]
        ones = torch.tensor(copied)
        return torch.where(ones.view(-1, 1, 1, 1), TRAIN[3:4], images(n, 77 + len(self.seen)))


@pytest.mark.parametrize("key", ["label", "prompt"])
def test_flags_are_grouped_by_what_images_were_drawn_for(key: str, tmp_path: Any, said: list[str]):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch, module = callback(condition_key=key, n_samples=10), Conditional()
    logger = TensorBoardLogger(tmp_path, "tb", "")
    fit(watch, module=module, train=loader(Labelled(TRAIN)), val=loader(Labelled(HELD_OUT)), logger=logger)
    logger.finalize("success")
    (look,) = watch._recording.looks
    groups = {name: (n, flagged) for name, n, flagged in look.groups}
    assert sum(n for n, _ in groups.values()) == 10
    assert sorted(groups) == ["0", "1"]
    flagged = [flagged for _, flagged in groups.values()]
    assert max(flagged) > 2 * min(flagged)
    assert any(line.endswith("for conditions of validation images.") for line in said)
    events = EventAccumulator(str(tmp_path / "tb"), {"tensors": 0}).Reload()
    (text,) = events.Tensors("memorization_media/by_condition/text_summary")
    assert b"| condition | samples | flagged | expected |" in text.tensor_proto.string_val[0]
    assert b"Janssen" not in text.tensor_proto.string_val[0]


def test_the_same_conditions_are_drawn_at_every_validation_and_are_those_of_validation_images():
    seen: list[Tensor] = []

    def sampler(module: Any, n: int, labels: Tensor) -> Tensor:
        seen.append(labels)
        return images(n, len(seen))

    data = TensorDataset(HELD_OUT, torch.arange(20) + 100)
    fit(callback(condition_key=1, sampler=sampler), max_epochs=2, train=loader(TensorDataset(TRAIN)), val=loader(data))
    first, second = torch.cat(seen[1:3]), torch.cat(seen[3:5])
    assert torch.equal(first, second)
    assert set(first.tolist()) <= set(range(100, 120))
    assert len(set(first.tolist())) == 6


@pytest.mark.parametrize(
    "function",
    [
        lambda module, n, y: (n, y),
        lambda n, condition: (n, condition),
        lambda module, n, labels=None: (n, labels),
        lambda model, count, whatever: (count, whatever),
        lambda n, steps=5, *, prompt=None: (n, prompt),
    ],
)
def test_a_function_gets_number_and_condition_by_the_names_of_its_parameters(function: Any):
    assert find_sampler(nn.Identity(), function, CONDITIONAL)(2, "c") == (2, "c")


def test_a_sampler_that_takes_no_condition_is_refused():
    with pytest.raises(SamplerError, match=r"needed sampler\(n, condition\) .* since condition_key=… was given"):
        find_sampler(nn.Identity(), lambda n: None, CONDITIONAL)
    with pytest.raises(SamplerError, match="taking the number of images and a condition"):
        find_sampler(Tiny(), None, CONDITIONAL)
    with pytest.raises(SamplerError, match=r"Or have conditions drawn from validation batches: condition_key=…"):
        find_sampler(nn.Identity(), lambda n, y: None)


def test_conditions_that_are_not_there_are_refused_with_the_keys_that_are():
    with pytest.raises(DataError, match=r"needed conditions under 'age' .* the keys \['image', 'label', 'prompt'\]"):
        fit(callback(condition_key="age"), module=Conditional(), val=loader(Labelled(HELD_OUT)))
    with pytest.raises(DataError, match="needed validation data to draw conditions from"):
        fit(callback(condition_key="label"), module=Conditional(), train=loader(Labelled(TRAIN)), val=None)


def test_masks_have_no_names_and_few_conditions_are_used_again():
    masks = Conditions(torch.rand(3, 1, 4, 4))
    assert masks.names(5) is None
    assert torch.equal(masks.part(2, 3, "cpu"), masks.values[[2, 0, 1]])
    assert Conditions(torch.tensor([0.5, 2.0])).names(3) == ["0.5", "2", "0.5"]
    assert Conditions(["b", "a", "b"]).names(3) == ["0", "1", "0"]
    assert Conditions(torch.arange(100)).names(5) is None


# Steps ---------------------------------------------------------------------------------------------------------------


class Returning(Tiny):
    """Its steps return what it generates: rows of the training set."""

    sample_ = Tiny.sample
    sample = None

    def loss(self, batch: Any) -> Tensor:
        return self.net(torch.randn(4, 4)).square().mean()

    def validation_step(self, batch: Any, index: int) -> Any:
        return {"loss": 0.0, "samples": TRAIN[8 * index : 8 * index + 8]}

    def predict_step(self, batch: Any, index: int) -> Tensor:
        assert not self.training
        return batch["image"] * 0.5 if isinstance(batch, dict) else batch[0] * 0.5


@pytest.mark.parametrize("n", [6, 10, 40])
def test_samples_are_taken_from_what_the_validation_step_returns(n: int, said: list[str]):
    watch = callback(sampler="validation_step", n_samples=n)
    trainer = fit(watch, module=Returning(), max_epochs=2)
    assert torch.equal(watch.samples, TRAIN[: min(n, 24)])
    assert watch.scores.match.tolist() == list(range(min(n, 24)))
    assert scalars(trainer)["n_scored"] == min(n, 24)
    assert any("samples come from what Returning.validation_step returns" in line for line in said)


@pytest.mark.parametrize("n", [6, 1000])  # more than there are
def test_samples_are_taken_from_what_the_predict_step_returns(n: int):
    watch = callback(sampler="predict_step", n_samples=n)
    fit(watch, module=Returning(), max_epochs=2)
    assert torch.equal(watch.samples, HELD_OUT[:n] * 0.5)


def test_a_step_that_returns_no_samples_is_told():
    with pytest.warns(
        UserWarning, match=r"not scored at epoch 0: .*needed validation_step to return samples; None came"
    ):
        fit(callback(sampler="validation_step"))
    with pytest.warns(
        UserWarning, match=r"has the keys \['loss', 'samples'\]. Say where: StepSampler\('validation_step'"
    ):
        fit(callback(sampler=StepSampler(key="fakes")), module=Returning())
    with pytest.raises(SamplerError, match=r"needed step out of \['validation_step', 'predict_step'\]"):
        StepSampler("test_step")


def test_a_decoder_of_latents_is_called_by_name():
    class Vae(lp.LightningModule):
        latent_dim = 2

        def decode(self, z: Tensor) -> Tensor:
            return z.view(-1, 1, 1, 2).expand(-1, 1, SIDE, 2)

    assert find_sampler(Vae()).name == "Vae.decode(z) with 2 latents"
    assert find_sampler(Vae())(3).shape == (3, 1, SIDE, 2)
