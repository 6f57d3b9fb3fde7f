"""The orbit of poses: a flipped copy is a copy."""

import itertools

import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.images.poses import POSES, compose, first_poses, orbit, undo

pytestmark = pytest.mark.numeric


@pytest.fixture
def image(generator):
    return torch.rand(1, 5, 5, 5, generator=generator)  # a volume: as an image, of five channels


FLAT = orbit("dihedral")

# Definition: where pixel (z, y, x) of an image or volume of sides n comes from.
SOURCE = {
    "identity": lambda z, y, x, n: (z, y, x),
    "flip_horizontal": lambda z, y, x, n: (z, y, n - 1 - x),
    "flip_vertical": lambda z, y, x, n: (z, n - 1 - y, x),
    "rotation_180": lambda z, y, x, n: (z, n - 1 - y, n - 1 - x),
    "rotation_90": lambda z, y, x, n: (z, x, n - 1 - y),  # counter-clockwise
    "rotation_270": lambda z, y, x, n: (z, n - 1 - x, y),
    "transpose": lambda z, y, x, n: (z, x, y),
    "anti_transpose": lambda z, y, x, n: (z, n - 1 - x, n - 1 - y),
    "flip_depth": lambda z, y, x, n: (n - 1 - z, y, x),
    "flip_depth_horizontal": lambda z, y, x, n: (n - 1 - z, y, n - 1 - x),
    "flip_depth_vertical": lambda z, y, x, n: (n - 1 - z, n - 1 - y, x),
    "flip_all": lambda z, y, x, n: (n - 1 - z, n - 1 - y, n - 1 - x),
}


@pytest.mark.parametrize("name", POSES)
def test_a_pose_moves_pixels_as_its_name_says(image, name):
    posed = POSES[name](image)
    for place in itertools.product(range(5), repeat=3):
        assert posed[(0, *place)] == image[(0, *SOURCE[name](*place, 5))]


@pytest.mark.parametrize("name", POSES)
def test_a_pose_is_undone(image, name):
    assert torch.equal(undo(name, POSES[name](image)), image)
    assert torch.equal(POSES[name](undo(name, image)), image)


@pytest.mark.parametrize(
    ("name", "dims", "size"), [("none", 2, 1), ("flips", 2, 4), ("dihedral", 2, 8), ("none", 3, 1), ("flips", 3, 8)]
)
def test_an_orbit_has_its_size_and_begins_with_the_image_as_it_came(name, dims, size):
    poses = orbit(name, dims)
    assert len(set(poses)) == len(poses) == size
    assert poses[0] == "identity"
    assert first_poses(size, dims) == poses


# Promise


@pytest.mark.parametrize(("name", "dims"), [("none", 2), ("flips", 2), ("dihedral", 2), ("flips", 3)])
def test_an_orbit_is_the_same_from_whichever_of_its_poses_one_starts(image, name, dims):
    poses = orbit(name, dims)
    views = {POSES[pose](image).contiguous().numpy().tobytes() for pose in poses}
    assert len(views) == len(poses)
    for start in poses:
        turned = POSES[start](image)
        assert {POSES[pose](turned).contiguous().numpy().tobytes() for pose in poses} == views


@pytest.mark.parametrize("name", ["flip_horizontal", "flip_vertical", "rotation_180"])
def test_a_flipped_copy_is_found_in_the_orbit_of_flips(image, name):
    copy = POSES[name](image)
    found = [pose for pose in orbit("flips") if torch.equal(POSES[pose](copy), image)]
    assert found == [name]


def test_a_quarter_turn_is_found_only_among_all_eight(image):
    copy = torch.rot90(image, 1, (-2, -1))
    assert not any(torch.equal(POSES[pose](copy), image) for pose in orbit("flips"))
    assert [pose for pose in orbit("dihedral") if torch.equal(POSES[pose](copy), image)] == ["rotation_270"]


@pytest.mark.parametrize("name", POSES)
def test_a_batch_is_posed_as_its_images_one_by_one(generator, name):
    batch = torch.rand(3, 1, 4, 6, generator=generator)
    posed = POSES[name](batch)
    assert posed.shape[-2:] in ((4, 6), (6, 4))
    assert torch.equal(posed, torch.stack([POSES[name](image) for image in batch]))


# Refusal


@pytest.mark.parametrize("name", ["flip", "", None])
def test_an_unknown_orbit_is_refused_with_the_known_ones(name):
    with pytest.raises(
        DataError, match=r"needed poses for 2 dimensions out of \['none', 'flips', 'dihedral'\]; .* came"
    ):
        orbit(name)


# Views


@pytest.mark.parametrize(
    ("first", "second"),
    [*itertools.product(FLAT, repeat=2), *itertools.product(orbit("flips", 3), repeat=2)],
)
def test_one_pose_after_another_is_a_pose(image, first, second):
    assert torch.equal(POSES[compose(first, second)](image), POSES[second](POSES[first](image)))


def test_quarter_turns_are_no_poses_of_volumes():
    with pytest.raises(DataError, match=r"needed poses for 3 dimensions out of \['none', 'flips'\]; 'dihedral' came"):
        orbit("dihedral", 3)
