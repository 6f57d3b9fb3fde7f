"""What leaves for the logger: numbers, distributions and a table, and nothing of a patient unless asked."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as lp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from altered_scores import altered
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mi_callback import MemorizationCallback, MemorizationDetector, Scores, build_encoder
from mi_callback.errors import DataError
from mi_callback.lightning.loggers import COLUMNS, ROWS, Shown, flagged_table, log_alarm, log_media, markdown_table
from mi_callback.lightning.loggers.looks import Look

SIDE, N = 16, 12
COPIED = (3, 17)
"""Rows of the training set among the generated images."""


def images(n: int, seed: int) -> Tensor:
    noise = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (SIDE, SIDE), mode="bilinear")


TRAIN, HELD_OUT = images(24, 1), images(20, 2)
GENERATED = torch.cat([images(N - len(COPIED), 3), TRAIN[list(COPIED)]])


class Hospital(Dataset):
    """Slices whose subject and file say who the patient is."""

    def __init__(self, pixels: Tensor, side: str) -> None:
        self.pixels, self.side = pixels, side

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        patient = f"Janssen{self.side}{i:02d}"
        return {"image": self.pixels[i], "subject": patient, "filename_or_obj": f"/hospital/ward7/{patient}.nii.gz"}


class Tiny(lp.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, SIDE * SIDE)

        self.generated = GENERATED

    def sample(self, n: int) -> Tensor:
        return self.generated[:n]

    def training_step(self, batch: Any, _index: int) -> Tensor:
        return self.net(torch.randn(len(batch["image"]), 2)).square().mean()

    def validation_step(self, batch: Any, _index: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def detector() -> MemorizationDetector:
    return MemorizationDetector(encoder=build_encoder("pixels", sides=(4, 8), size=32), verify=False, alpha=0.1)


BESIDE = ("alarm", "scored", "n_scored", "mi_p05", "null_mi_p05", "null_mi_p95")
"""Scalars that the callback adds to those of `Scores.summary`."""


class Run(NamedTuple):
    """One training, logged to three loggers."""

    callback: MemorizationCallback
    folder: Path
    wandb_folder: Path
    records: list[dict[str, Any]]
    loggers: Any = ()

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows of the W&B history, as read back from its file."""
        return [record["history"]["item"] for record in self.records if record["type"] == "history"]

    def events(self) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        everything = dict.fromkeys(("scalars", "histograms", "tensors", "images"), 0)
        return EventAccumulator(str(self.folder / "tensorboard"), size_guidance=everything).Reload()

    def table(self) -> dict[str, Any]:
        *_, row = [row for row in self.history if "memorization_media/flagged.path" in row]
        return json.loads((self.wandb_folder / "files" / row["memorization_media/flagged.path"]).read_text())


def train(folder: Path, *more: Any, epochs: int = 1, generator: Tensor = GENERATED, **asked: bool) -> Run:
    import wandb

    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder / "elsewhere"))
        patch.setenv("WANDB_SILENT", "true")
        loggers = [
            WandbLogger(offline=True, save_dir=folder, project="test"),
            CSVLogger(folder, "csv", ""),
            TensorBoardLogger(folder, "tensorboard", ""),
            *more,
        ]
        callback = MemorizationCallback(n_samples=N, detector=detector(), power=0, **asked)
        trainer = lp.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=loggers,
            callbacks=[callback],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Tiny()
        module.generated = generator
        trainer.fit(module, DataLoader(Hospital(TRAIN, "A"), 8, shuffle=True), DataLoader(Hospital(HELD_OUT, "B"), 8))
        wandb.finish()
        for logger in loggers[1:]:
            logger.finalize("success")
        (log,) = folder.glob("wandb/offline-run-*/*.wandb")
        read = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        lines = subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines()
    return Run(callback, folder, log.parent, [json.loads(line) for line in lines], loggers)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Logged with the defaults, to MLflow too."""
    folder = tmp_path_factory.mktemp("private")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        return train(folder, MLFlowLogger(save_dir=str(folder / "mlflow")), epochs=2)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Logged with pictures and subjects asked for."""
    return train(tmp_path_factory.mktemp("shown"), log_images=True, log_subjects=True)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return detector().fit(TRAIN, held_out=HELD_OUT).score(GENERATED)


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def places(run: Run, text: str) -> list[str]:
    """Files of the W&B run and of TensorBoard that hold `text`."""
    found = [name for name, content in contents(run.wandb_folder) if text.encode() in content or text in name]
    found += [name for name, content in contents(run.folder / "tensorboard") if text.encode() in content]
    return found + (["the records of the run"] if text in json.dumps(run.records) else [])


