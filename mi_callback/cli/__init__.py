"""The commands: `mi-audit` and `mi-encoders`, with Hydra overrides such as `detector.alpha=0.01`.

Keys, defaults and their meanings are those of the functions that the commands call (see `options`); `arguments` turns
what was typed into overrides that Hydra takes as they were meant.
"""

import sys


def main() -> None:
    """Entry point of `mi-audit`."""
    from mi_callback.cli.audit_command import COMMAND

    sys.exit(COMMAND.execute(sys.argv[1:]))


def encoders() -> None:
    """Entry point of `mi-encoders`."""
    from mi_callback.cli.encoders_command import COMMAND

    sys.exit(COMMAND.execute(sys.argv[1:]))
