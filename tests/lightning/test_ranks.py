"""Two processes find what one finds: the same index, the same samples, the same scores; an error on one ends both."""

import datetime
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as lp
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from watching import HELD_OUT, SIDE, TRAIN, Slices, Tiny, callback, fit, listening, loader, options, scalars, two

from mi_callback import MemorizationDetector
from mi_callback.errors import DataError, StateError
from mi_callback.lightning.data.sides import Source
from mi_callback.lightning.messages import say_cost
from mi_callback.lightning.ranks import RankError, Ranks, check_strategy, guarded, raise_told, told
from mi_callback.lightning.rounds import Rounds

pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use .self.log")

IDS = [f"p{i:02}" for i in range(24)]


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class Plain(Tiny):
    """A generator whose samples do not depend on which batches a process trained on."""

    def __init__(self) -> None:
        super().__init__(lr=0.0)
        self.net = nn.Sequential(nn.Linear(4, SIDE * SIDE))


class Kept(Callback):
    """Writes what rank zero found where the test can read it: it is in another process."""

    def __init__(self, watch: Any, path: Path) -> None:
        self.watch, self.path = watch, path

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        if trainer.is_global_zero:
            state, scored = self.watch.detector.state, bool(self.watch.history)
            planted = (state.planted.rows, state.planted.images)
            found = {
                "train": state.train,
                "held_out": state.held_out,
                "planted": planted,
                "null": state.null.similarity,
            }
            found |= {"samples": self.watch.samples, "mi": self.watch.scores.mi if scored else None}
            found |= {"weights": {key: value for key, value in module.state_dict().items() if type(value) is Tensor}}
            found |= {"caveats": self.watch.scores.caveats if scored else ()}
            torch.save(found, self.path)


def found(tmp_path: Path, strategy: dict[str, Any], train: Any = None, **further: Any) -> Any:
    """What rank zero has at the end of a run, and what it logged."""
    trainer = run(tmp_path, strategy, train, **further)
    return torch.load(tmp_path / "found", weights_only=False), scalars(trainer)


def run(
    tmp_path: Path, strategy: dict[str, Any], train: Any = None, kind: type = Plain, val: Any = None, **further: Any
) -> Any:
    """Train a generator of a kind, from the same weights each time, and write what rank zero found."""
    watch = callback(detector=options(batch_size=5), **further)
    val = loader(Slices(HELD_OUT, [f"h{i}" for i in range(20)])) if val is None else val or None
    torch.manual_seed(0)
    module = kind()
    return fit(watch, Kept(watch, tmp_path / "found"), module=module, train=train, val=val, **strategy)


def equal(one: Any, other: Any) -> bool:
    """Whether two sets of features are the same to the last bit, row by row."""
    layers = all(torch.equal(one.layers[layer], other.layers[layer]) for layer in other.layers)
    same = (one.subjects, one.sources) == (other.subjects, other.sources)
    return layers and same and torch.equal(one.thumbnails, other.thumbnails)


class Stream(IterableDataset):
    """Images one after another; each rank may have its share of them."""

    def __init__(self, share: bool) -> None:
        self.share = share

    def __iter__(self) -> Any:
        first, step = (rank(), dist.get_world_size()) if self.share and dist.is_initialized() else (0, 1)
        for i in range(first, 24, step):
            yield {"image": TRAIN[i], "subject": IDS[i]}


TRAINED = {
    "uneven shares": lambda: loader(Slices(TRAIN, IDS), shuffle=True),
    "one share is empty": lambda: loader(Slices(TRAIN[:4], IDS[:4]), batch_size=2),
    "two loaders": lambda: [loader(TRAIN[:13], batch_size=4), loader(TRAIN[13:], batch_size=4)],
    "a stream that all ranks read": lambda: loader(Stream(share=False), batch_size=5),
    "some ids are missing": lambda: loader(Slices(TRAIN, [""] * 10 + IDS[10:])),
}


