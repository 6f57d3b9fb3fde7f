"""A command: its options, its help, its exit code."""

import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mi_callback import __version__
from mi_callback.cli.arguments import Grammar
from mi_callback.cli.options import Option
from mi_callback.cli.schema import schema_of
from mi_callback.errors import MemorizationError

GATE_CODES = {True: 0, False: 2, None: 3}
"""Exit code of `mi-audit` by whether the gate was passed."""

ERROR = 1
"""Exit code of everything that went wrong."""

_WORST_FIRST = (2, ERROR, 3, 0)
_WIDTH = 110


@dataclass(frozen=True)
class Command:
    """A function that is called with options from the command line.

    Attributes:
        name: Of the command; a second word says what it does: `mi-audit verify`.
        usage: How it is called and what it does.
        options: By their names as they are typed. Those with a dot are of a group: `detector.alpha`.
        paths: Options whose values are paths, or texts that are taken as they were typed.
        run: Takes the options of the command and those of the detector, prints, and returns the exit code.
        first: The option that a first word without `=` stands for; None where there is none.
    """

    name: str
    usage: str
    options: Mapping[str, Option]
    paths: Collection[str]
    run: Callable[[dict[str, Any], dict[str, Any]], int]
    first: str | None = None

    def execute(self, arguments: Sequence[str]) -> int:
        """Run it with what was typed behind its name, and return the exit code; of several jobs the worst."""
        if {"--help", "-h"} & set(arguments):
            print(self.help())
            return 0
        if "--version" in arguments:
            print(f"mi_callback {__version__}")
            return 0
        try:
            free = ("detector.encoder", "detector.aggregation")
            overrides = Grammar(self.name, self.options, self.paths, free).overrides(self._named(arguments))
        except MemorizationError as error:
            return self._failed(error)
        return self._run_with_hydra(overrides)

    def help(self) -> str:
        """Usage, and every option with its default and its meaning."""
        plain = [option for key, option in self.options.items() if "." not in key]
        lines = [self.usage, "\nOptions, written key=value, each with its default:\n", *map(_described, plain)]
        for group in dict.fromkeys(key.partition(".")[0] for key in self.options if "." in key):
            below = [option for key, option in self.options.items() if key.startswith(f"{group}.")]
            lines += [f"\nOptions of the {group}:\n", *map(_described, below)]
        return "\n".join(lines)

    def _named(self, arguments: Sequence[str]) -> list[str]:
        """The same with the name of the option that a first word without one stands for."""
        first = [] if self.first is None or not arguments or arguments[0].startswith("-") else [arguments[0]]
        if first and "=" not in first[0]:
            return [f"{self.first}={first[0]}", *arguments[1:]]
        return list(arguments)

    def _run_with_hydra(self, overrides: Sequence[str]) -> int:
        codes: list[int] = []

        def job(config: DictConfig) -> None:
            codes.append(self._run_job(config))

        self._store()
        before, sys.argv = sys.argv, [self.name, *overrides]
        try:
            hydra.main(version_base="1.3", config_path=None, config_name=self._config)(job)()
        except SystemExit as ended:  # argparse ends with 2, which would read as memorized
            if ended.code:
                return ERROR
        finally:
            sys.argv = before
        return min(codes, key=_WORST_FIRST.index, default=0)

    def _run_job(self, config: DictConfig) -> int:
        try:
            plain = OmegaConf.to_container(config, resolve=True)
            assert isinstance(plain, dict)
            detector = instantiate(plain.pop("detector", {}), _convert_="all")
            return self.run({str(key): value for key, value in plain.items()}, detector)
        except MemorizationError as error:
            return self._failed(error)

    def _failed(self, error: MemorizationError) -> int:
        print(f"{self.name}: {error}", file=sys.stderr)
        return ERROR

    @property
    def _config(self) -> str:
        """The name by which Hydra knows it."""
        return self.name.replace(" ", "-")

    def _store(self) -> None:
        """Let Hydra find the options of this command."""
        store, schema = ConfigStore.instance(), f"{self._config}_options"
        store.store(name=schema, node=schema_of(schema.replace("-", "_"), self.options))
        hydra_settings = {
            "run": {"dir": "."},
            "output_subdir": None,
            "job": {"name": self._config, "chdir": False},
        }
        defaults = [schema, {"override hydra/job_logging": "stdout"}, "_self_"]
        store.store(name=self._config, node={"defaults": defaults, "hydra": hydra_settings})


def _described(option: Option) -> str:
    default = yaml.safe_dump(option.default, default_flow_style=True).splitlines()[0]
    meaning = option.meaning.replace("`", "").replace("None", "null")
    meaning = textwrap.fill(meaning, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {option.name}={default}\n{meaning}"
