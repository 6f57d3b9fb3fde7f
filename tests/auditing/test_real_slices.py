"""An audit of folders of real slices."""

import csv
import json
import shutil

import pytest
import torch
from PIL import Image

from mi_callback import audit
from mi_callback.cli.audit_command import COMMAND
from mi_callback.images.files import SliceFolder, read_image, split_by_subject
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.perturbations import PERTURBATIONS
from mi_callback.images.poses import POSES


@pytest.fixture(scope="module")
def folders(mri, tmp_path_factory):
    """Folders of training, held-out and synthetic images, a slice a person; four synthetic ones are copies."""
    root = tmp_path_factory.mktemp("slices")
    real = SliceFolder(mri / "ixi_t1" / "slices", size=(96, 96))
    real = real.where(~split_by_subject(real.subjects, 0.5))  # half of its subjects trained the encoder
    first = [real.subjects.index(subject) for subject in dict.fromkeys(real.subjects)]
    parts = {"train": first[:24], "held_out": first[24:46], "generated": first[46:52] + first[:4]}
    for name, rows in parts.items():
        for row in rows:
            path = real.slices[row].path
            (root / name / real.subjects[row]).mkdir(parents=True)
            shutil.copy(path, root / name / real.subjects[row] / path.name)
    return root


@pytest.mark.mri
def test_copies_among_real_slices_are_named_and_nobody_else(folders, tmp_path):
    scores = audit(folders / "train", folders / "generated", folders / "held_out", tmp_path, power=0, size=96)
    copied = {path.name for path in (folders / "train").glob("*/*")}
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    flagged = {row["generated"].rpartition("/")[2]: row["match"].rpartition("/")[2] for row in rows
               if row["flagged"] == "True"}  # fmt: skip
    copies = {name: name for name in (row["generated"].rpartition("/")[2] for row in rows) if name in copied}
    assert len(copies) == 4
    assert copies.items() <= flagged.items()
    assert len(flagged) <= 6
    assert scores.verdict == "memorized"
    assert set(scores.pose) <= set(POSES)


CHANGES = ("noise_0.02", "rotation_5", "intensity_0.9", "gamma_1.4", "blur_1")


@pytest.fixture(scope="module")
def cohort(mri, tmp_path_factory):
    """Folders of T1 slices of people of whom half, on every side alike, trained the encoder.

    30 trained on, 100 held out, 22 novel ones with 285 images, alone and with 15 changed copies beside them, some of
    these images; 5 held out; FLAIR slices of 7 others.
    """
    root = tmp_path_factory.mktemp("cohort")
    brains, others = SliceFolder(mri / "ixi_t1" / "slices"), SliceFolder(mri / "open_ms" / "slices")
    people = sorted(set(brains.subjects))
    order = torch.randperm(len(people), generator=torch.Generator().manual_seed(0))
    people = [people[i] for i in order.tolist()]
    flair = others.where(["FLAIR" in piece.path.name for piece in others.slices])
    train, novel = _of_each(brains, people[:30], 3), _of_each(brains, people[130:], 13)[:285]
    sides = {"train": train, "held_out": _of_each(brains, people[30:130], 3), "few": _of_each(brains, people[30:35], 3),
             "flair": _of_each(flair, sorted(set(flair.subjects)), 6), "novel": novel, "copied": novel,
             "some": novel[::10]}  # fmt: skip
    for name, pieces in sides.items():
        for piece in pieces:
            (root / name / piece.subject).mkdir(parents=True, exist_ok=True)
            (root / name / piece.subject / piece.path.name).symlink_to(piece.path)
    (root / "copied" / "copies").mkdir()
    for k, piece in enumerate(train[::6]):
        image = torch.from_numpy(read_image(piece.path).astype("float32"))[None, None]
        changed = PERTURBATIONS[CHANGES[k % 5]](normalise_intensity(image, "minmax"), torch.Generator().manual_seed(k))
        pixels = (255 * changed[0, 0].clamp(0, 1)).round().byte().numpy()
        Image.fromarray(pixels).save(root / "copied" / "copies" / f"{k:02} of {piece.path.name}")
    return root


def _of_each(folder, people, most):
    """Slices of people, evenly spread."""
    own = [[piece for piece in folder.slices if piece.subject == who] for who in people]
    return [pieces[len(pieces) * (2 * k + 1) // (2 * most)] for pieces in own for k in range(min(most, len(pieces)))]


@pytest.mark.mri
@pytest.mark.parametrize(
    ("generated", "held_out", "alpha", "code", "doubt"),
    [
        ("copied", "held_out", 0.05, 2, None),
        ("novel", "held_out", 0.05, 0, None),
        ("some", "few", 0.05, 3, "to flag a single image at 0.05 needs at least 19 held-out subjects"),
        ("some", "flair", 0.2, 3, "held-out and training images differ"),
    ],
)
def test_exit_codes_on_real_brains(cohort, tmp_path, generated, held_out, alpha, code, doubt):
    """By features alone, to be quick; examples/detection and examples/statistics measure the whole line."""
    folders = [f"{side}={cohort / name}" for side, name in (("train", "train"), ("generated", generated))]
    options = [f"held_out={cohort / held_out}", f"out={tmp_path}", f"cache={cohort / held_out}.state", "size=96",
               f"detector.alpha={alpha}", "detector.verify=false", "detector.poses=none", "power=0",
               "evidence=0"]  # fmt: skip
    assert COMMAND.execute([*folders, *options]) == code
    if doubt is not None:
        report = json.loads((tmp_path / "report.json").read_text())
        assert any(doubt in said for said in report["verdict"]["doubts"])
        return
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    copies = [row for row in rows if "/copies/" in row["generated"]]
    assert (len(copies), len(rows) - len(copies)) == (15 * (generated == "copied"), 285)
    assert all(row["flagged"] == "True" for row in copies)
    assert all(row["generated"].endswith(row["match"].rpartition("/")[2]) for row in copies)
    others = sum(row["flagged"] == "True" for row in rows) - len(copies)
    assert others <= alpha * 285  # no more than chance gives
