"""Images in any container → features per layer and pose, with subjects and thumbnails."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mi_callback.encoders import HookedEncoder, Layer, build_encoder
from mi_callback.encoders.descriptor import AS_IT_IS, copy_descriptor, describe
from mi_callback.errors import DataError, EncoderError
from mi_callback.images.batches import read_batch
from mi_callback.images.files import SliceFolder
from mi_callback.images.finding import IMAGE_KEYS, SUBJECT_KEYS
from mi_callback.images.poses import POSES, descriptor_poses, orbit
from mi_callback.images.preprocessing import check_images, preprocess
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.thumbnails import make_thumbnails
from mi_callback.images.windows import WINDOWS, structured_windows, window_weights
from mi_callback.retrieval import growing
from mi_callback.retrieval.extraction import VOLUMES_AT_ONCE, encode, extract
from mi_callback.retrieval.features import Features, GrowingFeatures, concatenate, join
from mi_callback.retrieval.views import VIEWS


@pytest.fixture
def images(generator):
    return torch.rand(7, 1, 12, 10, generator=generator)


@pytest.fixture
def encoder():
    return build_encoder("pixels", sides=(2, 4), size=16)


class Items(Dataset):
    """Whatever is listed, one by one."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Plain:
    """An encoder that is no `nn.Module`, with what it returns made up."""

    name, layers, size, channels, intensity = "plain", {"all": Layer("BC")}, (8, 8), 1, "none"

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, images):
        return self.answer(images)

    def fingerprint(self):
        return "plain"


def same(found: Features, expected: Features) -> bool:
    return torch.equal(found.thumbnails, expected.thumbnails) and all(
        torch.allclose(found.layers[layer], expected.layers[layer], atol=1e-6) for layer in expected.layers
    )


# Definition


@pytest.mark.parametrize("poses", [["identity"], orbit("flips"), orbit("dihedral")])
def test_features_are_the_encoder_of_every_pose_of_every_image(images, encoder, poses):
    found = extract(images, encoder, poses)
    assert list(found.layers) == list(encoder.layers)
    assert len(found) == 7
    for layer, features in found.layers.items():
        assert features.shape[:2] == (len(poses), 7)
        for p, pose in enumerate(poses):
            for i in range(7):
                ready = preprocess(POSES[pose](images[i : i + 1]), encoder.size, 1, encoder.intensity)
                assert torch.allclose(features[p, i], encoder(ready)[layer][0], atol=1e-6)


@pytest.mark.parametrize("poses", [["identity"], orbit("flips", 3)])
@pytest.mark.parametrize("name", VIEWS)
def test_features_of_a_view_are_the_encoder_of_it_in_every_pose_where_queries_take_it_too(generator, poses, name):
    volumes, encoder = torch.rand(5, 1, 6, 8, 7, generator=generator), Recorder()
    found = extract(volumes, encoder, poses, views=[name])
    assert list(found.views) == [name]
    seen, view = VIEWS[name].change(volumes, encoder.intensity), found.views[name]
    turned = poses if VIEWS[name].beside == name else poses[:1]
    alone = found.seen_as(name)
    assert alone.windows == alone.views == {}
    for position, pose in enumerate(turned):
        expected = encoder(preprocess(POSES[pose](seen), encoder.size, intensity=encoder.intensity))
        for layer, features in expected.items():
            assert torch.allclose(view[layer][position], features, atol=1e-5)
            assert len(view[layer]) == len(turned)
            assert torch.equal(alone.pose(position)[layer], view[layer][position])
            assert not torch.allclose(found.layers[layer][position], features, atol=1e-3)
            assert torch.equal(found.in_pose(position).views[name][layer][0], view[layer][position])
    some = torch.tensor([4, 1])
    for layer, features in view.items():
        assert torch.equal(found.where(some).views[name][layer], features[:, some])
        assert torch.equal(concatenate(found, found.where(some)).views[name][layer][:, -2:], features[:, some])
    assert concatenate(found, extract(volumes, encoder, poses)).views == {}


