"""A real Trainer trains a tiny generator while the callback watches, and the training does not notice."""

import csv
import datetime
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from watching import (
    HELD_OUT,
    SIDE,
    TRAIN,
    Augmented,
    Slices,
    Tiny,
    callback,
    copies,
    fit,
    images,
    loader,
    make_trainer,
    options,
    scalars,
    tiny,
)

from mi_callback import MemorizationCallback, MemorizationDetector, build_encoder
from mi_callback.encoders import HookedEncoder, Layer
from mi_callback.encoders.pixels import Pyramid
from mi_callback.errors import CalibrationError, DataError, OptionError, SamplerError, StateError
from mi_callback.images.perturbations import PASTES, PERTURBATIONS

ALWAYS = {"mi_mean", "mi_median", "mi_p95", "mi_max", "oni_mean", "similarity_mean", "distinct", "scored", "n_scored"}
ALWAYS |= {"mi_p05", "null_mi_p05", "null_mi_p95"}
COUNTS = {"flagged", "flagged_expected", "rate", "rate_lower", "rate_upper", "matched_subjects", "alarm"}
ALL = ALWAYS | COUNTS | {"verified_max", "power"}


# Out of the box ------------------------------------------------------------------------------------------------------


def test_with_its_own_detector_it_logs_everything_and_others_can_monitor_it(tmp_path: Path):
    watch = MemorizationCallback(n_samples=8, power=1)
    stop = EarlyStopping("memorization/verified_max", patience=3)
    checkpoint = ModelCheckpoint(tmp_path, monitor="memorization/mi_max")
    trainer = fit(watch, stop, checkpoint, logger=CSVLogger(tmp_path, "csv", version=0), enable_checkpointing=True)
    assert set(scalars(trainer)) == ALL
    assert all(math.isfinite(value) for value in scalars(trainer).values())
    assert watch.detector.encoder.name == "bundled"
    assert len(watch.scores) == len(watch.samples) == 8
    assert watch.scores.verified.isfinite().all()
    assert float(stop.best_score) == pytest.approx(float(watch.scores.verified.max()))
    assert float(checkpoint.best_model_score) == pytest.approx(float(watch.scores.mi.max()))
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as lines:
        (row,) = [row for row in csv.DictReader(lines) if row.get("memorization/mi_max")]
    assert {key.removeprefix("memorization/") for key, value in row.items() if value} >= ALL
    assert float(row["memorization/mi_mean"]) == pytest.approx(float(watch.scores.mi.mean()), rel=1e-4)


def test_scores_samples_and_history_tell_what_was_seen():
    watch = callback()
    assert watch.scores is None
    assert watch.samples is None
    trainer = fit(watch, max_epochs=3)
    assert [(record.epoch, record.step) for record in watch.history] == [(0, 3), (1, 6), (2, 9)]
    assert watch.history[-1].scores is watch.scores
    assert watch.samples.shape == (6, 1, SIDE, SIDE)
    assert watch.samples.dtype == torch.float32
    rescored = watch.detector.score(watch.samples)
    assert torch.equal(rescored.mi, watch.scores.mi)
    band = {key: scalars(trainer)[key] for key in ("mi_p05", "null_mi_p05", "null_mi_p95")}
    beside = {"alarm": 0.0, "scored": 1.0, "n_scored": 6.0} | band
    assert scalars(trainer) == pytest.approx(watch.scores.summary() | beside, rel=1e-5)
    assert band["null_mi_p05"] < 0 < band["null_mi_p95"]


def test_without_verification_no_verified_similarity_is_logged():
    assert set(scalars(fit(callback()))) == ALWAYS | COUNTS


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_samples_and_scores_are_ordinary_tensors_that_can_be_used_further(stage: str):
    watch = callback()
    trainer = fit(watch)
    if stage == "validate":  # in inference mode
        trainer.validate(Tiny(), loader(HELD_OUT), verbose=False)
    watch.samples.clone().requires_grad_()
    watch.samples.add_(1)
    watch.scores.mi.add_(1)


def test_a_generator_of_copies_is_found_out_with_its_matches_and_subjects():
    watch = callback(sampler=copies(3, 17, 17))
    train = loader(Slices(TRAIN, [f"sub-{i}" for i in range(24)]), shuffle=True)
    trainer = fit(watch, train=train, val=loader(Slices(HELD_OUT, [f"sub-h{i}" for i in range(20)])))
    assert watch.scores.flagged.all()
    assert watch.scores.match.tolist() == [3, 17, 17, 3, 3, 17]  # two batches: 4 and 2
    assert watch.scores.match_subject[:2] == ["sub-3", "sub-17"]
    assert watch.scores.verdict == "memorized"
    assert scalars(trainer)["rate"] == 1
    assert scalars(trainer)["flagged"] == 6
    assert scalars(trainer)["flagged_expected"] == pytest.approx(0.6)
    assert scalars(trainer)["matched_subjects"] == 2


@pytest.mark.parametrize("fitted", [False, True])
def test_samples_are_compared_with_a_control_of_other_people(said: list[str], fitted: bool):
    others = Slices(images(24, seed=9), [f"sub-c{i}" for i in range(24)])
    own = {"detector": MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)} if fitted else {}
    watch = callback(sampler=copies(3, 17, 17), control=others, **own)
    trainer = fit(watch)
    assert watch.scores.verdict == "memorized"
    assert watch.scores.control is not None
    assert scalars(trainer)["control_flagged"] == watch.scores.control.count < 6
    assert "the control has 24 images." in "\n".join(said)


def test_early_stopping_ends_a_training_that_memorizes():
    stop = EarlyStopping("memorization/rate", mode="max", stopping_threshold=0.5, patience=99)
    assert fit(callback(sampler=copies(0)), stop, max_epochs=5).current_epoch == 1
    assert fit(callback(), stop, max_epochs=2).current_epoch == 2


def test_early_stopping_and_checkpoints_work_between_scored_validations(tmp_path: Path):
    watch = callback(every_n_validations=3)
    stop = EarlyStopping("memorization/mi_max", patience=99)
    checkpoint = ModelCheckpoint(tmp_path, monitor="memorization/mi_max", save_top_k=-1)
    fit(watch, stop, checkpoint, max_epochs=4, enable_checkpointing=True)
    assert [record.epoch for record in watch.history] == [0, 3]
    assert len(list(tmp_path.glob("*.ckpt"))) == 4


