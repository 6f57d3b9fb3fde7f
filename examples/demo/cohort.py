"""Slices for the demo: real ones from $MI_CALLBACK_DATA, or a cohort made from a template brain."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mi_callback.images.files import SliceFolder, split_by_subject
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.preprocessing import check_images
from mi_callback.images.resizing import letterbox

ENCODER_SHARE = 0.5
"""Share of subjects that the bundled encoder was trained on (examples/train_encoder.py); they stay out of the demo."""


FOLD_SIZE, FOLD_DEPTH = 1.5, 0.25
"""Scale, in voxels of 3 mm, and relative brightness of what is each template person's own."""


class Cohort(Dataset[dict[str, Any]]):
    """Slices in memory with their subjects: images `(n, 1, h, w)` in [0, 1]."""

    def __init__(self, images: Tensor, subjects: list[str], name: str) -> None:
        self.images, self.subjects, self.name = images, subjects, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": self.images[i], "subject": self.subjects[i]}

    def of(self, subjects: list[str], slices: int | None = None) -> "Cohort":
        """These subjects alone, with at most `slices` slices of each, spread evenly."""
        rows: list[int] = []
        for subject in subjects:
            own = [i for i, s in enumerate(self.subjects) if s == subject]
            count = len(own) if slices is None else min(slices, len(own))
            rows += [own[(2 * k + 1) * len(own) // (2 * count)] for k in range(count)]
        return Cohort(self.images[rows], [self.subjects[i] for i in rows], self.name)


def load_cohort(size: int, seed: int, subjects: int) -> Cohort:
    """Brain slices of `size` × `size` from about `subjects` subjects."""
    root = os.environ.get("MI_CALLBACK_DATA")
    return template_cohort(size, seed, subjects) if root is None else real_cohort(Path(root), size)


def real_cohort(root: Path, size: int) -> Cohort:
    folder = SliceFolder(root / "ixi_t1" / "slices", size=(size, size))
    folder = folder.where(~split_by_subject(folder.subjects, ENCODER_SHARE))
    images = torch.stack([item["image"] for item in folder])
    return Cohort(normalise_intensity(check_images(images), "quantile"), folder.subjects, "IXI T1w slices")


def template_cohort(size: int, seed: int, subjects: int, slices: int = 8) -> Cohort:
    """Subjects made from the MNI152 template that nilearn carries: each has its own anatomy (a smooth random warp, an
    affine map, and folds of its own, for a warp alone can be undone), contrast curve, bias field and Rician noise.
    """
    from monai.transforms import (
        Compose,
        GaussianSmooth,
        RandAdjustContrast,
        RandAffine,
        RandBiasField,
        RandGridDistortion,
        RandRicianNoise,
        ScaleIntensity,
    )
    from nilearn.datasets import load_mni152_template

    template = np.asarray(load_mni152_template(resolution=3).dataobj, dtype=np.float32)[None]
    person = Compose(
        [
            ScaleIntensity(),
            RandAffine(prob=1, rotate_range=(0.1, 0.1, 0.1), scale_range=(0.1, 0.1, 0.1), padding_mode="zeros"),
            RandGridDistortion(prob=1, num_cells=6, distort_limit=0.25, padding_mode="zeros"),
            RandAdjustContrast(prob=1, gamma=(0.6, 1.6)),
            RandBiasField(prob=1, degree=3, coeff_range=(0.0, 0.15)),
            RandRicianNoise(prob=1, std=0.02, sample_std=False),
            ScaleIntensity(),
        ]
    ).set_random_state(seed)
    images, ids = [], []
    generator, smooth = torch.Generator().manual_seed(seed), GaussianSmooth(sigma=FOLD_SIZE)
    for subject in range(subjects):
        folds = torch.as_tensor(np.asarray(smooth(torch.randn(template.shape, generator=generator))))
        folded = torch.as_tensor(template) * (1 + FOLD_DEPTH * folds / folds.std()).clamp_min(0)
        volume = torch.as_tensor(np.asarray(person(folded.numpy())))[0]
        levels = torch.linspace(0.35, 0.65, slices).mul(volume.shape[2]).long()
        images.append(volume[:, :, levels].permute(2, 1, 0).flip(1)[:, None])
        ids += [f"template-{subject:03d}"] * slices
    fitted = letterbox(torch.cat(images), (size, size))
    return Cohort(normalise_intensity(check_images(fitted), "quantile"), ids, "cohort made from the MNI152 template")
