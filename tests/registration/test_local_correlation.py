"""LNCC is the correlation of the window around each place, whatever its sign, and counts where there is structure."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from factories import SIDE, texture
from naive_lncc import ALIKE, correlated_noise, fast_maps, naive_maps

from mi_callback.registration.config import LNCC_LEVELS, registration_config
from mi_callback.registration.local_correlation import LocalCorrelation, correlate_locally, shares_by_level

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dims", "side", "atol"), [(2, 11, 2e-3), (2, 24, 2e-3), (3, 12, 3e-3)])
def test_lncc_is_the_correlation_of_each_window(dims, side, atol, sign):
    generated, aligned, inside = correlated_noise(dims, side)
    lncc, structure, weight = naive_maps(generated, aligned, inside)
    found = fast_maps(generated, sign * aligned, inside)
    # Windows without contrast are damped, which costs those with contrast a little too.
    clear = structure > 0.5
    assert np.allclose(found.map[0, 0].numpy()[clear], lncc[clear], atol=atol)
    assert np.allclose(found.structure[0, 0].numpy(), structure, atol=1e-4)
    assert np.array_equal(found.overlap[0, 0].numpy() * structure, weight)
    low, high = ((weight * (lncc >= ALIKE + slack)).sum() / structure.sum() for slack in (5e-3, -5e-3))
    share = float(shares_by_level(found, LNCC_LEVELS)[0, LNCC_LEVELS.index(ALIKE)])
    assert low - 1e-3 <= share <= high + 1e-3
    assert 0.01 < low < 0.9


def test_shares_are_those_of_the_structure_that_reaches_each_level():
    generator = torch.Generator().manual_seed(0)
    lncc, structure, overlap = torch.rand(3, 2, 1, 9, 9, generator=generator)
    overlap = (overlap > 0.2).float()
    found = shares_by_level(LocalCorrelation(lncc, structure, overlap, torch.ones(2, 2, 9, 9)), LNCC_LEVELS)
    for k, level in enumerate(LNCC_LEVELS):
        expected = (structure * overlap * (lncc >= level)).flatten(1).sum(dim=1) / structure.flatten(1).sum(dim=1)
        assert torch.allclose(found[:, k], expected, atol=1e-3)
    assert (found.diff(dim=1) <= 0).all()


def test_of_two_maps_each_pair_keeps_its_own():
    images, whole = texture(4), torch.ones(2, 1, SIDE, SIDE)
    config = registration_config(2).local_correlation
    one, other = (
        correlate_locally(image, image.flip(-1) ** 2, inside, config)
        for image, inside in zip(images.split(2), (whole, whole.triu()), strict=True)
    )
    chosen = one.where(torch.tensor([True, False]), other)
    for field in fields(chosen):
        ours, theirs, found = (getattr(maps, field.name) for maps in (one, other, chosen))
        assert not torch.equal(ours, theirs)
        assert torch.equal(found, torch.stack([ours[0], theirs[1]]))
