"""`mi-audit doctor` and `mi-audit demo`: before the first audit."""

from pathlib import Path
from typing import Any

from mi_callback.auditing.demo import make_demo
from mi_callback.auditing.doctor import examine
from mi_callback.cli.audit_command import COMMAND, run
from mi_callback.cli.command import ERROR, GATE_CODES, Command
from mi_callback.cli.options import options_of
from mi_callback.errors import OptionError

PLANTED = 2
"""Training images copied for the power self-test of the demonstration."""

QUICKER = {"windows": False, "views": False, "candidates": 2}
"""What the detector of the demonstration does without, to be quick."""

DOCTOR_USAGE = """\
mi-audit doctor [train=DIR] [held_out=DIR] [alpha=0.05]

Tells what is installed, whose images these are, how small a p-value can be with so many people, and how many samples
and people a certificate takes. Nothing is encoded. Exit code 0, or 1: an error."""

DEMO_USAGE = """\
mi-audit demo out=DIR

Makes folders of made-up images in an empty folder, five of twenty samples copied, audits them as `mi-audit` does and
leaves the report in DIR/report. It takes a minute or two. Exit code 0 where the copies are found, or 1."""


def _doctor(options: dict[str, Any], _: dict[str, Any]) -> int:
    print(examine(**options))
    return 0


def _demo(options: dict[str, Any], _: dict[str, Any]) -> int:
    if options["out"] is None:
        raise OptionError("needed mi-audit demo out=DIR; no folder came.")
    folders = make_demo(**options)
    defaults = {key: option.default for key, option in COMMAND.options.items() if "." not in key}
    chosen = {**folders._asdict(), "out": Path(options["out"]) / "report", "power": PLANTED}
    typed = {**chosen, **{f"detector.{key}": value for key, value in QUICKER.items()}}
    print("mi-audit", *(f"{key}={value}" for key, value in typed.items()))
    # Hydra runs already: it does not run within itself.
    code = run({**defaults, **chosen, "gate": {}, "release": {}}, dict(QUICKER))
    return 0 if code == GATE_CODES[False] else ERROR


DOCTOR = Command("mi-audit doctor", DOCTOR_USAGE, options_of(examine), ("train", "held_out"), _doctor)
DEMO = Command("mi-audit demo", DEMO_USAGE, options_of(make_demo), ("out",), _demo, "out")
