"""MemorizationIndex agrees with the detector and forgets only generated images."""

import pickle

import pytest
import torch

from mi_callback import MemorizationDetector, MemorizationIndex, build_encoder
from mi_callback.errors import OptionError, StateError


@pytest.fixture
def detector(generator):
    train, held_out = torch.rand(2, 30, 1, 32, 32, generator=generator)
    return MemorizationDetector(build_encoder("pixels", size=32), verify=False).fit(train, held_out=held_out)


def test_batches_give_what_the_detector_gives_on_all(detector, generator):
    images = torch.rand(10, 1, 32, 32, generator=generator)
    metric = MemorizationIndex(detector)
    for batch in images.split(4):
        metric.update(batch)
    assert float(metric.compute()) == pytest.approx(float(detector.score(images).mi.mean()), rel=1e-4)
    assert len(metric.scores()) == 10


def test_reset_keeps_the_reference(detector, generator):
    first, second = torch.rand(2, 5, 1, 32, 32, generator=generator)
    metric = MemorizationIndex(detector)
    metric.update(first)
    metric.compute()
    metric.reset()
    metric.update(second)
    assert float(metric.compute()) == pytest.approx(float(detector.score(second).mi.mean()), rel=1e-4)


def test_copies_score_higher(detector):
    metric = MemorizationIndex(detector)
    metric.update(detector.state.train.thumbnails[:5, None].float())
    assert metric.compute() > 2
    assert metric.higher_is_better is False


def test_what_is_missing_is_said(detector):
    unfitted = MemorizationIndex(MemorizationDetector(build_encoder("pixels")))
    unfitted.update(torch.rand(2, 1, 32, 32))
    with pytest.raises(StateError, match="fitted detector"):
        unfitted.compute()
    with pytest.raises(StateError, match="update"), pytest.warns(UserWarning, match="before the ``update`` method"):
        MemorizationIndex(detector).compute()


def test_training_images_can_come_by_update_as_real_features_do(generator):
    images = torch.rand(40, 1, 32, 32, generator=generator)
    plain = MemorizationDetector(build_encoder("pixels", size=32), verify=False)
    metrics = [MemorizationIndex(plain), MemorizationIndex(plain, reset_real_features=True)]
    values = []
    for metric in metrics:
        metric.update(images[:30], real=True)
        metric.update(images[:5])
        values.append(float(metric.compute()))
        metric.reset()
        metric.update(images[35:])
    expected = MemorizationDetector(build_encoder("pixels", size=32), verify=False).fit(images[:30])
    assert values == pytest.approx([float(expected.score(images[:5]).mi.mean())] * 2, rel=1e-4)
    assert metrics[0].compute() < values[0]
    with pytest.raises(StateError, match="or training images: update"):
        metrics[1].compute()


def made_by_update(plain, train, **options):
    metric = MemorizationIndex(plain, **options)
    metric.update(train, real=True)
    return metric


def test_as_many_other_training_images_take_the_place_of_those_forgotten(generator):
    first, second = torch.rand(2, 24, 1, 32, 32, generator=generator)
    plain = MemorizationDetector(build_encoder("pixels", size=32), verify=False)
    metric = made_by_update(plain, first, reset_real_features=True)
    metric.update(second[:4])
    assert metric.compute() < 3
    metric.reset()
    metric.update(second, real=True)
    metric.update(second[:4])
    fresh = made_by_update(plain, second)
    fresh.update(second[:4])
    assert float(metric.compute()) == pytest.approx(float(fresh.compute()))
    assert metric.compute() > 5
    metric.update(first[:4], real=True)
    metric.compute()
    assert len(metric.detector.train) == 28


def test_metrics_that_share_a_detector_do_not_disturb_each_other(generator):
    first, second = torch.rand(2, 24, 1, 32, 32, generator=generator)
    plain = MemorizationDetector(build_encoder("pixels", size=32), verify=False)
    one, other = made_by_update(plain, first), made_by_update(plain, second)
    for metric in (one, other):
        metric.update(first[:4])
    value = float(one.compute())
    assert other.compute() < value
    assert float(one.scores().mi.mean()) == pytest.approx(value)
    assert not plain.fitted


@pytest.mark.parametrize("forgets", [False, True])
def test_forward_gives_the_value_of_the_batch_and_leaves_training_images(generator, forgets):
    train, novel = torch.rand(2, 24, 1, 32, 32, generator=generator)
    plain = MemorizationDetector(build_encoder("pixels", size=32), verify=False)
    metric = MemorizationIndex(plain, reset_real_features=forgets)
    assert metric(train, real=True) is None
    batches = [train[:4], novel[:6]]
    values = [float(metric(batch)) for batch in batches]
    expected = MemorizationDetector(build_encoder("pixels", size=32), verify=False).fit(train)
    assert values == pytest.approx([float(expected.score(batch).mi.mean()) for batch in batches], rel=1e-4)
    assert sum(map(len, metric.real_shapes)) == len(metric.detector.train) == 24
    assert len(metric.scores()) == 10
    assert float(metric.compute()) == pytest.approx((4 * values[0] + 6 * values[1]) / 10, rel=1e-4)
    metric.reset()
    assert len(metric.real_shapes) == (0 if forgets else 1)


def test_what_would_have_no_effect_is_refused(detector):
    with pytest.raises(OptionError, match="reset_real_features has none: this detector is fitted"):
        MemorizationIndex(detector, reset_real_features=True)
    with pytest.raises(OptionError, match=r"Leave real=True out"):
        MemorizationIndex(detector).update(torch.rand(2, 1, 8, 8), real=True)


def test_it_lives_in_collections_is_pickled_plotted_and_gathered(detector, generator):
    from torchmetrics import MetricCollection

    small, large = torch.rand(4, 1, 32, 32, generator=generator), torch.rand(3, 1, 40, 36, generator=generator)
    collection = MetricCollection({"mi": MemorizationIndex(detector)})
    collection.update(small)
    collection.update(large)
    value = float(collection.compute()["mi"])
    expected = torch.cat([detector.score(small).mi, detector.score(large).mi]).mean()
    assert value == pytest.approx(float(expected), rel=1e-4)
    metric = pickle.loads(pickle.dumps(collection["mi"]))
    assert float(metric.compute()) == pytest.approx(value)
    figure, _ = metric.plot()
    assert figure is not None
    # As torchmetrics gathers a state from several ranks: this one twice.
    ranks = metric.clone()
    ranks.sync(dist_sync_fn=lambda state, group=None: [state, state], distributed_available=lambda: True)
    assert len(ranks.scores()) == 14
    assert float(ranks.scores().mi.mean()) == pytest.approx(value, rel=1e-4)