@pytest.mark.parametrize("poses", [["identity"], orbit("flips")])
def test_descriptors_are_those_of_thumbnails_in_the_poses_and_a_quarter_turn_on(images, encoder, poses):
    network = copy_descriptor()
    found = extract(images, encoder, poses, descriptor=network, looks=[AS_IT_IS, "recoloured"], batch_size=3)
    own, other = found.descriptors[AS_IT_IS], found.descriptors["recoloured"]
    assert torch.allclose(own, describe(network, found.thumbnails, descriptor_poses(poses)), atol=1e-5)
    assert torch.allclose(other, describe(network, found.thumbnails, ["identity"], "recoloured"), atol=1e-5)
    assert not torch.allclose(other, own[:1], atol=1e-2)
    some = torch.tensor([4, 1])
    for contrast, described in found.descriptors.items():
        assert torch.equal(found.in_pose(0).descriptors[contrast], described[:1])
        assert torch.equal(found.where(some).descriptors[contrast], described[:, some])
        assert torch.equal(concatenate(found, found.where(some)).descriptors[contrast][:, -2:], described[:, some])
    alone = extract(images, encoder, poses, descriptor=network, described=["identity"])
    assert torch.allclose(alone.descriptors[AS_IT_IS], own[:1], atol=1e-5)
    query = extract(images, encoder, poses, descriptor=network)
    assert list(query.descriptors) == list(concatenate(found, query).descriptors) == [AS_IT_IS]
    without = extract(images, encoder, poses)
    assert found.as_they_are().descriptors == without.descriptors == concatenate(found, without).descriptors == {}


def test_thumbnails_are_those_of_the_image_as_it_came(images, encoder):
    found = extract(images, encoder, ["flip_horizontal"])
    assert torch.equal(found.thumbnails, make_thumbnails(check_images(images), found.thumbnails.shape[1]))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_the_batch_size_is_irrelevant(images, encoder, batch_size):
    poses = orbit("flips")
    assert same(extract(images, encoder, poses, batch_size=batch_size), extract(images, encoder, poses))


def test_one_pose_of_the_features_is_one_matrix_per_layer(images, encoder):
    found = extract(images, encoder, orbit("flips"))
    for p in range(4):
        assert all(torch.equal(matrix, found.layers[layer][p]) for layer, matrix in found.pose(p).items())


@pytest.mark.parametrize("rows", [torch.tensor([4, 0, 4]), torch.tensor([1, 0, 0, 0, 1, 0, 1]).bool()])
def test_where_takes_rows_of_everything(images, encoder, rows):
    subjects = list("abcdefg")
    batches = [{"image": images, "subject": subjects, "filename_or_obj": [f"{s}.png" for s in subjects]}]
    found = extract(batches, encoder, ["identity", "flip_vertical"]).where(rows)
    places = [4, 0, 4] if rows.dtype != torch.bool else [0, 4, 6]
    assert found.subjects == [subjects[i] for i in places]
    assert found.sources == [f"{subjects[i]}.png" for i in places]
    assert same(found, extract(images[places], encoder, ["identity", "flip_vertical"]))


@pytest.mark.parametrize("poses", [1, 4])
def test_joined_are_the_images_of_one_side_and_then_of_the_other_as_they_came(images, encoder, poses):
    one = extract(images[:4], encoder, orbit("flips")[:poses])
    both = join(one, extract(images[4:], encoder, orbit("flips")))
    assert same(both, extract(images, encoder, ["identity"]))
    assert len(both) == 7


def test_people_of_joined_sides_are_different_and_those_of_one_side_stay_the_same(images, encoder):
    one, other = extract(images[:4], encoder, subjects=list("aabc")), extract(images[4:], encoder, subjects=list("acc"))
    unknown = extract(images[4:], encoder)
    for first, second, people in ((one, other, [2, 1, 1, 1, 2]), (one, unknown, [2, 1, 1, 1, 1, 1])):
        subjects = join(first, second).subjects
        assert list(Counter(subjects).values()) == people
        assert not set(subjects[:4]) & set(subjects[4:])
    numbers = extract(images[4:], encoder, subjects=["0", "1", "2"])
    assert len(set(join(unknown, numbers).subjects)) == 6


# Definition: regions


class Scaled(torch.nn.Module):
    """Its input times a number of thousands, in the first channel, and minus that in the second."""

    def forward(self, x):
        return 1000 * torch.cat([x, -x], dim=1)


