"""The rows that a loader can draw, whatever draws them; what cannot be known is refused, and nothing is disturbed."""

import itertools
import random
import threading

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from mi_callback.errors import DataError
from mi_callback.lightning.data.rows import base_rows, reachable_rows

N, ROWS = 12, [2, 3, 5, 7, 11]
DATA = TensorDataset(torch.arange(N))
WEIGHTS = [float(row in ROWS) for row in range(N)]


class Own(Sampler):
    """Any order of the given rows."""

    def __init__(self, rows, shuffle=lambda rows: rows) -> None:
        self.rows, self.shuffle = list(rows), shuffle

    def __iter__(self):
        return iter(self.shuffle(list(self.rows)))

    def __len__(self) -> int:
        return len(self.rows)


class Wrapper:
    """Draws what another sampler draws."""

    def __init__(self, sampler) -> None:
        self.sampler = sampler

    def __iter__(self):
        yield from self.sampler

    def __len__(self) -> int:
        return len(self.sampler)


class Endless(Own):
    def __iter__(self):
        while True:
            yield random.choice(self.rows)


class Balanced(Own):
    """Half of the rows in each epoch."""

    def __iter__(self):
        return iter(random.sample(self.rows, len(self.rows) // 2))


class ByEpoch(Own):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter(self.rows[self.epoch % 2 :: 2])


class ShareOfRank(Own):
    """As samplers for several ranks that are no DistributedSampler."""

    num_replicas, rank = 3, 0

    def __iter__(self):
        return iter(self.rows[self.rank :: self.num_replicas])


class RandomOfAPart(RandomSampler):
    """Of a known kind, and yet it draws otherwise."""

    def __iter__(self):
        return iter(ROWS)


def shuffled_by_torch(rows):
    return [rows[i] for i in torch.randperm(len(rows))]


def share(sampler, kind=DistributedSamplerWrapper):
    return kind(sampler, num_replicas=2, rank=0, shuffle=False)


SAMPLERS = {
    "list": ROWS,
    "tuple": tuple(ROWS),
    "array": np.array(ROWS),
    "tensor": torch.tensor(ROWS),
    "repeated": ROWS * 3,
    "SubsetRandomSampler": SubsetRandomSampler(ROWS),
    "SubsetRandomSampler of a tensor": SubsetRandomSampler(torch.tensor(ROWS)),
    "WeightedRandomSampler": WeightedRandomSampler(WEIGHTS, 3),
    "own": Own(ROWS),
    "own, shuffled by torch": Own(ROWS, shuffled_by_torch),
    "own, shuffled by numpy": Own(ROWS, lambda rows: np.random.permutation(rows)),
    "own, of tensors": Own([torch.tensor(row) for row in ROWS]),
    "wrapped": Wrapper(SubsetRandomSampler(ROWS)),
    "wrapped twice": Wrapper(Wrapper(WeightedRandomSampler(WEIGHTS, 40))),
    "endless": Endless(ROWS),
    "half in each epoch": Balanced(ROWS),
    "by epoch": ByEpoch(ROWS),
    "share of a rank": ShareOfRank(ROWS),
    "subclass": RandomOfAPart(DATA),
    "Lightning's wrapper": share(SubsetRandomSampler(ROWS)),
    "Lightning's wrapper of weights": share(WeightedRandomSampler(WEIGHTS, 40)),
    "Lightning's wrapper of an own one": share(Own(ROWS)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_rows_that_a_sampler_can_draw(name):
    assert reachable_rows(DataLoader(DATA, 4, sampler=SAMPLERS[name])) == ROWS


@pytest.mark.parametrize(
    "sampler",
    [
        BatchSampler(SubsetRandomSampler(ROWS), 2, True),
        BatchSampler(Own(ROWS), 2, False),
        [[2, 3], [5, 7], [11]],
        [[3, 2, 2], torch.tensor([5, 7]), (11,)],
        Wrapper(BatchSampler(SubsetRandomSampler(ROWS), 2, False)),
        Own([[2, 3], [5, 7, 11]]),
        BatchSampler(share(SubsetRandomSampler(ROWS)), 2, False),
        Own([np.array([2, 3]), np.array([5, 7, 11])]),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_the_rows_that_a_batch_sampler_can_draw(sampler):
    if isinstance(sampler, list):
        sampler = [list(batch) if isinstance(batch, tuple) else batch for batch in sampler]
    assert reachable_rows(DataLoader(DATA, batch_sampler=sampler)) == ROWS


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shuffle": True, "drop_last": True, "batch_size": 5},
        {"sampler": RandomSampler(DATA, replacement=True, num_samples=2)},
        {"sampler": SequentialSampler(DATA)},
        {"sampler": DistributedSampler(DATA, 5, 3)},
        {"sampler": share(RandomSampler(DATA))},
        {"batch_size": None},
        {"sampler": Endless(range(N))},
    ],
    ids=lambda options: ", ".join(f"{name}={type(value).__name__}" for name, value in options.items()) or "none",
)
def test_all_rows_where_nothing_restricts_them(options):
    assert reachable_rows(DataLoader(DATA, **options)) == list(range(N))


def test_a_stream_has_no_rows():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    assert reachable_rows(DataLoader(Stream())) is None


def test_weights_of_several_ranks():
    from monai.data import DistributedWeightedRandomSampler

    sampler = DistributedWeightedRandomSampler(DATA, WEIGHTS, num_replicas=2, rank=0)
    assert reachable_rows(DataLoader(DATA, sampler=sampler)) == ROWS


def test_keys_that_are_no_numbers_are_kept():
    class Named(dict):
        pass

    named = Named(a=1, b=2, c=3)
    assert reachable_rows(DataLoader(named, sampler=Own(["c", "a"]))) == ["a", "c"]
    assert reachable_rows(DataLoader(DATA, sampler=Own([(3, 64), (1, 32)]))) == [(1, 32), (3, 64)]


class Wandering(Own):
    """New rows in every epoch, for ever."""

    start = 0

    def __iter__(self):
        self.start += 1
        return iter([self.start])


class Counting(Own):
    def __iter__(self):
        return itertools.count()


class Locked(Own):
    def __init__(self, rows) -> None:
        super().__init__(rows)
        self.lock = threading.Lock()


class Broken(Own):
    def __iter__(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Wandering([0]), "Wandering does not tell: after 360 epochs it still draws new ones"),
        (Counting([0]), "without end"),
        (Locked([0]), "copying Locked failed"),
        (Broken([0]), "drawing from a copy of it failed .*not now"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_known_is_refused_with_the_way_out(sampler, message):
    with pytest.raises(DataError, match=f"{message}.*MemorizationCallback\\(train="):
        reachable_rows(DataLoader(DATA, sampler=sampler))


def test_the_state_of_a_sampler_is_left_as_it_was():
    class Remembers(Own):
        def __init__(self, rows) -> None:
            super().__init__(rows)
            self.generator, self.epochs = torch.Generator().manual_seed(3), 0

        def __iter__(self):
            self.epochs += 1
            order = torch.randperm(len(self.rows), generator=self.generator)
            return iter([self.rows[i] for i in order])

    sampler, untouched = Remembers(ROWS), Remembers(ROWS)
    assert reachable_rows(DataLoader(DATA, sampler=sampler)) == ROWS
    assert sampler.epochs == 0
    assert list(sampler) == list(untouched)


def test_subsets_are_seen_through():
    base = base_rows(DataLoader(DATA), [0, 1])
    assert base == (id(DATA), {0, 1})
    nested = Subset(Subset(DATA, ROWS), [4, 0])
    assert base_rows(DataLoader(nested), None) == (id(DATA), {11, 2})
    assert base_rows(DataLoader(nested), [0]) == (id(DATA), {11})
    assert base_rows(Subset(DATA, torch.tensor(ROWS)), None) == (id(DATA), set(ROWS))
    assert base_rows(DATA, None) == (id(DATA), None)
