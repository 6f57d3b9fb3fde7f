"""A copy in another contrast is aligned by its edges and compared under the contrast curve that fits."""

import pytest
import torch
import torch.nn.functional as F
from factories import SIDE, affine_map, as_bytes, move, oval, texture, tissues

from mi_callback.images.perturbations import remap, t2_like
from mi_callback.registration.schedule import register

pytestmark = pytest.mark.numeric

RECOLOURED = {
    "bent": lambda images, generator: 1 - (2 * images - 1).abs(),  # dark what was dark, and what was bright
    "t2_like": lambda images, generator: t2_like(images),
    "remapped": remap,
}


@pytest.mark.parametrize("moved", [False, True], ids=["in_place", "moved"])
@pytest.mark.parametrize("curve", RECOLOURED)
def test_by_its_edges_a_copy_is_found_under_any_contrast_curve_and_map(curve, moved, generator):
    reference = tissues(4)
    theta = affine_map(-10, (0.95, 1), (0.025, 0)) if moved else affine_map()
    generated = as_bytes(RECOLOURED[curve](move(reference, theta), generator))
    drawn = torch.ones(4, dtype=torch.bool)
    copies, others = (register(generated, as_bytes(r), by_edges=drawn) for r in (reference, reference.roll(1, 0)))
    assert 1 - others.lncc.max() ** 2 > 2 * (1 - copies.lncc.min() ** 2)
    # The reference is returned as it was compared.
    inner = slice(12, -12)
    difference = (copies.aligned - generated.float() / 255)[:, inner, inner]
    assert difference.abs().mean() < 0.05
    by_grey_values = register(generated, as_bytes(reference))
    assert (copies.lncc > by_grey_values.lncc + (0.02 if moved else 0.0)).all()


@pytest.mark.parametrize(("made", "curve"), [(tissues, "t2_like"), (oval, "remapped")])
def test_a_copy_in_another_contrast_that_was_not_moved_is_compared_where_it_lies(made, curve, generator):
    reference = made(24)
    generated = as_bytes(RECOLOURED[curve](reference, generator))
    found = register(generated, as_bytes(reference), by_edges=torch.ones(24, dtype=torch.bool))
    assert found.lncc.min() > 0.98  # wherever else edges lead


def test_a_shift_in_another_contrast_between_the_steps_of_the_search_is_found():
    reference = tissues(16, 5, (4, 8), whole=True)
    moved = F.pad(t2_like(reference), (5, 0, 5, 0))[..., :SIDE, :SIDE]  # edges where nothing is
    found = register(as_bytes(moved), as_bytes(reference), by_edges=torch.ones(16, dtype=torch.bool))
    assert found.lncc.min() > 0.95


def test_pairs_are_recoloured_where_they_are_aligned_by_edges_alone():
    reference = texture(4)
    maps = torch.cat([affine_map(shift=(0.17, 0)), affine_map(shift=(-0.17, 0)), affine_map(30), affine_map()])
    generated = move(reference, maps)  # each from maps of its own
    generated, drawn = as_bytes(1 - (2 * generated - 1).abs()), torch.tensor([True, False, False, True])
    mixed, all_drawn, none = (
        register(generated, as_bytes(reference), by_edges=by_edges) for by_edges in (drawn, torch.ones(4) > 0, None)
    )
    for name in ("lncc", "theta", "curve"):
        found, by_edges, by_grey_values = (getattr(alignment, name) for alignment in (mixed, all_drawn, none))
        assert torch.allclose(found[drawn], by_edges[drawn], atol=1e-3)
        assert torch.allclose(found[~drawn], by_grey_values[~drawn], atol=1e-3)
    assert torch.equal(none.curve, torch.linspace(0, 1, none.curve.shape[1]).expand(4, -1))
    assert not torch.allclose(all_drawn.curve, none.curve, atol=0.1)


def test_by_its_edges_a_copy_in_its_own_contrast_is_found_as_well():
    reference = texture(4)
    generated = as_bytes(move(reference, affine_map(10, (0.9, 1.05), (0.025, 0.03), shear=-0.05)))
    plain, drawn = (register(generated, as_bytes(reference), by_edges=torch.full((4,), k)) for k in (False, True))
    assert drawn.lncc.min() > plain.lncc.min() - 0.005
