"""The whole line: fit on training images, score generated ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mi_callback import nulls, registration, store
from mi_callback.calibration import (
    ROUNDING,
    Null,
    NullKind,
    OniScale,
    memorization_index,
    overfit_novelty_index,
)
from mi_callback.encoders import Encoder, build_encoder
from mi_callback.errors import CalibrationError, DataError, StateError
from mi_callback.features import Features, extract
from mi_callback.index import Backend
from mi_callback.multiplicity import benjamini_hochberg
from mi_callback.poses import POSES, Orbit, orbit
from mi_callback.preprocessing import check_images, thumbnails
from mi_callback.retrieval import Neighbours, Reference
from mi_callback.scores import Scores
from mi_callback.similarity import Aggregation
from mi_callback.types import SubjectKey, Subjects, Thumbnails
from mi_callback.whitening import Mode

VERIFIED_AT_ONCE = 64
"""Images whose candidates are aligned in one go; bounds the memory."""


@dataclass(frozen=True)
class Resemblance:
    """Queries against a reference: the nearest training images, and the verified ones where verification is on."""

    neighbours: Neighbours
    match: Tensor
    pose: Tensor
    verified: Tensor
    copied_fraction: Tensor
    deciding: Tensor


class MemorizationDetector:
    """Finds generated images that are copies of training images.

    Args:
        encoder: Name in the registry (`mi_callback.encoders.available()`), or an encoder.
        whitening: `shrunk`, `zca`, `pca`, `standard` or `none`; fitted on training features only.
        aggregation: How layers combine: `geometric`, `mean`, `minimum`, or weights by layer name.
        poses: Orbit in which a query is looked up: `none`, `flips` (4), `dihedral` (8).
        null: `held_out` (real images of other subjects), `cross_fit` (training subjects in folds), `train_halves` (the
            paper's, not calibrated, for comparison), `auto` (held-out images if given, else cross-fit).
        verify: Align the best candidates to the generated image and let their local correlation decide.
        candidates: Training images aligned per generated image.
        alpha: Level of each flag: the share of novel images that may be flagged.
        fdr: Flag by Benjamini-Hochberg at this false discovery rate instead.
        oni_scale: `unit` (0 novel, 1 identical) or `paper` (−1 memorized, +1 novel).
        backend: `auto`, `torch` or `faiss`.
        device: Where encoder, search and registration run; CUDA if there is one, when None.
        batch_size: Images encoded at a time (times the poses).
        null_size: Images the null is made of at most, drawn at random and equally from every subject; None for all.
        seed: Of folds and halves.

    Raises:
        CalibrationError: If `alpha` or `fdr` is outside (0, 1) or the null is unknown.

    Example:
        >>> detector = MemorizationDetector(verify=False).fit(train, subjects=ids, held_out=other)  # doctest: +SKIP
        >>> print(detector.score(generated))  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: str | Encoder = "bundled",
        whitening: Mode = "shrunk",
        aggregation: Aggregation = "geometric",
        poses: Orbit = "flips",
        null: NullKind = "auto",
        verify: bool = True,
        candidates: int = 8,
        alpha: float = 0.05,
        fdr: float | None = None,
        oni_scale: OniScale = "unit",
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        batch_size: int = 64,
        null_size: int | None = 1000,
        seed: int = 0,
    ) -> None:
        for name, level in (("alpha", alpha), ("fdr", fdr)):
            if level is not None and not 0 < level < 1:
                raise CalibrationError(f"needed {name} between 0 and 1; {level!r} came.")
        if null not in ("auto", "held_out", "cross_fit", "train_halves"):
            raise CalibrationError(f"needed null auto, held_out, cross_fit or train_halves; {null!r} came.")
        for name, count in (("candidates", candidates), ("batch_size", batch_size), ("null_size", null_size)):
            if count is not None and count < 1:
                raise DataError(f"needed {name} of at least 1; {count!r} came.")
        self.encoder = build_encoder(encoder)
        self.whitening: Mode = whitening
        self.aggregation: Aggregation = aggregation
        self.poses = orbit(poses)
        self.null_choice: NullKind = null
        self.verify, self.candidates = verify, candidates
        self.alpha, self.fdr, self.oni_scale = alpha, fdr, oni_scale
        self.backend: Backend = backend
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        # Apple's MPS has no float64, in which whitening accumulates.
        self.search_device = torch.device("cpu") if self.device.type == "mps" else self.device
        self.batch_size, self.null_size, self.seed = batch_size, null_size, seed
        self.train: Features | None = None
        self.reference: Reference | None = None
        self.null: Null | None = None

    # Fitting -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        train: Any,
        subjects: Subjects | None = None,
        held_out: Any = None,
        held_out_subjects: Subjects | None = None,
        subject_key: SubjectKey = None,
        image_key: SubjectKey = None,
        progress: bool = False,
    ) -> "MemorizationDetector":
        """Cache whitened features of all training images and calibrate.

        Args:
            train: The images the generator learns from, `(n, 1, h, w)`, or a Dataset, or an iterable of batches.
            subjects: One id per training image; by default as the batches say (see `features.read_batch`).
            held_out: Real images of subjects that were not trained on.
            held_out_subjects: One id per held-out image.
            subject_key, image_key: Where batches hold ids and images.
            progress: Show progress bars.

        Returns:
            Itself.

        Raises:
            DataError: For broken images, fewer than two training images, or subjects on both sides.
            CalibrationError: If the null that was asked for is undefined for these data.
        """
        kind = self._null_kind(held_out)
        read = {"subject_key": subject_key, "image_key": image_key}
        orbit_of_train = self.poses if kind != "held_out" else self.poses[:1]
        training = self._extract(train, orbit_of_train, subjects, "training features", progress, **read)
        novel = None
        if kind == "held_out":
            novel = self._extract(held_out, self.poses, held_out_subjects, "held-out features", progress, **read)
        return self.fit_features(training, novel, progress)

    def fit_features(
        self, train: Features, held_out: Features | None = None, progress: bool = False
    ) -> "MemorizationDetector":
        """As `fit`, from features that were extracted before (in all poses, where the null is made from training)."""
        if len(train) < 2:
            raise DataError(f"needed at least 2 training images; {len(train)} came.")
        kind = self._null_kind(held_out)
        if held_out is not None:
            nulls.refuse_leaks(train, held_out)
        reference = self.fit_reference(train)
        resemble, size, seed = self._deciding, self.null_size, self.seed
        if held_out is not None and kind == "held_out":
            null = nulls.held_out_null(held_out, train, reference, resemble, size, seed, progress)
        elif kind == "cross_fit":
            null = nulls.cross_fit_null(train, self.fit_reference, resemble, size, seed, progress)
        else:
            null = nulls.train_halves_null(train, reference, resemble, self.whitening, size, seed, progress)
        # All, or when something raised, nothing.
        self.train, self.reference, self.null = train.in_pose(0), reference, null
        return self

    # Scoring -----------------------------------------------------------------------------------------------------

    def score(self, generated: Any, image_key: SubjectKey = None, progress: bool = False) -> Scores:
        """Score generated images in any container that `fit` takes.

        Raises:
            StateError: If the detector is not fitted.
            DataError: For broken images (NaN, constant, wrong shape).
        """
        return self.score_features(
            self._extract(generated, self.poses, None, "generated features", progress, image_key=image_key)
        )

    def score_features(self, generated: Features) -> Scores:
        """As `score`, from features that were extracted before in all poses."""
        if self.reference is None or self.null is None or self.train is None:
            raise StateError("needed a fitted detector; call fit(train, held_out=…) first.")
        found = self._resemblance(generated, self.reference, self.train.thumbnails)
        mi = memorization_index(found.deciding, self.null)
        p_value = self.null.p_values(found.deciding)
        flagged = p_value <= self.alpha + ROUNDING if self.fdr is None else benjamini_hochberg(p_value, self.fdr)
        subjects = self.train.subjects
        return Scores(
            similarity=found.neighbours.similarity,
            layer_similarity=found.neighbours.layer_similarity,
            mi=mi,
            oni=overfit_novelty_index(mi, self.oni_scale),
            p_value=p_value,
            flagged=flagged,
            match=found.match,
            match_subject=[None if subjects is None else subjects[i] for i in found.match.tolist()],
            consensus=found.neighbours.consensus(found.match, found.pose),
            verified=found.verified,
            copied_fraction=found.copied_fraction,
            pose=[self.poses[i] for i in found.pose.tolist()],
            layers=self.reference.layers,
            alpha=self.alpha,
            fdr=self.fdr,
            null_kind=self.null.kind,
            null_subjects=self.null.n_subjects,
            null_images=len(self.null.similarity),
            subjects_known=self.null.subjects is not None,
        )

    def pairs(self, generated: Tensor, scores: Scores, n: int) -> Tensor:
        """The n generated images most likely to be copies beside their matches, worst first.

        Args:
            generated: The images that `scores` belong to, `(m, c, h, w)`.

        Returns:
            `(n, 1, size, 2 size)` in [0, 1]: generated, in the pose in which the match was found, and the training
            image aligned to it. Patient data.
        """
        if self.train is None:
            raise StateError("needed a fitted detector; call fit(train, held_out=…) first.")
        worst = scores.closest(n)
        shown = thumbnails(check_images(generated[worst].cpu(), generated.shape[1]), registration.SIZE)
        posed = torch.stack([POSES[scores.pose[i]](image) for i, image in zip(worst, shown, strict=True)])
        aligned = registration.register(posed, self.train.thumbnails[scores.match[worst]]).aligned
        return torch.cat([posed.float() / 255, aligned], dim=2)[:, None]

    # State -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the fitted state: one file, patient data. Raises `StateError` if not fitted."""
        store.save(self, path)

    def load(self, path: str | Path) -> "MemorizationDetector":
        """Restore a state that a detector of the same settings and encoder saved; else `StateError`. Returns itself."""
        store.load(self, path)
        return self

    # The line ----------------------------------------------------------------------------------------------------

    def _extract(
        self,
        images: Any,
        poses: Sequence[str],
        subjects: Subjects | None,
        label: str,
        progress: bool,
        **read: SubjectKey,
    ) -> Features:
        if isinstance(self.encoder, torch.nn.Module):
            self.encoder.to(self.device)
        return extract(
            images,
            self.encoder,
            poses,
            subjects=subjects,
            device=self.device,
            batch_size=self.batch_size,
            progress=label if progress else None,
            **read,
        )

    def fit_reference(self, train: Features) -> Reference:
        """Whitening and index of training features under this detector's settings."""
        return Reference.fit(train, self.whitening, self.backend, self.search_device)

    def _deciding(self, queries: Features, reference: Reference, references: Thumbnails, label: str | None) -> Tensor:
        return self._resemblance(queries, reference, references, label).deciding

    def _resemblance(
        self, queries: Features, reference: Reference, references: Thumbnails, label: str | None = None
    ) -> Resemblance:
        """Search, then verify (with a progress bar `label`): generated images and null go through exactly this."""
        neighbours = reference.search(queries, self.aggregation, self.candidates)
        if not self.verify:
            nothing = torch.full_like(neighbours.similarity, float("nan"))
            return Resemblance(neighbours, neighbours.match, neighbours.pose, nothing, nothing, neighbours.similarity)
        lncc, copied = self._verify(queries.thumbnails, neighbours, references, label)
        best = lncc.argmax(dim=1, keepdim=True)
        match, pose, verified, copied = (
            values.gather(1, best)[:, 0] for values in (neighbours.candidates, neighbours.candidate_poses, lncc, copied)
        )
        return Resemblance(neighbours, match, pose, verified, copied, verified)

    def _verify(
        self, queries: Tensor, neighbours: Neighbours, references: Thumbnails, label: str | None
    ) -> tuple[Tensor, Tensor]:
        """LNCC and copied fraction of every candidate, `(n, candidates)` float64; LNCC −1 for no candidate."""
        lncc = torch.full(neighbours.candidates.shape, -1.0, dtype=torch.float64)
        copied = torch.zeros_like(lncc)
        # Whole images at a time: the candidates of one compete for the finest level of the registration.
        blocks = torch.arange(len(queries)).split(VERIFIED_AT_ONCE)
        for block in tqdm(blocks, desc=label, unit="block", disable=label is None, leave=False):
            image, slot = (neighbours.candidates[block] >= 0).nonzero(as_tuple=True)
            image = block[image]
            rows, poses = neighbours.candidates[image, slot], neighbours.candidate_poses[image, slot]
            posed = [POSES[self.poses[p]](queries[i]) for i, p in zip(image.tolist(), poses.tolist(), strict=True)]
            generated, reference = torch.stack(posed).to(self.search_device), references[rows].to(self.search_device)
            alignment = registration.register(generated, reference, group=image)
            lncc[image, slot] = alignment.lncc.double().cpu()
            copied[image, slot] = alignment.copied_fraction.double().cpu()
        return lncc, copied

    def _null_kind(self, held_out: Any) -> NullKind:
        if self.null_choice == "held_out" and held_out is None:
            raise CalibrationError(
                "needed held-out images for null='held_out'; none came. Pass held_out=…, or use null='cross_fit'."
            )
        if self.null_choice == "auto":
            return "cross_fit" if held_out is None else "held_out"
        return self.null_choice
