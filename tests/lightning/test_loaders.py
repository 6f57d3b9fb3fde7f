"""The training set is read a second time: all of it, in order, and training does not notice."""

import copy
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from mi_callback.errors import DataError
from mi_callback.images.batches import read_batch
from mi_callback.lightning.data.copying import private_copy
from mi_callback.lightning.data.loaders import evaluation_loader, is_random, named_loaders
from mi_callback.lightning.data.rows import reachable_rows

N = 10
RAMP = torch.arange(N, dtype=torch.float32).view(N, 1, 1, 1) + torch.linspace(0, 0.5, 16).view(1, 1, 4, 4)
"""Image i holds values from i to i + 1/2."""


def positions(loader) -> list[int]:
    """Which images of `RAMP` came, in order."""
    return [int(value) for batch in loader for value in read_batch(batch).images.flatten(1).amin(dim=1)]


class Augmented(Dataset):
    """`RAMP` with noise from the given source of random numbers."""

    def __init__(self, noise) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Tensor:
        return RAMP[i] + 0.4 * float(self.noise())


class OwnRandomness(Dataset):
    """Carries its own random state, of the given kind, as many augmentation libraries do."""

    def __init__(self, kind: str) -> None:
        self.rng = {
            "numpy": np.random.default_rng,
            "legacy": np.random.RandomState,
            "python": random.Random,
            "torch": torch.Generator().manual_seed,
        }[kind](7)

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Tensor:
        noise = torch.rand(1, generator=self.rng) if isinstance(self.rng, torch.Generator) else self.rng.random()
        return RAMP[i] + 0.4 * float(noise)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(RAMP)


