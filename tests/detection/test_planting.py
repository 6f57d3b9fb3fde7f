"""Would a copy be found? Planting, with a detector that is a plain function."""

import pytest
import torch

from mi_callback.detection.planting import Find, Planted, measure_power
from mi_callback.errors import DataError
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import PASTES, PERTURBATIONS, VOLUME_PASTES, VOLUME_PERTURBATIONS
from mi_callback.images.preprocessing import check_images
from mi_callback.statistics.power import Power


def pictures(n: int, h: int = 16, w: int = 16, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.rand(n, 1, h, w, generator=generator))


def measure(find: Find, images, rows, alpha, subjects=None, changes=None, seed=0, others=None) -> Power:
    return measure_power(find, Planted(images, rows, others), alpha, subjects, changes, seed)


class Recorder:
    """Finds everything, names row 0, and keeps what it was shown."""

    def __init__(self):
        self.shown: list[torch.Tensor] = []

    def __call__(self, images):
        self.shown.append(images.clone())
        return torch.ones(len(images), dtype=torch.bool), torch.zeros(len(images), dtype=torch.long)


# Promise


def test_every_image_is_changed_by_every_change_and_none_other():
    find, images = Recorder(), pictures(4)
    power = measure(find, images, range(4), 0.05, seed=3)
    assert list(power.flagged) == list(power.traced) == list(PERTURBATIONS)
    assert power.alpha == 0.05
    ready = normalise_intensity(check_images(torch.stack(images)), "quantile")
    for shown, change in zip(find.shown, PERTURBATIONS.values(), strict=True):
        assert torch.equal(shown, change(ready, torch.Generator().manual_seed(3)))


def test_a_flag_and_a_match_belong_to_the_image_they_were_given_for():
    # Found are images that are brighter on the left; named is the row that the corner pixel tells.
    images = pictures(9)
    for i, image in enumerate(images):
        image[:, :, :8] += 1.0 * (i % 3 == 0)
    brightness = [float(image[..., :8].mean() - image[..., 8:].mean()) for image in images]

    def find(shown):
        difference = shown[..., :8].mean(dim=(1, 2, 3)) - shown[..., 8:].mean(dim=(1, 2, 3))
        return difference > 0.2, torch.arange(len(shown)) + 10

    power = measure(find, images, range(10, 19), 0.05, changes=["exact", "flip_vertical", "flip_horizontal"])
    assert power.flagged["exact"].tolist() == [value > 0.5 for value in brightness] == [i % 3 == 0 for i in range(9)]
    assert torch.equal(power.flagged["flip_vertical"], power.flagged["exact"])
    assert not power.flagged["flip_horizontal"].any()
    assert all(traced.all() for traced in power.traced.values())
    assert measure(find, images, [10, 12, 11, *range(13, 19)], 0.05).traced["exact"].tolist() == [
        i not in (1, 2) for i in range(9)
    ]


def test_another_image_of_the_same_subject_is_the_right_match():
    def find(shown):
        return torch.zeros(len(shown), dtype=torch.bool), torch.tensor([1, 2, 3, 0])

    subjects = ["a", "a", "b", "c"]
    known = measure(find, pictures(4), [0, 1, 2, 3], 0.1, subjects, changes=["exact"])
    assert known.traced["exact"].tolist() == [True, False, False, False]
    unknown = measure(find, pictures(4), [0, 1, 2, 3], 0.1, changes=["exact"])
    assert unknown.traced["exact"].tolist() == [False] * 4
    assert not known.flagged["exact"].any()  # named, but not flagged: these are two questions


def test_images_of_different_sizes_are_planted_together():
    images = [*pictures(3), *pictures(2, 20, 12), *pictures(2, seed=1), *pictures(1, 9, 9)]
    sizes = [tuple(image.shape[-2:]) for image in images]
    find = Recorder()
    by_size = measure(find, images, range(8), 0.05, changes=["exact", "noise_0.02"])
    assert by_size.n == 8
    assert {tuple(shown.shape[-2:]) for shown in find.shown} == set(sizes)
    assert sum(len(shown) for shown in find.shown) == 2 * 8

    def wide(shown):  # flags and names belong to the images, not to the order in which sizes come
        return torch.full((len(shown),), shown.shape[-1] < 16), torch.full((len(shown),), shown.shape[-2])

    power = measure(wide, images, [h for h, _ in sizes], 0.05, changes=["exact", "noise_0.02"])
    for change in ("exact", "noise_0.02"):
        assert power.flagged[change].tolist() == [w < 16 for _, w in sizes]
        assert power.traced[change].all()


