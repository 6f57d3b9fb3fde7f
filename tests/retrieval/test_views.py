"""Views change images as they say, in the units of the images."""

import pytest
import torch
import torch.nn.functional as F

from mi_callback.images.frames import frame_by_moments
from mi_callback.images.perturbations import affine
from mi_callback.images.poses import POSES
from mi_callback.retrieval.views import VIEWS, VOLUME_VIEWS, views_of, views_of_queries

pytestmark = pytest.mark.numeric

# Definition

TABLE = {  # pose, recoloured, beside
    "turned_left": ("identity", False, None),
    "turned_right": ("identity", False, None),
    "magnified": ("identity", False, None),
    "quarter_turn": ("rotation_270", False, None),
    "other_contrast": ("identity", True, None),
    "softened": ("identity", False, None),
    "framed": ("identity", False, "framed"),
    "edges": ("identity", True, "edges"),
    "edges_left": ("identity", True, "edges"),
    "edges_right": ("identity", True, "edges"),
    "framed_edges": ("identity", True, "framed_edges"),
}


def test_what_is_compared_with_what():
    assert {name: (view.pose, view.recoloured, view.beside) for name, view in VIEWS.items()} == TABLE
    assert list(VOLUME_VIEWS) == ["magnified", "framed", "edges"]
    assert views_of_queries(2) == ["framed", "edges", "framed_edges"]
    assert views_of_queries(3) == ["framed", "edges"]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_changes_the_image_and_keeps_its_shape(generator, name):
    images = torch.rand(2, 1, 96, 96, generator=generator) * 5 - 1024  # in Hounsfield units, say
    seen = VIEWS[name].of(images, "quantile")
    assert seen.shape == images.shape
    assert (seen - images).abs().max() > 1
    assert torch.all(seen.amin(dim=(1, 2, 3)) >= images.amin(dim=(1, 2, 3)) - 1e-3)


@pytest.mark.parametrize("name", ["turned_left", "turned_right"])
def test_the_darkest_value_fills_the_borders(generator, name):
    images = torch.rand(2, 1, 96, 96, generator=generator) * 5 - 1024
    seen = VIEWS[name].of(images, "quantile")
    assert torch.allclose(seen[..., 0, 0], images.amin(dim=(2, 3)), atol=1e-3)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("window", [(-160.0, 240.0), (0.0, 100.0)])
def test_within_a_window_of_intensities_a_view_shows_what_it_shows_of_the_window_alone(generator, name, window):
    body = torch.zeros(2, 1, 64, 64)
    body[..., 12:52, 16:44] = F.interpolate(torch.rand(2, 1, 6, 5, generator=generator) * 60 + 20, (40, 28))
    air = torch.full_like(body, -1024.0).where(body == 0, body)
    bone = air.clone()
    bone[..., 30:34, 28:32] = 1500.0
    for images in (air, bone):
        seen, clipped = (VIEWS[name].of(shown, window).clamp(*window) for shown in (images, images.clamp(*window)))
        assert (seen.amax(dim=(1, 2, 3)) > seen.amin(dim=(1, 2, 3))).all()
        if name in ("other_contrast", "edges"):  # elsewhere pixels are mixed before they are clipped
            assert torch.allclose(seen, clipped, atol=1e-2 * (window[1] - window[0]))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("intensity", ["minmax", (-160.0, 240.0)])
def test_an_image_of_which_a_view_shows_nothing_stays_as_it_is(name, intensity):
    images = torch.full((3, 1, 40, 30), -1024.0)
    images[0, 0, :2, :2] = images[2, 0, 15:25, 10:20] = 50.0  # in a corner; nowhere; in the middle
    images[1, 0, 8:30, 5:25] = 20.0
    seen = VIEWS[name].of(images, intensity)
    within = seen if isinstance(intensity, str) else seen.clamp(*intensity)
    assert (within.flatten(1).amax(dim=1) > within.flatten(1).amin(dim=1)).all()
    if name == "magnified":
        assert torch.equal(seen[0], images[0])
        assert not torch.equal(seen[2], images[2])


