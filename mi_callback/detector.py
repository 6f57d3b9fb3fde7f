"""The whole line: fit on training images, score generated ones."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mi_callback.arguments import positive_integer, seed_number, switch, switch_beside, usable_device
from mi_callback.detection.control import control_people, held_out_beside
from mi_callback.detection.matching import Match, Matcher
from mi_callback.detection.planting import PLANTED
from mi_callback.detection.pool import Pool
from mi_callback.encoders import Encoder, build_encoder
from mi_callback.encoders.descriptor import AS_IT_IS, LOOKS, copy_descriptor
from mi_callback.encoders.protocol import check_windows
from mi_callback.errors import CalibrationError, DataError, choice
from mi_callback.fitting import Fitter, method
from mi_callback.images.poses import Orbit, orbit
from mi_callback.images.reservoir import Reservoir
from mi_callback.images.thumbnails import as_images
from mi_callback.judging.calibration import Calibrator
from mi_callback.judging.scoring import Scorer
from mi_callback.judging.self_test import Planting, to_plant
from mi_callback.retrieval.aggregation import Aggregation
from mi_callback.retrieval.engines import Backend, checked_backend
from mi_callback.retrieval.extraction import VOLUMES_AT_ONCE, extract
from mi_callback.retrieval.features import Features
from mi_callback.retrieval.reference import Reference
from mi_callback.retrieval.views import views_of, views_of_queries
from mi_callback.retrieval.whitening import WhiteningKind
from mi_callback.scores import Scores
from mi_callback.state import Fitted, FittedState
from mi_callback.statistics.flagging import FlagRule
from mi_callback.statistics.indices import OniScale
from mi_callback.statistics.multiplicity import Procedure
from mi_callback.statistics.null import NullKind
from mi_callback.statistics.power import Power
from mi_callback.statistics.set_scores import set_scores
from mi_callback.types import SubjectKey, Subjects


class MemorizationDetector(Fitted):
    """Finds generated images that are copies of training images.

    Args:
        encoder: Name in the registry (`mi_callback.encoders.available()`), or an encoder.
        whitening: `shrunk`, `zca`, `pca`, `standard` or `none`; fitted on training features only.
        aggregation: How layers combine: `geometric`, `mean`, `minimum`, or weights by layer name.
        poses: Orbit in which a query is looked up: `none`, `flips` (4; 8 of volumes), `dihedral` (8; images alone).
        null: `held_out` (real images of other subjects), `cross_fit` (training subjects in folds), `train_halves` (the
            paper's, not calibrated, for comparison), `auto` (held-out images if given, else cross-fit).
        verify: Align the best candidates to the generated image and let their local correlation decide.
        windows: Look windows of the image up too, so that a copied part pasted into another anatomy is a candidate.
            When None, as `verify`, which windows and views need.
        views: Search by the copy descriptor too (`encoders.descriptor`), of volumes among them magnified, framed and by
            edges (`retrieval.views`), so that copies far from where the encoder would know them are candidates. When
            None, as `verify`.
        candidates: Training images found by the whole image that are aligned per generated image; beside them at most
            as many found by a window of it, and twice as many by edges.
        alpha: Level of each flag: the share of novel images that may be flagged.
        fdr: Flag at this false discovery rate instead.
        procedure: How: `bh` (Benjamini-Hochberg), or `by` (Benjamini-Yekutieli, under any dependence of the samples).
        tail: `gpd` extrapolates p-values beyond the null by a generalized-Pareto tail, into `Scores.p_tail`, for a
            finer ranking; flags never depend on it.
        contrast: Look samples up among held-out images too, blind to which is which: a second opinion that assumes
            nothing of the samples, and doubles the time. When None, where samples would else be called memorized.
        oni_scale: `unit` (0 novel, 1 identical) or `paper` (−1 memorized, +1 novel).
        backend: What searches: `auto`, `torch`, `faiss`, `milvus` or `milvus:http://host:19530`; see `build_index`.
        device: Where encoder, search and registration run; CUDA if there is one, when None.
        batch_size: Images encoded at a time (times the poses); of volumes at most `features.VOLUMES_AT_ONCE`, one pose
            after another.
        null_size: Images the null is made of at most, drawn at random and equally from every subject; None for all.
        seed: Of folds and halves.

    Raises:
        CalibrationError: If a level is outside (0, 1), a choice is unknown, or an option has no effect beside others.
        DataError: If a count is below 1.

    Example:
        >>> detector = MemorizationDetector(verify=False).fit(train, subjects=ids, held_out=other)  # doctest: +SKIP
        >>> print(detector.score(generated))  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: str | Encoder = "bundled",
        whitening: WhiteningKind | str = "shrunk",
        aggregation: Aggregation = "geometric",
        poses: Orbit | str = "flips",
        null: NullKind | str = "auto",
        verify: bool = True,
        candidates: int = 8,
        windows: bool | None = None,
        views: bool | None = None,
        alpha: float = 0.05,
        fdr: float | None = None,
        procedure: Procedure | str = "bh",
        tail: Literal["gpd"] | None = None,
        contrast: bool | None = None,
        oni_scale: OniScale | str = "unit",
        backend: Backend | str = "auto",
        device: torch.device | str | None = None,
        batch_size: int = 64,
        null_size: int | None = 1000,
        seed: int = 0,
    ) -> None:
        self.verify = switch("verify", verify)
        self.contrast = None if contrast is None else switch("contrast", contrast)
        self.windows, self.views = (
            switch_beside(name, asked, "verify", verify) for name, asked in (("windows", windows), ("views", views))
        )
        self.rule = FlagRule(alpha, fdr, choice("procedure", procedure, Procedure, CalibrationError))
        self.null_choice = choice("null", null, NullKind, CalibrationError)
        self.oni_scale = choice("oni_scale", oni_scale, OniScale, CalibrationError)
        self.tail_choice = None if tail is None else choice("tail", tail, ("gpd",), CalibrationError)
        self.whitening = choice("whitening", whitening, WhiteningKind, CalibrationError)
        self.backend = checked_backend(backend)
        self.candidates = positive_integer("candidates", candidates, DataError)
        self.null_size = None if null_size is None else positive_integer("null_size", null_size, DataError)
        self.seed = seed_number("seed", seed)
        self.device = usable_device("device", device)
        # Apple's MPS has no float64, in which whitening accumulates.
        self.search_device = torch.device("cpu") if self.device.type == "mps" else self.device
        self.encoder = build_encoder(encoder)
        if windows:
            check_windows(self.encoder)
        self.aggregation: Aggregation = aggregation
        self.dims = len(self.encoder.size)
        self.poses = orbit(poses, self.dims)
        whole = positive_integer("batch_size", batch_size, DataError)
        self.batch_size = whole if self.dims == 2 else min(whole, VOLUMES_AT_ONCE)
        super().__init__()
        self.calibrator: Calibrator  # with a state
        self._pool: Pool | None = None
        self._planting: Planting | None = None
        self.control: MemorizationDetector | None = None
        self.measured_power: Power | None = None

    @property
    def match(self) -> Matcher:
        """How images are looked up under this detector's settings."""
        return Matcher(self.aggregation, self.candidates, self.verify, self.search_device)

    @property
    def fitter(self) -> Fitter:
        """How a training set is made searchable, and a null is made for it, under this detector's settings."""
        return Fitter(
            self.match, self.null_choice, self.whitening, self.backend, self.search_device, self.null_size, self.seed
        )

    # Fitting ----------------------------------------------------------------------------------------------------------

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
        """Cache whitened features of all training images and calibrate. Returns itself.

        Args:
            train: The images the generator learns from, `(n, 1, h, w)`, or where the encoder takes them volumes
                `(n, 1, d, h, w)`; or a Dataset, or an iterable of batches.
            subjects: One id per training image; by default as the batches say (see `images.batches.read_batch`).
            held_out: Real images of subjects that were not trained on.
            held_out_subjects: One id per held-out image.
            subject_key, image_key: Where batches hold ids and images.
            progress: Show progress bars.

        Raises:
            DataError: For broken images, fewer than two training images, or subjects on both sides.
            CalibrationError: If the null that was asked for is undefined for these data.
        """
        kind = self.fitter.kind(held_out)
        read: dict[str, Any] = {"subject_key": subject_key, "image_key": image_key}
        poses = self.poses if kind != "held_out" else self.poses[:1]
        planted = Reservoir(PLANTED[self.dims], self.seed)
        labels = ("training features", "held-out features") if progress else (None, None)
        training = self.features(train, poses, subjects, views=True, label=labels[0], keep=planted, **read)
        used = held_out is not None and (kind == "held_out" or self.contrast)
        novel = self.features(held_out, subjects=held_out_subjects, label=labels[1], **read) if used else None
        return self.fit_features(training, novel, planted, progress)

    def fit_features(
        self,
        train: Features,
        held_out: Features | None = None,
        planted: Reservoir | None = None,
        progress: bool = False,
    ) -> "MemorizationDetector":
        """As `fit`, from `features`: of training images with views, and in all poses where the null is made of them."""
        if self.contrast and held_out is None:
            raise CalibrationError("needed held-out images for contrast=True; none came. Pass held_out=….")
        self._take(self.fitter.fit(train, held_out, planted, progress))
        return self

    def _take(self, state: FittedState) -> None:
        """Take on a fitted state: all of it, or when something raises, nothing."""
        self.calibrator = Calibrator(state, self.fitter, self.features, self.tail_choice is not None)
        self._state = state
        self._pool, self._planting, self.control, self.measured_power = None, None, None, None

    def fit_control(
        self,
        control: Any,
        subjects: Subjects | None = None,
        subject_key: SubjectKey = None,
        image_key: SubjectKey = None,
        progress: bool = False,
    ) -> "MemorizationDetector":
        """Look samples up among people who were certainly not trained on, too: what resembles these is no copy.

        Args:
            control: About as many images as were trained on, of the same source, as `fit` takes them.
            subjects, subject_key, image_key, progress: As in `fit`.

        Raises:
            StateError: If the detector is not fitted.
            DataError: For broken images, or if all of these people were trained on.
        """
        state, label = self.state, "control features" if progress else None
        null = state.held_out if state.null.kind is NullKind.HELD_OUT else None
        poses = self.poses if null is None else self.poses[:1]
        keys: dict[str, Any] = {"subject_key": subject_key, "image_key": image_key}
        images = self.features(control, poses, subjects, views=True, label=label, **keys)
        images = control_people(state.train, images, self.seed)
        if null is not None:  # in all poses
            seen = self.features(as_images(null.thumbnails), subjects=null.subjects)
            null = held_out_beside(images, replace(seen, thumbnails=null.thumbnails))
        other = copy(self)
        other.contrast = False
        self.control = other.fit_features(images, null, progress=progress)
        return self

    # Scoring ----------------------------------------------------------------------------------------------------------

    def score(self, generated: Any, image_key: SubjectKey = None, progress: bool = False) -> Scores:
        """Score generated images in any container that `fit` takes.

        Raises:
            StateError: If the detector is not fitted.
            DataError: For broken images (NaN, constant, wrong shape).
        """
        label = "generated features" if progress else None
        return self.score_features(self.features(generated, label=label, image_key=image_key), progress)

    def score_features(self, generated: Features, progress: bool = False) -> Scores:
        """As `score`, from features that were extracted before in all poses."""
        state, label = self.state, "matching" if progress else None
        calibration = self.calibrator.like(generated.thumbnails, progress)
        found = self.match(generated, state.reference, state.train.thumbnails, label)
        scorer = Scorer(state, calibration, self.rule, self.aggregation, self.oni_scale, self.seed)
        flagging = scorer.flag(generated, found)
        second = None
        if scorer.contrast_could_object(found, flagging) if self.contrast is None else self.contrast:
            self._pool = pool = self._pool or Pool.of(state.train, state.held_out, self.fit_reference, self.seed)
            pooled = self.match(generated, pool.reference, pool.images.thumbnails, label)
            second = scorer.contrast(pool, pooled, flagging.flagged)
        control = None if self.control is None else self.control.score_features(generated, progress).flagging
        if self._planting is not None and self._planting.calibration is not calibration:
            self._measure(replace(self._planting, calibration=calibration), progress=progress)
        images, power = scorer.score(found, flagging.p_value), self.measured_power
        return Scores(images, flagging, power, second, control, recall=state.recall, null=calibration.null)

    def power(
        self,
        n: int = 32,
        changes: Sequence[str] | None = None,
        images: Sequence[Tensor] | None = None,
        rows: Sequence[int] | None = None,
        like: Features | None = None,
        cache: str | Path | None = None,
        progress: bool = False,
    ) -> Power:
        """Plant changed copies of training images and report the share found, per change: `clean` rests on it.

        The result is kept and goes into all later `Scores`: a detector that cannot see copies never says clean. Where
        samples that are scored later are sharper, smoother or noisier, it is measured again with copies like them.

        Args:
            n: Training images to copy, at most `PLANTED`; each is changed in every way.
            changes: Names of `images.perturbations`; when None all, with pastes where held-out images were given.
            images, rows: Images `(c, h, w)`, or volumes, and their training rows, instead of those kept at `fit`.
            like: Samples whose sharpness and noise copies get at once; of real images when None.
            cache: File in which the result is kept; read where the state (as saved), copies and level are the same.
            progress: Show progress bars.

        Raises:
            StateError: If the detector is not fitted, has no images to plant, or with `cache` no file of its own.
        """
        planted = to_plant(self.state, n, self.seed, images, rows)
        calibration = self.calibrator.native if like is None else self.calibrator.like(like.thumbnails, progress)
        return self._measure(Planting(planted, changes, calibration), cache, progress)

    def _measure(self, planting: Planting, cache: str | Path | None = None, progress: bool = False) -> Power:
        """Look planted copies up as samples are, and remember what was found, and of what."""

        def look(planted: Tensor) -> Match:
            return self.match(self.features(planted), self.state.reference, self.state.train.thumbnails)

        how = self.state, self.rule.alpha, self.seed, cache, "power" if progress else None
        self._planting, self.measured_power = planting, planting.measure(look, *how)
        return self.measured_power

    def set_scores(self, generated: Any, image_key: SubjectKey = None, progress: bool = False) -> dict[str, float]:
        """Set-level scores of the literature on the same whitened features: see `mi_callback.statistics.set_scores`.

        `ct` only where held-out images were given to `fit`.

        Raises:
            StateError: If the detector is not fitted.
            DataError: For broken images, or fewer than two.
        """
        state, label = self.state, "generated features" if progress else None
        samples = self.features(generated, self.poses[:1], plain=True, label=label, image_key=image_key)
        held_out = None if state.held_out is None else state.reference.whitened(state.held_out)
        train, generated = (state.reference.whitened(side) for side in (state.train, samples))
        return set_scores(train, held_out, generated, self.seed)

    # State ------------------------------------------------------------------------------------------------------------

    def fit_reference(self, train: Features) -> Reference:
        """Whitening and index of training features, under this detector's settings."""
        return self.fitter.reference(train)

    def restore_reference(self, train: Features, parts: Mapping[str, Tensor]) -> Reference:
        """The same, of the `parts` of one that was fitted on these features."""
        return Reference.restored(train, parts, self.backend, self.search_device)

    def settings(self) -> dict[str, Any]:
        """Everything that changes what a fitted state means, as JSON holds it."""
        return {
            **method(self.dims),
            "encoder": self.encoder.fingerprint(),
            "whitening": str(self.whitening),
            "aggregation": self.aggregation if isinstance(self.aggregation, str) else dict(self.aggregation),
            "poses": list(self.poses),
            "null": str(self.null_choice),
            "verify": self.verify,
            "candidates": self.candidates,
            "windows": self.windows,
            "views": self.views,
            "null_size": self.null_size,
            "seed": self.seed,
        }

    # The line ---------------------------------------------------------------------------------------------------------

    def features(
        self,
        images: Any,
        poses: Sequence[str] | None = None,
        subjects: Subjects | None = None,
        views: bool = False,
        plain: bool = False,
        label: str | None = None,
        keep: Reservoir | None = None,
        **read: SubjectKey,
    ) -> Features:
        """Images in any container as this detector looks at them, for `fit_features` and `score_features`.

        Args:
            poses: All of this detector when None.
            subjects: One id per image.
            views: Whether they are a training set: in the views in which this detector searches it, if it does.
            plain: Whether features of the whole image are enough, without windows and views.
            label: Of the progress bar; None for no bar.
            keep: Takes a sample of the images on the way.
            read: `subject_key` and `image_key`, as in `fit`.

        Raises:
            DataError: For broken images.
        """
        if isinstance(self.encoder, torch.nn.Module):
            self.encoder.to(self.device)
        poses = self.poses if poses is None else poses
        return extract(
            images,
            self.encoder,
            poses,
            subjects=subjects,
            device=self.device,
            batch_size=self.batch_size,
            progress=label,
            keep=keep,
            windowed=self.windows and not plain,
            views=list((views_of if views else views_of_queries)(self.dims)) if self.views and not plain else (),
            descriptor=copy_descriptor().to(self.device) if self.views and self.dims == 2 and not plain else None,
            looks=list(LOOKS) if views else [AS_IT_IS],
            described=poses if views and len(poses) < len(self.poses) else None,  # not looked up themselves
            **read,
        )
