"""What can be shown with so many people, and a demonstration."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mi_callback import __version__, audit
from mi_callback.auditing.demo import COPIES, NOVEL, PEOPLE, make_demo
from mi_callback.auditing.doctor import examine
from mi_callback.cli import first_steps
from mi_callback.cli.arguments import Grammar
from mi_callback.cli.audit_command import COMMAND
from mi_callback.cli.first_steps import DEMO, DOCTOR
from mi_callback.errors import DataError, OptionError
from mi_callback.statistics.rates.planning import plan


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo"))


# Doctor


def test_what_is_installed_is_told_without_folders():
    found = examine()
    assert f"mi_callback {__version__}" in found.installed[0]
    assert not found.data
    assert not found.possible


def test_people_and_what_they_allow_are_told(demo):
    text = str(examine(demo.train, demo.held_out))
    assert text.count(f"{PEOPLE} subjects of {PEOPLE} images") == 2
    assert "smallest p-value: 0.0323; α = 0.05 can be tested" in text
    needed = plan(0.05, power=0.8)
    assert f"{needed.n_samples}" in text
    assert f"{needed.n_subjects - PEOPLE} people too few" in text
    assert "enough people" in text


def test_too_few_people_and_missing_sides_are_told(demo):
    text = str(examine(demo.train, alpha=0.01))
    assert "α = 0.01 needs 199 people: 169 more" in text
    assert "! no held-out people" in text


def test_people_on_both_sides_and_unknown_ones_are_told(demo):
    assert f"! {PEOPLE} people are on both sides" in str(examine(demo.train, demo.train))
    assert "whose they are is not known" in str(examine(demo.generated, demo.held_out))


def test_wrong_options_are_refused(demo):
    with pytest.raises(OptionError, match="needed train=DIR beside held_out=DIR"):
        examine(held_out=demo.held_out)
    with pytest.raises(OptionError, match="needed alpha between 0 and 1"):
        examine(demo.train, alpha=5)


def test_the_doctor_prints_and_ends_with_its_code(demo, capsys):
    assert DOCTOR.execute([f"train={demo.train}", f"held_out={demo.held_out}", "alpha=0.1"]) == 0
    assert "α = 0.1 can be tested" in capsys.readouterr().out
    assert DOCTOR.execute(["train=nowhere"]) == 1


# Demonstration


def test_the_made_up_samples_hold_copies_that_are_found(demo, quick):
    names = [sorted(folder.rglob("*.png")) for folder in demo]
    assert [len(files) for files in names] == [PEOPLE, PEOPLE, NOVEL + COPIES]
    first, copied = (np.asarray(Image.open(files[0]), dtype=float) for files in (names[0], names[2]))
    assert np.corrcoef(first.ravel(), copied[:, ::-1].ravel())[0, 1] > 0.99
    scores = audit(demo.train, demo.generated, demo.held_out, size=32, power=0, **quick | {"alpha": 0.05})
    assert scores.verdict == "memorized"
    assert scores.flagged[:COPIES].all()


def test_the_demonstration_audits_and_writes_only_where_nothing_is(tmp_path, monkeypatch, capsys):
    asked = {}

    def run(options, detector):
        asked.update(options, detector=detector)
        return 2

    monkeypatch.setattr(first_steps, "run", run)
    assert DEMO.execute([str(tmp_path / "new")]) == 0
    assert asked["out"] == tmp_path / "new" / "report"
    line = capsys.readouterr().out.splitlines()[0]
    typed = Grammar(COMMAND.name, COMMAND.options, COMMAND.paths).overrides(shlex.split(line)[1:])
    assert len(typed) == 5 + len(asked["detector"])
    with pytest.raises(DataError, match="needed an empty folder for the demonstration"):
        make_demo(tmp_path / "new")
    assert DEMO.execute([]) == 1


# The example of a gate


def test_the_workflow_of_the_example_names_options_that_exist():
    text = (Path(__file__).parents[2] / "examples" / "release_gate" / "release-gate.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["memorization"]["steps"]
    (command,) = [step["run"] for step in steps if "mi-audit" in step.get("run", "") and "train=" in step["run"]]
    words = shlex.split(command)
    assert words[0] == "mi-audit"
    assert Grammar(COMMAND.name, COMMAND.options, COMMAND.paths).overrides(words[1:])
