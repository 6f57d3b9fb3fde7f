"""What was found of planted copies: the definitions."""

import math

import pytest
import torch
from scipy.stats import binomtest

from mi_callback.images.perturbations import PERTURBATIONS
from mi_callback.statistics.power import ENOUGH, Power

pytestmark = pytest.mark.numeric


def table(**shares: list[int]) -> Power:
    flagged = {change: torch.tensor(values, dtype=torch.bool) for change, values in shares.items()}
    return Power(flagged, {change: ~values for change, values in flagged.items()}, 0.05)


# Definition


def test_shares_counts_and_verdict_are_what_a_loop_gives():
    found = {"exact": [1, 1, 1, 1, 1], "blur_1": [1, 1, 0, 1, 0], "combined": [0, 1, 0, 0, 0]}
    power = table(**found)
    assert power.n == 5
    for change, values in found.items():
        assert power.share(change) == pytest.approx(sum(values) / 5)
    assert power.overall == pytest.approx(sum(map(sum, found.values())) / 15)
    per_image = [sum(values[i] for values in found.values()) / 3 for i in range(5)]
    assert power.counts == (math.floor(sum(per_image) + 1e-9), 5) == (3, 5)
    assert power.missed == ["combined"]
    assert power.sees_copies


@pytest.mark.parametrize(("found", "sees"), [([1, 1, 0, 0], True), ([1, 0, 0, 0], False), ([0] * 4, False)])
def test_a_detector_that_finds_half_of_the_copies_sees_them(found, sees):
    power = table(exact=found)
    assert power.sees_copies is sees is (sum(found) / 4 >= ENOUGH)
    assert power.missed == ([] if sees else ["exact"])


@pytest.mark.parametrize("images", [1, 3, 6, 9, 21, 49])
def test_shares_add_up_to_whole_images_despite_rounding(images):
    assert table(**{change: [1] * images for change in list(PERTURBATIONS)[:7]}).counts == (images, images)
    one_in_three = table(exact=[1] * images, blur_1=[0] * images, combined=[0] * images)
    assert one_in_three.counts == (images // 3, images)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("found", [[0] * 6, [1, 0, 1, 1, 0, 1], [1] * 6])
def test_the_interval_of_a_change_is_that_of_scipy(found, confidence):
    expected = binomtest(sum(found), 6).proportion_ci(confidence, method="exact")
    assert table(exact=found).interval("exact", confidence) == pytest.approx((expected.low, expected.high))


def test_the_table_has_a_row_per_change():
    power = table(exact=[1, 1, 1, 0], blur_1=[0, 0, 0, 1])
    assert power.table() == [
        ("exact", 0.75, *power.interval("exact"), 0.25),
        ("blur_1", 0.25, *power.interval("blur_1"), 0.75),
    ]


def test_the_text_is_the_table_with_aligned_columns():
    lines = str(table(exact=[1, 1, 1, 0], half_resolution=[0, 0, 0, 1])).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["exact", "75%", "19%", "to", "99%", "25%"],
        ["half_resolution", "25%", "1%", "to", "81%", "75%"],
        ["all", "50%"],
    ]
    assert lines[0].startswith("copies changed by")
    assert lines[0].endswith("(4 images, p ≤ 0.05)")
    assert len({line.index("%") for line in lines[1:]}) == 1
    assert lines[0].index("flagged") + len("flagged") == lines[1].index("%") + 1
