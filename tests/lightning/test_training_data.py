"""What the Trainer trains on is what is searched: any sampler, stream or set of loaders, and whatever they become."""

import itertools
import threading
from typing import Any

import lightning.pytorch as lp
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from watching import HELD_OUT, TRAIN, Augmented, Slices, Tiny, callback, fit, images, loader, make_trainer, options

from mi_callback.errors import DataError
from mi_callback.lightning.data import loaders

BOTH = torch.cat([TRAIN, HELD_OUT])
ROWS, OTHERS = list(range(24)), list(range(24, 44))
IDS, OTHER_IDS = [f"t{i}" for i in range(24)], [f"h{i}" for i in range(20)]


def verdicts(watch: Any) -> list[str]:
    return [record.scores.verdict.value for record in watch.history]


def encoded(watch: Any) -> int:
    return len(watch.detector.state.train)


# Samplers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options_of",
    [
        lambda rows: {"batch_size": 8, "sampler": rows},
        lambda rows: {"batch_sampler": BatchSampler(SubsetRandomSampler(rows), 8, False)},
        lambda rows: {"batch_size": 8, "sampler": WeightedRandomSampler([float(i in rows) for i in range(44)], 24)},
    ],
    ids=["list", "batch sampler", "weights"],
)
def test_rows_that_validation_alone_draws_are_held_out_and_not_searched(options_of: Any):
    data = Slices(BOTH, IDS + OTHER_IDS)
    watch = callback(sampler=lambda n: HELD_OUT[:n])
    fit(watch, train=DataLoader(data, **options_of(ROWS)), val=DataLoader(data, **options_of(OTHERS)))
    assert watch.detector.state.train.subjects == IDS
    assert watch.detector.state.null.kind == "held_out"
    assert len(watch.detector.state.null.similarity) == 20
    assert verdicts(watch) == ["clean"]


def test_of_validation_rows_those_that_are_trained_on_are_left_out(said: list[str]):
    data = Slices(BOTH)
    watch = callback()
    fit(watch, train=loader(data, sampler=ROWS), val=loader(data))
    assert len(watch.detector.state.null.similarity) == 20
    assert any(
        "train_dataloader (24 of 44 rows)" in line and "val_dataloaders (20 of 44 rows)" in line for line in said
    )


# Which loaders -------------------------------------------------------------------------------------------------------


def test_of_several_validation_loaders_all_that_can_serve_do_and_the_others_are_said(said: list[str]):
    class Module(Tiny):
        def validation_step(self, batch: Any, _index: int, dataloader_idx: int = 0) -> None:
            pass

    data = TensorDataset(TRAIN)
    watch = callback()
    val = [loader(data), loader(HELD_OUT[:12]), loader(TensorDataset(torch.randn(16, 4))), loader(HELD_OUT[12:])]
    fit(watch, module=Module(), train=loader(data, shuffle=True), val=val)
    assert len(watch.detector.state.null.similarity) == 20
    (line,) = [line for line in said if "searched are" in line]
    assert "held out are val_dataloaders[1] (12) and val_dataloaders[3] (8)" in line
    assert "val_dataloaders[0]: all of its rows are trained on" in line
    assert "val_dataloaders[2]: its tensors of shape (1, 4) are no images" in line


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_every_loader_of_a_combined_one_is_searched(mode: str):
    class Module(Tiny):
        def training_step(self, batch: Any, _index: int) -> Tensor:
            return sum(self.loss(part) for part in batch.values() if part is not None)

    watch = callback()
    train = CombinedLoader({"a": loader(TRAIN[:16]), "b": loader(TRAIN[16:])}, mode)
    fit(watch, module=Module(), train=train, val=CombinedLoader([loader(HELD_OUT)], "sequential"))
    assert encoded(watch) == 24
    assert len(watch.detector.state.null.similarity) == 20


@pytest.mark.parametrize("further", [{}, {"detector": options(null="held_out")}, {"detector": options(contrast=True)}])
def test_a_validation_loader_that_comes_later_is_held_out_all_the_same(further: dict):
    watch = callback(**further)
    fit(watch, num_sanity_val_steps=0, check_val_every_n_epoch=2, max_epochs=2)
    assert watch.detector.state.null.kind == "held_out"
    assert len(watch.history) == 1


def test_fetching_the_validation_loader_draws_no_random_number():
    class Data(lp.LightningDataModule):
        def train_dataloader(self) -> DataLoader:
            return loader(TRAIN, shuffle=True)

        def val_dataloader(self) -> DataLoader:
            torch.rand(7)
            return loader(HELD_OUT)

    weights = []
    for callbacks in ([callback()], []):
        lp.seed_everything(0, verbose=False)
        module = Tiny()
        make_trainer(*callbacks, num_sanity_val_steps=0, check_val_every_n_epoch=2, max_epochs=2).fit(module, Data())
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# Streams -------------------------------------------------------------------------------------------------------------


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return ({"image": TRAIN[i % 24], "subject": f"t{i % 24}"} for i in itertools.count())


