"""Images, copies of them, and the evidence of it."""

import torch
import torch.nn.functional as F
from altered_scores import altered

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.images.thumbnails import THUMBNAIL_SIDE
from mi_callback.reporting import Evidence, collect_evidence

SIDE = THUMBNAIL_SIDE[2]

MOVED = {"rotation": 9.0, "scale_x": 1.12, "scale_y": 0.95, "shift_x": 0.06, "shift_y": -0.03}


def slices(n: int, seed: int, side: int = SIDE) -> torch.Tensor:
    """n images `(n, 1, side, side)` with coarse and fine structure, as different as people, in an oval on black."""
    generator = torch.Generator().manual_seed(seed)
    grown = [
        F.interpolate(torch.rand(n, 1, k, k, generator=generator), (side, side), mode="bicubic", align_corners=True)
        for k in (7, 16)
    ]
    axis = torch.linspace(-1, 1, side)
    outline = ((axis[:, None] / 0.8) ** 2 + (axis / 0.65) ** 2 < 1).float()
    return (0.2 + grown[0] + 0.7 * grown[1]).clamp_min(0) * outline


def volumes(n: int, seed: int, shape: tuple = (28, 40, 32)) -> torch.Tensor:
    """Volumes with coarse and fine structure, no two sides alike, `(n, 1, *shape)`."""
    generator = torch.Generator().manual_seed(seed)
    grown = [
        F.interpolate(torch.rand(n, 1, k, k, k, generator=generator), shape, mode="trilinear", align_corners=True)
        for k in (5, 10)
    ]
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    return (0.1 + grown[0] + 0.7 * grown[1]).clamp_min(0) * torch.exp(-2 * (z**4 + y**4 + x**4))


def ids(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]


TRAIN, HELD_OUT, NOVEL = slices(24, 1), slices(20, 2), slices(4, 3)


def fit(**options) -> MemorizationDetector:
    settings = {"encoder": build_encoder("pixels", sides=(4, 8), size=32), "verify": False, "poses": "dihedral"}
    people = {"subjects": ids("train", 24), "held_out_subjects": ids("held", 20)}
    return MemorizationDetector(alpha=0.1, **(settings | options)).fit(TRAIN, held_out=HELD_OUT, **people)


def prove(detector, images, match, pose, **found) -> dict[str, Evidence]:
    """Evidence by pose for images as if these rows had been found in these poses: finding them is not the matter."""
    subjects = [detector.state.train.subjects[row] for row in match]
    flagged = torch.ones(len(images), dtype=torch.bool)
    found |= {"match": torch.tensor(match), "match_subject": subjects, "pose": pose}
    scores = altered(detector.score(images), flagged=flagged, **found)
    return {one.change.pose: one for one in collect_evidence(detector, images, scores)}


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    there = ~(one.isnan() | other.isnan())
    return float(torch.corrcoef(torch.stack([one[there], other[there]]))[0, 1])
