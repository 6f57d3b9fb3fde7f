"""Volumes are aligned and compared as images are, in three dimensions."""

from dataclasses import replace

import pytest
import torch
from factories import VOLUME_SIDE, as_bytes, corner_distance, ellipsoid, move

from mi_callback.images.windows import window_masks
from mi_callback.registration.config import LNCC_LEVELS, registration_config
from mi_callback.registration.schedule import register

pytestmark = pytest.mark.volumes

CONFIG = registration_config(3)

MOVED = torch.tensor([[[0.94, -0.17, 0.1, 0.06], [0.18, 0.98, 0.0, -0.05], [-0.08, 0.02, 1.05, 0.04]]])
"""A volume turned, zoomed, sheared and moved a little."""


@pytest.mark.numeric
def test_copies_are_aligned_and_clearly_above_strangers(generator):
    reference = ellipsoid(2)
    noisy = move(reference, MOVED) + 0.02 * torch.randn(reference.shape, generator=generator)
    generated = as_bytes(torch.cat([move(reference, MOVED), noisy, 1 - reference]))
    banks = (as_bytes(images.repeat(3, 1, 1, 1, 1)) for images in (reference, reference.roll(1, 0)))
    copies, strangers = (register(generated, bank) for bank in banks)
    assert copies.theta.shape == (6, 3, 4)
    assert copies.aligned.shape == copies.lncc_map.shape == generated.shape
    assert corner_distance(copies.theta[:2], MOVED).max() < 0.7  # voxels
    agreeing, others = (found.shares[:, LNCC_LEVELS.index(0.9)] for found in (copies, strangers))
    for rows, lncc, share in ((slice(0, 2), 0.98, 0.7), (slice(2, 4), 0.95, 0.55), (slice(4, 6), 0.98, 0.7)):
        assert copies.lncc[rows].min() > lncc
        assert agreeing[rows].min() > share
        assert 1 - strangers.lncc[rows].max() ** 2 > 2 * (1 - copies.lncc[rows].min() ** 2)
        assert others[rows].max() < agreeing[rows].min() - 0.2


def test_a_flip_is_not_an_affine_map_that_registration_tries():
    reference = ellipsoid(1)
    flipped = torch.cat([reference.flip(axis) for axis in (2, 3, 4)])
    found = register(as_bytes(flipped), as_bytes(reference.expand(3, -1, -1, -1, -1)))
    assert found.lncc.max() < 0.95
    assert found.shares[:, LNCC_LEVELS.index(0.9)].max() < 0.7


def test_the_size_of_a_batch_is_irrelevant_and_twice_is_the_same():
    bank = ellipsoid(2)
    generated = as_bytes(move(bank, MOVED))
    whole, again = register(generated, as_bytes(bank)), register(generated, as_bytes(bank))
    assert torch.equal(whole.lncc, again.lncc)
    assert torch.equal(whole.theta, again.theta)
    small = replace(CONFIG, schedule=replace(CONFIG.schedule, coarse_batch=1, fine_batch=1))
    parts = register(generated, as_bytes(bank), config=small)
    assert torch.allclose(whole.lncc, parts.lncc, atol=1e-3)
    assert torch.allclose(whole.theta, parts.theta, atol=1e-2)
    assert (whole.lncc_map - parts.lncc_map).abs().mean() < 1e-2


def test_candidates_compete_within_their_group_and_kind():
    bank = ellipsoid(6)
    generated = as_bytes(move(bank[[2, 4]], MOVED))
    group, window = torch.tensor([0, 1, 0, 0, 1, 0]), torch.tensor([-1, -1, -1, 13, -1, 13])
    found = register(generated[group], as_bytes(bank), group, window)
    assert int(found.lncc[[0, 2]].argmax()) == 1  # of the wholes of one group the copy
    assert int(found.lncc[[1, 4]].argmax()) == 1
    assert [int((found.lncc[rows] > -1).sum()) for rows in ([0, 2], [1, 4], [3, 5])] == [2, 2, 1]


def test_an_eighth_pasted_into_another_volume_is_found_with_its_window():
    windows = torch.tensor([13, 4, 22])
    reference, others = ellipsoid(6, seed=3).chunk(2)
    inside = window_masks(VOLUME_SIDE, 3)[windows] > 0
    theta = torch.cat([torch.eye(3), torch.tensor([[0.05], [-0.04], [0.03]])], dim=1)[None]
    mixed = as_bytes(torch.where(inside, move(reference, theta), others))
    part, whole = (register(mixed, as_bytes(reference), window=w) for w in (windows, None))
    for k, window in enumerate(windows.tolist()):
        place = tuple(slice(at * VOLUME_SIDE // 4 + 5, at * VOLUME_SIDE // 4 + VOLUME_SIDE // 2 - 5)
                      for at in (window // 9, window // 3 % 3, window % 3))  # fmt: skip
        assert part.lncc_map[k][place].mean() > 0.9
        assert part.lncc_map[k][place].mean() > whole.lncc_map[k][place].mean() - 0.02
    assert (part.theta - theta).abs()[..., 3].max() < 0.06


def test_edges_are_aligned_as_well():
    reference = ellipsoid(2)
    generated = as_bytes(1 - (2 * move(reference, MOVED) - 1).abs())
    moving = as_bytes(torch.cat([reference, reference.roll(1, 0)]))
    found = register(generated.repeat(2, 1, 1, 1), moving, by_edges=torch.ones(4, dtype=torch.bool))
    copies, others = found.lncc.chunk(2)
    assert copies.min() > 0.95
    assert 1 - others.max() ** 2 > 3 * (1 - copies.min() ** 2)


@pytest.mark.numeric
def test_a_volume_without_structure_is_finite_and_no_copy():
    structured, empty = as_bytes(ellipsoid(1)), torch.full((1, *(VOLUME_SIDE,) * 3), 128, dtype=torch.uint8)
    generated, reference = torch.cat([empty, structured, empty]), torch.cat([structured, empty, empty])
    window, pairs = torch.tensor([-1, -1, -1, 0, 13]), torch.tensor([0, 1, 2, 0, 1])
    found = register(generated[pairs], reference[pairs], window=window)
    assert found.lncc.isfinite().all()
    assert found.theta.isfinite().all()
    assert found.lncc.abs().max() < 0.1
    assert found.shares[:, LNCC_LEVELS.index(0.9)].max() < 0.1