class Sized(Endless):
    def __len__(self) -> int:
        return 24


class Cycle:
    """A loader that is no DataLoader, and has neither length nor end."""

    def __iter__(self) -> Any:
        return ({"image": TRAIN[[2 * i % 24, (2 * i + 1) % 24]]} for i in itertools.count())


class Remembering:
    """The same, and it goes on where it was."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Any:
        while True:
            self.position += 1
            yield {"image": TRAIN[[2 * self.position % 24, (2 * self.position + 1) % 24]]}


class WebLike(IterableDataset):
    """As WebDataset's: no length, batches of its own, an end."""

    def __iter__(self) -> Any:
        return ({"png": batch, "__key__": ["sample"] * len(batch)} for batch in TRAIN.split(5))


@pytest.mark.parametrize(
    ("train", "count", "further"),
    [
        (lambda: DataLoader(Endless(), 8), 24, {"limit_train_batches": 3}),
        (lambda: DataLoader(Endless(), 8), 16, {"max_steps": 2, "max_epochs": -1}),
        (lambda: DataLoader(Sized(), 8), 24, {}),
        (lambda: Cycle(), 12, {"limit_train_batches": 6}),
    ],
    ids=["limited", "by steps", "sized", "no DataLoader"],
)
def test_of_a_stream_without_end_an_epochs_worth_is_searched(train: Any, count: int, further: dict, said: list[str]):
    watch = callback()
    fit(watch, train=train(), **further)
    assert encoded(watch) == count
    assert any("one epoch's worth" in line for line in said)


def test_of_a_stream_that_goes_on_where_it_was_what_comes_later_is_searched_too():
    watch = callback()
    fit(watch, train=Remembering(), limit_train_batches=6)
    assert encoded(watch) > 12


def test_a_stream_that_ends_is_searched_whole():
    class Module(Tiny):
        def loss(self, batch: Any) -> Tensor:
            return super().loss({"image": batch["png"]} if "png" in batch else batch)

    watch = callback()
    with pytest.warns(UserWarning, match=r"images are taken from batch\['png'\]"):
        fit(watch, module=Module(), train=DataLoader(WebLike(), batch_size=None), val=loader(Slices(HELD_OUT)))
    assert encoded(watch) == 24


def test_a_stream_in_which_no_end_is_in_sight_is_refused_before_anything_is_encoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loaders, "ENDLESS", 100)
    watch = callback()
    with pytest.raises(DataError, match=r"stream with an end; 104 images .*limit_train_batches.*Callback\(train=…\)"):
        fit(watch, train=DataLoader(Endless(), 8), max_time="00:00:00:30", max_epochs=-1)
    assert not watch.detector.fitted


def test_batches_that_can_be_read_but_once_are_refused():
    once = ({"image": batch} for batch in TRAIN.split(8))
    with pytest.raises(DataError, match=r"can be read twice; a generator came.*MemorizationCallback\(train=…\)"):
        fit(callback(), train=once, limit_train_batches=2)


def test_reading_a_stream_leaves_it_where_it_was():
    stream, untouched = Remembering(), Remembering()
    batches = loaders.evaluation_loader(stream, 2, limit=5)
    assert len(list(batches)) == 5
    assert stream.position == 0
    assert torch.equal(next(iter(stream))["image"], next(iter(untouched))["image"])


# Data that change ----------------------------------------------------------------------------------------------------


class Growing(lp.LightningDataModule):
    """The first twelve people, then others."""

    def __init__(self, *epochs: Any) -> None:
        super().__init__()
        self.epochs = epochs

    def train_dataloader(self) -> DataLoader:
        return loader(self.epochs[min(self.trainer.current_epoch, len(self.epochs) - 1)], 4)

    def val_dataloader(self) -> DataLoader:
        return loader(Slices(HELD_OUT, OTHER_IDS))


def slices(first: int, last: int) -> Slices:
    return Slices(TRAIN[first:last], IDS[first:last])


def watch_reloaded(*epochs: Any, shown: Tensor, max_epochs: int = 3, **further: Any) -> Any:
    watch = callback(sampler=lambda n: shown[:n], **further)
    trainer = make_trainer(watch, max_epochs=max_epochs, reload_dataloaders_every_n_epochs=1)
    trainer.fit(Tiny(), datamodule=Growing(*epochs))
    return watch


