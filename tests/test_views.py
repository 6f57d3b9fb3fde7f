"""Views change images as they say, in the units of the images."""

import pytest
import torch

from mi_callback.poses import POSES
from mi_callback.views import VIEWS, VOLUME_VIEWS, views_of


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


@pytest.mark.parametrize("name", [name for name, view in VOLUME_VIEWS.items() if not view.of_both])
def test_a_view_of_volumes_is_that_of_every_slice(generator, name):
    volumes = torch.rand(2, 2, 7, 12, 10, generator=generator) * 5 - 1024
    volumes[:, :, 0, 0, 0], volumes[:, :, 0, 0, 1] = -1030, -1010  # the darkest and the brightest, in every slice
    volumes[:, :, :, 0, 0], volumes[:, :, :, 0, 1] = -1030, -1010
    seen = views_of(3)[name].change(volumes, "quantile")
    assert seen.shape == volumes.shape
    assert (seen - volumes).abs().flatten(1).amax(dim=1).min() > 1
    for depth in range(7):
        assert torch.allclose(seen[:, :, depth], VIEWS[name].change(volumes[:, :, depth], "quantile"), atol=1e-2)
