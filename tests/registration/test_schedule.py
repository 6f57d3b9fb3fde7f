"""Which of many pairs go on from level to level: hopeless candidates are dropped, and the copy stays."""

from dataclasses import replace

import pytest
import torch
from factories import SIDE, affine_map, as_bytes, move, oval, texture
from torch import Tensor

from mi_callback.registration.config import Quota, RegistrationConfig, registration_config
from mi_callback.registration.schedule import register
from mi_callback.registration.selection import TIE, select_best

pytestmark = pytest.mark.numeric

CONFIG = registration_config(2)
QUOTAS = CONFIG.schedule.quotas

THETA = affine_map(10, (0.9, 1.05), (0.025, 0.03), shear=-0.05)

SMALL = 48
"""Side of images where it is irrelevant; the warp is fitted on the middle level of them."""

ALL = 99
"""More than there are candidates."""


def scheduled(side: int = SIDE, **changes: object) -> RegistrationConfig:
    free_form = replace(CONFIG.free_form, side=side // 2)
    return replace(CONFIG, free_form=free_form, schedule=replace(CONFIG.schedule, **changes))


def quotas(**changes: int) -> dict[str, Quota]:
    return {name: replace(getattr(CONFIG.schedule, name), **changes) for name in ("whole", "window", "edges")}


def three_kinds(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Kinds of pairs in turn, and their windows and whether they are aligned by edges."""
    kind = torch.arange(n) % 3
    return kind, torch.where(kind == 1, 4, -1), kind == 2


def counts(compared: Tensor, kind: Tensor) -> list[int]:
    return torch.bincount(kind[compared], minlength=3).tolist()


def copies_of(bank: Tensor, rows: list[int]) -> Tensor:
    """Bytes of moved copies, one for each pair."""
    return as_bytes(move(bank[rows], THETA))


# Definition


@pytest.mark.parametrize(("candidates", "expected"), [(4, [4, 4, 8]), (1, [1, 1, 2]), (50, [9, 9, 9])])
def test_as_many_are_aligned_as_candidates_are_asked_for_and_twice_as_many_by_edges(candidates, expected):
    bank = as_bytes(texture(27, side=SMALL))
    kind, window, by_edges = three_kinds(27)
    everyone = scheduled(SMALL, **quotas(kept=ALL, finalists=ALL))
    group = torch.zeros(27, dtype=torch.long)
    found = register(bank[:1].expand_as(bank), bank, group, window, by_edges, candidates=candidates, config=everyone)
    assert counts(found.compared, kind) == expected


def test_of_every_kind_its_own_number_goes_on_after_the_coarsest_level():
    bank = as_bytes(texture(45, side=SMALL))
    kind, window, by_edges = three_kinds(45)
    everyone = scheduled(SMALL, **quotas(finalists=ALL))
    group = torch.zeros(45, dtype=torch.long)
    found = register(bank[44:].expand_as(bank), bank, group, window, by_edges, config=everyone)
    # As many by correlation and as many by LNCC, which may be the same.
    for count, quota in zip(counts(found.compared, kind), QUOTAS, strict=True):
        assert quota.kept <= count <= 2 * quota.kept
    assert {0, 1, 2} <= set(found.compared.tolist())  # the first of each
    assert int(found.lncc.argmax()) == 44


@pytest.mark.parametrize("groups", [1, 2])
def test_wholes_windows_and_edges_compete_with_their_like(groups):
    pairs = 9 * groups
    bank = as_bytes(texture(pairs, side=SMALL))
    kind, window, by_edges = three_kinds(pairs)
    group = torch.arange(pairs) // 3 % groups
    found = register(bank[:1].expand_as(bank), bank, group, window, by_edges, config=scheduled(SMALL))
    for member in range(groups):
        rows = found.compared[group[found.compared] == member]
        assert counts(rows, kind) == [quota.finalists for quota in QUOTAS] == [1, 1, 1]


def test_what_was_not_compared_says_so():
    bank, group = as_bytes(texture(6, side=SMALL)), torch.zeros(6, dtype=torch.long)
    found = register(bank[:1].expand_as(bank), bank, group, config=scheduled(SMALL))
    assert found.compared.tolist() == (found.lncc > -1).nonzero().flatten().tolist()
    others = found.lncc == -1
    assert others.sum() == 5
    assert (found.shares[others] == 0).all()
    assert len(found.aligned) == len(found.lncc_map) == 1


# Promise


def test_of_equal_references_the_first_is_the_match_though_rounding_tells_them_apart():
    shown = torch.tensor([0, 1, 2, 1, 3, 1])
    bank, group = oval(4), torch.zeros(6, dtype=torch.long)
    everyone = scheduled(**quotas(kept=ALL, finalists=ALL), fine_batch=2)
    for order, first in ((shown, 1), (shown.flip(0), 0)):
        found = register(copies_of(bank, [1] * 6), as_bytes(bank[order]), group, config=everyone)
        assert (found.lncc[order == 1] - found.lncc.max()).abs().max() < TIE
        assert int(select_best(found.lncc, group)) == first


def test_of_the_candidates_of_one_image_the_hopeless_ones_are_dropped_and_the_copy_stays():
    bank = oval(6)
    found = register(copies_of(bank, [2] * 6), as_bytes(bank), group=torch.zeros(6, dtype=torch.long))
    assert int((found.lncc > -1).sum()) == QUOTAS[0].finalists
    assert int(found.lncc.argmax()) == 2
    assert found.lncc[2] > 0.95


def test_the_last_of_many_candidates_is_found_if_it_is_the_copy():
    bank = oval(24)
    generated, group = copies_of(bank, [23] * 24), torch.zeros(24, dtype=torch.long)
    found = register(generated, as_bytes(bank), group, candidates=4)
    assert int(found.lncc.argmax()) == 23
    assert found.lncc[23] > 0.95
    # The one that stands first in the order given goes before the one that the search puts first.
    alone = register(generated, as_bytes(bank), group, candidates=1)
    assert (alone.lncc > -1).nonzero().flatten().tolist() == [0]


def test_groups_do_not_compete_with_each_other_in_whatever_order_they_come():
    bank, group = oval(8), torch.tensor([1, 0, 1, 0, 1, 0, 1, 0])
    generated = copies_of(bank, [0, 7, 0, 7, 0, 7, 0, 7])
    found = register(generated, as_bytes(bank), group=group)
    for member, copy in ((1, 0), (0, 7)):
        rows = (group == member).nonzero().flatten()
        assert int((found.lncc[rows] > -1).sum()) == QUOTAS[0].finalists
        assert int(rows[found.lncc[rows].argmax()]) == copy
    # Alone, every pair is compared; in a group only the best ones.
    everything = register(generated, as_bytes(bank))
    kept = found.lncc > -1
    assert torch.allclose(found.lncc[[7, 0]], everything.lncc[[7, 0]], atol=1e-3)
    assert (found.lncc[kept] <= everything.lncc[kept] + 1e-3).all()


def test_from_a_map_that_is_given_nothing_is_searched_and_one_of_a_group_goes_on():
    bank, group = oval(6), torch.tensor([0, 0, 0, 1, 1, 1])
    generated, near = copies_of(bank, [1, 1, 1, 5, 5, 5]), THETA.repeat(6, 1, 1)
    found = register(generated, as_bytes(bank), group=group, start=near)
    assert (found.lncc > -1).tolist() == [False, True, False, False, False, True]
    assert found.lncc[[1, 5]].min() > 0.97
    assert torch.equal(found.theta[[0, 2, 3, 4]], near[[0, 2, 3, 4]])
    assert torch.equal(near, THETA.repeat(6, 1, 1))  # what was given is not changed
    # A quarter of the image away, which the search finds and the finest level alone does not.
    far = affine_map(shift=(0.25, 0)).expand(6, -1, -1)
    lost, searched = (register(generated, as_bytes(bank), group, start=start) for start in (far, None))
    assert searched.lncc[[1, 5]].min() > 0.97
    assert lost.lncc.max() < 0.9


@pytest.mark.parametrize("size", [1, 2])
def test_the_size_of_a_batch_is_irrelevant(size):
    reference = oval(5)
    generated, moving = copies_of(reference, list(range(5))), as_bytes(reference[[0, 3, 4, 1, 2]])
    by_edges, group = torch.tensor([False, True, False, True, False]), torch.tensor([0, 1, 2, 2, 3])
    whole = register(generated, moving, group, by_edges=by_edges)
    parts = register(generated, moving, group, by_edges=by_edges, config=scheduled(coarse_batch=size, fine_batch=size))
    assert torch.allclose(whole.lncc, parts.lncc, atol=1e-3)
    assert torch.allclose(whole.theta, parts.theta, atol=1e-2)


@pytest.mark.parametrize("size", [1, 100])
def test_images_come_of_the_pairs_that_were_compared_in_their_order(size):
    bank = oval(6)
    generated, moving = copies_of(bank, [0, 1, 2, 0, 1, 2]), as_bytes(bank[[0, 4, 2, 3, 1, 5]])
    group, by_edges = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 1, 0, 0, 1, 1]) > 0
    config = scheduled(coarse_batch=size, fine_batch=size)
    start = THETA.expand(6, -1, -1)
    found = register(generated, moving, group, by_edges=by_edges, start=start, config=config)
    assert found.compared.tolist() == (found.lncc > -1).nonzero().flatten().tolist()
    assert len(found.compared) == len(found.aligned) == len(found.lncc_map) == 4  # one of two, twice, and both
    for place, k in enumerate(found.compared.tolist()):
        alone = register(generated[[k]], moving[[k]], by_edges=by_edges[[k]], start=THETA)
        assert torch.allclose(found.aligned[place], alone.aligned[0], atol=0.02)
        assert torch.allclose(found.lncc_map[place], alone.lncc_map[0], atol=0.02)
        assert float(found.lncc[k]) == pytest.approx(float(alone.lncc), abs=1e-3)