@pytest.mark.parametrize("name", TRAINED)
def test_the_index_of_two_processes_is_that_of_one_and_so_are_samples_and_scores(name: str, tmp_path: Path):
    one, one_logged = found(tmp_path, {}, TRAINED[name](), n_samples=10)
    both, logged = found(tmp_path, two(), TRAINED[name](), n_samples=10)
    assert equal(both["train"], one["train"])
    assert equal(both["held_out"], one["held_out"])
    assert both["planted"][0] == one["planted"][0]
    assert all(map(torch.equal, both["planted"][1], one["planted"][1]))
    assert torch.allclose(both["null"], one["null"], atol=1e-6)
    assert torch.allclose(both["samples"], one["samples"], atol=1e-6)
    assert torch.allclose(both["mi"], one["mi"], atol=1e-6)
    assert logged == pytest.approx(one_logged, abs=1e-5)


def test_rank_zero_alone_has_a_process_that_scores_and_both_log_what_it_found(tmp_path: Path):
    beside, logged = found(tmp_path, two(), n_samples=10, background=True)
    both, expected = found(tmp_path, two(), n_samples=10)
    assert torch.equal(beside["samples"], both["samples"])
    assert torch.allclose(beside["mi"], both["mi"], atol=1e-6)
    assert logged == pytest.approx(expected, abs=1e-5)


def test_a_stream_that_gives_each_rank_a_share_is_searched_whole(tmp_path: Path):
    both, _ = found(tmp_path, two(), loader(Stream(share=True), batch_size=5))
    assert sorted(both["train"].subjects) == IDS
    assert both["caveats"] == ()


def test_a_reservoir_of_two_processes_holds_what_that_of_one_does(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("mi_callback.lightning.keeping_up.PLANTED", {2: 6})
    one, _ = found(tmp_path, {}, loader(TRAIN))
    both, _ = found(tmp_path, two(), loader(TRAIN))
    assert len(one["planted"][0]) == 6
    assert both["planted"][0] == one["planted"][0]
    assert all(torch.equal(image, TRAIN[row]) for row, image in zip(*both["planted"], strict=True))


def test_samples_that_validation_makes_come_in_the_order_of_one_process(tmp_path: Path):
    class Shown(Plain):
        def validation_step(self, batch: Any, _index: int) -> Any:
            return {"samples": batch["image"].flip(-1)}

    one, _ = found(tmp_path, {}, kind=Shown, sampler="validation_step", n_samples=12)
    both, _ = found(tmp_path, two(), kind=Shown, sampler="validation_step", n_samples=12)
    assert torch.equal(one["samples"], HELD_OUT[:12].flip(-1))
    assert torch.equal(both["samples"], one["samples"])


def test_samples_for_conditions_are_those_of_one_process(tmp_path: Path):
    class Labelled(Slices):
        def __getitem__(self, i: int) -> dict[str, Any]:
            return super().__getitem__(i) | {"label": i % 3}

    class Conditional(Plain):
        def sample(self, n: int, label: Tensor | None = None) -> Tensor:
            return super().sample(n) + (0 if label is None else label.view(-1, 1, 1, 1))

    for_labels = {"kind": Conditional, "condition_key": "label", "n_samples": 10}
    one, _ = found(tmp_path, {}, val=loader(Labelled(HELD_OUT)), **for_labels)
    both, _ = found(tmp_path, two(), val=loader(Labelled(HELD_OUT)), **for_labels)
    assert torch.equal(both["samples"], one["samples"])


def test_every_rank_samples_with_the_buffers_of_rank_zero_and_keeps_its_own(tmp_path: Path):
    both, _ = found(tmp_path, two(), kind=Tiny, n_samples=8)
    alone = Tiny()
    alone.load_state_dict(both["weights"])
    detector = MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)
    again = callback(n_samples=8, detector=detector)
    lp.Trainer(callbacks=[again], logger=False, enable_progress_bar=False, accelerator="cpu").validate(
        alone, loader(HELD_OUT), verbose=False
    )
    assert torch.allclose(again.samples, both["samples"], atol=1e-6)