@pytest.fixture
def convolutional():
    """An encoder with a map, a vector without regions, and another map."""
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Conv2d(4, 6, 2, stride=2), head)
    return build_encoder("module", network=network, layers={"0": "BCHW", "2": "BC", "1": "BCHW"}, size=48)


@pytest.fixture
def halves(images):
    """Images of which some are empty on the right or below."""
    images[:3, ..., 4:] = 0.0
    images[3:5, :, 5:] = 0.0
    return images


@pytest.mark.parametrize("poses", [["identity"], orbit("dihedral")])
@pytest.mark.parametrize("batch_size", [3, 100])
def test_regions_are_those_of_the_encoder_where_there_is_anatomy_and_nan_elsewhere(
    halves, convolutional, poses, batch_size
):
    found = extract(halves, convolutional, poses, windowed=True, batch_size=batch_size)
    assert same(found, extract(halves, convolutional, poses))
    assert list(found.windows) == ["0", "1"]
    empty = 0
    for layer, features in found.windows.items():
        assert features.dtype == torch.float16
        assert features.shape[:3] == (len(poses), 7, WINDOWS)
        for p, pose in enumerate(poses):
            for i in range(7):
                ready = preprocess(POSES[pose](halves[i : i + 1]), (48, 48), 1, convolutional.intensity)
                expected = convolutional.with_windows(ready)[1][layer][0]
                structured = structured_windows(ready)[0]
                for window in range(WINDOWS):
                    if structured[window]:
                        assert torch.allclose(features[p, i, window].float(), expected[window], atol=2e-3, rtol=2e-3)
                    else:
                        assert features[p, i, window].isnan().all()
                        empty += 1
    assert 0 < empty < 2 * len(poses) * 7 * WINDOWS


def test_regions_come_only_when_asked_for(images, convolutional):
    assert extract(images, convolutional).windows == {}


@pytest.mark.parametrize(
    "make", [lambda: build_encoder("pixels", sides=(2,), size=16), lambda: Plain(lambda x: {"all": x.flatten(1)})]
)
def test_an_encoder_without_regions_gives_none(images, make):
    found = extract(images, make(), windowed=True)
    assert found.windows == {}
    assert same(found, extract(images, make()))


def test_regions_beyond_half_precision_are_kept_finite(images):
    network = torch.nn.Sequential(Scaled(), Scaled())
    encoder = HookedEncoder(network, {"0": "BCHW", "1": "BCHW"}, size=16, intensity="none")
    found = extract(images + 1, encoder, windowed=True)
    most = torch.finfo(torch.float16).max
    assert (found.layers["1"].abs() > most).all()
    for channel, sign in enumerate((1, -1)):
        assert (found.windows["1"][..., channel] == sign * most).all()
        assert (found.windows["0"][..., channel] * sign < 3000).all()


def rows_of_windows(found: Features) -> list[tuple]:
    """What the windows of each image are, per layer; NaN as None, for comparing."""
    return [
        tuple(None if v != v else v for features in found.windows.values() for v in features[:, i].flatten().tolist())
        for i in range(len(found))
    ]


def test_regions_stay_with_their_images(halves, convolutional):
    poses = orbit("flips")
    found = extract(halves, convolutional, poses, windowed=True)
    rows = rows_of_windows(found)
    assert len(set(rows)) == 7
    assert rows_of_windows(found.where(torch.tensor([4, 0, 4]))) == [rows[i] for i in (4, 0, 4)]
    mask = torch.tensor([1, 0, 0, 0, 1, 0, 1]).bool()
    assert rows_of_windows(found.where(mask)) == [rows[i] for i in (0, 4, 6)]
    for p, pose in enumerate(poses):
        assert rows_of_windows(found.in_pose(p)) == rows_of_windows(
            extract(halves, convolutional, [pose], windowed=True)
        )
    one, other = (extract(part, convolutional, poses, windowed=True) for part in (halves[:4], halves[4:]))
    assert rows_of_windows(concatenate(one, other)) == rows
    assert rows_of_windows(join(one, other)) == rows_of_windows(found.in_pose(0))


# Promise: a sample of a stream


