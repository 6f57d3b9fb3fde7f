"""MemorizationIndex agrees with the detector and forgets only generated images."""

import pytest
import torch

from mi_callback import MemorizationDetector, MemorizationIndex, build_encoder
from mi_callback.errors import StateError


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
    with pytest.raises(StateError, match="fitted detector"):
        MemorizationIndex(MemorizationDetector(build_encoder("pixels")))
    with pytest.raises(StateError, match="update"), pytest.warns(UserWarning, match="before the ``update`` method"):
        MemorizationIndex(detector).compute()
