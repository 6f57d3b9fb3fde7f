"""`mi-encoders`: which encoders are there, and which sees copies best in your images?"""

from typing import Any

from mi_callback.auditing.ranking import NOT_FOR_RANKING, rank
from mi_callback.auditing.tables import listing_table, ranking_table
from mi_callback.cli.command import ERROR, Command
from mi_callback.cli.options import Option, below, options_of
from mi_callback.detector import MemorizationDetector
from mi_callback.encoders.listing import list_encoders
from mi_callback.errors import OptionError

NO_OPTIONS = ("subjects", "held_out_subjects")
"""Arguments of `rank` that are not asked for: folders say whose their images are."""

NAME = Option("name", None, str | None, "An encoder of the catalogue, shown in full.")

USAGE = """\
mi-encoders                   lists the encoders: licence, what each needs, size and speed
mi-encoders name=NAME         shows one in full
mi-encoders train=DIR [held_out=DIR] ['encoders=[bundled,{name: mri_core, checkpoint: f.pth}]'] [key=value ...]
                              ranks encoders by the copies of your own images that they find

Nothing is downloaded. detector.verify=false is faster. Exit code 0, or 1: an error, or none ranked. --version prints
the version."""


def run(options: dict[str, Any], detector: dict[str, Any]) -> int:
    """List, show one, or rank."""
    name = options.pop("name")
    if options["train"] is None:
        _check_nothing_asked(options, detector)
    if name is not None:
        print(*list_encoders([name]))
    elif options["train"] is None:
        print(listing_table(list_encoders()))
    if options["train"] is None:
        return 0
    rows = rank(**options, **detector)
    print(ranking_table(rows))
    return ERROR if all(row.found is None for row in rows) else 0


def _check_nothing_asked(options: dict[str, Any], detector: dict[str, Any]) -> None:
    """Refuse options of a ranking where there is none."""
    values = options | {f"detector.{key}": value for key, value in detector.items()}
    asked = [key for key, value in values.items() if value != COMMAND.options[key].default]
    if asked:
        raise OptionError(f"needed train=DIR for {' and '.join(asked)}; see mi-encoders --help.")


COMMAND = Command(
    name="mi-encoders",
    usage=USAGE,
    options={
        "name": NAME,
        **options_of(rank, NO_OPTIONS),
        **below("detector", options_of(MemorizationDetector, NOT_FOR_RANKING)),
    },
    paths=("train", "held_out"),
    run=run,
)
