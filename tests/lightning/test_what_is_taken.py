"""Images under unusual keys, ids in any spelling, volumes, averaged weights: taken, and said in short lines."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from watching import HELD_OUT, TRAIN, Slices, Tiny, callback, copies, fit, images, loader, make_trainer

from mi_callback.errors import DataError, SamplerError
from mi_callback.lightning.data.sides import Sides, Source
from mi_callback.lightning.options import build_detector

PEOPLE = range(24)


class Indifferent(Tiny):
    """Trains on nothing of the batch."""

    def loss(self, batch: Any) -> Tensor:
        return self.sample(4).square().mean()


def pairs(pixels: Tensor, *others: Any) -> list[tuple]:
    return list(zip(*others, pixels, strict=True))


# Images and ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["key", "position", "ids in a dictionary", "ids as texts"])
def test_images_and_ids_in_unusual_places_are_taken_and_said(order: str, said: list[str]):
    def data(pixels: Tensor, prefix: str) -> list:
        ids = [f"{prefix}{i // 2}" for i in range(len(pixels))]
        return {
            "key": [{"T1": image, "patient_id": one} for image, one in zip(pixels, ids, strict=True)],
            "position": pairs(pixels, range(len(pixels))),
            "ids in a dictionary": [(image, {"subject": one}) for image, one in zip(pixels, ids, strict=True)],
            "ids as texts": list(zip(pixels, ids, strict=True)),
        }[order]

    watch = callback()
    fit(watch, module=Indifferent(), train=loader(data(TRAIN, "t")), val=loader(data(HELD_OUT, "h")))
    assert len(watch.detector.state.train) == 24
    known = watch.detector.state.train.subjects
    assert known is None if order == "position" else len(set(known)) == 12
    (line,) = [line for line in said if "searched are" in line]
    place = {"key": "batch['T1']", "position": "batch[1]"}.get(order, "batch[0]")
    assert f"images from {place}" in line
    assert ("no subject ids" if order == "position" else "subjects ") in line


def test_two_tensors_that_may_be_meant_are_refused_and_the_option_that_is_named_works():
    class Two(Slices):
        def __getitem__(self, i: int) -> dict:
            return {"t1": self.pixels[i], "t2": self.pixels[i].flip(-1)}

    with pytest.raises(DataError, match=r"batch\['t1'\], batch\['t2'\] all look like some.*image_key='t1'"):
        fit(callback(), module=Indifferent(), train=loader(Two(TRAIN)), val=loader(Two(HELD_OUT)))
    watch = callback(image_key="t2")
    fit(watch, module=Indifferent(), train=loader(Two(TRAIN)), val=loader(Two(HELD_OUT)))
    assert len(watch.detector.state.train) == 24


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (int, str),
        (int, float),
        (lambda i: torch.tensor([i]), int),
        (lambda i: f"p{i}", lambda i: f" p{i} "),
        (lambda i: f"{i:03d}", int),
        (lambda i: f"p{i}", lambda i: f"P{i:02d}"),
        (lambda i: f"sub-{i}", lambda i: f"sub-{i} "),
    ],
    ids=range(7),
)
def test_people_on_both_sides_under_other_spellings_are_never_held_out(ours: Any, theirs: Any):
    train, val = ([make(i) for i in PEOPLE] for make in (ours, theirs))
    with pytest.raises(DataError, match=r"20 held-out subjects were trained on.*nothing is left"):
        fit(callback(), train=loader(Slices(TRAIN, train)), val=loader(Slices(HELD_OUT, val[:20])))


def test_folders_above_the_data_are_no_people():
    from monai.data import DataLoader as MonaiLoader
    from monai.data import MetaTensor

    class Meta(Slices):
        def __getitem__(self, i: int) -> dict:
            return {"image": MetaTensor(self.pixels[i], meta={"filename_or_obj": self.subjects[i]})}

    files = [[f"/data/sub-study/{side}/IXI{i}.nii.gz" for i in PEOPLE] for side in ("train", "val")]
    watch = callback()
    fit(
        watch,
        module=Indifferent(),
        train=MonaiLoader(Meta(TRAIN, files[0]), batch_size=8),
        val=MonaiLoader(Meta(HELD_OUT, files[1]), batch_size=8),
    )
    assert watch.detector.state.train.subjects == files[0]
    assert watch.detector.state.null.n_subjects == 20


def test_no_line_holds_an_id_or_a_file(said: list[str], recwarn: pytest.WarningsRecorder):
    ids = [["secret-7"] * 12 + [None] * 12, ["secret-7", *[f"secret{i}" for i in range(19)]]]
    watch = callback(sampler=copies(0, 1))
    fit(watch, train=loader(ListOf(TRAIN, ids[0]), collate_fn=list_ids), val=loader(Slices(HELD_OUT, ids[1])))
    spoken = "\n".join([*said, *(str(one.message) for one in recwarn)])
    assert "12 of 24 have no subject id" in spoken
    assert "secret" not in spoken


class ListOf(Slices):
    def __getitem__(self, i: int) -> dict:
        return {"image": self.pixels[i], "subject": self.subjects[i]}


def list_ids(items: list[dict]) -> dict:
    return {"image": torch.stack([one["image"] for one in items]), "subject": [one["subject"] for one in items]}


# Volumes -------------------------------------------------------------------------------------------------------------


def test_volumes_choose_the_encoder_of_volumes_unless_one_was_asked_for(said: list[str]):
    volumes = torch.rand(4, 1, 6, 8, 7)
    sides = Sides([Source("train=", volumes, shared=False)], ())
    assert build_detector({"alpha": 0.1}, sides, "cpu").dims == 3
    assert any("training images are volumes, so they are encoded by 'slices'" in line for line in said)
    assert build_detector({"encoder": "pixels"}, sides, "cpu").dims == 2
    assert build_detector({}, Sides([Source("train=", volumes[:, :, 0], shared=False)], ()), "cpu").dims == 2


# Samplers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_are_sampled_in_any_order_of_callbacks(first: bool):
    seen = []

    def sampler(module: Any, n: int) -> Tensor:
        seen.append(module.net[0].weight.detach().clone())
        return images(n, 0)

    averaging, watch = WeightAveraging(), callback(sampler=sampler)
    fit(*([watch, averaging] if first else [averaging, watch]))
    assert torch.equal(seen[-1], averaging._average_model.module.net[0].weight)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda n: next(iter(())), "it raised StopIteration"),
        (lambda n: images(n, 0).nothing, "it raised AttributeError"),
    ],
    ids=["exhausted", "bug"],
)
@pytest.mark.parametrize("later", [True, False])
def test_a_sampler_that_ends_is_an_error_that_is_told_and_leaves_no_module_in_eval_mode(
    sampler: Any, message: str, later: bool
):
    def ends(module: Any, n: int) -> Tensor:
        return images(n, 0) if later and module.global_step < 3 else sampler(n)

    module, told = Tiny(), pytest.warns(UserWarning, match=f"not scored at epoch 0.*{message}")
    with told if later else pytest.raises(SamplerError, match=message):
        make_trainer(callback(sampler=ends), max_epochs=2).fit(module, loader(TRAIN), loader(HELD_OUT))
    assert all(part.training for part in module.modules())


def test_lines_are_short_and_doubts_stand_alone(said: list[str]):
    fit(callback(sampler=copies(0)), max_epochs=2, val=loader(HELD_OUT))
    lines = [line for line in said if "epoch" in line and "flagged" in line and "\n" not in line]
    assert len(lines) == 2
    assert all(len(line) <= 120 for line in lines)
    assert all("MI median" in line and "expected" in line for line in lines)
    assert any(
        line.startswith("memorization: samples come from the function <lambda>, with the weights") for line in said
    )
