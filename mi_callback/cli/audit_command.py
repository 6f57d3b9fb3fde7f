"""`mi-audit`: are there copies of training images in a folder of synthetic ones?"""

from pathlib import Path
from typing import Any

from mi_callback.auditing import audit
from mi_callback.auditing.reports.writing import ACCOUNT, CROISSANT, PAGE, PARQUET, TABLE
from mi_callback.cli.command import GATE_CODES, Command
from mi_callback.cli.options import below, options_of
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import OptionError
from mi_callback.reporting.document import Release
from mi_callback.reporting.record import read_log
from mi_callback.scores import Scores
from mi_callback.statistics.gate import Gate, judge

FOLDERS = ("train", "generated", "held_out", "control")
NEEDED = FOLDERS[:2]

NO_OPTIONS = ("progress", "gate", "release")
"""Arguments of `audit` that are no options: the command always shows progress, gate and release are groups of them."""

USAGE = """\
mi-audit train=DIR generated=DIR [held_out=DIR] [control=DIR] [out=DIR] [key=value ...]

Looks for copies of training images in a folder of synthetic ones. Exit code 0: no evidence of memorization,
2: memorized, 3: inconclusive, 1: an error. With limits, such as gate.rate_upper=.02, these decide: 0: kept, 2: not
    kept,
3: cannot be decided. --version prints the version; --multirun runs every value of a=x,y and ends with the worst exit
code. An encoder with options of its own:
  mi-audit ... +mi_callback/encoder@detector.encoder=mri_core detector.encoder.checkpoint=FILE

Before the first audit:
  mi-audit demo out=DIR         made-up images and their report, in a minute or two
  mi-audit doctor train=DIR held_out=DIR
                                what is installed, and what can be shown with so many people

With the folder of a report:
  mi-audit verify DIR           were the report, its table or its log changed? Exit code 0: no, 1: yes
  mi-audit review DIR sample=17 decision=false_alarm by="A. Name"
  mi-audit filter DIR           writes the list of samples without flagged ones, and what may be left among them
Each has a --help of its own."""

_OUTCOMES = {True: "passed", False: "failed", None: "undecided"}


def run(options: dict[str, Any], detector: dict[str, Any]) -> int:
    """Audit, print the verdict and where files are."""
    if missing := [key for key in NEEDED if options[key] is None]:
        raise OptionError(f"needed {' and '.join(f'{key}=DIR' for key in missing)}; see mi-audit --help.")
    gate = Gate(**options.pop("gate"))
    release = Release(**options.pop("release"))
    written = options["out"] is not None or options["junit"] is not None
    scores = audit(
        **options,
        gate=gate if written and gate.limits else None,
        release=release if release.stated else None,
        progress=True,
        **detector,
    )
    print(*_lines(scores), sep="\n")
    result = judge(scores.findings, gate)
    if gate.limits:
        print(*(f"gate: {_OUTCOMES[one.passed]}: {one.said}" for one in result.conditions), sep="\n")
    if options["out"] is not None:
        print(*_files(Path(options["out"])), sep="\n")
    return GATE_CODES[result.passed]


def _lines(scores: Scores) -> list[str]:
    lines = [str(scores)]
    if scores.power is not None and scores.flagging.calibrated:
        lines.append(f"\npower self-test, planted copies of training images:\n{scores.power}\n")
    if scores.flagging.resolvable and scores.flagging.calibrated and scores.verdict != "memorized":
        lines.append(f"certificate: {scores.certificate()}")
    return lines


def _files(out: Path) -> list[str]:
    lines = [
        f"report: {out / PAGE}",
        f"every image with its match (patient data): {out / TABLE}{_columns(out)}",
        f"every file, read or not and why (patient data): {out / ACCOUNT}",
        f"metadata of the samples for whoever publishes them (Croissant): {out / CROISSANT}",
    ]
    gallery = out / "evidence" / "gallery.png"  # an audit removes that of an earlier one
    if gallery.is_file():
        lines.append(f"flagged images beside their matches (patient data): {gallery}")
    # Who notes it elsewhere can tell a log that was written anew.
    return [*lines, f"seal: {read_log(out)[-1].sha256}"]


def _columns(out: Path) -> str:
    if (out / PARQUET).is_file():
        return f", {PARQUET}"
    return f"; no {PARQUET} without pyarrow: pip install 'mi-callback[formats]'"


COMMAND = Command(
    name="mi-audit",
    usage=USAGE,
    options={
        **options_of(audit, NO_OPTIONS),
        **below("gate", options_of(Gate)),
        **below("release", options_of(Release)),
        **below("detector", options_of(MemorizationDetector)),
    },
    paths=(
        "train",
        "generated",
        "held_out",
        "control",
        "out",
        "junit",
        "cache",
        *below("release", options_of(Release)),
    ),
    run=run,
)