def filled(size: int, n: int, seed: int = 0, batch_size: int = 3) -> Reservoir:
    """A reservoir that was offered n images, image i being full of i."""
    reservoir = Reservoir(size, seed)
    for batch in torch.arange(n).float().view(n, 1, 1, 1).expand(n, 1, 2, 2).split(batch_size):
        reservoir.offer(batch)
    return reservoir


@pytest.mark.parametrize("n", [0, 1, 7, 8])
def test_a_stream_no_longer_than_the_reservoir_is_kept_whole(n):
    assert filled(8, n).rows == list(range(n))


@pytest.mark.parametrize("n", [7, 9, 30])
def test_a_reservoir_holds_distinct_rows_with_their_images(n):
    reservoir = filled(8, n)
    assert len(set(reservoir.rows)) == len(reservoir.images) == min(8, n)
    for row, image in zip(reservoir.rows, reservoir.images, strict=True):
        assert torch.equal(image, torch.full((1, 2, 2), float(row)))


@pytest.mark.parametrize(("size", "n"), [(1, 5), (8, 40)])
def test_every_position_of_a_stream_is_kept_equally_often(size, n):
    kept = Counter(row for seed in range(800) for row in filled(size, n, seed, n).rows)
    # Both are Binomial(800, 1 / 5), whose standard deviation is 11.3.
    assert all(abs(kept[row] - 160) < 4.5 * 11.3 for row in range(n))


def test_a_reservoir_depends_on_its_seed_and_not_on_the_batches():
    assert filled(8, 40, seed=1, batch_size=1).rows == filled(8, 40, seed=1, batch_size=40).rows
    assert filled(8, 40, seed=1).rows != filled(8, 40, seed=2).rows


def test_a_reservoir_keeps_images_as_they_came_while_features_are_made(images, encoder):
    reservoir, before = Reservoir(3, seed=0), images.clone()
    found = extract(images, encoder, batch_size=2, keep=reservoir)
    assert same(found, extract(images, encoder))
    images.zero_()  # kept are copies, not views of a batch
    assert all(torch.equal(image, before[row]) for row, image in zip(reservoir.rows, reservoir.images, strict=True))
    assert len(reservoir.rows) == 3


def test_a_reservoir_that_was_filled_before_holds_what_it_held():
    images = [torch.rand(1, 2, 2), torch.rand(1, 3, 3)]
    reservoir = Reservoir.of([5, 2], images)
    assert reservoir.rows == [5, 2]
    assert all(torch.equal(one, other) for one, other in zip(reservoir.images, images, strict=True))


# Promise: any container


CONTAINERS = {
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "uint8_tensor": lambda x: x,
    "tensor_dataset": lambda x: TensorDataset(x, torch.arange(len(x))),
    "dataset_of_tensors": lambda x: Items(list(x)),
    "dataset_of_arrays": lambda x: Items(list(x.numpy())),
    "dataset_of_dictionaries": lambda x: Items([{"image": image, "label": 0} for image in x]),
    "iterable_dataset": lambda x: Stream(list(x)),
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=3),
    "list_of_batches": lambda x: list(x.split(3)),
    "generator": lambda x: (batch for batch in x.split(2)),
    "batches_of_dictionaries": lambda x: [{"img": batch} for batch in x.split(3)],
    "batches_in_tuples": lambda x: [(batch, torch.zeros(len(batch))) for batch in x.split(3)],
    "dictionaries_in_tuples": lambda x: [({"image": batch}, torch.zeros(len(batch))) for batch in x.split(3)],
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_features(images, encoder, container):
    if container == "uint8_tensor":
        images = (images * 255).to(torch.uint8)
    found = extract(CONTAINERS[container](images), encoder, orbit("flips"), batch_size=4)
    assert same(found, extract(images, encoder, orbit("flips")))
    assert found.subjects is None


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_images_are_found_under_the_usual_keys(images, key):
    assert torch.equal(read_batch({"label": torch.zeros(7), key: images}).images, images)


@pytest.mark.parametrize("key", ["t1", lambda batch: batch["t1"]])
def test_images_under_another_key_are_found_when_it_is_named(images, encoder, key):
    batches = [{"t1": images, "image": images.flip(0)}]
    assert same(extract(batches, encoder, image_key=key), extract(images, encoder))


