"""What was done to a training image is recovered and told in words."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reporting.copies import MOVED

from mi_callback.images.poses import orbit, undo
from mi_callback.reporting.geometry import POSE_UNDONE, Geometry


@pytest.mark.parametrize("seed", range(4))
def test_geometry_says_where_a_point_of_the_training_image_goes(seed):
    rng = np.random.default_rng(seed)
    angle, zoom, shift = np.deg2rad(rng.uniform(-170, 170)), rng.uniform(0.8, 1.3, 2), rng.uniform(-0.1, 0.1, 2)
    side, (x, y) = 200, rng.integers(70, 130, 2)
    dot = torch.zeros(1, 1, side, side)
    dot[0, 0, y - 2 : y + 3, x - 2 : x + 3] = 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])  # clockwise, as y points down
    inverse = np.linalg.inv(turn @ np.diag(zoom))
    theta = torch.tensor(np.c_[inverse, -inverse @ (2 * shift)], dtype=torch.float32)
    moved = F.grid_sample(dot, F.affine_grid(theta[None], [1, 1, side, side], align_corners=False), align_corners=False)
    weight = moved[0, 0].numpy()
    place = np.array([(weight * axis).sum() for axis in np.mgrid[:side, :side][::-1]]) / weight.sum()

    found = Geometry.of(theta)
    clockwise = np.deg2rad(found.rotation)
    across = (np.array([x, y]) - (side - 1) / 2) * found.zoom
    turned = [
        np.cos(clockwise) * across[0] - np.sin(clockwise) * across[1],
        np.sin(clockwise) * across[0] + np.cos(clockwise) * across[1],
    ]
    expected = turned + np.array(found.shift) / 100 * side + (side - 1) / 2
    np.testing.assert_allclose(expected, place, atol=0.3)
    assert found.rotation == pytest.approx(np.rad2deg(angle), abs=0.01)
    assert found.zoom == pytest.approx(tuple(zoom), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_geometry_of_a_volume_says_where_a_point_of_the_training_volume_goes(seed):
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    angle, zoom, shift = np.deg2rad(rng.uniform(5, 170)), rng.uniform(0.8, 1.3, 3), rng.uniform(-0.1, 0.1, 3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # Rodrigues
    inverse = np.linalg.inv(turn @ np.diag(zoom))
    found = Geometry.of(torch.tensor(np.c_[inverse, -inverse @ (2 * shift)]))
    assert found.zoom == pytest.approx(tuple(zoom), rel=1e-4)
    assert found.shift == pytest.approx(tuple(100 * shift), abs=1e-3)
    isotropic = np.linalg.inv(turn * 1.2)
    assert Geometry.of(torch.tensor(np.c_[isotropic, np.zeros(3)])).rotation == pytest.approx(
        np.rad2deg(angle), abs=0.01
    )
    # Along the axis named: a point of the training volume on the right moves with the width, and so on.
    for k in range(3):
        moved = Geometry.of(torch.tensor(np.c_[np.eye(3), -2 * 0.1 * np.eye(3)[k]]))
        assert moved.shift == pytest.approx([10 * (j == k) for j in range(3)], abs=1e-6)
        assert moved.words() == [f"moved by 10 % {('to the right', 'down', 'to later slices')[k]}"]


@pytest.mark.parametrize("pose", orbit("dihedral"))
def test_geometry_is_recovered_in_every_pose(posed, pose):
    found = posed[pose].change.geometry
    angle = np.deg2rad(MOVED["rotation"])
    right, down = MOVED["scale_x"] * MOVED["shift_x"], MOVED["scale_y"] * MOVED["shift_y"]
    shift = (100 * (np.cos(angle) * right - np.sin(angle) * down), 100 * (np.sin(angle) * right + np.cos(angle) * down))
    assert found.rotation == pytest.approx(MOVED["rotation"], abs=1.5)
    assert found.zoom == pytest.approx((MOVED["scale_x"], MOVED["scale_y"]), rel=0.02)
    assert found.shift == pytest.approx(shift, abs=2)


def test_the_geometry_of_a_volume_is_told_in_words():
    assert Geometry(12.34, (1.2, 0.9, 1.0), (3.0, -4.0, -5.0)).words() == [
        "zoomed 1.20 times in width, 0.90 times in height and 1.00 times in depth",
        "turned by 12.3°",
        "moved by 3 % to the right, 4 % up and 5 % to earlier slices",
    ]
    assert Geometry(0.1, (1.1, 1.1, 1.11), (0.0, 0.0, 2.0)).words() == [
        "zoomed 1.10 times",
        "moved by 2 % to later slices",
    ]
    assert Geometry(0.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).words() == []


@pytest.mark.parametrize("name", orbit("flips", 3)[1:])
def test_the_words_for_a_pose_of_volumes_name_the_axes_that_it_turns(name):
    grid = torch.arange(8).view(2, 2, 2)
    turned = undo(name, grid)
    flipped = [axis for axis in range(3) if int(turned[0, 0, 0]) >> (2 - axis) & 1]
    words = ("along the depth", "top to bottom", "left to right")
    said = POSE_UNDONE[name]
    expected = {"turned by 180°": [1, 2], "mirrored along every axis": [0, 1, 2]}
    assert flipped == expected.get(said, [axis for axis in range(3) if words[axis] in said])


@pytest.mark.parametrize("pose", orbit("dihedral")[1:])
def test_the_words_for_a_pose_lead_from_the_training_image_to_the_generated_one(pose):
    """The corner marked in the training image goes where the words say."""
    words = {
        "mirrored left to right": ("top right", "bottom right"),
        "mirrored top to bottom": ("bottom left", "top left"),
        "turned by 180°": ("bottom right", "top right"),
        "turned by 90° clockwise": ("top right", "top left"),
        "turned by 90° counter-clockwise": ("bottom left", "bottom right"),
        "mirrored along the falling diagonal": ("top left", "top right"),
        "mirrored along the rising diagonal": ("bottom right", "bottom left"),
    }[POSE_UNDONE[pose]]
    corners = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}
    training = torch.tensor([[1, 0], [2, 0]])  # 1 in the top left, 2 in the bottom left
    generated = undo(pose, training)
    assert [int(generated[corners[corner]]) for corner in words] == [1, 2]
