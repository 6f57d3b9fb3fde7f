"""Folders in, verdict, files and exit code out."""

import csv
import json

import numpy as np
import pytest
import torch
from factories import write_blocks

from mi_callback import audit, build_encoder
from mi_callback.auditing.encoding import check_devices
from mi_callback.auditing.reading import FolderReader
from mi_callback.cli.audit_command import COMMAND
from mi_callback.errors import CalibrationError, DataError, OptionError
from mi_callback.images.perturbations import PASTES, PERTURBATIONS
from mi_callback.reporting.document import Release
from mi_callback.statistics.gate import Gate

OPTIONS = {"encoder": build_encoder("pixels", size=32), "verify": False, "alpha": 0.1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """30 training subjects, 30 held out, 20 synthetic images of which 10 are copies."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    people = rng.integers(0, 255, (80, 6, 6), dtype=np.uint8)
    names = [f"train/sub-{i:02}/a.png" for i in range(30)] + [f"held/sub-{i:02}/a.png" for i in range(30, 60)]
    names += [f"synthetic/{i:02}.png" for i in range(10)] + [f"novel/{i:02}.png" for i in range(10)]
    copies = [f"synthetic/copy{i}.png" for i in range(10)]
    write_blocks(root, [*names, *copies], np.concatenate([people[: len(names)], people[:10]]))
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
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"]["verdict"] == "memorized"
    assert "sub-" not in json.dumps(report)
    power = {row["change"]: row["flagged"] for row in report["power"]["by_change"]}
    assert report["power"]["overall"] == pytest.approx(sum(power.values()) / len([*PERTURBATIONS, *PASTES]))
    assert power["exact"] == 1
    assert report["certificate"]["statement"] == scores.certificate().statement
    assert not {"ct", "fid"} & set(report["numbers"])
    flagged = [f"evidence_{i:04}.png" for i, row in enumerate(rows) if row["flagged"] == "True"]
    assert {file.name for file in (tmp_path / "evidence").iterdir()} == {*flagged, "gallery.png"}


def test_two_processes_encode_as_one_and_leave_nothing(folders, tmp_path):
    where = folders / "train", folders / "synthetic", folders / "held"
    options = {"size": (32, 32), "power": 2, "evidence": 0, **OPTIONS}
    alone = audit(*where, tmp_path / "alone", **options)
    together = audit(*where, tmp_path / "together", devices=2, **options)
    for name in ("similarity", "mi", "p_value", "flagged", "match"):
        assert torch.equal(getattr(alone, name), getattr(together, name)), name
    assert together.match_subject == alone.match_subject
    assert together.power.rows == alone.power.rows
    assert {file.name for file in (tmp_path / "alone").iterdir()} == {
        file.name for file in (tmp_path / "together").iterdir()
    }
    with pytest.raises(OptionError, match="needed out=DIR for devices=2"):
        audit(*where, devices=2, **options)
    with pytest.raises(OptionError, match="devices"):
        audit(*where, tmp_path / "none", devices=0, **options)


@pytest.mark.parametrize("device", [None, "cuda"])
def test_more_gpus_than_there_are_are_refused_also_where_none_was_named(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices(2, device)
    check_devices(8, "cpu")
    with pytest.raises(OptionError, match="needed 8 GPUs for devices=8; there are 2"):
        check_devices(8, device)


@pytest.mark.parametrize(("most", "files"), [(3, 4), (0, 0)])
def test_the_number_of_flags_drawn_is_chosen_and_pictures_of_an_earlier_audit_go(folders, tmp_path, most, files):
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "evidence_9999.png").touch()
    where = folders / "train", folders / "synthetic", folders / "held", tmp_path
    audit(*where, size=(32, 32), power=0, evidence=most, **OPTIONS)
    assert len(list(tmp_path.glob("evidence/*"))) == files
    assert not (tmp_path / "evidence" / "evidence_9999.png").exists()


def test_files_are_readable_by_their_owner_alone_even_where_others_were(folders, tmp_path):
    for name in ("scores.csv", "files.csv", "report.json"):
        (tmp_path / name).touch(mode=0o644)
    where = folders / "train", folders / "novel", folders / "held", tmp_path
    audit(*where, size=32, power=0, evidence=0, **OPTIONS)
    names = {"scores.csv", "files.csv", "report.html", "report.json", "log.jsonl", ".lock", "scores.parquet",
             "croissant.json"}  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("evidence", -1, "needed evidence of at least 0; -1 came"),
        ("power", -3, "needed power of at least 0; -3 came"),
        ("power", "abc", "needed power as a whole number; 'abc' came"),
        ("evidence", 1.5, "needed evidence as a whole number; 1.5 came"),
        ("axis", 5, "needed axis of at most 2; 5 came"),
        ("colour", "false", "needed colour True or False; 'false' came"),
        ("alhpa", 0.1, r"it has no 'alhpa' \(alpha\?\)"),
        *(("size", size, "needed a size of|needed each side of size") for size in (0, (0, 0), (32,), (32.5, 32))),
    ],
)
def test_values_of_no_use_are_refused(folders, option, value, said):
    with pytest.raises(OptionError, match=said):
        audit(folders / "train", folders / "synthetic", **{option: value}, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"evidence": 5}, "needed out=DIR for evidence"),
        ({"set_scores": True}, "needed out=DIR for set_scores=True"),
        ({"subgroups": True}, "needed out=DIR for subgroups=True"),
        ({"release": Release(purpose="teaching")}, "needed out=DIR for release"),
        ({"gate": Gate(fdr=0.1)}, "needed out=DIR or junit=FILE for gate"),
        ({"axis": 1}, "needed volumes to slice for axis"),
        ({"voi": [40, 400]}, r"needed files with values in units \(dicom, volume, itk\) for voi"),
        ({"voi": "file"}, r"needed files with values in units \(dicom\) for voi"),
        ({"axis": 1, "volumes": "whole"}, "needed images or slices, not volumes='whole', for axis"),
        ({"colour": True, "volumes": "whole"}, "for colour=True"),
        ({"power": 4, "volumes": "slices"}, "not volumes='slices', for power"),
        ({"contrast": True, "volumes": "slices"}, "for contrast=True"),
        ({"tail": "gpd", "volumes": "slices"}, "for tail"),
        ({"null": "cross_fit"}, "needed null='auto', null='held_out' or contrast=True for held_out"),
        ({"null": "train_halves"}, "for held_out"),
        ({"columns": {"file": "scan"}}, "needed a manifest for columns"),
    ],
)
def test_an_option_without_effect_is_refused(folders, options, said):
    with pytest.raises(OptionError, match=said):
        audit(folders / "train", folders / "novel", folders / "held", **OPTIONS, **options)


def test_colour_without_pictures_is_refused(tmp_path):
    for side in ("train", "generated"):
        (tmp_path / side).mkdir()
        np.save(tmp_path / side / "a.npy", np.eye(8))
    with pytest.raises(OptionError, match="needed pictures for colour=True"):
        audit(tmp_path / "train", tmp_path / "generated", colour=True, **OPTIONS)


def test_set_level_scores_and_no_power_are_given_when_asked_for(folders, tmp_path):
    where = folders / "train", folders / "synthetic", folders / "held", tmp_path
    scores = audit(*where, size=(32, 32), power=0, set_scores=True, evidence=0, **OPTIONS)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"ct", "authpct", "fid", "kid", "vendi", "mifid"} <= set(report["numbers"])
    assert scores.power is None
    assert "ASSUMING" in report["certificate"]["statement"]


FAST = ("detector.verify=false", "detector.encoder=pixels", "size=32")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train=train", "generated=synthetic", "held_out=held", "detector.alpha=0.1"], 2),
        (["train=train", "generated=novel", "held_out=held", "detector.alpha=0.1"], 0),
        (["train=train", "generated=novel", "detector.alpha=0.01", "power=0"], 3),
        (["train=train", "generated=nowhere"], 1),
        (["train=train"], 1),
        (["train=train", "generated=train", "held_out=train"], 1),
        (["--train", "train"], 1),
        (["train=train", "generated=novel", "+alpha=0.1"], 1),
        (["train=train", "generated=novel", "detector.seed=1.5"], 1),
        (["--cfg"], 1),
        (["--cfg", "nothing"], 1),
        (
            ["train=train", "generated=novel", "held_out=held", "detector.alpha=0.1", "power=0", "gate.rate_upper=0.5"],
            3,
        ),
        (["train=train", "generated=synthetic", "held_out=held", "detector.alpha=0.1", "gate.rate_upper=2"], 1),
        (["train=train", "generated=novel", "release.gives=everything"], 1),
        (["--version"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes(folders, monkeypatch, capsys, arguments, code):
    monkeypatch.chdir(folders)
    flags = arguments if arguments[0].startswith("-") else [*arguments, *FAST]
    assert COMMAND.execute(flags) == code
    said = capsys.readouterr()
    audited = "generated=novel" in arguments or "generated=synthetic" in arguments
    planted = "power=0" not in arguments
    assert ("certificate: at most" in said.out) == (code in (0, 3) and "held_out=held" in arguments and audited)
    assert ("power self-test" in said.out) == (code in (0, 2) and audited and planted)
    assert "Traceback" not in said.err


def test_of_several_jobs_the_worst_code_is_returned(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    held_out = ["held_out=held", "detector.alpha=0.1", "power=0", f"hydra.sweep.dir={tmp_path}"]
    assert COMMAND.execute(["-m", "train=train", "generated=synthetic,novel", *held_out, *FAST]) == 2
    assert capsys.readouterr().out.count("null of 30") == 2


def test_the_command_draws_flags_into_out(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    out = tmp_path / "a, b=[$x]"
    arguments = ["train=train", "generated=synthetic", "held_out=held", f"out={out}", "evidence=2", "power=0"]
    assert COMMAND.execute([*arguments, "detector.alpha=0.1", *FAST]) == 2
    assert f"{out}/evidence/gallery.png" in capsys.readouterr().out
    assert len(list((out / "evidence").glob("evidence_*.png"))) == 2


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


WHOLE = pytest.param("whole", 16, True, marks=pytest.mark.volumes)


@pytest.mark.parametrize(("volumes", "size", "verify"), [WHOLE, ("slices", (16, 16), False)])
def test_copied_volumes_are_named_in_the_files(volume_folders, tmp_path, volumes, size, verify):
    options = {
        "encoder": build_encoder("pixels", size=16),
        "verify": verify,
        "views": False,
        "candidates": 1,
        "null_size": 10,
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
    assert "sub-" not in (tmp_path / "report.json").read_text()


def test_sizes_have_defaults_and_one_number_is_all_sides():
    assert FolderReader().sides == (128, 128)
    assert FolderReader(volumes="whole").sides == (96, 96, 96)
    assert FolderReader(48, volumes="whole").sides == (48, 48, 48)
    assert FolderReader([48, 32]).sides == (48, 32)


def test_slices_of_volumes_need_held_out_ones_and_sizes_their_dimensions(volume_folders):
    train, synthetic, held_out = (volume_folders / name for name in ("train", "synthetic", "held"))
    with pytest.raises(CalibrationError, match="needed held-out volumes for volumes='slices'"):
        audit(train, synthetic, volumes="slices", **OPTIONS)
    with pytest.raises(OptionError, match=r"needed a size of 3 numbers for volumes; \(32, 32\) came"):
        audit(train, synthetic, held_out, size=(32, 32), volumes="whole", **OPTIONS)
    with pytest.raises(OptionError, match=r"needed volumes out of \['slices', 'whole'\]; 'all' came"):
        audit(train, synthetic, held_out, volumes="all", **OPTIONS)


def test_volumes_by_slices_are_judged_without_power_and_it_is_said(volume_folders):
    where = (volume_folders / name for name in ("train", "synthetic", "held"))
    with pytest.warns(UserWarning, match="clean rests on no measured power"):
        scores = audit(*where, size=(32, 32), volumes="slices", **OPTIONS)
    assert scores.power is None


def test_a_control_folder_stands_beside_the_training_set(people_folders, quick, tmp_path):
    people = np.random.default_rng(1).integers(0, 255, (30, 6, 6), dtype=np.uint8)
    write_blocks(tmp_path / "control", [f"sub-c{i:02}/a.png" for i in range(30)], people)
    folders = (people_folders / name for name in ("train", "synthetic", "held"))
    scores = audit(*folders, tmp_path / "out", control=tmp_path / "control", size=32, power=0, evidence=0, **quick)
    assert scores.verdict == "memorized"
    assert scores.control is not None
    assert scores.control.count < scores.n_flagged
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["data"]["control"]["people"] == 30
    assert report["control"]["non_members_flagged"] == scores.control.count
    with pytest.raises(OptionError, match="control"):
        audit(*(people_folders / name for name in ("train", "synthetic", "held")), control=tmp_path / "control",
              volumes="slices", **quick)  # fmt: skip