def test_images_that_come_new_are_noticed_by_both(tmp_path: Path):
    class Reloading(lp.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader(TRAIN[:16] if self.trainer.current_epoch == 0 else TRAIN)

        def val_dataloader(self) -> Any:
            return loader(HELD_OUT)

    reloading = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}
    one, _ = found(tmp_path, reloading, train=Reloading(), val=())
    both, _ = found(tmp_path, two() | reloading, train=Reloading(), val=())
    assert len(both["train"]) == 24
    assert equal(both["train"], one["train"])
    assert torch.allclose(both["mi"], one["mi"], atol=1e-6)


# Sharded models -------------------------------------------------------------------------------------------------------


class Halved(Plain):
    """Each rank holds half of the weights, and both are needed to draw."""

    def configure_model(self) -> None:
        if not isinstance(self.net, FSDPModule):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def halves(rank: int, port: int, path: Path, further: dict[str, Any]) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({key: str(value) for key, value in told.items()})
    timeout = datetime.timedelta(seconds=60)
    strategy = ModelParallelStrategy(2, 1, process_group_backend="gloo", timeout=timeout)
    try:
        run(path, {"devices": 2, "strategy": strategy}, kind=Halved, **further)
    except Exception as error:
        (path / f"error of {rank}").write_text(str(error))


def run_halves(path: Path, **further: Any) -> list[str]:
    """Train in two processes; their errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=halves, args=(rank, port, path, further)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [error.read_text() for error in sorted(path.glob("error of *"))]


@pytest.mark.parametrize("n", [8, 10])  # two batches, or three: one rank has one more to draw
def test_a_model_that_is_sharded_over_ranks_is_sampled_by_all_of_them(n: int, tmp_path: Path):
    assert run_halves(tmp_path, n_samples=n) == []
    both = torch.load(tmp_path / "found", weights_only=False)
    one, _ = found(tmp_path, {}, n_samples=n)
    assert equal(both["train"], one["train"])
    assert torch.allclose(both["samples"], one["samples"], atol=1e-6)


def test_a_time_limit_for_a_sharded_model_is_refused_on_both_ranks(tmp_path: Path):
    errors = run_halves(tmp_path, time_limit=60)
    assert len(errors) == 2
    assert all("needed no time_limit under ModelParallelStrategy" in error for error in errors)


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_strategies_under_which_nobody_tried_it_are_refused(name: str):
    trainer = SimpleNamespace(strategy=type(name, (), {})())
    with pytest.raises(StateError, match=f"{name} was not. Take ModelParallelStrategy"):
        check_strategy(trainer, timed=False)


# No wait has a limit --------------------------------------------------------------------------------------------------


class Slow(Slices):
    def __getitem__(self, i: int) -> dict[str, Any]:
        time.sleep(3 * (i == 7))
        return super().__getitem__(i)


def slowly(module: Any, n: int) -> Tensor:
    time.sleep(4 * (n == 4))  # one rank has a whole batch, the other one a smaller one
    return module.sample(n)


@pytest.mark.parametrize(
    "slow",
    [{"train": Slow(TRAIN)}, {"sampler": slowly}, {"n_samples": 7}],
    ids=["encoding", "sampling", "scoring"],
)
def test_one_rank_may_need_longer_than_the_strategy_waits(slow: dict[str, Any], tmp_path: Path, monkeypatch):
    if not slow.keys() - {"n_samples"}:
        score = MemorizationDetector.score
        monkeypatch.setattr(MemorizationDetector, "score", lambda *args, **how: time.sleep(4) or score(*args, **how))
    watch = callback(detector=options(batch_size=24), **slow)
    trainer = fit(watch, module=Plain(), **two(seconds=2))
    assert scalars(trainer)["scored"] == 1


# Errors ---------------------------------------------------------------------------------------------------------------


class Broken(Dataset):
    """Rank one cannot read its share."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> Tensor:
        if rank() == 1 and i > 4:
            raise self.error("the disk of rank one is gone")
        return TRAIN[i]


