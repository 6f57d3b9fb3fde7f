"""Folders in, verdict, files and exit code out."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from mi_callback import audit, build_encoder
from mi_callback.errors import CalibrationError, DataError
from mi_callback.images.perturbations import PASTES, PERTURBATIONS

OPTIONS = {"encoder": build_encoder("pixels", size=32), "verify": False, "alpha": 0.1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """30 training subjects, 30 held out, 20 synthetic images of which 10 are copies."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    people = rng.integers(0, 255, (80, 6, 6), dtype=np.uint8)
    names = [f"train/sub-{i:02}/a.png" for i in range(30)] + [f"held/sub-{i:02}/a.png" for i in range(30, 60)]
    names += [f"synthetic/{i:02}.png" for i in range(10)] + [f"novel/{i:02}.png" for i in range(10)]
    copies = [f"synthetic/copy{i}.png" for i in range(10)]
    for name, coarse in [*zip(names, people, strict=False), *zip(copies, people[:10], strict=True)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(root / name)
    return root


def test_copies_are_named_in_the_files(folders, tmp_path):
    scores = audit(folders / "train", folders / "synthetic", folders / "held", tmp_path, size=(32, 32), **OPTIONS)
    assert scores.verdict == "memorized"
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    copies = [row for row in rows if "copy" in row["generated"]]
    assert len(rows) == 20
    assert all(row["flagged"] == "True" for row in copies)
    assert all(f"sub-0{row['generated'][-5]}" in row["match"] for row in copies)
    assert {row["match_subject"] for row in copies} == {f"sub-0{i}" for i in range(10)}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["verdict"] == "memorized"
    assert "sub-" not in json.dumps(summary)
    assert summary["power"] == pytest.approx(sum(summary["power_by_change"].values()) / len([*PERTURBATIONS, *PASTES]))
    assert summary["power_by_change"]["exact"] == 1
    assert summary["certificate"] == scores.certificate().statement
    assert not {"ct", "fid"} & set(summary)
    flagged = [f"evidence_{i:04}.png" for i, row in enumerate(rows) if row["flagged"] == "True"]
    assert {file.name for file in (tmp_path / "evidence").iterdir()} == {*flagged, "gallery.png"}


@pytest.mark.parametrize(("most", "files"), [(3, 4), (0, 0)])
def test_the_number_of_flags_drawn_is_chosen(folders, tmp_path, monkeypatch, most, files):
    said = []
    monkeypatch.setattr(
        "mi_callback.reporting.files.draw_gallery", lambda shown, left_out: said.append(left_out) or Figure()
    )
    where = folders / "train", folders / "synthetic", folders / "held", tmp_path
    scores = audit(*where, size=(32, 32), power=0, evidence=most, **OPTIONS)
    assert len(list(tmp_path.glob("evidence/*"))) == files
    assert said == ([scores.flagging.count - most] if most else [])


def test_a_negative_number_of_flags_is_refused(folders):
    with pytest.raises(DataError, match="evidence of at least 0 flags; -1 came"):
        audit(folders / "train", folders / "synthetic", evidence=-1, **OPTIONS)


def test_set_level_scores_and_no_power_are_given_when_asked_for(folders, tmp_path):
    where = folders / "train", folders / "synthetic", folders / "held", tmp_path
    scores = audit(*where, size=(32, 32), power=0, set_scores=True, **OPTIONS)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"ct", "authpct", "fid", "kid", "vendi", "mifid"} <= set(summary)
    assert scores.power is None
    assert "ASSUMING" in summary["certificate"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["generated=synthetic", "held_out=held", "detector.rule.alpha=0.1"], 2),
        (["generated=novel", "held_out=held", "detector.rule.alpha=0.1"], 0),
        (["generated=novel", "detector.rule.alpha=0.01"], 3),
        (["generated=nowhere"], 1),
        ([], 1),
        (["generated=train", "held_out=train"], 1),
    ],
    ids=["memorized", "clean", "inconclusive", "no folder", "no argument", "shared subjects"],
)
def test_exit_codes(folders, arguments, code):
    command = [sys.executable, "-m", "mi_callback.cli", "train=train", *arguments, "detector.verify=false"]
    ran = subprocess.run([*command, "detector.encoder=pixels"], cwd=folders, capture_output=True, text=True)
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert ("certificate: at most" in ran.stdout) == (code == 0)
    assert ("power self-test" in ran.stdout) == (code in (0, 2))


