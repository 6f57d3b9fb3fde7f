"""Views change images as they say, in the units of the images."""

import pytest
import torch
import torch.nn.functional as F

from mi_callback.perturbations import affine
from mi_callback.poses import POSES
from mi_callback.views import VIEWS, VOLUME_VIEWS, views_of, views_of_queries


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_changes_the_image_keeps_its_shape_and_its_darkest_value_fills_the_borders(generator, name):
    images = torch.rand(2, 1, 96, 96, generator=generator) * 5 - 1024  # in Hounsfield units, say
    seen = VIEWS[name].change(images, "quantile")
    assert seen.shape == images.shape
    assert (seen - images).abs().max() > 1
    assert torch.all(seen.amin(dim=(1, 2, 3)) >= images.amin(dim=(1, 2, 3)) - 1e-3)
    if name.startswith("turned"):
        assert torch.allclose(seen[..., 0, 0], images.amin(dim=(2, 3)), atol=1e-3)


def test_the_pose_of_a_view_takes_a_query_that_looks_like_it_back_to_the_image(generator):
    image = torch.rand(2, 1, 7, 9, generator=generator)
    view = VIEWS["quarter_turn"]
    assert torch.equal(POSES[view.pose](view.change(image, "quantile")), image)
    assert all(VIEWS[name].pose == "identity" for name in VIEWS if name != "quarter_turn")


@pytest.mark.parametrize("name", [name for name, view in VOLUME_VIEWS.items() if view.beside is None])
def test_a_view_of_volumes_is_that_of_every_slice(generator, name):
    volumes = torch.rand(2, 2, 7, 12, 10, generator=generator) * 5 - 1024
    volumes[:, :, 0, 0, 0], volumes[:, :, 0, 0, 1] = -1030, -1010  # the darkest and the brightest, in every slice
    volumes[:, :, :, 0, 0], volumes[:, :, :, 0, 1] = -1030, -1010
    seen = views_of(3)[name].change(volumes, "quantile")
    assert seen.shape == volumes.shape
    assert (seen - volumes).abs().flatten(1).amax(dim=1).min() > 1
    for depth in range(7):
        assert torch.allclose(seen[:, :, depth], VIEWS[name].change(volumes[:, :, depth], "quantile"), atol=1e-2)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_queries_are_changed_into_are_views_that_are_compared_with_themselves(dims):
    views = views_of(dims)
    assert set(views_of_queries(dims)) == {name for name, view in views.items() if view.beside == name}
    assert {view.beside for view in views.values()} - {None} == set(views_of_queries(dims))


@pytest.mark.parametrize(("name", "degrees"), [("edges_left", -12.0), ("edges_right", 12.0)])
def test_edges_of_turned_images_are_those_of_copies_turned_alike_in_any_contrast(generator, name, degrees):
    labels = F.interpolate(torch.rand(3, 1, 8, 8, generator=generator), (96, 96), mode="bicubic").clamp(0, 1)
    inner = ((torch.linspace(-1, 1, 96) ** 2 + torch.linspace(-1, 1, 96)[:, None] ** 2) < 0.6).float()
    images = (labels.mul(4).round() / 4 + 0.2) * inner
    seen = VIEWS[name].change(images, "minmax")
    turned = [affine((1.4 * inner - images) * inner, rotation=angle) for angle in (degrees, -degrees)]
    right, wrong = (VIEWS["edges"].change(images, "minmax") for images in turned)
    alike, other = (torch.corrcoef(torch.stack([seen.flatten(), e.flatten()]))[0, 1] for e in (right, wrong))
    assert 1 - other > 4 * (1 - alike)