def test_a_seed_decides_on_noise_and_nothing_else_does():
    images, shown = pictures(3), []
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        find = Recorder()
        measure(find, images, range(3), 0.05, changes=["noise_0.02", "elastic_2", "flip_vertical"], seed=seed)
        shown.append(find.shown)
    assert all(torch.equal(one, other) for one, other in zip(shown[0], shown[1], strict=True))
    assert [torch.equal(one, other) for one, other in zip(shown[0], shown[2], strict=True)] == [False, False, True]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("scale", [1, 4000])
def test_copies_are_in_the_same_range_whatever_that_of_the_training_images(scale):
    find = Recorder()
    measure(find, [(scale * image - scale / 4) for image in pictures(3)], range(3), 0.05)
    assert all(shown.min() >= 0 and shown.max() <= 1.5 for shown in find.shown)
    # Noise is a share of the range, so that it is as hard to see through at any scale.
    noise = find.shown[list(PERTURBATIONS).index("noise_0.02")] - find.shown[0]
    assert float(noise.std()) == pytest.approx(0.02, rel=0.1)


def test_the_training_images_are_left_as_they_are():
    images = pictures(3)
    before = [image.clone() for image in images]
    measure(Recorder(), images, range(3), 0.05)
    assert all(torch.equal(one, other) for one, other in zip(images, before, strict=True))


# Refusal


def test_changes_that_do_not_exist_are_refused_with_those_that_do():
    with pytest.raises(DataError, match=r"changes out of \['exact', .*; \['sharpen'\] came"):
        measure(Recorder(), pictures(2), range(2), 0.05, changes=["exact", "sharpen"])


def test_nothing_to_plant_is_refused():
    with pytest.raises(DataError, match=f"images and changes to plant; 0 and {len(PERTURBATIONS)} came"):
        measure(Recorder(), [], [], 0.05)
    with pytest.raises(DataError, match="images and changes to plant; 2 and 0 came"):
        measure(Recorder(), pictures(2), range(2), 0.05, changes=[])


def test_a_broken_image_is_refused():
    with pytest.raises(DataError, match=r"images \[1\] of 2 are constant"):
        measure(Recorder(), [pictures(1)[0], torch.ones(1, 16, 16)], range(2), 0.05)


def test_parts_are_pasted_into_others_where_there_are_any():
    recorder, others = Recorder(), torch.full((3, 1, 24, 24), 0.25)
    images = pictures(4)
    power = measure(recorder, images, range(4), 0.05, changes=["exact", *PASTES], others=others)
    assert list(power.flagged) == ["exact", *PASTES]
    exact, blended, half, quarter = recorder.shown
    assert torch.allclose(blended, 0.7 * exact + 0.3 * 0.25, atol=1e-6)
    assert torch.equal((half == 0.25).float().mean(dim=(1, 2, 3)), torch.full((4,), 0.5))
    assert torch.equal(quarter[..., 4:12, 4:12], exact[..., 4:12, 4:12])
    assert (quarter[..., :4, :] == 0.25).all()
    everything = measure(Recorder(), images, range(4), 0.05, others=others)
    assert list(everything.flagged) == [*PERTURBATIONS, *PASTES]
    assert list(measure(Recorder(), images, range(4), 0.05).flagged) == list(PERTURBATIONS)
    with pytest.raises(DataError, match=r"\['half_pasted'\] came"):
        measure(Recorder(), images, range(4), 0.05, changes=["half_pasted"])


@pytest.mark.parametrize("channels", [1, 2])
def test_volumes_of_different_sizes_are_changed_as_volumes_are(channels):
    shapes = [(6, 9, 8), (6, 9, 8), (7, 8, 10)]
    volumes = [
        torch.rand(channels, *shape, generator=torch.Generator().manual_seed(k)) for k, shape in enumerate(shapes)
    ]
    others = torch.randint(0, 255, (4, 1, 8, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    find = Recorder()
    power = measure(find, volumes, range(3), 0.05, others=others)
    assert list(power.flagged) == [*VOLUME_PERTURBATIONS, *VOLUME_PASTES]
    assert sum(len(shown) for shown in find.shown) == 3 * len(power.flagged)
    assert {tuple(shown.shape[1:]) for shown in find.shown} == {(channels, *shape) for shape in shapes}
    with pytest.raises(DataError, match="'quarter_turn'"):
        measure(find, volumes, range(3), 0.05, changes=["quarter_turn"])