def test_the_command_draws_flags_into_out(folders, tmp_path):
    command = [sys.executable, "-m", "mi_callback.cli", "train=train", "generated=synthetic", "held_out=held"]
    settings = [f"out={tmp_path}", "evidence=2", "power=0", "detector.verify=false", "detector.encoder=pixels"]
    command += [*settings, "detector.rule.alpha=0.1"]
    ran = subprocess.run(command, cwd=folders, capture_output=True, text=True)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert f"{tmp_path}/evidence/gallery.png" in ran.stdout
    assert len(list((tmp_path / "evidence").glob("evidence_*.png"))) == 2


def test_an_empty_folder_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match="at least one image"):
        audit(folders / "train", tmp_path, **OPTIONS)


# Volumes


@pytest.fixture(scope="module")
def volume_folders(tmp_path_factory):
    """Volumes of 12 training and 10 held-out subjects; of 8 synthetic ones the first 4 are copies, turned over."""
    import nibabel

    root, generator = tmp_path_factory.mktemp("volumes"), torch.Generator().manual_seed(0)
    coarse = torch.rand(26, 1, 5, 5, 5, generator=generator)
    people = torch.nn.functional.interpolate(coarse, (16, 14, 12), mode="trilinear", align_corners=True)[:, 0].numpy()
    names = [f"train/sub-{i:02}_T1w.nii.gz" for i in range(12)] + [f"held/sub-{i:02}_T1w.nii" for i in range(12, 22)]
    names += [f"synthetic/novel{i}.nii" for i in range(4)]
    copies = [(f"synthetic/copy{i}.nii", people[i][::-1, :, ::-1]) for i in range(4)]
    for name, voxels in [*zip(names, people, strict=True), *copies]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels), np.eye(4)), root / name)
    return root


@pytest.mark.parametrize(
    ("volumes", "size", "verify"), [("whole", (16, 16, 16), False), ("whole", None, True), ("slices", (16, 16), False)]
)
def test_copied_volumes_are_named_in_the_files(volume_folders, tmp_path, volumes, size, verify):
    options = {
        "encoder": build_encoder("pixels", size=16),
        "verify": verify,
        "views": False,
        "candidates": 2,
        "alpha": 0.1,
    }
    where = (volume_folders / name for name in ("train", "synthetic", "held"))
    scores = audit(*where, tmp_path, size=size, volumes=volumes, power=0, evidence=2, **options)
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert len(rows) == len(scores) == 8
    assert all(row["slice"] == row["match_slice"] == "" for row in rows)
    for i in range(4):  # copies come first
        assert f"copy{i}" in rows[i]["generated"]
        assert f"sub-{i:02}" in rows[i]["match"]
        assert rows[i]["match_subject"] == f"sub-{i:02}"
        assert rows[i]["flagged"] == "True"
        assert rows[i]["pose"] == "flip_depth_horizontal"
    assert (tmp_path / "evidence" / "gallery.png").is_file()
    assert "sub-" not in (tmp_path / "summary.json").read_text()


def test_slices_of_volumes_need_held_out_ones_and_sizes_their_dimensions(volume_folders):
    train, synthetic, held_out = (volume_folders / name for name in ("train", "synthetic", "held"))
    with pytest.raises(CalibrationError, match="needed held-out volumes for volumes='slices'"):
        audit(train, synthetic, volumes="slices", **OPTIONS)
    with pytest.raises(DataError, match=r"needed a size of 3 numbers for volumes; \(32, 32\) came"):
        audit(train, synthetic, held_out, size=(32, 32), volumes="whole", **OPTIONS)
    with pytest.raises(DataError, match=r"needed pictures for colour=True; volumes='whole' reads NIfTI"):
        audit(train, synthetic, held_out, volumes="whole", colour=True, **OPTIONS)
    with pytest.raises(DataError, match="needed volumes of 'slices', 'whole' or None; 'all' came"):
        audit(train, synthetic, held_out, volumes="all", **OPTIONS)


def test_volumes_by_slices_are_judged_without_power_and_it_is_said(volume_folders):
    where = (volume_folders / name for name in ("train", "synthetic", "held"))
    with pytest.warns(UserWarning, match="clean rests on no measured power"):
        scores = audit(*where, size=(32, 32), volumes="slices", evidence=0, **OPTIONS)
    assert scores.power is None
