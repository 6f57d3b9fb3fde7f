"""How much is a copy's: what agrees beyond what novel images show, and nothing for those."""

import pytest
import torch

from mi_callback.registration.config import LNCC_LEVELS, CopiedFractionConfig
from mi_callback.registration.copied_fraction import copied_fraction, usual_shares

pytestmark = pytest.mark.numeric

L = len(LNCC_LEVELS)
CONFIG = CopiedFractionConfig()


def novel(n: int, seed: int = 0, places: int = 400) -> torch.Tensor:
    """Shares of images whose places agree as those of strangers do, some images more and some less, `(n, levels)`."""
    generator = torch.Generator().manual_seed(seed)
    level = 0.75 + 0.05 * torch.randn(n, 1, generator=generator)
    return reached(level + 0.08 * torch.randn(n, places, generator=generator))


def reached(correlation: torch.Tensor) -> torch.Tensor:
    return (correlation[..., None] >= torch.tensor(LNCC_LEVELS)).double().mean(dim=1)


def test_usual_is_what_95_percent_of_the_people_stay_below():
    shares = torch.rand(37, L, generator=torch.Generator().manual_seed(1)).double()
    weights = torch.rand(37, generator=torch.Generator().manual_seed(2)).double()
    found = usual_shares(shares, weights)
    for level in range(L):
        within = shares[:, level] <= found[level]
        assert weights[within].sum() / weights.sum() >= CONFIG.usual - 1e-9
        less = shares[:, level] < found[level]
        assert weights[less].sum() / weights.sum() < CONFIG.usual


def test_of_few_people_the_largest_share_is_usual():
    shares = novel(7)
    assert torch.equal(usual_shares(shares, torch.ones(7)), shares.amax(dim=0))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8, 1.0])
def test_the_part_that_agrees_as_a_copy_does_is_found(share):
    null = novel(200)
    usual = usual_shares(null, torch.ones(200))
    copy = share * reached(torch.full((1, 400), 0.99)) + (1 - share) * null[:20]
    found, level = copied_fraction(copy, usual)
    # Never more than was copied, but for what chance adds to the rest; less by what is usual.
    assert found.max() <= share + 0.02
    assert found.min() >= share - 0.05
    assert ((level > 0.85) & (level <= 0.99)).all()


def test_of_images_that_agree_as_is_usual_nothing_is_copied():
    usual = usual_shares(novel(200), torch.ones(200))
    found, level = copied_fraction(novel(1000, seed=1), usual)
    assert (found == 0).double().mean() > 0.85
    assert found.quantile(0.95) < 0.15
    assert (level[found == 0] == 1).all()


def test_levels_that_most_novel_structure_reaches_say_nothing():
    usual = torch.linspace(1, 0, L).double()
    common = torch.where(usual > CONFIG.rare, 1.0, usual)[None]
    assert copied_fraction(common, usual)[0].tolist() == [0.0]


def test_where_all_novel_images_agree_everywhere_only_the_highest_level_is_left():
    usual = torch.ones(L).double()
    usual[-1] = 0.9
    found, _ = copied_fraction(torch.ones(1, L).double(), usual)
    assert float(found) == pytest.approx(0.1 / (1 - CONFIG.rare))


def test_without_novel_images_the_share_is_unknown_and_not_none():
    share, level = copied_fraction(torch.ones(3, L), None)
    assert share.isnan().tolist() == level.isnan().tolist() == [True] * 3