class Locked(TensorDataset):
    """Holds something that cannot be copied, as data sets with open files do."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.lock = threading.Lock()


# All of it, in order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shuffled_loader_that_drops_its_last_batch_is_read_whole_and_in_order(workers: int):
    loader = DataLoader(TensorDataset(RAMP), batch_size=4, shuffle=True, drop_last=True, num_workers=workers)
    assert positions(evaluation_loader(loader, 3)) == list(range(N))


def test_batches_have_the_asked_size():
    batches = evaluation_loader(DataLoader(TensorDataset(RAMP), batch_size=1), 4)
    assert [len(batch[0]) for batch in batches] == [4, 4, 2]


def test_a_dataset_alone_is_read_whole_and_in_order():
    assert positions(evaluation_loader(TensorDataset(RAMP), 3)) == list(range(N))


def test_a_subset_is_read_in_its_own_order():
    loader = DataLoader(Subset(TensorDataset(RAMP), [7, 2, 5]), shuffle=True)
    assert positions(evaluation_loader(loader, 2)) == [7, 2, 5]


def test_a_concatenation_is_read_whole():
    both = ConcatDataset([TensorDataset(RAMP[:3]), TensorDataset(RAMP[5:])])
    assert positions(evaluation_loader(both, 4)) == [0, 1, 2, 5, 6, 7, 8, 9]


def test_of_a_loader_with_its_own_batch_sampler_the_rows_that_it_draws_are_read_in_order():
    loader = DataLoader(TensorDataset(RAMP), batch_sampler=[[9, 8], [7, 6]])
    assert positions(evaluation_loader(loader, 3, rows=reachable_rows(loader))) == [6, 7, 8, 9]


def test_a_loader_whose_dataset_makes_the_batches_is_read_whole():
    batches = list(RAMP.split(3))
    assert positions(evaluation_loader(DataLoader(batches, batch_size=None), 2)) == list(range(N))


def test_a_sampler_over_a_part_of_the_dataset_restricts_what_counts_as_training_data():
    # The usual split by indices: the other images are validated on and must not count as training images.
    loader = DataLoader(TensorDataset(RAMP), sampler=SubsetRandomSampler([8, 1, 4]))
    assert positions(evaluation_loader(loader, 2, rows=reachable_rows(loader))) == [1, 4, 8]


def test_a_stream_is_read_whole():
    assert positions(evaluation_loader(DataLoader(Stream(), batch_size=4, drop_last=True), 3)) == list(range(N))


def test_an_iterable_of_batches_is_taken_as_it_is():
    batches = [RAMP[:6], RAMP[6:]]
    assert evaluation_loader(batches, 3) is batches


def test_the_collate_function_of_the_loader_is_used():
    def collate(items: list) -> dict:
        return {"image": torch.stack([item[0] for item in items]), "subject": ["s"] * len(items)}

    loader = DataLoader(TensorDataset(RAMP), batch_size=2, collate_fn=collate)
    assert {name for batch in evaluation_loader(loader, 4) for name in batch} == {"image", "subject"}


# Without a trace -----------------------------------------------------------------------------------------------------


def test_reading_uses_no_global_random_numbers_of_its_own():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    positions(evaluation_loader(DataLoader(TensorDataset(RAMP), shuffle=True, num_workers=1), 4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["numpy", "legacy", "python", "torch"])
def test_a_random_state_inside_the_dataset_is_left_as_it_was(kind: str):
    read, untouched = OwnRandomness(kind), OwnRandomness(kind)
    assert is_random(DataLoader(read))
    positions(evaluation_loader(DataLoader(read), 4))
    assert [float(read[i].sum()) for i in range(N)] == [float(untouched[i].sum()) for i in range(N)]


def test_a_random_state_inside_nested_datasets_is_left_as_it_was():
    read, untouched = OwnRandomness("numpy"), OwnRandomness("numpy")
    positions(evaluation_loader(ConcatDataset([Subset(read, [0, 1]), Subset(read, [5])]), 4))
    assert torch.equal(read[0], untouched[0])


def test_a_counter_inside_the_dataset_is_left_as_it_was():
    class Counting(TensorDataset):
        reads = 0

        def __getitem__(self, i):
            self.reads += 1
            return super().__getitem__(i)

    dataset = Counting(RAMP)
    positions(evaluation_loader(DataLoader(dataset), 4))
    assert dataset.reads == 0


def test_a_copy_shares_the_pixels_and_nothing_else():
    dataset = TensorDataset(RAMP, torch.arange(N))
    dataset.array, dataset.names, dataset.nested = np.ones(3), ["a"], {"list": [torch.ones(2)]}
    copied = private_copy(dataset)
    assert copied is not dataset
    assert copied.tensors[0].data_ptr() == RAMP.data_ptr()
    assert copied.array is dataset.array
    assert copied.nested["list"][0] is dataset.nested["list"][0]
    assert copied.names == dataset.names
    assert copied.names is not dataset.names


def test_a_dataset_that_refers_to_itself_can_be_copied():
    dataset = TensorDataset(RAMP)
    dataset.itself = dataset
    copied = private_copy(dataset)
    assert copied.itself is copied


def test_a_dataset_that_cannot_be_copied_is_refused_with_the_way_out():
    with pytest.raises(DataError, match=r"copying Locked failed .*lock.*Pass a second instance: .*train="):
        private_copy(Locked(RAMP))


# Randomness is noticed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise", [lambda: torch.rand(()), np.random.rand, random.random], ids=["torch", "numpy", "python"]
)
def test_augmentation_from_a_global_random_state_is_noticed(noise):
    assert is_random(Augmented(noise))
    assert is_random(DataLoader(Augmented(noise), batch_size=2))


def test_augmentation_that_strikes_every_other_time_is_noticed():
    missed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        missed += not is_random(Augmented(lambda: torch.rand(()) < 0.5))
    assert missed == 0


@pytest.mark.parametrize(
    "data",
    [
        TensorDataset(RAMP),
        DataLoader(TensorDataset(RAMP), shuffle=True),
        [RAMP],
        Stream(),
        TensorDataset(RAMP[:0]),
        TensorDataset(RAMP[:1]),
    ],
)
def test_data_that_stay_as_they_are_are_not_called_random(data):
    assert not is_random(data)


def test_random_labels_beside_fixed_images_are_not_called_random():
    class Labelled(Dataset):
        def __len__(self) -> int:
            return N

        def __getitem__(self, i: int) -> dict:
            return {"scan": RAMP[i], "label": torch.rand(())}

    assert not is_random(Labelled(), image_key="scan")


def test_random_transforms_of_monai_are_noticed_and_keep_their_random_state():
    from monai.data import Dataset as MonaiDataset
    from monai.data import list_data_collate
    from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandRotate90d

    def dataset() -> MonaiDataset:
        chain = Compose([RandFlipd("image", prob=0.5), RandRotate90d("image"), RandGaussianNoised("image", prob=0.8)])
        chain.set_random_state(3)
        return MonaiDataset([{"image": image.clone()} for image in RAMP], transform=chain)

    read, untouched = dataset(), dataset()
    loader = DataLoader(read, batch_size=2, shuffle=True, collate_fn=list_data_collate)
    assert is_random(loader)
    assert sum(len(batch["image"]) for batch in evaluation_loader(loader, 4)) == N
    assert all(torch.equal(read[i]["image"], untouched[i]["image"]) for i in range(N))


def test_cached_items_of_monai_are_not_copied():
    from monai.data import CacheDataset
    from monai.transforms import ScaleIntensityd

    dataset = CacheDataset([{"image": image.clone()} for image in RAMP], ScaleIntensityd("image"), progress=False)
    copied = private_copy(dataset)
    assert [item["image"].data_ptr() for item in copied._cache] == [item["image"].data_ptr() for item in dataset._cache]


def test_a_deep_copy_alone_would_not_share_the_pixels():
    # Guards the two tests above: sharing is the work of private_copy.
    assert copy.deepcopy(TensorDataset(RAMP)).tensors[0].data_ptr() != RAMP.data_ptr()


# Several loaders -----------------------------------------------------------------------------------------------------


def test_every_one_of_several_loaders_is_found_in_order_by_its_place():
    from lightning.pytorch.utilities import CombinedLoader

    first, second = DataLoader(TensorDataset(RAMP)), DataLoader(TensorDataset(RAMP))
    places = {
        "v[0] v[1]": [first, second],
        "v[0] v[1] ": (first, second),
        "v['a'] v['b']": {"a": first, "b": second},
        "v['a'] v['b'][0]": {"a": [first], "b": {0: second}},
        "v[0] v[1]  ": CombinedLoader([first, second], "sequential"),
        "v['a'] v['b'] ": {"a": CombinedLoader(first, "min_size"), "b": CombinedLoader([second], "max_size")},
    }
    for names, loaders in places.items():
        found = named_loaders(loaders, "v")
        assert " ".join(found) == names.strip()
        assert list(map(id, found.values())) == [id(first), id(second)]
    assert named_loaders(first, "v") == {"v": first}
    for nothing in (None, [], {}, {"a": []}):
        assert named_loaders(nothing, "v") == {}
