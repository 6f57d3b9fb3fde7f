"""`mi-audit`: are there copies of training images in a folder of synthetic ones?"""

from pathlib import Path
from typing import Any

from mi_callback.auditing import audit
from mi_callback.cli.command import EXIT_CODES, Command
from mi_callback.cli.options import below, options_of
from mi_callback.detector import MemorizationDetector
from mi_callback.errors import OptionError
from mi_callback.scores import Scores

NEEDED = ("train", "generated")

NO_OPTIONS = ("progress",)
"""Arguments of `audit` that are not asked for: the command always shows progress."""

USAGE = """\
mi-audit train=DIR generated=DIR [held_out=DIR] [out=DIR] [key=value ...]

Looks for copies of training images in a folder of synthetic ones. Exit code 0: no evidence of memorization,
2: memorized, 3: inconclusive, 1: an error. --version prints the version; --multirun runs every value of a=x,y and ends
with the worst exit code. An encoder with options of its own:
  mi-audit ... +mi_callback/encoder@detector.encoder=mri_core detector.encoder.checkpoint=FILE"""


def run(options: dict[str, Any], detector: dict[str, Any]) -> int:
    """Audit, print the verdict and where files are."""
    if missing := [key for key in NEEDED if options[key] is None]:
        raise OptionError(f"needed {' and '.join(f'{key}=DIR' for key in missing)}; see mi-audit --help.")
    scores = audit(**options, progress=True, **detector)
    print(*_lines(scores), sep="\n")
    if options["out"] is not None:
        print(*_files(Path(options["out"])), sep="\n")
    return EXIT_CODES[scores.verdict]


def _lines(scores: Scores) -> list[str]:
    lines = [str(scores)]
    if scores.power is not None and scores.flagging.calibrated:
        lines.append(f"\npower self-test, planted copies of training images:\n{scores.power}\n")
    if scores.flagging.resolvable and scores.flagging.calibrated and scores.verdict != "memorized":
        lines.append(f"certificate: {scores.certificate()}")
    return lines


def _files(out: Path) -> list[str]:
    lines = [
        f"every image with its match (patient data): {out / 'scores.csv'}",
        f"every file, read or not and why (patient data): {out / 'files.csv'}",
    ]
    gallery = out / "evidence" / "gallery.png"  # an audit removes that of an earlier one
    if gallery.is_file():
        lines.append(f"flagged images beside their matches (patient data): {gallery}")
    return lines


COMMAND = Command(
    name="mi-audit",
    usage=USAGE,
    options={**options_of(audit, NO_OPTIONS), **below("detector", options_of(MemorizationDetector))},
    paths=("train", "generated", "held_out", "out"),
    run=run,
)
