"""An audit of folders of real slices."""

import csv
import shutil

import pytest

from mi_callback import audit
from mi_callback.images.files import SliceFolder, split_by_subject
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
