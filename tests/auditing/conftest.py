"""Folders of made-up people, and one audit of them that several tests read."""

import numpy as np
import pytest
from factories import write_blocks

from mi_callback import audit, build_encoder
from mi_callback.reporting.document import Release
from mi_callback.statistics.gate import Gate


@pytest.fixture(scope="session")
def quick():
    """Arguments of a detector that sees whole copies and takes no time."""
    return {"encoder": build_encoder("pixels", size=32), "verify": False, "alpha": 0.1}


@pytest.fixture(scope="session")
def people_folders(tmp_path_factory):
    """30 training people, 30 held out, 20 synthetic images of which 8 are copies, in two subgroups; names with HTML."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    people = rng.integers(0, 255, (72, 6, 6), dtype=np.uint8)
    names = [f"train/sub-<i>{i:02}/a.png" for i in range(30)] + [f"held/sub-<i>{i:02}/a.png" for i in range(30, 60)]
    names += [f"synthetic/<b>one/{i:02}.png" for i in range(12)]
    names[2] = "train/=1+1/a.png"
    copies = [f"synthetic/=two/copy<b>{i}.png" for i in range(8)]
    write_blocks(root, [*names, *copies], np.concatenate([people[: len(names)], people[[0, 0, 1, 2, 3, 4, 5, 6]]]))
    return root


@pytest.fixture(scope="session")
def audited(people_folders, quick, tmp_path_factory):
    """A report of them: its folder and its scores. Copy it before changing it."""
    out = tmp_path_factory.mktemp("audited") / "report"
    where = (people_folders / name for name in ("train", "synthetic", "held"))
    release = Release(gives="samples", recipients="<script>alert('a')</script> & co")
    gate = Gate(rate_upper=0.2, fdr=0.1)
    scores = audit(*where, out, size=32, power=3, evidence=2, subgroups=True, gate=gate, release=release, **quick)
    return out, scores
