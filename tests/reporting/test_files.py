"""Evidence as files."""

from dataclasses import replace

import numpy as np
from PIL import Image

from mi_callback.reporting import write_evidence


def test_files_are_written_and_those_of_an_earlier_run_go(posed, tmp_path):
    folder = tmp_path / "report" / "evidence"
    flags = [replace(posed["identity"], row=17), replace(posed["rotation_90"], row=12345)]
    files = write_evidence(flags, folder)
    assert [file.name for file in files] == ["evidence_0017.png", "evidence_12345.png", "gallery.png"]
    for file in files:
        pixels = np.asarray(Image.open(file).convert("L"))
        assert min(pixels.shape) >= 200
        assert pixels.std() > 10
        assert file.stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0
    (folder / "mine.txt").touch()
    write_evidence(flags[:1], folder)
    assert {file.name for file in folder.iterdir()} == {"evidence_0017.png", "gallery.png", "mine.txt"}
    assert write_evidence([], folder) == []
    assert {file.name for file in folder.iterdir()} == {"mine.txt"}
    assert write_evidence([], tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
