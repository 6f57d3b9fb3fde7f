"""A detector, images that copy its training images, and the evidence of it."""

import pytest
import torch
from altered_scores import altered
from reporting.copies import MOVED, NOVEL, TRAIN, fit, ids, prove, volumes

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.images.perturbations import affine
from mi_callback.images.poses import orbit, undo
from mi_callback.reporting import collect_evidence


@pytest.fixture(scope="session")
def detector():
    return fit()


@pytest.fixture(scope="session")
def posed(detector):
    """Pose → evidence for a copy of training image k that was turned, zoomed and moved, and then lies in that pose."""
    moved = affine(TRAIN[:8], **MOVED)
    copies = torch.cat([undo(pose, moved[k : k + 1]) for k, pose in enumerate(orbit("dihedral"))])
    return prove(detector, copies, list(range(8)), orbit("dihedral"))


@pytest.fixture(scope="session")
def mixed(detector):
    """Four novel images and three exact copies, and their scores, of which copies and one novel image are flagged."""
    images = torch.cat([NOVEL, TRAIN[[5, 0, 9]]])
    flagged = torch.tensor([False, True, False, False, True, True, True])
    return images, altered(detector.score(images), flagged=flagged)


@pytest.fixture(scope="session")
def of_volumes():
    """Detector of volumes, copies of five of them in as many poses, their scores and evidence by row."""
    train, poses = volumes(12, 1), ["identity", "flip_depth", "flip_all", "flip_depth_vertical", "rotation_180"]
    copies = torch.cat([undo(pose, train[k : k + 1]) for k, pose in enumerate(poses)])
    encoder = build_encoder("slices", encoder="pixels", sides=(4, 8), size=32, slices=4)
    detector = MemorizationDetector(encoder, verify=False, alpha=0.1)
    detector.fit(train, subjects=ids("train", 12), held_out=volumes(10, 2))
    scores = detector.score(copies)
    return detector, copies, scores, poses, {one.row: one for one in collect_evidence(detector, copies, scores)}