def test_metatensors_of_monai_bring_their_files(images, encoder):
    from monai.data import DataLoader as MonaiLoader
    from monai.data import MetaTensor

    files = [f"/data/sub-{i // 2}/anat/slice{i}.png" for i in range(7)]
    items = Items([{"image": MetaTensor(image, meta={"filename_or_obj": file})}
                   for image, file in zip(images, files, strict=True)])  # fmt: skip
    found = extract(MonaiLoader(items, batch_size=3), encoder)
    assert found.sources == files
    assert found.subjects == [f"sub-{i // 2}" for i in range(7)]
    assert same(found, extract(images, encoder))


def test_slices_cut_from_one_volume_of_monai_are_one_subject(images, encoder):
    from monai.data import MetaTensor

    volume = MetaTensor(images, meta={"filename_or_obj": "/data/sub-3/t1.nii.gz"})
    found = extract([volume], encoder)
    assert found.subjects == ["sub-3"] * 7


def test_a_folder_of_slices_is_a_container_with_subjects(images, encoder, tmp_path):
    for i, image in enumerate(images):
        path = tmp_path / f"s{i // 3}" / f"{i}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, image[0].numpy())
    found = extract(SliceFolder(tmp_path), encoder, batch_size=3)
    assert found.subjects == ["s0"] * 3 + ["s1"] * 3 + ["s2"]
    assert [Path(source).name for source in found.sources] == [f"{i}.npy" for i in range(7)]
    assert same(found, extract(images, encoder))


def test_an_encoder_of_three_channels_takes_grey_and_colour(generator, images):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    encoder = build_encoder("module", network=network, layers={"0": "BCHW"}, size=8, channels=3, intensity="minmax")
    grey = extract(images, encoder)
    assert same(extract(images.expand(-1, 3, -1, -1), encoder), grey)
    colour = extract(torch.rand(7, 3, 12, 10, generator=generator), encoder)
    assert colour.layers["0"].shape == (1, 7, 4)


# Promise: subjects


@pytest.mark.parametrize("key", SUBJECT_KEYS)
@pytest.mark.parametrize("make", [list, np.array, lambda ids: torch.tensor([int(i) for i in ids])])
def test_subjects_are_found_under_the_usual_keys_as_text(images, key, make):
    assert read_batch({"image": images, key: make(list("1123345"))}).subjects == list("1123345")


def test_given_subjects_overrule_those_of_the_batches(images, encoder):
    batches = [{"image": images, "subject": ["x"] * 7}]
    assert extract(batches, encoder, subjects=list("abcdefg")).subjects == list("abcdefg")


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_a_subject_is_the_same_text_whatever_held_its_number(images, encoder, make):
    ids = [1, 1, 2, 3, 3, 4, 5]
    assert extract(images, encoder, subjects=make(ids)).subjects == [str(i) for i in ids]


def test_subjects_may_come_from_a_function_of_the_batch(images, encoder):
    batches = [(images[:3], ["a", "b", "c"]), (images[3:], ["d", "e", "f", "g"])]
    assert extract(batches, encoder, subject_key=lambda batch: batch[1]).subjects == list("abcdefg")


def test_subjects_known_for_some_batches_only_are_unknown(images, encoder):
    batches = [{"image": images[:3], "subject": ["a", "b", "c"]}, {"image": images[3:]}]
    assert extract(batches, encoder).subjects is None


# Promise: what encoding leaves alone