def test_the_pose_of_a_view_takes_a_query_that_looks_like_it_back_to_the_image(generator):
    image = torch.rand(2, 1, 7, 9, generator=generator)
    view = VIEWS["quarter_turn"]
    assert torch.equal(POSES[view.pose](view.of(image, "quantile")), image)
    assert all(VIEWS[name].pose == "identity" for name in VIEWS if name != "quarter_turn")


@pytest.mark.parametrize("name", [name for name, view in VOLUME_VIEWS.items() if view.beside is None])
def test_a_view_of_volumes_is_that_of_every_slice(generator, name):
    volumes = torch.rand(2, 2, 7, 12, 10, generator=generator) * 5 - 1024
    volumes[:, :, 0, 0, 0], volumes[:, :, 0, 0, 1] = -1030, -1010  # the darkest and the brightest, in every slice
    volumes[:, :, :, 0, 0], volumes[:, :, :, 0, 1] = -1030, -1010
    seen = views_of(3)[name].of(volumes, "quantile")
    assert seen.shape == volumes.shape
    assert (seen - volumes).abs().flatten(1).amax(dim=1).min() > 1
    for depth in range(7):
        assert torch.allclose(seen[:, :, depth], VIEWS[name].of(volumes[:, :, depth], "quantile"), atol=1e-2)


def test_frames_of_volumes_are_those_of_the_volumes(generator):
    volumes = torch.rand(2, 1, 12, 10, 8, generator=generator)
    assert torch.equal(VOLUME_VIEWS["framed"].of(volumes, "minmax"), frame_by_moments(volumes))


@pytest.mark.parametrize(("name", "degrees"), [("edges_left", -12.0), ("edges_right", 12.0)])
def test_edges_of_turned_images_are_those_of_copies_turned_alike_in_any_contrast(generator, name, degrees):
    labels = F.interpolate(torch.rand(3, 1, 8, 8, generator=generator), (96, 96), mode="bicubic").clamp(0, 1)
    inner = ((torch.linspace(-1, 1, 96) ** 2 + torch.linspace(-1, 1, 96)[:, None] ** 2) < 0.6).float()
    images = (labels.mul(4).round() / 4 + 0.2) * inner
    seen = VIEWS[name].of(images, "minmax")
    turned = [affine((1.4 * inner - images) * inner, rotation=angle) for angle in (degrees, -degrees)]
    right, wrong = (VIEWS["edges"].of(images, "minmax") for images in turned)
    alike, other = (torch.corrcoef(torch.stack([seen.flatten(), e.flatten()]))[0, 1] for e in (right, wrong))
    assert 1 - other > 4 * (1 - alike)
    hounsfield = VIEWS[name].of(1000 * images - 1024, "minmax")
    assert torch.allclose((hounsfield + 1024) / 1000, seen, atol=0.02)  # no edge where the borders are filled


def test_edges_in_their_own_frame_are_those_of_copies_that_were_moved_in_any_contrast(generator):
    labels = F.interpolate(torch.rand(3, 1, 8, 8, generator=generator), (96, 96), mode="bicubic").clamp(0, 1)
    inner = ((torch.linspace(-1, 1, 96) ** 2 + torch.linspace(-1, 1, 96)[:, None] ** 2) < 0.4).float()
    images = (labels.mul(4).round() / 4 + 0.2) * inner
    moved = affine((1.4 * inner - images) * inner, shift_x=0.1, shift_y=-0.08, scale_x=1.1, scale_y=1.1)
    far = {
        name: (VIEWS[name].of(images, "minmax") - VIEWS[name].of(moved, "minmax")).square().mean()
        for name in ("edges", "framed", "framed_edges")
    }
    assert far["framed_edges"] < 0.3 * far["edges"]
    assert far["framed_edges"] < 0.3 * far["framed"]