# Weights & Biases ----------------------------------------------------------------------------------------------------


def test_wandb_holds_every_scalar_of_the_summary(private: Run):
    *_, row = [row for row in private.history if "memorization/mi_max" in row]
    summary = private.callback.scores.summary()
    assert len(summary) == 13
    assert {key: row[f"memorization/{key}"] for key in summary} == pytest.approx(summary, rel=1e-5)


def test_wandb_holds_the_distribution_of_mi(private: Run):
    *_, row = [row for row in private.history if "memorization_media/mi.values" in row]
    counts, edges = np.histogram(private.callback.scores.mi.numpy(), bins=64)
    assert row["memorization_media/mi._type"] == "histogram"
    assert row["memorization_media/mi.values"] == counts.tolist()
    assert row["memorization_media/mi.bins"] == pytest.approx(edges.tolist())


def test_wandb_holds_the_table_of_flagged_samples(private: Run):
    table, scores = private.table(), private.callback.scores
    assert table["columns"] == list(COLUMNS)
    assert {N - 2, N - 1} <= {row[0] for row in table["data"]}
    assert len(table["data"]) == scores.flagging.count
    matches = {row[0]: row[COLUMNS.index("match")] for row in table["data"]}
    assert (matches[N - 2], matches[N - 1]) == COPIED


def test_wandb_never_holds_nan(private: Run):
    assert "NaN" not in json.dumps([private.history, private.table()])
    assert all(row[COLUMNS.index("verified")] is None for row in private.table()["data"])


@pytest.mark.parametrize("text", ["Janssen", "hospital", "ward7", ".nii"])
def test_no_subject_and_no_file_name_leaves_unless_asked(private: Run, text: str):
    assert private.callback.detector.state.train.subjects[0] == "JanssenA00"
    assert private.callback.detector.state.train.sources[0].startswith("/hospital/ward7")
    assert places(private, text) == []


def test_no_picture_leaves_unless_asked(private: Run):
    names = [name for name, _ in contents(private.wandb_folder)]
    assert names
    assert not [name for name in names if name.endswith((".png", ".jpg")) or "images" in name]
    assert "image" not in json.dumps(private.history)
    assert private.events().Tags()["images"] == ["memorization_media/curves"]


