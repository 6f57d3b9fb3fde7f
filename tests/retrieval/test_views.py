"""Views change volumes as they say, in the units of the volumes."""

import pytest
import torch
import torch.nn.functional as F

from mi_callback.images.frames import frame_by_moments
from mi_callback.retrieval.views import VIEWS, views_of, views_of_queries

pytestmark = pytest.mark.numeric

# Definition


def test_what_is_compared_with_what():
    found = {name: (view.recoloured, view.beside) for name, view in VIEWS.items()}
    assert found == {"magnified": (False, None), "framed": (False, "framed"), "edges": (True, "edges")}
    assert views_of(3) == VIEWS
    assert views_of(2) == {}
    assert views_of_queries(3) == ["framed", "edges"]
    assert views_of_queries(2) == []


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_changes_the_volume_in_its_units(generator, name):
    volumes = torch.rand(2, 1, 24, 24, 24, generator=generator) * 5 - 1024  # in Hounsfield units, say
    seen = VIEWS[name].of(volumes, "quantile")
    assert seen.shape == volumes.shape
    assert (seen - volumes).abs().max() > 1
    assert torch.all(seen.flatten(1).amin(dim=1) >= volumes.flatten(1).amin(dim=1) - 1e-3)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("window", [(-160.0, 240.0), (0.0, 100.0)])
def test_within_a_window_of_intensities_a_view_shows_what_it_shows_of_the_window_alone(generator, name, window):
    body = torch.zeros(2, 1, 16, 32, 32)
    body[..., 3:13, 6:26, 8:22] = F.interpolate(torch.rand(2, 1, 3, 6, 5, generator=generator) * 60 + 20, (10, 20, 14))
    air = torch.full_like(body, -1024.0).where(body == 0, body)
    bone = air.clone()
    bone[..., 7:9, 15:17, 14:16] = 1500.0
    for volumes in (air, bone):
        seen, clipped = (VIEWS[name].of(shown, window).clamp(*window) for shown in (volumes, volumes.clamp(*window)))
        assert (seen.flatten(1).amax(dim=1) > seen.flatten(1).amin(dim=1)).all()
        if name == "edges":  # elsewhere voxels are mixed before they are clipped
            assert torch.allclose(seen, clipped, atol=1e-2 * (window[1] - window[0]))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("intensity", ["minmax", (-160.0, 240.0)])
def test_a_volume_of_which_a_view_shows_nothing_stays_as_it_is(name, intensity):
    volumes = torch.full((2, 1, 8, 40, 30), -1024.0)
    volumes[0, 0, :, :2, :2] = volumes[1, 0, :, 15:25, 10:20] = 50.0  # in a corner, and in the middle
    seen = VIEWS[name].of(volumes, intensity)
    within = (seen if isinstance(intensity, str) else seen.clamp(*intensity)).flatten(1)
    assert (within.amax(dim=1) > within.amin(dim=1)).all()
    if name == "magnified":
        assert torch.equal(seen[0], volumes[0])
        assert not torch.equal(seen[1], volumes[1])


def test_magnified_are_slices_and_the_darkest_value_fills_borders(generator):
    volumes = torch.rand(2, 1, 7, 40, 40, generator=generator) * 5 - 1024
    volumes[:, :, :, 0, 0] = -1030.0  # the darkest, in every slice
    magnified = VIEWS["magnified"]
    seen = magnified.of(volumes, "quantile")
    for depth in range(7):
        part = slice(depth, depth + 1)
        assert torch.allclose(seen[:, :, part], magnified.of(volumes[:, :, part], "quantile"), atol=1e-3)


def test_frames_are_those_of_the_volumes(generator):
    volumes = torch.rand(2, 1, 12, 10, 8, generator=generator)
    assert torch.equal(VIEWS["framed"].of(volumes, "minmax"), frame_by_moments(volumes))
