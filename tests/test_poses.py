"""The orbit of poses: a flipped copy is a copy."""

import itertools

import pytest
import torch

from mi_callback.errors import DataError
from mi_callback.poses import POSES, VIEWS, orbit, then, undo


@pytest.fixture
def image(generator):
    return torch.rand(1, 5, 5, generator=generator)


# Definition: where pixel (y, x) of an n × n image comes from.
SOURCE = {
    "identity": lambda y, x, n: (y, x),
    "flip_horizontal": lambda y, x, n: (y, n - 1 - x),
    "flip_vertical": lambda y, x, n: (n - 1 - y, x),
    "rotation_180": lambda y, x, n: (n - 1 - y, n - 1 - x),
    "rotation_90": lambda y, x, n: (x, n - 1 - y),  # counter-clockwise
    "rotation_270": lambda y, x, n: (n - 1 - x, y),
    "transpose": lambda y, x, n: (x, y),
    "anti_transpose": lambda y, x, n: (n - 1 - x, n - 1 - y),
}


@pytest.mark.parametrize("name", POSES)
def test_a_pose_moves_pixels_as_its_name_says(image, name):
    posed = POSES[name](image)
    for y, x in itertools.product(range(5), range(5)):
        assert posed[0, y, x] == image[(0, *SOURCE[name](y, x, 5))]


@pytest.mark.parametrize("name", POSES)
def test_a_pose_is_undone(image, name):
    assert torch.equal(undo(name, POSES[name](image)), image)
    assert torch.equal(POSES[name](undo(name, image)), image)


@pytest.mark.parametrize(("name", "size"), [("none", 1), ("flips", 4), ("dihedral", 8)])
def test_an_orbit_has_its_size_and_begins_with_the_image_as_it_came(name, size):
    poses = orbit(name)
    assert len(set(poses)) == len(poses) == size
    assert poses[0] == "identity"


# Promise


@pytest.mark.parametrize("name", ["none", "flips", "dihedral"])
def test_an_orbit_is_the_same_from_whichever_of_its_poses_one_starts(image, name):
    views = {POSES[pose](image).contiguous().numpy().tobytes() for pose in orbit(name)}
    assert len(views) == len(orbit(name))
    for start in orbit(name):
        turned = POSES[start](image)
        assert {POSES[pose](turned).contiguous().numpy().tobytes() for pose in orbit(name)} == views


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
    with pytest.raises(DataError, match=r"needed poses out of \['none', 'flips', 'dihedral'\]; .* came"):
        orbit(name)


# Views


@pytest.mark.parametrize("first", POSES)
@pytest.mark.parametrize("second", POSES)
def test_one_pose_after_another_is_a_pose(image, first, second):
    assert torch.equal(POSES[then(first, second)](image), POSES[second](POSES[first](image)))


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_changes_the_image_keeps_its_shape_and_its_darkest_value_fills_the_borders(generator, name):
    images = torch.rand(2, 1, 24, 24, generator=generator) * 5 - 1024  # in Hounsfield units, say
    seen = VIEWS[name].change(images)
    assert seen.shape == images.shape
    assert (seen - images).abs().max() > 1
    assert torch.all(seen.amin(dim=(1, 2, 3)) >= images.amin(dim=(1, 2, 3)) - 1e-3)
    if name.startswith("turned"):
        assert torch.allclose(seen[..., 0, 0], images.amin(dim=(2, 3)), atol=1e-3)


def test_the_pose_of_a_view_takes_a_query_that_looks_like_it_back_to_the_image(image):
    view = VIEWS["quarter_turn"]
    assert torch.equal(POSES[view.pose](view.change(image)), image)
    assert all(VIEWS[name].pose == "identity" for name in VIEWS if name != "quarter_turn")