def test_features_are_of_full_precision_and_without_gradient_inside_autocast(images, encoder):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3))
    encoder = build_encoder("module", network=network, layers={"0": "BCHW"}, size=8)
    expected = network(preprocess(images, (8, 8), intensity="minmax")).mean(dim=(2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extract(images.clone().requires_grad_(), encoder).layers["0"][0]
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert torch.allclose(found, expected, atol=1e-6)


def test_reading_leaves_images_and_the_global_seed_alone(images, encoder):
    before, state = images.clone(), torch.get_rng_state()
    extract(TensorDataset(images), encoder, orbit("flips"))
    extract(images, encoder, orbit("flips"))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


# Refusal


@pytest.mark.parametrize("empty", [[], TensorDataset(torch.empty(0, 1, 4, 4)), iter(())])
def test_no_images_are_refused(encoder, empty):
    with pytest.raises(DataError, match="at least one image"):
        extract(empty, encoder)


def test_an_empty_tensor_is_refused(encoder):
    with pytest.raises(DataError, match="at least one image"):
        extract(torch.empty(0, 1, 4, 4), encoder)


@pytest.mark.parametrize("shape", [(4, 4), (7, 4, 4), (1, 1, 4, 4, 4)])
def test_a_tensor_of_another_dimension_is_refused(encoder, shape):
    with pytest.raises(DataError, match=r"shape \(n, 1, h, w\)"):
        extract(torch.rand(shape), encoder)


@pytest.mark.parametrize("thing", [3, None, object()])
def test_what_is_no_container_is_refused(encoder, thing):
    with pytest.raises(DataError, match=f"a Dataset or an iterable of batches; {type(thing).__name__} came"):
        extract(thing, encoder)


@pytest.mark.parametrize("thing", ["a folder", [["a", "b"]], [3]])
def test_batches_that_hold_no_tensor_are_refused(encoder, thing):
    with pytest.raises(DataError, match=r"tensor of images in each batch.*image_key"):
        extract(thing, encoder)


def test_wrong_channels_are_refused(encoder):
    with pytest.raises(DataError, match=r"1 channel\(s\); 3 came"):
        extract(torch.rand(4, 3, 8, 8), encoder)


@pytest.mark.parametrize("bad", ["nan", "constant"])
def test_a_broken_image_is_refused_with_its_batch(images, encoder, bad):
    images[5] = float("nan") if bad == "nan" else 1.0
    with pytest.raises(DataError, match=r"in the batch that begins at image 4: .*images \[1\] of 3"):
        extract(images, encoder, batch_size=4)


def test_a_data_set_of_mixed_sizes_is_refused_with_the_way_out(encoder):
    with pytest.raises(DataError, match=r"images of one size.*SliceFolder\(root, size="):
        extract(Items([torch.rand(1, 8, 8), torch.rand(1, 9, 8)]), encoder)


def test_other_errors_of_a_data_set_are_not_swallowed(encoder):
    class Broken(Items):
        def __getitem__(self, i):
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        extract(Broken([1, 2]), encoder)


@pytest.mark.parametrize("n", [6, 8])
def test_another_number_of_subjects_than_images_is_refused(images, encoder, n):
    with pytest.raises(DataError, match=rf"one subject per image \(7\); {n} came"):
        extract(images, encoder, subjects=["a"] * n)


def test_a_batch_with_another_number_of_subjects_is_refused(images):
    with pytest.raises(DataError, match=r"one of subjects per image \(7\); the batch holds 2"):
        read_batch({"image": images, "subject": ["a", "b"]})


def test_a_batch_without_images_is_refused_with_its_keys():
    with pytest.raises(DataError, match=r"needed images under 'image' or .*; the batch has the keys \['age', 'sex'\]"):
        read_batch({"age": torch.rand(2), "sex": ["m", "f"]})


def test_a_named_key_that_is_missing_is_refused(images):
    with pytest.raises(DataError, match=r"images under 'flair'.*\['image'\]"):
        read_batch({"image": images}, image_key="flair")
    with pytest.raises(DataError, match=r"subject ids under 'person'.*\['image'\]"):
        read_batch({"image": images}, subject_key="person")


def test_a_subject_key_for_batches_that_have_no_keys_is_refused(images):
    with pytest.raises(DataError, match=r"dictionary batch for subject_key='subject'; Tensor came"):
        read_batch(images, subject_key="subject")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: {"other": x.flatten(1)}, r"the layers \['all'\] from 'plain'; \['other'\] came"),
        (lambda x: {"all": x.flatten(1)[:1]}, r"needed \(14, d\) features of 'all'; \(1, 64\) came"),
        (lambda x: {"all": x}, r"needed \(14, d\) features of 'all'; \(14, 1, 8, 8\) came"),
        (lambda x: {"all": x.flatten(1) / 0}, "finite features; 'plain' returned NaN or infinity in 'all'"),
    ],
    ids=["other_layer", "other_number", "not_pooled", "not_finite"],
)
def test_an_encoder_that_breaks_its_declaration_is_refused(images, answer, message):
    with pytest.raises(EncoderError, match=message):
        encode(images, Plain(answer), [POSES["identity"], POSES["flip_vertical"]])