def test_an_error_about_patients_does_not_name_them():
    # W&B records the console, the traceback of an error included, and uploads it with the run.
    trainer = lp.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        callbacks=[MemorizationCallback(n_samples=N, detector=detector(), power=0)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    both = Hospital(TRAIN, "A"), Hospital(HELD_OUT, "A")
    with pytest.raises(DataError, match="20 held-out subjects were trained on") as raised:
        trainer.fit(Tiny(), *(DataLoader(side, 8) for side in both))
    assert "Janssen" not in str(raised.value)


def test_subjects_of_matches_leave_when_asked_and_nothing_else_does(shown: Run):
    table = shown.table()
    assert table["columns"] == [*COLUMNS, "subject", "evidence"]
    assert {row[0]: row[-2] for row in table["data"]}[N - 1] == "JanssenA17"
    assert all(row[-1] == "Image" for row in table["data"][:8])  # the pixels are in the table's artifact
    assert places(shown, "JanssenA17")
    assert places(shown, "JanssenB") == []
    assert places(shown, "hospital") == []


def test_pictures_of_the_closest_pairs_leave_when_asked(shown: Run):
    *_, row = [row for row in shown.history if "memorization_media/closest._type" in row]
    files = sorted(name for name, _ in contents(shown.wandb_folder) if name.endswith(".png"))
    assert len(files) == 8
    pictures = [
        np.asarray(Image.open(shown.wandb_folder / "files" / name))
        for name in row["memorization_media/closest.filenames"]
    ]
    expected = shown.callback.closest_pairs(8)
    assert [picture.shape for picture in pictures] == [(96, 192)] * 8
    assert np.abs(pictures[0].astype(int) - (expected[0, 0] * 255).numpy().astype(int)).max() <= 1
    assert {caption.split(",")[1] for caption in row["memorization_media/closest.captions"][:2]} == {
        " match 3",
        " match 17",
    }


def wandb_summary(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in run.records:
        if record["type"] == "summary":
            found |= record["summary"].get("update", {})
    return found


def test_wandb_shows_the_worst_validation_the_verdict_and_what_was_not_tested_beside_the_last(private: Run):
    summary, scores = wandb_summary(private), private.callback.scores
    assert summary["memorization/worst/flagged"] == scores.n_flagged
    assert summary["memorization/worst/epoch"] in (0, 1)
    assert summary["memorization/verdict"] == "memorized"
    assert "held_out null of 20 subjects" in summary["memorization/notes"]
    assert summary["memorization/untested"] == "power, contrast, control"


def alerts(run: Run) -> list[dict[str, Any]]:
    return [record["alert"] for record in run.records if record["type"] == "alert"]


def test_wandb_alerts_people_to_an_alarm_once_with_counts_and_without_names(tmp_path: Path):
    run = train(tmp_path, epochs=2, generator=TRAIN[:N])
    assert [record.scores.n_flagged for record in run.callback.history] == [N, N]
    (alert,) = alerts(run)
    assert (alert["title"], alert["level"]) == ("Memorization alarm", "WARN")
    assert alert["text"] == f"Epoch 0: {N} samples flagged as copies, at most 1.2 expected by chance."


def test_wandb_is_sent_no_alert_where_no_alarm_is_raised_and_other_loggers_have_none(private: Run):
    assert [record.scores.n_flagged > 0 for record in private.callback.history] == [True, True]
    assert alerts(private) == []
    log_alarm(private.loggers[1], Look(3, 9, {"flagged": 5.0, "flagged_expected": 1.2}, "memorized"))


def test_wandb_draws_bands_and_keeps_the_report_in_which_no_name_stands(private: Run):
    *_, row = [row for row in private.history if "memorization_media/mi_band_table.path" in row]
    table = json.loads((private.wandb_folder / "files" / row["memorization_media/mi_band_table.path"]).read_text())
    lines = {line: [value for _, name, value in table["data"] if name == line] for _, line, _ in table["data"]}
    assert set(lines) == {"mi_p05", "mi_median", "mi_p95", "null_mi_p05", "null_mi_p95"}
    assert len(lines["mi_median"]) == 2
    kept = [
        record for record in private.records if record["type"] == "artifact" and "memorization-report" in str(record)
    ]
    assert len(kept) == 1
    assert "report.json" in str(kept)
    assert "matches.csv" not in str(kept)


def test_mlflow_holds_metrics_figures_tables_and_the_report_and_no_names(private: Run):
    from mlflow import MlflowClient

    logger = next(one for one in private.loggers if type(one).__name__ == "MLFlowLogger")
    client, run = MlflowClient(logger._tracking_uri), logger.run_id
    values = client.get_metric_history(run, "memorization/mi_max")
    assert [value.value for value in values] == pytest.approx([float(private.callback.scores.mi.max())] * 2)
    names = {file.path.split("/")[1] for file in client.list_artifacts(run, "memorization")}
    assert names >= {"curves.png", "report.json"}
    assert len([name for name in names if name.startswith("flagged_")]) == 2
    everything = b"".join(content for _, content in contents(private.folder / "mlflow"))
    assert b"Janssen" not in everything


def test_names_of_matches_are_in_a_file_that_stays_here(private: Run):
    (file,) = private.folder.rglob("matches.csv")
    assert "offline-run" not in str(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "JanssenA17" in file.read_text()


# TensorBoard ---------------------------------------------------------------------------------------------------------


def test_tensorboard_holds_scalars_distribution_and_table(private: Run):
    events, scores = private.events(), private.callback.scores
    logged = {key: events.Scalars(f"memorization/{key}")[0].value for key in scores.summary()}
    assert logged == pytest.approx(scores.summary(), rel=1e-5)
    assert all(math.isfinite(value) for value in logged.values())
    *_, histogram = events.Histograms("memorization_media/mi")
    assert histogram.histogram_value.num == N
    assert histogram.histogram_value.max == pytest.approx(float(scores.mi.max()))
    *_, text = events.Tensors("memorization_media/flagged/text_summary")
    assert text.tensor_proto.string_val[0].decode() == markdown_table(*flagged_table(scores, subjects=False))


def test_tensorboard_draws_bands_and_says_what_was_not_tested(private: Run):
    from tensorboard.plugins.custom_scalar import layout_pb2

    events = private.events()
    layout = layout_pb2.Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    (band, *lines) = layout.category[0].chart
    margin = band.margin.series[0]
    logged = events.Tags()["scalars"]
    assert {margin.value, margin.lower, margin.upper} <= set(logged)
    for line in lines:
        assert sum(any(re.match(tag, name) for tag in line.multiline.tag) for name in logged) in (2, 4)
    *_, notes = events.Tensors("memorization_media/notes/text_summary")
    assert b"- held_out null of 20 subjects" in notes.tensor_proto.string_val[0]


def test_tensorboard_holds_pictures_and_subjects_when_asked(shown: Run):
    events = shown.events()
    *_, text = events.Tensors("memorization_media/flagged/text_summary")
    assert "JanssenA17" in text.tensor_proto.string_val[0].decode()
    pictures = events.Images("memorization_media/closest")
    assert (pictures[0].height % 96, pictures[0].width % 192) == (0, 0)


class Adversarial(Tiny):
    """Two optimizers, as in a GAN: the Trainer counts two steps a batch."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, index))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 0.1), torch.optim.SGD(self.parameters(), 0.1)]


@pytest.mark.parametrize("module", [Tiny, Adversarial])
@pytest.mark.parametrize("validation", [None, 0])
def test_scalars_and_media_of_one_validation_stand_at_the_same_step(tmp_path: Path, module: type, validation: Any):
    logger = TensorBoardLogger(tmp_path, "tensorboard", "")
    callback = MemorizationCallback(n_samples=N, detector=detector(), power=0)
    trainer = lp.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=logger,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=validation,
    )
    trainer.fit(module(), DataLoader(Hospital(TRAIN, "A"), 8), DataLoader(Hospital(HELD_OUT, "B"), 8))
    logger.finalize("success")
    events = Run(callback, tmp_path, tmp_path, []).events()
    scalars = [event.step for event in events.Scalars("memorization/mi_max")]
    assert len(scalars) == 2
    assert [event.step for event in events.Histograms("memorization_media/mi")] == scalars
    assert [event.step for event in events.Tensors("memorization_media/flagged/text_summary")] == scalars


def test_steps_go_on_where_a_resumed_run_logs_into_the_same_folder(tmp_path: Path):
    steps = []
    for epochs in (1, 2):
        logger = TensorBoardLogger(tmp_path, "tensorboard", "")
        trainer = lp.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=logger,
            callbacks=[MemorizationCallback(n_samples=N, detector=detector(), power=0)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1000,
        )
        sides = DataLoader(Hospital(TRAIN, "A"), 8), DataLoader(Hospital(HELD_OUT, "B"), 8)
        trainer.fit(Tiny(), *sides, ckpt_path=tmp_path / "1.ckpt" if epochs == 2 else None)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        logger.finalize("success")
        time.sleep(1)  # TensorBoard reads files in the order of their names: whole seconds, then a number without zeros
    events = Run(None, tmp_path, tmp_path, []).events()
    for key in ("mi_max", "flagged", "null_mi_p95"):
        steps.append([event.step for event in events.Scalars(f"memorization/{key}")])
    assert steps == [[2, 5]] * 3
    assert [event.step for event in events.Histograms("memorization_media/mi")] == [2, 5]


# Any logger ----------------------------------------------------------------------------------------------------------


def test_the_csv_file_holds_finite_scalars_only(private: Run):
    header, *rows = (private.folder / "csv" / "metrics.csv").read_text().splitlines()
    *_, row = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    logged = {key: float(value) for key, value in row.items() if key.startswith("memorization/")}
    assert set(logged) == {f"memorization/{key}" for key in (*private.callback.scores.summary(), *BESIDE)}
    assert all(math.isfinite(value) for value in logged.values())


def test_other_loggers_get_no_media_and_do_not_mind(tmp_path: Path, scores: Scores):
    log_media(CSVLogger(tmp_path), Shown(scores, step=0))
    log_media(object(), Shown(scores, step=0))
    assert list(tmp_path.iterdir()) == []


def test_loggers_of_the_older_package_and_own_subclasses_are_recognised(tmp_path: Path, scores: Scores):
    from pytorch_lightning.loggers import TensorBoardLogger as OlderTensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Own(OlderTensorBoardLogger):
        pass

    logger = Own(tmp_path, "older", "")
    log_media(logger, Shown(scores, step=7))
    logger.finalize("success")
    assert EventAccumulator(str(tmp_path / "older")).Reload().Histograms("memorization_media/mi")[0].step == 7


def test_a_collapsed_generator_does_not_break_the_histogram(scores: Scores):
    # All samples are the same image: their MI differs in the last digit, if at all.
    logged: list[dict[str, Any]] = []

    class Recording:
        def log(self, media: dict[str, Any]) -> None:
            logged.append(media)

    class WandbLogger:
        experiment = Recording()

    same = torch.full((N,), 7.5, dtype=torch.float64)
    nearly = same.clone()
    nearly[0] = math.nextafter(7.5, 8)
    for mi in (same, nearly):
        log_media(WandbLogger(), Shown(altered(scores, mi=mi), step=0))
    assert [sum(media["memorization_media/mi"].histogram) for media in logged] == [N, N]


# Table ---------------------------------------------------------------------------------------------------------------


def test_the_table_holds_the_flagged_samples_alone_the_worst_first(scores: Scores):
    columns, rows = flagged_table(scores, subjects=False)
    assert columns == list(COLUMNS)
    assert sorted(row[0] for row in rows) == scores.flagged.nonzero().flatten().tolist()
    assert {rows[0][0], rows[1][0]} == {N - 2, N - 1}
    p_values = [row[COLUMNS.index("p_value")] for row in rows]
    assert p_values == sorted(p_values)
    for row in rows:
        assert row[1:5:2] == [float(scores.mi[row[0]]), None]
        assert row[5] == int(scores.match[row[0]])


def test_the_table_without_flags_is_empty_but_has_its_columns(scores: Scores):
    columns, rows = flagged_table(altered(scores, flagged=torch.zeros(N, dtype=torch.bool)), subjects=True)
    assert columns == [*COLUMNS, "subject"]
    assert rows == []
    assert markdown_table(columns, rows).count("\n") == 1


def test_the_table_ends_after_the_worst_rows(scores: Scores):
    rows = torch.arange(100) % N
    names = ("mi", "p_value", "verified", "similarity", "match", "consensus")
    many: dict[str, Any] = {name: getattr(scores, name)[rows] for name in names}
    many["pose"] = [scores.pose[i] for i in rows.tolist()]
    large = altered(scores, **many, flagged=torch.ones(100, dtype=torch.bool))
    _, table = flagged_table(large, subjects=False)
    assert len(table) == ROWS
    assert min(row[1] for row in table) >= float(large.mi.sort(descending=True).values[ROWS - 1])


def test_a_markdown_table_has_one_line_a_row_and_says_nothing_for_nan():
    text = markdown_table(["a", "b"], [[1, 0.123456], [None, "none"]])
    assert text == "| a | b |\n| --- | --- |\n| 1 | 0.123 |\n| – | none |"