def only_on(broken: int, error: Exception) -> Callable[[Any, int], Tensor]:
    def sampler(module: Any, n: int) -> Tensor:
        if rank() == broken and n > 2:
            raise error
        return module.sample(n)

    return sampler


@pytest.mark.parametrize("error", [RuntimeError, DataError])
def test_an_error_while_one_rank_encodes_ends_both(error: type[Exception]):
    with pytest.raises(Exception, match="the disk of rank one is gone"):
        fit(callback(train=Broken(error), detector=options(batch_size=5)), module=Plain(), **two())


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_while_one_rank_samples_ends_both(broken: int):
    sampler = only_on(broken, RuntimeError("out of memory"))
    with pytest.raises(Exception, match="out of memory"):
        fit(callback(sampler=sampler, n_samples=8, on_error="raise"), module=Plain(), **two())


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), DataError("needed finite pixels")])
def test_an_error_while_one_rank_samples_is_told_and_both_go_on(broken: int, error: Exception):
    watch = callback(sampler=only_on(broken, error), n_samples=8)
    trainer = fit(watch, module=Plain(), max_epochs=2, **two())
    assert scalars(trainer) == {"scored": 0, "n_scored": 0, "alarm": 0}


def test_all_ranks_raise_errors_of_one_family_so_that_they_go_on_alike():
    ours, other = DataError("needed pixels"), RuntimeError("disk full")
    with pytest.raises(StateError, match="rank 1 stopped with DataError: needed pixels"):
        raise_told([None, told(ours)])
    with pytest.raises(RankError, match="rank 2 stopped with RuntimeError: disk full"):
        raise_told([None, told(ours), told(other)], ours)
    with pytest.raises(RuntimeError, match="disk full"):
        raise_told([told(ours), told(other)], other)
    raise_told([None, None])


def test_one_process_is_a_rank_whose_errors_stay_as_they_are():
    alone, error = Ranks(), ValueError("mine")
    assert (alone.all(3), alone.gather(3), alone.from_zero(3)) == ([3], [3], 3)
    raised = guarded(lambda: alone.each(lambda: (_ for _ in ()).throw(error)))
    assert raised is error


# What it will cost ----------------------------------------------------------------------------------------------------


def test_the_time_that_features_take_is_told_once_from_the_first_batches_without_the_very_first():
    told: list[tuple[int, float]] = []
    rounds = Rounds(Ranks(), _sleeping(), {"subject_key": None, "image_key": None}, tell=lambda *a: told.append(a))
    start = time.monotonic()
    rounds.features([Source("train=", TensorDataset(TRAIN), shared=False)])
    taken = time.monotonic() - start
    ((count, seconds),) = told
    assert count == 24
    assert seconds == pytest.approx(taken - 0.5, rel=0.4)  # the first batch took longer


def _sleeping() -> MemorizationDetector:
    detector = MemorizationDetector(**options(batch_size=3))
    encode, waits = detector.features, iter([0.6])

    def features(*args: Any, **further: Any) -> Any:
        time.sleep(next(waits, 0.1))
        return encode(*args, **further)

    detector.features = features  # type: ignore[method-assign]
    return detector


@pytest.mark.parametrize(("seconds", "words"), [(50, "50 seconds"), (61, "1 minute"), (5000, "1.4 hours")])
def test_a_cost_is_told_in_words_where_it_is_worth_a_line(seconds: float, words: str):
    with listening() as said:
        say_cost(12_000, seconds)
        say_cost(12_000, 5)
    assert said == [f"memorization: features of 12000 training images: about {words}."]
