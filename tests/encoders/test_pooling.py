"""Activations are pooled over everything that is not a channel, or over the windows of a map."""

import pytest
import torch

from mi_callback.encoders import Layer
from mi_callback.encoders.pooling import generalised_mean, pool, pool_windows
from mi_callback.errors import EncoderError

pytestmark = pytest.mark.numeric

# Definition


ACTIVATIONS = {
    "BCHW": ((2, 3, 4, 5), lambda a, i, c: [float(a[i, c, y, x]) for y in range(4) for x in range(5)]),
    "BHWC": ((2, 4, 5, 3), lambda a, i, c: [float(a[i, y, x, c]) for y in range(4) for x in range(5)]),
    "BNC": ((2, 20, 3), lambda a, i, c: [float(a[i, t, c]) for t in range(2, 20)]),  # two prefix tokens
    "BC": ((2, 3), lambda a, i, c: [float(a[i, c])]),
    "BCDHW": ((2, 3, 2, 4, 5), lambda a, i, c: a[i, c].flatten().tolist()),
}


@pytest.mark.parametrize("pooling", ["mean", "gem", "mean_std"])
@pytest.mark.parametrize("layout", ACTIVATIONS)
def test_pooling_runs_over_everything_that_is_not_a_channel(layout, pooling, generator):
    shape, places = ACTIVATIONS[layout]
    activation = torch.rand(shape, generator=generator)
    found = pool(activation, Layer(layout, prefix_tokens=2 if layout == "BNC" else 0), pooling)
    for i in range(2):
        for c in range(3):
            values = places(activation, i, c)
            mean = sum(values) / len(values)
            if layout == "BC":
                expected = [values[0]]
            elif pooling == "mean":
                expected = [mean]
            elif pooling == "gem":
                expected = [(sum(v**3 for v in values) / len(values)) ** (1 / 3)]
            else:
                expected = [mean, (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5]
            assert found[i, c::3].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_first_token_is_the_cls_token(generator):
    activation = torch.rand(2, 5, 3, generator=generator)
    assert torch.equal(pool(activation, Layer("BNC", prefix_tokens=1), "cls"), activation[:, 0])


@pytest.mark.parametrize("p", [1.0, 3.0, 7.0])
def test_the_weighted_generalised_mean_is_its_formula(p, generator):
    places, weights = torch.rand(2, 3, 10, generator=generator) - 0.2, torch.rand(4, 10, generator=generator)
    weights = weights / weights.sum(dim=1, keepdim=True)
    found = generalised_mean(places, p, weights=weights)
    assert found.shape == (2, 3, 4)
    for i in range(2):
        for c in range(3):
            for k in range(4):
                terms = zip(weights[k].tolist(), places[i, c].tolist(), strict=True)
                total = sum(weight * max(value, 1e-6) ** p for weight, value in terms)
                assert float(found[i, c, k]) == pytest.approx(total ** (1 / p), abs=1e-5)
    even = torch.full((1, 10), 0.1)
    assert torch.allclose(generalised_mean(places, p, weights=even)[..., 0], generalised_mean(places, p), atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "gem", "mean_std"])
@pytest.mark.parametrize("shape", [(6, 6), (7, 5)])
def test_cells_that_a_window_cuts_count_by_the_part_inside(shape, pooling, generator):
    # Each cell repeated twelve times along each side is cut by no window.
    maps = torch.rand(2, 3, *shape, generator=generator) - 0.3
    fine = maps.repeat_interleave(12, 2).repeat_interleave(12, 3)
    found = pool_windows(maps, Layer("BCHW"), pooling, shape)
    h, w = (12 * side for side in shape)
    for k in range(9):
        y, x = k // 3 * h // 4, k % 3 * w // 4
        expected = pool(fine[:, :, y : y + h // 2, x : x + w // 2], Layer("BCHW"), pooling)
        assert torch.allclose(found[:, k], expected, atol=1e-5)


# Promise


def test_the_generalised_mean_lies_between_mean_and_maximum(generator):
    places = torch.rand(10, 50, generator=generator)
    assert torch.allclose(generalised_mean(places, p=1), places.mean(dim=1), atol=1e-5)
    assert torch.allclose(generalised_mean(places, p=100), places.amax(dim=1), atol=0.05)
    assert (generalised_mean(places) > places.mean(dim=1)).all()
    assert (generalised_mean(places) < places.amax(dim=1)).all()


# Refusal


@pytest.mark.parametrize("layer", [Layer("BCHW"), Layer("BNC")])
def test_a_cls_token_that_is_not_there_is_refused(layer, generator):
    shape = (2, 3, 4, 4) if layer.layout == "BCHW" else (2, 5, 3)
    with pytest.raises(EncoderError, match="needed a BNC layer with a CLS token"):
        pool(torch.rand(shape, generator=generator), layer, "cls")


def test_an_unknown_pooling_is_refused(generator):
    with pytest.raises(EncoderError, match=r"needed pooling out of \['mean', 'gem', 'mean_std', 'cls'\]; 'max' came"):
        pool(torch.rand(2, 3, 4, 4, generator=generator), Layer("BCHW"), "max")
