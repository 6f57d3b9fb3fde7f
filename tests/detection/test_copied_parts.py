"""Copied parts of images are flagged and matched."""

import pytest
import torch
import torch.nn.functional as F
from reporting.copies import NOVEL, TRAIN, correlation, fit, slices

from mi_callback.images.perturbations import affine, implant, paste
from mi_callback.reporting import collect_evidence


@pytest.fixture(scope="module")
def parts():
    """Detector with windows, images of which a half comes from training images 0 to 7, which half, and their scores."""
    detector = fit(encoder="bundled", verify=True, views=False, poses="none")
    moved, others = affine(TRAIN[:8], rotation=4.0, scale_x=1.05, scale_y=1.05), slices(8, 5)
    seed = 7
    images = paste(others, moved, 0.5, torch.Generator().manual_seed(seed))
    copied = paste(torch.zeros_like(others), torch.ones_like(others), 0.5, torch.Generator().manual_seed(seed)) > 0
    return detector, images, copied[:, 0], detector.score(images)


def test_a_half_pasted_into_another_image_is_flagged_and_matched(parts):
    detector, _, _, scores = parts
    assert scores.flagged.all()
    assert scores.match.tolist() == list(range(8))
    assert scores.images.window.shape == (8,)
    assert ((scores.images.window >= -1) & (scores.images.window < 9)).all()
    assert (scores.images.window >= 0).sum() >= 4
    assert not detector.score(NOVEL).flagged.all()


def test_a_quarter_implanted_into_another_image_is_flagged_and_matched(parts):
    detector = parts[0]
    scores = detector.score(implant(affine(TRAIN[8:14], rotation=5.0), slices(6, 6)))
    assert scores.flagged.all()
    assert scores.match.tolist() == list(range(8, 14))


def test_evidence_of_a_copied_part_aligns_that_part(parts):
    detector, images, copied, scores = parts
    found = collect_evidence(detector, images, scores)
    assert len(found) == 8
    for one in found:
        inner = -F.max_pool2d(-copied[one.row][None].float(), 13, stride=1, padding=6)[0] > 0  # not its border
        inner &= one.pictures.generated > 0.1
        assert correlation(one.pictures.generated[inner], one.pictures.aligned[inner]) > 0.9
        assert float(one.pictures.lncc_map[inner].nanmean()) > 0.9
        assert abs(one.change.geometry.rotation - 4) < 2.5
        assert correlation(one.pictures.generated[~copied[one.row]], one.pictures.aligned[~copied[one.row]]) < 0.9


def test_a_detector_without_windows_looks_none_up(parts):
    _, images, _, with_windows = parts
    detector = fit(encoder="bundled", verify=True, views=False, poses="none", windows=False)
    scores = detector.score(images)
    assert detector.state.train.windows == {}
    assert detector.state.reference.windows is None
    assert (scores.images.window == -1).all()
    assert torch.equal(scores.similarity, with_windows.similarity)
    assert scores.verified.mean() < with_windows.verified.mean()