# Volumes


class Recorder(torch.nn.Module):
    """Mean and middle voxel of volumes, and how many came at a time."""

    name, layers, size, channels, intensity = "recorder", {"mean": "BC"}, (8, 8, 8), 1, "minmax"

    def __init__(self):
        super().__init__()
        self.came = []

    def forward(self, volumes):
        self.came.append(len(volumes))
        return {"mean": torch.stack([volumes.mean(dim=(1, 2, 3, 4)), volumes[:, 0, 1, 2, 3]], dim=1)}

    def with_windows(self, volumes):
        return self(volumes), {"mean": (volumes.flatten(1) @ window_weights(8, 8, 8).T)[..., None]}

    def fingerprint(self):
        return "recorder"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("regional", [True, False])
def test_volumes_are_encoded_a_few_at_a_time_in_every_pose_and_view(generator, batch_size, regional):
    volumes = torch.rand(VOLUMES_AT_ONCE + 3, 1, 6, 8, 7, generator=generator)
    encoder, poses = Recorder(), orbit("flips", 3)
    keep = Reservoir(100)
    found = extract(volumes, encoder, poses, batch_size=batch_size, windowed=regional, views=list(VIEWS), keep=keep)
    assert max(encoder.came) == min(batch_size, VOLUMES_AT_ONCE)
    assert found.dims == 3
    assert found.layers["mean"].shape == (8, len(volumes), 2)
    assert len(keep.images) == len(volumes)
    for position, pose in enumerate(poses):
        ready = preprocess(POSES[pose](volumes), (8, 8, 8), intensity="minmax")
        assert torch.allclose(found.layers["mean"][position], Recorder()(ready)["mean"], atol=1e-5)
        if regional:
            windows = Recorder().with_windows(ready)[1]["mean"]
            there = structured_windows(ready)
            assert torch.allclose(found.windows["mean"][position][there].float(), windows[there], atol=1e-3)
            assert found.windows["mean"][position][~there].isnan().all()
    assert bool(found.windows) == regional
    for name, view in VIEWS.items():
        seen, turned = view.change(volumes, "minmax"), poses if view.beside == name else poses[:1]
        assert len(found.views[name]["mean"]) == len(turned)
        for position, pose in enumerate(turned):
            ready = preprocess(POSES[pose](seen), (8, 8, 8), intensity="minmax")
            assert torch.allclose(found.views[name]["mean"][position], Recorder()(ready)["mean"], atol=1e-5)
    assert torch.equal(found.thumbnails, make_thumbnails(check_images(volumes, dims=3), 48))


def test_images_for_an_encoder_of_volumes_are_refused_and_the_other_way_round(images, encoder):
    with pytest.raises(DataError, match=r"shape \(n, 1, d, h, w\).* \(7, 1, 12, 10\) came"):
        extract(images, Recorder())
    with pytest.raises(DataError, match=r"Volumes need an encoder of volumes: build_encoder\('slices'\)"):
        extract(images[:, :, None], encoder)


# Grown from parts


@pytest.mark.parametrize("large", [0, 2**26])
def test_features_of_parts_together_are_those_of_the_whole(images, encoder, monkeypatch, large):
    monkeypatch.setattr(growing, "LARGE", large)
    volumes, ids = torch.rand(7, 1, 6, 8, 7), [f"p{i // 2}" for i in range(7)]
    for data, made, views in ((images, encoder, ()), (volumes, Recorder(), list(VIEWS))):
        whole = extract(data, made, orbit("flips", data.ndim - 2), subjects=ids, views=views)
        for subjects in (whole.subjects, None):
            grown = GrowingFeatures()
            for rows in torch.arange(7).split(3):
                part = replace(whole, subjects=subjects).where(rows)
                grown.append(part, part.subjects)
            found = grown.features()
            assert (found.subjects, found.sources) == (subjects, whole.sources)
            assert torch.equal(found.thumbnails, whole.thumbnails)
            for layer, features in whole.layers.items():
                assert torch.equal(found.layers[layer], features)
                assert all(torch.equal(found.views[view][layer], whole.views[view][layer]) for view in views)