def test_people_who_come_with_a_reloaded_loader_are_searched_and_those_who_go_stay(said: list[str]):
    watch = watch_reloaded(slices(0, 12), slices(12, 24), shown=TRAIN[12:], max_epochs=2)
    assert verdicts(watch) == ["clean", "memorized"]
    assert watch.detector.state.train.subjects == IDS
    assert any("12 training images are new and are searched too" in line for line in said)
    assert verdicts(watch_reloaded(slices(0, 12), slices(12, 24), shown=TRAIN, max_epochs=2)) == ["memorized"] * 2


def test_who_comes_and_goes_between_two_validations_is_searched_too():
    watch = callback(sampler=lambda n: TRAIN[12 : 12 + n])
    trainer = make_trainer(watch, max_epochs=3, reload_dataloaders_every_n_epochs=1, check_val_every_n_epoch=3)
    trainer.fit(Tiny(), datamodule=Growing(slices(0, 12), slices(12, 24), slices(0, 12)))
    assert verdicts(watch) == ["memorized"]


def test_the_same_images_again_change_nothing(said: list[str]):
    watch = watch_reloaded(slices(0, 24), Slices(TRAIN.flip(0).clone(), IDS[::-1]), shown=TRAIN)
    assert encoded(watch) == 24
    assert not any("training data changed" in line for line in said)


def test_with_a_null_of_training_subjects_too_those_who_come_are_searched():
    watch = callback(sampler=lambda n: TRAIN[12 : 12 + n], detector=options(null="cross_fit"))
    trainer = make_trainer(watch, max_epochs=2, reload_dataloaders_every_n_epochs=1)
    trainer.fit(Tiny(), datamodule=Growing(slices(0, 12), slices(12, 24)))
    assert encoded(watch) == len(watch.detector.state.null.similarity) == 24


class Exchange(lp.Callback):
    """Puts other images into a data set that is being trained on."""

    def __init__(self, data: Dataset, **others: Any) -> None:
        self.data, self.others = data, others

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            vars(self.data).update(self.others)


@pytest.mark.parametrize("kind", ["others", "one more"])
def test_images_that_are_exchanged_in_place_are_noticed_and_searched(kind: str):
    data = slices(0, 12)
    others = {"pixels": TRAIN[12:], "subjects": IDS[12:]}
    if kind == "one more":
        others = {"pixels": TRAIN[:13], "subjects": IDS[:13]}
    watch = callback(sampler=lambda n: TRAIN[[12]].expand(n, -1, -1, -1) if kind == "one more" else TRAIN[12 : 12 + n])
    fit(watch, Exchange(data, **others), train=loader(data, 4), val=loader(Slices(HELD_OUT, OTHER_IDS)), max_epochs=2)
    assert encoded(watch) == (24 if kind == "others" else 13)
    assert [int(record.scores.flagged.all()) for record in watch.history] == [0, 1]


def test_where_new_images_cannot_be_searched_that_is_said_once_and_nothing_reads_as_clean():
    class Locking(lp.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.train_dataloader.dataset.lock = threading.Lock()

    watch = callback(sampler=lambda n: images(n, 77))
    with pytest.warns(UserWarning, match="Until then nothing reads as clean") as caught:
        fit(watch, Locking(), train=loader(slices(0, 24), 4), val=loader(Slices(HELD_OUT, OTHER_IDS)), max_epochs=3)
    assert verdicts(watch) == ["clean", "inconclusive", "inconclusive"]
    assert len([one for one in caught if "nothing reads as clean" in str(one.message)]) == 1
    assert any("copying Slices failed" in str(one.message) for one in caught)
    assert any("could not be followed (DataError (TypeError)" in doubt for doubt in watch.scores.doubts)


@pytest.mark.filterwarnings("ignore:memorization. the training set changes its images")
def test_augmented_images_are_known_by_their_ids_and_who_is_new_is_said():
    class Noisy(Augmented):
        def __init__(self, first: int, last: int) -> None:
            super().__init__(TRAIN[first:last], lambda: float(torch.rand(())))
            self.names = IDS[first:last]

        def __getitem__(self, i: int) -> dict:
            return super().__getitem__(i) | {"subject": self.names[i]}

    same = watch_reloaded(Noisy(0, 24), shown=HELD_OUT, max_epochs=2)
    assert verdicts(same) == ["clean", "clean"]
    with pytest.warns(UserWarning, match="images that change at random cannot be compared"):
        others = watch_reloaded(Noisy(0, 12), Noisy(12, 24), shown=HELD_OUT, max_epochs=2)
    assert verdicts(others) == ["clean", "inconclusive"]


def test_looking_for_changes_leaves_training_as_it_was():
    weights = []
    for callbacks in ([callback()], []):
        lp.seed_everything(0, verbose=False)
        module = Tiny()
        trainer = make_trainer(*callbacks, max_epochs=3, reload_dataloaders_every_n_epochs=1)
        trainer.fit(module, datamodule=Growing(slices(0, 12), slices(12, 24), slices(0, 24)))
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
