"""Similarities of several layers → one."""

import math

import pytest
import torch

from mi_callback.errors import EncoderError
from mi_callback.retrieval.aggregation import EPSILON, aggregate

pytestmark = pytest.mark.numeric

LAYERS = ["a", "b", "c"]


@pytest.fixture
def similarity(generator):
    return torch.rand(20, 3, generator=generator) * 2 - 1


# Definition


@pytest.mark.parametrize("how", ["geometric", "mean", "minimum", "weights"])
def test_an_aggregate_is_its_formula(similarity, how):
    found = aggregate(similarity, {"a": 1, "c": 3} if how == "weights" else how, LAYERS)
    assert found.dtype == torch.float64
    for row, value in zip(similarity.double().tolist(), found.tolist(), strict=True):
        expected = {
            "geometric": math.prod(max(s, 0) + EPSILON for s in row) ** (1 / 3),
            "mean": sum(row) / 3,
            "minimum": min(row),
            "weights": (row[0] + 3 * row[2]) / 4,
        }[how]
        assert value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("how", ["geometric", "mean", "minimum", {"b": 1.0}])
def test_the_layers_are_the_last_axis_whatever_stands_before_it(similarity, how):
    found = aggregate(similarity.reshape(4, 5, 3), how, LAYERS)
    assert found.shape == (4, 5)
    assert torch.equal(found.flatten(), aggregate(similarity, how, LAYERS))


# Promise


@pytest.mark.parametrize("how", ["geometric", "mean", "minimum", {"a": 0.2, "b": 0.8}])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_that_comes_closer_never_lowers_the_aggregate(similarity, how, layer):
    closer = similarity.clone()
    closer[:, layer] = (closer[:, layer] + 0.3).clamp_max(1)
    assert (aggregate(closer, how, LAYERS) >= aggregate(similarity, how, LAYERS)).all()


@pytest.mark.parametrize("how", ["geometric", "mean", "minimum", {"a": 2.0, "b": 5.0, "c": 1.0}])
def test_an_identical_image_has_aggregate_one(how):
    assert float(aggregate(torch.ones(1, 3), how, LAYERS)) == pytest.approx(1, abs=2e-6)


def test_negative_cosines_give_no_nan_and_one_bad_layer_pulls_the_geometric_mean_down():
    found = aggregate(torch.tensor([[-1.0, -1.0, -1.0], [0.9, 0.9, -0.5], [0.9, 0.9, 0.9]]), "geometric", LAYERS)
    assert found.isfinite().all()
    assert found[0] == pytest.approx(EPSILON)
    assert found[1] < 0.02
    assert found[2] == pytest.approx(0.9, abs=1e-5)


def test_weights_count_relative_to_each_other(similarity):
    assert torch.allclose(
        aggregate(similarity, {"a": 1, "b": 3}, LAYERS), aggregate(similarity, {"a": 10, "b": 30}, LAYERS)
    )


@pytest.mark.parametrize("how", ["geometric", "mean", "minimum", {"a": 1.0}])
def test_a_single_layer_is_its_own_aggregate(how):
    values = torch.tensor([[0.2], [0.7]])
    assert torch.allclose(aggregate(values, how, ["a"]), values[:, 0].double(), atol=2e-6)


# Refusal


@pytest.mark.parametrize(
    "weights",
    [{"d": 1.0}, {"a": 1.0, "d": 1.0}, {"a": -1.0, "b": 2.0}, {"a": 0.0}, {}, {"a": float("nan")}],
    ids=["unknown", "partly_unknown", "negative", "zero", "empty", "nan"],
)
def test_weights_that_weigh_nothing_known_are_refused(similarity, weights):
    with pytest.raises(EncoderError, match=r"non-negative weights, one positive, for layers out of \['a', 'b', 'c'\]"):
        aggregate(similarity, weights, LAYERS)


@pytest.mark.parametrize("how", ["harmonic", None, 3])
def test_an_unknown_aggregation_is_refused(similarity, how):
    with pytest.raises(EncoderError, match="needed aggregation geometric, mean, minimum or a mapping"):
        aggregate(similarity, how, LAYERS)
