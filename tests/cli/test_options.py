"""Keys, defaults and meanings of commands and configs are those of the functions that they call: every one of them."""

import inspect
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mi_callback import MemorizationCallback, MemorizationDetector
from mi_callback.auditing import audit, rank
from mi_callback.auditing.ranking import NOT_FOR_RANKING
from mi_callback.cli import audit_command as of_audit
from mi_callback.cli import encoders_command as of_encoders
from mi_callback.cli import first_steps
from mi_callback.cli import record_commands as of_records
from mi_callback.cli.options import meanings_of, options_of
from mi_callback.cli.schema import schema_of
from mi_callback.reporting.document import Release
from mi_callback.statistics.gate import Gate

CONF = Path(inspect.getfile(MemorizationDetector)).parent / "conf" / "mi_callback"
OF_REPORTS = [of_records.VERIFY, of_records.REVIEW, of_records.FILTER]
COMMANDS = [of_audit.COMMAND, of_encoders.COMMAND, first_steps.DOCTOR, first_steps.DEMO, *OF_REPORTS]


def defaults_of(function, without=()) -> dict:
    """Every named argument and its default; None where a value is needed."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in without]
    return {p.name: None if p.default is p.empty else p.default for p in named}


def config(path: str) -> dict:
    return yaml.safe_load((CONF / path).read_text())


# The files for users' own apps


def test_the_config_of_the_detector_has_every_argument_and_its_default():
    assert config("detector/default.yaml") == defaults_of(MemorizationDetector)


def test_the_config_of_the_callback_has_every_argument_and_its_default():
    keys = {k: v for k, v in config("callback/memorization.yaml").items() if k != "defaults" and not k.startswith("_")}
    assert keys == defaults_of(MemorizationCallback, without=("detector",))


# The commands


@pytest.mark.parametrize(
    ("command", "function", "without", "of_detector"),
    [
        (of_audit.COMMAND, audit, of_audit.NO_OPTIONS, ()),
        (of_encoders.COMMAND, rank, of_encoders.NO_OPTIONS, NOT_FOR_RANKING),
    ],
    ids=["mi-audit", "mi-encoders"],
)
def test_a_command_has_every_argument_and_its_default(command, function, without, of_detector):
    given = OmegaConf.to_container(OmegaConf.structured(schema_of("options", command.options)))
    assert given.pop("detector") == defaults_of(MemorizationDetector, of_detector)
    given.pop("name", None)  # of the catalogue: no argument of `rank`
    if function is audit:
        assert given.pop("gate") == defaults_of(Gate)
        assert given.pop("release") == defaults_of(Release)
    assert given == defaults_of(function, without)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_gives_every_option_its_default_and_its_meaning(command):
    text = command.help()
    for option in command.options.values():
        default = yaml.safe_dump(option.default).splitlines()[0]
        assert f"\n  {option.name}={default}\n" in text
        assert option.meaning, option.name
        assert " ".join(option.meaning.split()[:3]).replace("`", "").replace("None", "null") in text


@pytest.mark.parametrize("function", [MemorizationDetector, MemorizationCallback, audit, rank, Gate, Release])
def test_a_docstring_explains_every_argument_and_no_other(function):
    parameters = inspect.signature(function).parameters
    assert set(meanings_of(inspect.getdoc(function))) == set(parameters)


def test_options_are_read_off_a_function():
    def function(one, two: int = 2, three: float = 3.0, **other):
        """Do.

        Args:
            one: First,
                on two lines.
            two, three: Both: this.
            other: No option.

        Returns:
            two: not this.
        """

    found = options_of(function, without=("three",))
    assert [(o.name, o.default, o.meaning) for o in found.values()] == [
        ("one", None, "First, on two lines."),
        ("two", 2, "Both: this."),
    ]