def test_the_closest_pairs_show_copy_beside_original():
    watch = callback(sampler=copies(5))
    with pytest.raises(StateError, match="needed a scored validation; none was scored yet"):
        watch.closest_pairs(2)
    fit(watch)
    pairs = watch.closest_pairs(2)
    assert pairs.shape == (2, 1, 96, 192)
    # The training image is shown aligned, hence resampled.
    assert (pairs[..., :96] - pairs[..., 96:]).abs().mean() < 0.02


@pytest.mark.volumes
def test_volumes_are_watched_and_their_planes_shown(tmp_path: Path):
    """Dictionaries of volumes as MONAI makes them; a generator that repeats training volumes, mirrored in the depth."""
    from lightning.pytorch.loggers import TensorBoardLogger

    def volumes(n: int, seed: int) -> Tensor:
        noise = torch.rand(n, 1, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
        return F.interpolate(noise, (12, 16, 14), mode="trilinear", align_corners=True)

    train, held_out = volumes(12, 1), volumes(12, 2)

    class OfVolumes(lp.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def sample(self, n: int) -> Tensor:
            return self.scale.detach() * train[torch.arange(n) % 3].flip(-3)

        def training_step(self, batch: Any, _index: int) -> Tensor:
            return (self.scale * batch["image"]).square().mean()

        def validation_step(self, batch: Any, _index: int) -> None:
            pass

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    encoder = build_encoder("slices", encoder="pixels", sides=(4, 8), size=32, slices=4)
    detector = options(encoder=encoder, verify=True, windows=False, views=False, candidates=1)
    watch = callback(n_samples=4, detector=detector, power=1, log_images=True, set_scores=True)
    logger = TensorBoardLogger(tmp_path)
    loaders = (loader(Slices(v, [f"{name}{i}" for i in range(12)])) for name, v in (("a", train), ("b", held_out)))
    trainer = fit(watch, module=OfVolumes(), train=next(loaders), val=next(loaders), logger=logger)
    assert watch.samples.shape == (4, 1, 12, 16, 14)
    assert scalars(trainer)["rate"] == 1
    assert watch.scores.pose == ["flip_depth"] * 4
    assert watch.scores.match.tolist() == [0, 1, 2, 0]
    assert watch.scores.power.n == 1
    assert watch.closest_pairs(2).shape == (2, 1, 96, 192)
    assert any(file.stat().st_size > 1000 for file in Path(logger.log_dir).iterdir())


@pytest.mark.parametrize("name", ["n_samples", "every_n_validations", "sample_batch_size"])
def test_counts_below_one_are_refused(name: str):
    with pytest.raises(ValueError, match=rf"needed {name} of at least 1; 0 came"):
        MemorizationCallback(**{name: 0})


def test_a_detector_that_is_none_is_refused():
    with pytest.raises(TypeError, match="needed a MemorizationDetector or a mapping of its options; str came"):
        MemorizationCallback(detector="bundled")


# The training set ----------------------------------------------------------------------------------------------------


def holds(watch: MemorizationCallback, pixels: Tensor) -> bool:
    """Whether exactly these training images were encoded, in this order."""
    found, expected = watch.detector.state.train, MemorizationDetector(**options()).fit(pixels).train
    same = [torch.equal(found.layers[layer][0], features[0]) for layer, features in expected.layers.items()]
    return len(found) == len(pixels) and torch.equal(found.thumbnails, expected.thumbnails) and all(same)


@pytest.mark.parametrize("batch_size", [5, 7, 24])
def test_the_whole_training_set_is_encoded_in_order_and_nothing_is_dropped(batch_size: int):
    watch = callback()
    subjects = [f"s{i}" for i in range(24)]
    train = loader(Slices(TRAIN, subjects), batch_size, shuffle=True, drop_last=True)
    fit(watch, train=train, limit_train_batches=1)
    assert watch.detector.state.train.subjects == subjects
    assert holds(watch, TRAIN)


def test_every_training_loader_is_encoded_when_there_are_several():
    watch = callback()
    fit(watch, train=[loader(TRAIN[:14]), loader(TRAIN[14:])])
    assert holds(watch, TRAIN)


def test_training_images_can_be_given_where_they_are_not_what_is_trained_on():
    watch = callback(train=TensorDataset(TRAIN[:9]), held_out=[HELD_OUT[:15]])
    fit(watch)
    assert holds(watch, TRAIN[:9])
    assert len(watch.detector.state.null.similarity) == 15


@pytest.mark.parametrize("kind", ["tensor", "dataset", "loader", "batches"])
def test_training_images_can_be_given_in_any_container(kind: str):
    containers = {"tensor": TRAIN, "dataset": TensorDataset(TRAIN), "loader": loader(TRAIN), "batches": TRAIN.split(9)}
    watch = callback(train=containers[kind], held_out=HELD_OUT)
    fit(watch)
    assert holds(watch, TRAIN)


def test_validation_data_become_the_null():
    watch = callback()
    fit(watch, val=loader(HELD_OUT, 7, drop_last=True), limit_val_batches=1)
    assert watch.detector.state.null.kind == "held_out"
    assert torch.equal(
        watch.detector.state.null.similarity,
        MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT).null.similarity,
    )


def test_without_validation_data_training_subjects_are_compared_with_each_other():
    watch = callback()
    trainer = fit(watch, val=None, max_epochs=2)
    assert watch.detector.state.null.kind == "cross_fit"
    assert [record.epoch for record in watch.history] == [0, 1]
    assert set(scalars(trainer)) == ALWAYS | COUNTS


def test_the_cross_fitted_null_can_be_asked_for_and_ignores_validation_data():
    watch = callback(detector=options(null="cross_fit"))
    fit(watch, val=loader(TRAIN))  # would be refused as held-out data
    assert watch.detector.state.null.kind == "cross_fit"
    assert len(watch.detector.state.null.similarity) == len(TRAIN)


def test_a_held_out_null_without_validation_data_is_refused():
    with pytest.raises(CalibrationError, match=r"needed held-out images for null='held_out'; none came"):
        fit(callback(detector=options(null="held_out")), val=None)


# Subjects ------------------------------------------------------------------------------------------------------------

IDS = [f"p{i // 2:02d}" for i in range(24)]
HELD_OUT_IDS = [f"h{i // 2:02d}" for i in range(20)]


@pytest.mark.parametrize(
    ("key", "subject_key"),
    [("subject", None), ("patient_id", None), ("case", "case"), ("case", lambda batch: batch["case"])],
)
def test_subjects_are_found_where_batches_hold_them(key: str, subject_key: Any):
    watch = callback(subject_key=subject_key)
    fit(watch, train=loader(Slices(TRAIN, IDS, key), shuffle=True), val=loader(Slices(HELD_OUT, HELD_OUT_IDS, key)))
    assert watch.detector.state.train.subjects == IDS
    assert watch.detector.state.null.n_subjects == 10
    assert watch.scores.flagging.null.n_subjects == 10
    assert watch.scores.flagging.null.subjects_known


def test_subjects_are_found_in_tuples_by_a_function_of_the_batch():
    watch = callback(subject_key=lambda batch: batch[1])
    train = TensorDataset(TRAIN, torch.arange(24) // 2)
    fit(watch, train=loader(train), val=loader(TensorDataset(HELD_OUT, 100 + torch.arange(20) // 2)))
    assert watch.detector.state.train.subjects == [str(i // 2) for i in range(24)]
    assert watch.detector.state.null.n_subjects == 10


def test_a_wrong_subject_key_is_refused_with_the_keys_that_exist():
    with pytest.raises(DataError, match=r"needed the subject ids under 'case'; .* the keys \['image', 'subject'"):
        fit(callback(subject_key="case"), train=loader(Slices(TRAIN, IDS)))


def test_without_subject_ids_every_image_is_its_own_subject_and_that_is_said(said: list[str]):
    watch = callback()
    fit(watch)
    assert watch.detector.state.train.subjects is None
    assert watch.scores.flagging.null.n_subjects == 20
    assert not watch.scores.flagging.null.subjects_known
    assert any("20 images, each taken as its own subject (no ids found)" in line for line in said)


def test_what_was_fitted_is_said(said: list[str]):
    fit(callback(), train=loader(Slices(TRAIN, IDS)), val=loader(Slices(HELD_OUT, HELD_OUT_IDS)))
    (line,) = [line for line in said if "encoded" in line]
    assert "encoded 24 training images of 12 subjects with 'pixels'" in line
    assert "held_out null of 20 images, 10 subjects" in line


def monai_data(folder: Path, pixels: Tensor, prefix: str) -> list[dict[str, str]]:
    items = []
    for i, image in enumerate(pixels):
        file = folder / f"sub-{prefix}{i // 2:02d}" / f"slice{i}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, image[0].numpy())
        items.append({"image": str(file)})
    return items


def test_subjects_of_a_monai_pipeline_come_from_its_file_names(tmp_path: Path):
    from monai.data import DataLoader as MonaiLoader
    from monai.data import Dataset as MonaiDataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    chain = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    train = MonaiDataset(monai_data(tmp_path, TRAIN, "t"), chain)
    val = MonaiDataset(monai_data(tmp_path, HELD_OUT, "h"), chain)
    watch = callback()
    fit(watch, train=MonaiLoader(train, batch_size=6, shuffle=True, drop_last=True), val=MonaiLoader(val, batch_size=6))
    assert watch.detector.state.train.subjects == [f"sub-t{i // 2:02d}" for i in range(24)]
    assert watch.detector.state.train.sources[5].endswith("sub-t02/slice5.npy")
    assert watch.detector.state.null.n_subjects == 10
    assert holds(watch, TRAIN)


# When ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "trainer_options", "expected"),
    [
        (1, {"max_epochs": 3}, [(0, 3), (1, 6), (2, 9)]),
        (2, {"max_epochs": 5}, [(0, 3), (2, 9), (4, 15)]),
        (9, {"max_epochs": 3}, [(0, 3)]),
        (1, {"max_epochs": 5, "check_val_every_n_epoch": 2}, [(1, 6), (3, 12)]),
        (2, {"max_epochs": 6, "check_val_every_n_epoch": 2}, [(1, 6), (5, 18)]),
        (1, {"max_epochs": 2, "val_check_interval": 0.5, "limit_train_batches": 2}, [(0, 1), (0, 2), (1, 3), (1, 4)]),
        (2, {"max_epochs": 2, "val_check_interval": 0.5, "limit_train_batches": 2}, [(0, 1), (1, 3)]),
        (2, {"max_epochs": 4, "limit_val_batches": 0}, [(0, 3), (2, 9)]),
    ],
)
def test_cadence_is_counted_in_validations(every: int, trainer_options: dict, expected: list):
    watch = callback(every_n_validations=every)
    fit(watch, **trainer_options)
    assert [(record.epoch, record.step) for record in watch.history] == expected


@pytest.mark.parametrize("steps", [0, 1, -1])
def test_the_sanity_check_is_neither_scored_nor_counted(steps: int):
    calls = []

    def sampler(module: Any, n: int) -> Tensor:
        calls.append(module.trainer.sanity_checking)
        return images(n, len(calls))

    watch = callback(every_n_validations=2, sampler=sampler)
    fit(watch, max_epochs=3, num_sanity_val_steps=steps)
    assert [record.epoch for record in watch.history] == [0, 2]
    assert not any(calls)


# Training is not disturbed -------------------------------------------------------------------------------------------


def monai_transforms(workers: int, package: str) -> DataLoader:
    from monai.data import DataLoader as MonaiLoader
    from monai.data import Dataset as MonaiDataset
    from monai.data import list_data_collate
    from monai.transforms import Compose, RandAffined, RandFlipd, RandGaussianNoised, RandScaleIntensityd

    chain = Compose(
        [
            RandFlipd("image", prob=0.5, spatial_axis=1),
            RandGaussianNoised("image", prob=0.7, std=0.1),
            RandScaleIntensityd("image", factors=0.2, prob=0.5),
            RandAffined("image", prob=0.5, translate_range=2),
        ]
    )
    chain.set_random_state(11)
    dataset = MonaiDataset([{"image": image} for image in TRAIN], chain)
    if package == "monai":
        return MonaiLoader(dataset, batch_size=5, shuffle=True, num_workers=workers)
    return DataLoader(dataset, batch_size=5, shuffle=True, num_workers=workers, collate_fn=list_data_collate)


LOADERS: dict[str, Callable[[int], DataLoader]] = {
    "in order": lambda workers: loader(TRAIN, 5, num_workers=workers),
    "shuffled": lambda workers: loader(TRAIN, 5, shuffle=True, drop_last=True, num_workers=workers),
    "own generator": lambda workers: loader(
        TRAIN, 5, shuffle=True, num_workers=workers, generator=torch.Generator().manual_seed(4)
    ),
    "torch augmentation": lambda workers: loader(
        Augmented(TRAIN, lambda: float(torch.rand(()))), 5, shuffle=True, num_workers=workers
    ),
    "numpy augmentation": lambda workers: loader(
        Augmented(TRAIN, np.random.rand), 5, shuffle=True, num_workers=workers
    ),
    "MONAI transforms": lambda workers: monai_transforms(workers, "torch"),
    "MONAI loader": lambda workers: monai_transforms(workers, "monai"),
    "persistent": lambda workers: loader(TRAIN, 5, shuffle=True, num_workers=1, persistent_workers=True),
}


def weights_after(*callbacks: Any, make_loader: Callable[[int], DataLoader], workers: int, **further: Any) -> dict:
    lp.seed_everything(3, verbose=False)
    train, module = make_loader(workers), Tiny()
    make_trainer(*callbacks, **({"max_epochs": 3} | further)).fit(module, train, loader(HELD_OUT, num_workers=workers))
    return module.state_dict()


@pytest.mark.filterwarnings("ignore:memorization. the training set changes its images")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", LOADERS)
def test_weights_with_and_without_the_callback_are_bit_identical(name: str, workers: int):
    watch = callback()
    without = weights_after(make_loader=LOADERS[name], workers=workers)
    watched = weights_after(watch, make_loader=LOADERS[name], workers=workers)
    assert len(watch.history) == 3
    assert without.keys() == watched.keys()
    assert all(torch.equal(without[key], watched[key]) for key in without)


def test_the_comparison_of_weights_would_notice_one_random_number():
    class Disturbing(lp.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            torch.rand(1)

    with_it, without = (weights_after(*c, make_loader=LOADERS["shuffled"], workers=0) for c in ([Disturbing()], []))
    assert not all(torch.equal(without[key], with_it[key]) for key in without)


def test_weights_are_bit_identical_with_verification_cross_fit_and_cache(tmp_path: Path):
    detector = options(verify=True, candidates=1, null="cross_fit")
    watch = callback(detector=detector, cache=tmp_path / "state", n_samples=2)
    without = weights_after(make_loader=LOADERS["shuffled"], workers=0, max_epochs=2)
    watched = weights_after(watch, make_loader=LOADERS["shuffled"], workers=0, max_epochs=2)
    assert watch.scores.verified.isfinite().all()
    assert all(torch.equal(without[key], watched[key]) for key in without)


def test_weights_are_bit_identical_with_the_encoder_that_the_callback_builds():
    # Making it must not touch the global random state either.
    watch = MemorizationCallback(n_samples=2, power=0, detector={"verify": False})
    without = weights_after(make_loader=LOADERS["shuffled"], workers=0, max_epochs=2)
    watched = weights_after(watch, make_loader=LOADERS["shuffled"], workers=0, max_epochs=2)
    assert watch.detector.encoder.name == "bundled"
    assert len(watch.history) == 2
    assert all(torch.equal(without[key], watched[key]) for key in without)


def test_building_the_bundled_encoder_draws_no_random_number():
    before = torch.get_rng_state()
    build_encoder("bundled")
    assert torch.equal(before, torch.get_rng_state())


def stop_on_evidence() -> EarlyStopping:
    return EarlyStopping(monitor="memorization/alarm", mode="max", stopping_threshold=0.5, patience=10**6)


def test_the_readmes_stopping_rule_stops_a_copying_generator_and_no_other():
    copying, novel = callback(sampler=copies(*range(6))), callback(sampler=lambda n: images(n, 77))
    stopped, finished = fit(copying, stop_on_evidence(), max_epochs=4), fit(novel, stop_on_evidence(), max_epochs=4)
    assert len(copying.history) == 1
    assert stopped.current_epoch == 1
    assert len(novel.history) == 4
    assert finished.current_epoch == 4


def test_an_alarm_stays_raised_and_is_remembered_by_a_checkpoint(tmp_path: Path):
    def first_only(module: Any, n: int) -> Tensor:
        return TRAIN[:n] if module.current_epoch == 0 else images(n, 77)

    watch = callback(sampler=first_only)
    trainer = fit(watch, max_epochs=2)
    assert [record.scores.flagged.all().item() for record in watch.history] == [True, False]
    assert scalars(trainer)["alarm"] == 1
    trainer.save_checkpoint(path := tmp_path / "run.ckpt")
    resumed = callback(sampler=first_only)
    trainer = fit(resumed, max_epochs=3, fit_options={"ckpt_path": path})
    assert len(resumed.history) == 1
    assert scalars(trainer)["alarm"] == 1
    assert resumed.state_dict()["looks"] == 3


def test_the_power_self_test_is_said_logged_and_forbids_clean_where_copies_are_not_seen(said: list[str]):
    trainer = fit(callback(power=2))
    assert scalars(trainer)["power"] > 0.5
    assert any(
        f"power self-test: of copies of 2 training images, changed in {len([*PERTURBATIONS, *PASTES])} ways" in line
        for line in said
    )

    class Blind:
        """Features that have nothing to do with the image."""

        name, layers, size, channels, intensity = "blind", {"noise": Layer("BC")}, (16, 16), 1, "minmax"
        generator = torch.Generator().manual_seed(0)

        def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
            return {"noise": torch.randn(len(pixels), 8, generator=self.generator)}

        def fingerprint(self) -> str:
            return "blind"

    watch = callback(power=2, detector=options(encoder=Blind()))
    with pytest.warns(UserWarning, match="so it never says clean"):
        fit(watch)
    assert watch.scores.verdict == "inconclusive"


def test_set_level_scores_are_logged_when_asked_for():
    others = {"ct", "authpct", "fid", "kid", "vendi", "mifid"}
    assert not others & set(scalars(fit(callback())))
    logged = scalars(fit(callback(set_scores=True, n_samples=24)))
    assert others <= set(logged)
    assert all(math.isfinite(value) for value in logged.values())


def breaks(epoch: int, error: Exception | None = None) -> Callable[[Any, int], Tensor]:
    """A sampler that fails, or draws NaN, at one epoch."""

    def draw(module: Any, n: int) -> Tensor:
        drawn = images(n, 5)
        if module.current_epoch == epoch and n > 2:  # two are drawn to see whether it works
            if error is not None:
                raise error
            drawn[0] = math.nan
        return drawn

    return draw


FAULTS = {
    "NaN": None,
    "out of memory": torch.OutOfMemoryError("out of memory"),
    "the sampler": RuntimeError("shapes do not match"),
    "the end of an iterator": StopIteration(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_training_goes_on_after_a_fault_with_the_same_weights(fault: str):
    def train(*watches: Any) -> dict:
        torch.manual_seed(0)
        module = Tiny()
        fit(*watches, module=module, max_epochs=3)
        return module.state_dict()

    watch = callback(sampler=breaks(1, FAULTS[fault]))
    with pytest.warns(UserWarning, match="not scored at epoch 1"):
        weights = train(watch)
    assert [record.epoch for record in watch.history] == [0, 2]
    assert all(torch.equal(weights[key], value) for key, value in train().items())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_training_where_that_was_asked_for(fault: str):
    with pytest.raises((DataError, RuntimeError, SamplerError)):
        fit(callback(sampler=breaks(1, FAULTS[fault]), on_error="raise"), max_epochs=3)


def test_what_fails_before_training_ends_it_and_nothing_that_fails_later_does():
    def broken(n: int) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(callback(sampler=broken))
    watch = callback(sampler=breaks(0, RuntimeError("shapes do not match")))
    with pytest.warns(UserWarning, match="not scored at epoch 0"):
        fit(watch, max_epochs=2)
    assert [record.epoch for record in watch.history] == [1]


def test_a_young_generator_of_constant_images_is_not_scored_and_trained_on():
    def young(module: Any, n: int) -> Tensor:
        return torch.zeros(n, 1, SIDE, SIDE) if module.current_epoch == 0 else images(n, 5)

    watch = callback(sampler=young)
    stop = EarlyStopping("memorization/alarm", mode="max", stopping_threshold=0.5, patience=100)
    with pytest.warns(UserWarning, match="1 validations were not scored, the last at epoch 0"):
        fit(watch, stop, max_epochs=2)
    assert [record.epoch for record in watch.history] == [1]


def test_a_validation_that_was_not_scored_is_logged_as_such_and_keeps_the_alarm():
    watch = callback(sampler=breaks(1))
    logged: list[dict] = []

    class Reads(lp.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            logged.append(scalars(trainer))

    with pytest.warns(UserWarning, match="not scored at epoch 1"):
        fit(watch, Reads(), max_epochs=3)
    assert [values["scored"] for values in logged if "scored" in values] == [1, 0, 1]


def test_no_alarm_is_logged_beside_what_is_not_scored_where_none_could_be_raised():
    noisy = (HELD_OUT + 0.3 * torch.rand(HELD_OUT.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    watch = callback(sampler=breaks(0))
    with pytest.warns(UserWarning, match="held-out and training images differ"):
        trainer = fit(watch, val=loader(noisy))
    assert watch.detector.state.difference is not None
    assert scalars(trainer) == {"scored": 0.0, "n_scored": 0.0}


def test_a_logger_that_fails_costs_pictures_alone():
    class TensorBoardLogger(lp.loggers.logger.DummyLogger):
        @property
        def experiment(self) -> Any:
            return object()

    watch = callback()
    with pytest.warns(UserWarning, match="TensorBoardLogger did not take pictures and tables: AttributeError"):
        trainer = fit(watch, logger=TensorBoardLogger())
    assert scalars(trainer)["scored"] == 1


def test_misspelled_options_are_refused_at_once():
    with pytest.raises(OptionError, match=r"it has no 'alhpa' \(alpha\?\)"):
        MemorizationCallback(detector={"alhpa": 0.1})
    with pytest.raises(OptionError, match=r"on_error out of \['warn', 'raise'\]; 'ignore' came"):
        MemorizationCallback(on_error="ignore")


def test_modes_of_submodules_are_as_without_the_callback():
    class Frozen(Tiny):
        def on_train_start(self) -> None:
            self.net[1].eval()

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            self.modes = [part.training for part in self.modules()]

    modules = [Frozen(), Frozen()]
    fit(callback(), module=modules[0], max_epochs=2)
    fit(module=modules[1], max_epochs=2)
    assert modules[0].modes == modules[1].modes
    assert not all(modules[0].modes)


@pytest.mark.parametrize("uniform", [lambda: float(torch.rand(())), np.random.rand], ids=["torch", "numpy"])
def test_random_augmentation_is_noticed_and_said(uniform: Callable[[], float]):
    with pytest.warns(UserWarning, match=r"changes its images at random.*MemorizationCallback\(train=…\)"):
        fit(callback(), train=loader(Augmented(TRAIN, uniform)))


def test_random_transforms_of_monai_are_noticed_and_said():
    with pytest.warns(UserWarning, match="changes its images at random"):
        fit(callback(), train=monai_transforms(0, "monai"))


def test_nothing_is_said_about_augmentation_where_there_is_none(recwarn: pytest.WarningsRecorder):
    fit(callback(), train=loader(TRAIN, shuffle=True))
    fit(callback(train=TensorDataset(TRAIN)), train=loader(Augmented(TRAIN, np.random.rand)))
    assert not [warning for warning in recwarn if "at random" in str(warning.message)]


class Locked(TensorDataset):
    """Holds something that cannot be copied, as data sets with open files do."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__(*tensors)
        self.lock = threading.Lock()


def test_a_training_set_that_cannot_be_copied_is_refused_and_the_way_out_that_is_named_works():
    with pytest.raises(DataError, match=r"Pass a second instance: MemorizationCallback\(train="):
        fit(callback(), train=loader(Locked(TRAIN)))
    watch = callback(train=Locked(TRAIN))
    fit(watch, train=loader(Locked(TRAIN)))
    assert len(watch.detector.state.train) == 24


# Settings of the Trainer ---------------------------------------------------------------------------------------------


def test_fast_dev_run_tries_the_sampler_and_nothing_else(said: list[str]):
    asked = []

    def sampler(n: int) -> Tensor:
        asked.append(n)
        return images(n, 0)

    watch = callback(sampler=sampler)
    fit(watch, EarlyStopping("memorization/rate"), fast_dev_run=True)
    assert asked == [2]
    assert watch.history == []
    assert watch.detector is None
    assert any("fast_dev_run" in line for line in said)


def test_fast_dev_run_finds_a_sampler_that_does_not_work():
    with pytest.raises(SamplerError, match=r"needed 2 images.*shape \(2, 5\) came"):
        fit(callback(sampler=lambda n: torch.rand(n, 5)), fast_dev_run=True)


def test_validation_switched_off_falls_back_to_the_end_of_the_training_epoch(tmp_path: Path):
    watch = callback()
    checkpoint = ModelCheckpoint(tmp_path, monitor="memorization/mi_max")
    trainer = fit(
        watch,
        EarlyStopping("memorization/mi_max"),
        checkpoint,
        limit_val_batches=0,
        max_epochs=2,
        enable_checkpointing=True,
    )
    assert [record.epoch for record in watch.history] == [0, 1]
    assert watch.detector.state.null.kind == "cross_fit"
    assert set(scalars(trainer)) == ALWAYS | COUNTS
    assert checkpoint.best_model_path


def test_overfitting_on_batches_does_not_take_training_images_for_held_out_ones():
    watch = callback()
    fit(watch, overfit_batches=1, max_epochs=2)
    assert watch.detector.state.null.kind == "cross_fit"
    assert len(watch.history) == 2


def test_validating_on_the_training_loader_does_not_take_training_images_for_held_out_ones():
    watch, both = callback(), loader(TRAIN)
    fit(watch, train=both, val=both)
    assert watch.detector.state.null.kind == "cross_fit"


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions_are_scored_on_images_in_float32(precision: str):
    watch = callback()
    fit(watch, precision=precision)
    assert watch.samples.dtype == torch.float32
    assert watch.scores.mi.isfinite().all()
    assert all(features.dtype == torch.float32 for features in watch.detector.state.train.layers.values())
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_of_several_validation_loaders_all_are_the_null(kind: str):
    loaders = [loader(HELD_OUT[:12]), loader(HELD_OUT[12:])]
    watch = callback()
    trainer = fit(watch, val=loaders if kind == "list" else dict(zip("ab", loaders, strict=True)))
    assert len(watch.detector.state.null.similarity) == 20
    assert set(scalars(trainer)) == ALWAYS | COUNTS
    assert len(watch.history) == 1


def test_a_data_module_is_read():
    class Data(lp.LightningDataModule):
        def train_dataloader(self) -> DataLoader:
            return loader(TRAIN, shuffle=True)

        def val_dataloader(self) -> DataLoader:
            return loader(HELD_OUT)

    watch = callback()
    make_trainer(watch).fit(Tiny(), datamodule=Data())
    assert holds(watch, TRAIN)
    assert watch.detector.state.null.kind == "held_out"


def test_the_older_package_name_of_lightning_works_too():
    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import EarlyStopping as OlderEarlyStopping

    watch, stop = callback(), OlderEarlyStopping("memorization/mi_max", patience=5)
    trainer = fit(watch, stop, module=tiny(pl.LightningModule)(), package=pl, max_epochs=2)
    assert len(watch.history) == 2
    assert set(scalars(trainer)) == ALWAYS | COUNTS
    assert math.isfinite(float(stop.best_score))


def test_averaged_weights_are_the_ones_that_are_scored_when_the_callback_comes_first():
    seen = []

    def sampler(module: Any, n: int) -> Tensor:
        seen.append(module.net[0].weight.detach().clone())
        return images(n, 0)

    averaging = WeightAveraging()
    fit(callback(sampler=sampler), averaging, max_epochs=1)
    averaged = averaging._average_model.module.net[0].weight
    assert torch.equal(seen[-1], averaged)


def test_the_same_latents_are_drawn_at_every_validation_and_another_seed_draws_others():
    def latents(seed: int) -> list[Tensor]:
        seen: list[Tensor] = []

        def sampler(n: int) -> Tensor:
            seen.append(torch.randn(n, 1, SIDE, SIDE))
            return seen[-1]

        fit(callback(sampler=sampler, seed=seed), max_epochs=2)
        # Before the training set is encoded, two images try the sampler.
        assert [len(drawn) for drawn in seen] == [2, 4, 2, 4, 2]
        return [torch.cat(seen[1:3]), torch.cat(seen[3:])]

    first, second = latents(seed=0)
    assert first.shape == (6, 1, SIDE, SIDE)
    assert torch.equal(first, second)
    assert not torch.equal(first, latents(seed=1)[0])


# Resuming and fitting again ------------------------------------------------------------------------------------------


def test_a_resumed_training_goes_on_counting_and_scores_its_first_validation(tmp_path: Path):
    first = callback(every_n_validations=2)
    fit(first, max_epochs=3).save_checkpoint(tmp_path / "last.ckpt")
    assert [record.epoch for record in first.history] == [0, 2]
    second = callback(every_n_validations=2)
    stop = EarlyStopping("memorization/mi_max", patience=99)
    fit(second, stop, max_epochs=7, fit_options={"ckpt_path": tmp_path / "last.ckpt"})
    # The fourth validation comes first and is scored, then every other one as if nothing had happened.
    assert [record.epoch for record in second.history] == [3, 4, 6]


def test_a_checkpoint_holds_plain_types_and_nothing_of_the_training_set(tmp_path: Path):
    paths = []
    for watch in ([], [callback()]):
        fit(*watch).save_checkpoint(path := tmp_path / f"{len(watch)}.ckpt")
        paths.append(path)
    state = torch.load(paths[1], weights_only=True)["callbacks"]["MemorizationCallback"]
    assert state == {"validations": 1, "looks": 1, "alarmed": False}
    assert paths[1].stat().st_size - paths[0].stat().st_size < 2048


def test_validate_alone_with_a_fitted_detector_scores():
    detector = MemorizationDetector(**options()).fit(TRAIN, held_out=HELD_OUT)
    watch = callback(detector=detector)
    trainer = make_trainer(watch)
    trainer.validate(Tiny(), loader(HELD_OUT), verbose=False)
    assert set(scalars(trainer)) == ALWAYS | COUNTS
    assert len(watch.history) == 1


def test_validate_alone_without_a_fitted_detector_says_so_and_scores_nothing():
    watch = callback()
    with pytest.warns(UserWarning, match=r"validate\(\) was called without a fitted detector.*Detector\(\)\.fit"):
        make_trainer(watch).validate(Tiny(), loader(HELD_OUT), verbose=False)
    assert watch.history == []


def test_validate_after_fit_scores_against_the_training_set_of_the_fit():
    watch, module = callback(), Tiny()
    trainer = make_trainer(watch)
    trainer.fit(module, loader(TRAIN), loader(HELD_OUT))
    trainer.validate(module, loader(images(5, 9)), verbose=False)
    assert len(watch.history) == 2
    assert torch.equal(watch.history[0].scores.mi, watch.history[1].scores.mi)


@pytest.mark.parametrize("kind", ["options", "unfitted detector"])
def test_fitting_again_on_other_data_encodes_the_other_data(kind: str):
    watch = callback(detector=options() if kind == "options" else MemorizationDetector(**options()))
    other = images(10, 5)
    fit(watch)
    fit(watch, train=loader(other))
    assert len(watch.history) == 2
    assert holds(watch, other)


def test_a_detector_that_was_fitted_before_is_used_as_it_is(said: list[str]):
    detector = MemorizationDetector(**options()).fit(TRAIN[:7], held_out=HELD_OUT)
    watch = callback(detector=detector)
    fit(watch)
    assert watch.detector is detector
    assert len(watch.detector.state.train) == 7
    assert any("using the fitted detector (7 training images)" in line for line in said)


# Two processes -------------------------------------------------------------------------------------------------------


def two_processes() -> dict[str, Any]:
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=datetime.timedelta(seconds=15))
    return {"devices": 2, "strategy": strategy}


@pytest.mark.filterwarnings("ignore:It is recommended to use .self.log")
def test_two_processes_log_what_one_does_and_others_can_monitor_it(tmp_path: Path):
    # Without learning the weights are the same however the batches are split.
    one = scalars(fit(callback(), module=Tiny(lr=0.0)))
    checkpoint = ModelCheckpoint(tmp_path, monitor="memorization/mi_max")
    trainer = fit(
        callback(),
        checkpoint,
        EarlyStopping("memorization/mi_max"),
        module=Tiny(lr=0.0),
        enable_checkpointing=True,
        **two_processes(),
    )
    assert set(one) == ALWAYS | COUNTS
    # Batch statistics depend on the split, and values with them: `lightning/test_ranks.py` compares without.
    assert set(scalars(trainer)) == set(one)
    assert checkpoint.best_model_path


@pytest.mark.filterwarnings("ignore:It is recommended to use .self.log")
def test_two_processes_keep_the_cadence_together():
    trainer = fit(callback(every_n_validations=2), max_epochs=3, **two_processes())
    assert set(scalars(trainer)) == ALWAYS | COUNTS


@pytest.mark.filterwarnings("ignore:It is recommended to use .self.log")
def test_two_processes_train_the_same_weights_with_and_without_the_callback():
    with_it, without = Tiny(), Tiny()
    without.load_state_dict(with_it.state_dict())
    fit(callback(), module=with_it, **two_processes())
    fit(module=without, **two_processes())
    assert all(torch.equal(value, without.state_dict()[key]) for key, value in with_it.state_dict().items())


@pytest.mark.parametrize("broken", [{"sampler": lambda n: torch.rand(n, 5)}, {"train": TensorDataset(TRAIN[:1])}])
def test_an_error_in_one_process_ends_both(broken: dict):
    with pytest.raises(Exception, match=r"needed (2 images|at least 2 training images)"):
        fit(callback(**broken), **two_processes())


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "error", "message"),
    [
        (lambda n: torch.rand(n, SIDE * SIDE), SamplerError, r"needed 2 images, shape \(2, 1, h, w\).*\(2, 256\) came"),
        (lambda n: images(n - 1, 0), SamplerError, r"needed 2 images.*\(1, 1, 16, 16\) came"),
        (lambda n: images(n, 0) * float("nan"), DataError, "generated images 0 to 3: needed finite pixels"),
        (lambda n: torch.zeros(n, 1, SIDE, SIDE), DataError, "generated images 0 to 3: .*constant"),
        (lambda n: [images(n, 0)], SamplerError, r"needed 2 images.*\(1, 2, 1, 16, 16\) came"),
        (lambda n: images(n, 0).expand(-1, 3, -1, -1), DataError, r"needed images of 1 channel\(s\); 3 came"),
        (lambda a, b, c: None, SamplerError, r"needed sampler\(module, n\) or sampler\(n\)"),
        ("net.draw", SamplerError, "needed Tiny.net.draw; Sequential has no 'draw'"),
    ],
    ids=["flat", "too few", "NaN", "constant", "list", "colour", "signature", "name"],
)
def test_a_sampler_that_does_not_deliver_is_refused(sampler: Any, error: type, message: str):
    with pytest.raises(error, match=message):
        fit(callback(sampler=sampler, on_error="raise"))


def test_a_module_without_sampler_is_refused_before_anything_is_encoded():
    class Mute(Tiny):
        sample = None

        def loss(self, batch: Any) -> Tensor:
            return self.net(torch.randn(4, 4)).square().mean()

    watch = callback()
    looked_for = r"looked for the methods sample, .* its .*generator, .*Say how: .*sampler=lambda"
    with pytest.raises(SamplerError, match=looked_for):
        fit(watch, module=Mute())
    assert watch.detector is None


def test_a_subject_in_training_and_validation_data_is_said_and_left_out_of_the_null():
    train, val = loader(Slices(TRAIN, IDS)), loader(Slices(HELD_OUT, ["p03", *HELD_OUT_IDS[1:]]))
    watch = callback()
    with pytest.warns(UserWarning, match=r"1 held-out subjects were trained on"):
        fit(watch, train=train, val=val)
    assert watch.detector.state.null.subjects == HELD_OUT_IDS[1:]


def test_validation_data_of_training_subjects_alone_is_refused():
    with pytest.raises(DataError, match=r"nothing is left\. Split by subject"):
        fit(callback(), train=loader(Slices(TRAIN, IDS)), val=loader(Slices(HELD_OUT, IDS[:20])))


def test_an_image_in_training_and_validation_data_is_said_and_left_out_of_the_null():
    watch = callback()
    with pytest.warns(UserWarning, match=r"2 of 22 held-out images are in the training set too.* held-out image 20"):
        fit(watch, val=loader(torch.cat([HELD_OUT, TRAIN[4:6]])))
    assert len(watch.detector.state.null.similarity) == 20


def test_too_few_held_out_subjects_are_inconclusive_and_nothing_reads_as_clean():
    watch = callback(sampler=copies(0))
    with pytest.warns(UserWarning, match=r"inconclusive\. With 5 .* no p-value is below 0\.167.*at least 9, or raise"):
        trainer = fit(watch, val=loader(HELD_OUT[:5]))
    assert watch.scores.verdict == "inconclusive"
    assert set(scalars(trainer)) == ALWAYS
    assert scalars(trainer)["mi_max"] > 1


def test_slices_of_few_subjects_do_not_make_many():
    watch = callback()
    with pytest.warns(UserWarning, match=r"inconclusive\. With 4 subjects in the held_out null"):
        trainer = fit(watch, val=loader(Slices(HELD_OUT, [f"h{i // 5}" for i in range(20)])))
    assert set(scalars(trainer)) == ALWAYS


@pytest.mark.parametrize("held_out", [9, 10])
def test_as_many_held_out_subjects_as_alpha_needs_are_enough(held_out: int, recwarn: pytest.WarningsRecorder):
    trainer = fit(callback(), val=loader(HELD_OUT[:held_out]))
    assert not [warning for warning in recwarn if "inconclusive" in str(warning.message)]
    assert set(scalars(trainer)) == ALWAYS | COUNTS


def ninth_image_filled(value: float) -> Tensor:
    return torch.where(torch.arange(24).view(-1, 1, 1, 1) == 9, value, TRAIN)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TensorDataset(TRAIN[:0]), "needed at least one image; the data set or iterable is empty"),
        (TensorDataset(TRAIN[:1]), "needed at least 2 training images; 1 came"),
        (TensorDataset(ninth_image_filled(float("nan"))), r"finite pixels.*\[9\]"),
        (TensorDataset(ninth_image_filled(0.0)), r"\[9\] of 24 are constant"),
        ([*images(3, 0)[:, :, :8], *images(3, 0)], "a tensor of images|shape"),
        (Slices([torch.rand(1, 8, 8), torch.rand(1, 9, 9), torch.rand(1, 8, 8)]), "images of one size.*mixes sizes"),
        (Slices(images(3, 0).expand(-1, 3, -1, -1)), r"needed images of 1 channel\(s\); 3 came"),
        ([{"age": TRAIN[:, 0, 0, 0]}], r"needed images under 'image'.*the keys \['age'\].*image_key="),
    ],
    ids=["empty", "one image", "NaN", "constant", "no batch axis", "mixed sizes", "colour", "unknown key"],
)
def test_training_data_that_cannot_be_scored_are_refused(data: Any, message: str, cached: bool, tmp_path: Path):
    with pytest.raises(DataError, match=message):
        fit(callback(train=data, cache=tmp_path / "state" if cached else None))


def test_one_held_out_image_makes_no_null():
    with pytest.raises(CalibrationError, match="needed at least 2 images for the held_out null; 1 came"):
        fit(callback(), val=loader(HELD_OUT[:1]))


# Cache ---------------------------------------------------------------------------------------------------------------


class Counting(HookedEncoder):
    """The pixel encoder; counts what it encodes."""

    def __init__(self) -> None:
        super().__init__(Pyramid((4, 8)), {"levels.0": "BC", "levels.1": "BC"}, 32, intensity="quantile", name="pixels")
        self.encoded = 0

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        self.encoded += len(pixels)
        return super().forward(pixels)


GENERATED = 6 * 4
EVERYTHING = 24 + 20 * 4 + GENERATED
"""Images encoded without a cache: training ones in one pose, held-out and generated ones in four."""


def cached_run(path: Path, train: Tensor = TRAIN, held_out: Tensor = HELD_OUT, **further: Any) -> tuple[int, Any]:
    encoder = Counting()
    watch = callback(cache=path, detector=options(encoder=encoder, **further))
    fit(watch, train=loader(train, shuffle=True), val=loader(held_out))
    return encoder.encoded, watch


def test_a_second_run_on_the_same_data_encodes_only_what_is_generated(tmp_path: Path, said: list[str]):
    first, watch = cached_run(tmp_path / "state")
    second, again = cached_run(tmp_path / "state")
    assert (first, second) == (EVERYTHING, GENERATED)
    assert torch.equal(watch.scores.mi, again.scores.mi)
    assert torch.equal(watch.scores.p_value, again.scores.p_value)
    assert any("loaded 24 training images" in line for line in said)


@pytest.mark.parametrize("side", ["train", "held_out"])
def test_a_changed_pixel_makes_the_cache_unusable_and_it_is_written_anew(tmp_path: Path, side: str, said: list[str]):
    cached_run(tmp_path / "state")
    changed = (TRAIN if side == "train" else HELD_OUT).clone()
    changed[13, 0, 3, 3] += 1e-4
    known = 23 if side == "train" else 24  # training images that are as they were
    assert cached_run(tmp_path / "state", **{side: changed})[0] == EVERYTHING - known
    assert any("the cache is not used" in line and "differs in ['data']" in line for line in said)
    assert cached_run(tmp_path / "state", **{side: changed})[0] == GENERATED


def test_a_folder_keeps_states_of_several_data_and_settings(tmp_path: Path, said: list[str]):
    changed = TRAIN.clone()
    changed[13, 0, 3, 3] += 1e-4
    runs = [{}, {"train": changed}, {"whitening": "standard"}]
    assert [cached_run(tmp_path, **run)[0] for run in runs] == [EVERYTHING, EVERYTHING - 23, EVERYTHING]
    assert [cached_run(tmp_path, **run)[0] for run in runs] == [GENERATED] * 3
    assert not any("the cache is not used" in line for line in said)


def test_changed_settings_make_the_cache_unusable(tmp_path: Path, said: list[str]):
    cached_run(tmp_path / "state")
    assert cached_run(tmp_path / "state", whitening="standard")[0] == EVERYTHING
    assert any("differs in ['whitening']" in line for line in said)


def test_a_broken_cache_is_replaced(tmp_path: Path):
    (tmp_path / "state").write_text("garbage")
    assert cached_run(tmp_path / "state")[0] == EVERYTHING
    assert cached_run(tmp_path / "state")[0] == GENERATED
