"""Volumes by their slices: a copy's match one training volume, in its order; a stranger's one here, one there."""

import itertools

import pytest
import torch

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.auditing.slice_order import longest_rise, most_alike
from mi_callback.auditing.volumes import score_volumes
from mi_callback.errors import CalibrationError, DataError, StateError
from mi_callback.statistics.conformal import conformal_p_values

SLICES, TRAIN, HELD_OUT = 6, 12, 24


def volumes(n: int, seed: int) -> torch.Tensor:
    """Smooth random volumes, `(n, SLICES, 16, 16)`: neighbouring slices are alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 4, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, (SLICES, 16, 16), mode="trilinear", align_corners=True)[:, 0]


def slices(stacks: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    return stacks.flatten(0, 1)[:, None], [i for i in range(len(stacks)) for _ in range(SLICES)]


@pytest.fixture(scope="module")
def detector():
    train, of_train = slices(volumes(TRAIN, 0))
    held_out, of_held_out = slices(volumes(HELD_OUT, 1))
    detector = MemorizationDetector(build_encoder("pixels", size=16), verify=False)
    return detector.fit(
        train, [f"t{i}" for i in of_train], held_out=held_out, held_out_subjects=[f"h{i}" for i in of_held_out]
    )


def scored(detector, stacks, **options):
    generated, of_generated = slices(stacks)
    _, of_train = slices(volumes(TRAIN, 0))
    held_out, of_held_out = slices(volumes(HELD_OUT, 1))
    return score_volumes(detector, generated, of_generated, of_train, held_out, of_held_out, **options)


# Definition


@pytest.mark.parametrize("seed", range(20))
def test_thelongest_rise_is_the_longest_of_all_subsequences_that_do_not_fall(seed):
    values = torch.randint(6, (8,), generator=torch.Generator().manual_seed(seed)).tolist()
    longest = max(
        (
            chosen
            for k in range(1, 9)
            for chosen in itertools.combinations(range(8), k)
            if all(values[a] <= values[b] for a, b in itertools.pairwise(chosen))
        ),
        key=len,
    )
    found = longest_rise(values)
    assert len(found) == len(longest)
    assert found == sorted(set(found))
    assert all(values[a] <= values[b] for a, b in itertools.pairwise(found))


def test_nothing_has_no_rise():
    assert longest_rise([]) == []


def test_the_volume_that_most_slices_match_in_order_is_named():
    found = most_alike([(0, 3), (1, 0), (0, 1), (1, 1), (1, 4), (0, 2)])
    assert (found.volume, found.slices, found.reversed) == (1, [1, 3, 4], False)
    backwards = most_alike([(2, 5), (2, 4), (0, 0), (2, 1), (2, 3)])
    assert (backwards.volume, len(backwards.slices), backwards.reversed) == (2, 3, True)


def test_the_share_in_order_its_p_value_and_its_means_are_those_of_a_slow_loop(detector):
    stacks = torch.cat([volumes(TRAIN, 0)[[4]], volumes(2, 2)])
    found, of_slices = scored(detector, stacks)
    held_out, _ = slices(volumes(HELD_OUT, 1))

    def share(matches: list[int]) -> float:
        best = 0
        for volume in range(TRAIN):
            places = [(k, m % SLICES) for k, m in enumerate(matches) if m // SLICES == volume]
            for size in range(1, len(places) + 1):
                for chosen in itertools.combinations(places, size):
                    order = [place for _, place in chosen]
                    if order in (sorted(order), sorted(order, reverse=True)):
                        best = max(best, size)
        return best / len(matches)

    expected = torch.tensor([share(m) for m in of_slices.match.view(-1, SLICES).tolist()], dtype=torch.float64)
    assert torch.equal(found.similarity, expected)
    null = detector.score(held_out).match.view(-1, SLICES).tolist()
    shares = torch.tensor([share(m) for m in null], dtype=torch.float64)
    assert torch.allclose(found.p_value, conformal_p_values(expected, shares))
    assert torch.allclose(found.layer_similarity, of_slices.layer_similarity.view(3, SLICES, -1).mean(dim=1))
    assert len(found) == 3
    assert len(of_slices) == 3 * SLICES


# Promise


@pytest.mark.parametrize(
    ("change", "pose"),
    [
        (lambda v: v, "identity"),
        (lambda v: v.flip(1), "flip_depth"),
        (lambda v: v.flip(3), "flip_horizontal"),
        (lambda v: v.flip(1, 2), "flip_depth_vertical"),
        (lambda v: v.flip(1, 2, 3), "flip_all"),
    ],
    ids=["exact", "reversed", "mirrored", "both", "all"],
)
def test_copies_are_flagged_with_the_right_volume_its_subject_and_the_pose(detector, change, pose):
    found, _ = scored(detector, change(volumes(TRAIN, 0)))
    assert found.flagged.all()
    assert (found.similarity == 1).all()
    assert found.match.tolist() == list(range(TRAIN))
    assert found.match_subject == [f"t{i}" for i in range(TRAIN)]
    assert set(found.pose) == {pose}


def test_strangers_are_flagged_at_the_nominal_rate_at_most(detector):
    found, _ = scored(detector, volumes(200, 3))
    assert float(found.flagged.double().mean()) <= detector.rule.alpha + 4 * (0.05 * 0.95 / 200) ** 0.5


def test_slices_of_one_volume_in_another_order_than_its_own_are_less_alike(detector):
    shuffled = volumes(TRAIN, 0)[:, [3, 0, 5, 1, 4, 2]]
    found, _ = scored(detector, shuffled)
    assert found.similarity.max() <= 4 / 6
    assert found.match.tolist() == list(range(TRAIN))


def test_half_a_volume_among_strange_slices_counts_by_half():
    train, of_train = slices(volumes(TRAIN, 0))
    held_out, of_held_out = slices(volumes(HELD_OUT, 1))
    detector = MemorizationDetector(build_encoder("pixels", size=16), verify=False).fit(train, held_out=held_out)
    mixed = torch.cat([volumes(TRAIN, 0)[:1, :3], volumes(1, 9)[:, 3:]], dim=1)
    generated, of_generated = slices(mixed)
    found, _ = score_volumes(detector, generated, of_generated, of_train, held_out, of_held_out)
    assert float(found.similarity) >= 0.5
    assert found.match.tolist() == [0]
    assert found.match_subject == [None]


def test_the_same_volume_twice_counts_once(detector):
    found, _ = scored(detector, torch.cat([volumes(TRAIN, 0)[[5, 5, 5]], volumes(2, 4)]))
    assert len(set(found.flagging.group[:3].tolist())) == 1
    assert len(set(found.flagging.group.tolist())) == 3
    assert found.flagging.distinct_at(detector.rule.alpha)[0] <= 1 + int(found.flagged[3:].sum())


def test_several_volumes_of_one_subject_are_one_unit_of_evidence(detector):
    people = [f"p{i // 3}" for i in range(HELD_OUT) for _ in range(SLICES)]
    found, _ = scored(detector, volumes(TRAIN, 0), held_out_subjects=people)
    assert found.flagging.null.n_subjects == HELD_OUT // 3
    assert float(found.p_value.min()) >= 1 / (HELD_OUT // 3 + 1)


# Refusal


def test_an_unfitted_detector_is_refused():
    with pytest.raises(StateError, match="call fit"):
        score_volumes(MemorizationDetector("pixels"), None, [], [], None, [])


@pytest.mark.parametrize("which", ["training", "generated", "held-out"])
def test_other_than_one_volume_per_slice_is_refused(detector, which):
    _, of_train = slices(volumes(TRAIN, 0))
    held_out, of_held_out = slices(volumes(HELD_OUT, 1))
    generated, of_generated = slices(volumes(2, 2))
    of = {"training": of_train, "generated": of_generated, "held-out": of_held_out}
    of[which].pop()
    with pytest.raises(DataError, match=rf"needed one volume per {which} slice \(\d+\); \d+ came"):
        score_volumes(detector, generated, of["generated"], of["training"], held_out, of["held-out"])


def test_a_null_of_one_volume_is_refused(detector):
    generated, of_generated = slices(volumes(2, 2))
    _, of_train = slices(volumes(TRAIN, 0))
    held_out, of_held_out = slices(volumes(1, 1))
    with pytest.raises(CalibrationError, match="held_out null"):
        score_volumes(detector, generated, of_generated, of_train, held_out, of_held_out)
