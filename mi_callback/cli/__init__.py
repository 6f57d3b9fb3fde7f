"""The commands: `mi-audit` and `mi-encoders`, with Hydra overrides such as `detector.alpha=0.01`.

Keys, defaults and their meanings are those of the functions that the commands call (see `options`); `arguments` turns
what was typed into overrides that Hydra takes as they were meant.
"""

import sys


def main() -> None:
    """Entry point of `mi-audit`, and by its first word of what is done before the first audit or with a report."""
    from mi_callback.cli.audit_command import COMMAND
    from mi_callback.cli.first_steps import DEMO, DOCTOR
    from mi_callback.cli.record_commands import FILTER, REVIEW, VERIFY

    commands = {command.name.split()[1]: command for command in (DOCTOR, DEMO, VERIFY, REVIEW, FILTER)}
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word in commands:
        sys.exit(commands[word].execute(sys.argv[2:]))
    sys.exit(COMMAND.execute(sys.argv[1:]))


def encoders() -> None:
    """Entry point of `mi-encoders`."""
    from mi_callback.cli.encoders_command import COMMAND

    sys.exit(COMMAND.execute(sys.argv[1:]))
