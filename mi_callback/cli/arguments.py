"""What was typed → overrides that Hydra takes as they were meant: paths quoted, unknown options refused."""

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from mi_callback.errors import OptionError

FLAGS = ("--multirun", "-m", "--cfg", "-c", "--package", "-p", "--resolve", "--info", "-i", "--hydra-help",
         "--config-dir", "-cd", "--config-name", "-cn")  # fmt: skip
"""Flags of Hydra that are passed on."""

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn")
"""Those followed by a value of their own."""

GROUPS = ("hydra/", "mi_callback/")
"""Config groups that may be chosen."""

_OVERRIDE = re.compile(r"(\+\+|\+|~)?([^=]*?)(?:=(.*))?", re.DOTALL)
_SIZE = re.compile(r"\d+(?:[x×]\d+)+")


@dataclass(frozen=True)
class Grammar:
    """What may stand behind a command.

    Attributes:
        command: Its name, for messages.
        keys: Names of its options.
        paths: Those whose values are paths or texts, taken as they were typed.
        free: Those whose value may be a mapping, so that names below them are allowed.
    """

    command: str
    keys: Collection[str]
    paths: Collection[str] = ()
    free: Collection[str] = ()

    def overrides(self, arguments: Sequence[str]) -> list[str]:
        """Arguments as Hydra takes them.

        Args:
            arguments: What was typed behind the command.

        Returns:
            Flags and overrides, of which every path is quoted and `48x48` is a list.

        Raises:
            OptionError: For anything that is no option of this command, with the right name where there is one.
        """
        several = any(flag in arguments for flag in ("--multirun", "-m"))
        found = []
        rest = iter(arguments)
        for argument in rest:
            if argument.startswith("-"):
                found += self._flag(argument, rest)
            else:
                found.append(self._override(argument, several))
        return found

    def _flag(self, flag: str, rest: Iterator[str]) -> list[str]:
        name = flag.partition("=")[0]
        if name not in FLAGS:
            meant = self._meant(name.lstrip("-").replace("-", "_"))
            advice = f"Write {meant}=…." if meant else f"See {self.command} --help."
            raise OptionError(f"needed options as key=value; {name!r} came. {advice}")
        if name in WITH_VALUE and "=" not in flag:
            value = next(rest, None)
            if value is None:
                raise OptionError(f"needed a value after {flag}; none came.")
            return [flag, value]
        return [flag]

    def _override(self, argument: str, several: bool) -> str:
        match = _OVERRIDE.fullmatch(argument)
        assert match is not None
        sign, key, value = match[1] or "", match[2], match[3]
        if key.startswith((*GROUPS, "hydra.")):
            return argument
        if value is None and sign != "~":
            raise OptionError(f"needed options as key=value; {argument!r} came. See {self.command} --help.")
        self._check_key(sign, key, value)
        if key in self.paths:
            return f"{key}={self._paths(value or '', several)}"
        if key == "size" and _SIZE.fullmatch(value or ""):
            return f"{key}=[{','.join(re.split('[x×]', value or ''))}]"
        return argument

    def _check_key(self, sign: str, key: str, value: str | None) -> None:
        if any(key.startswith(f"{name}.") for name in self.free):
            return
        if key not in self.keys:
            meant = self._meant(key)
            advice = f"The right name is {meant}: {meant}={value}." if meant else f"See {self.command} --help."
            raise OptionError(f"needed an option of {self.command}; {sign + key!r} came. {advice}")
        if sign:
            raise OptionError(
                f"needed {key}=VALUE, for that is an option already; {sign + key!r} came. Write "
                f"{key}={value or 'null'}."
            )

    def _meant(self, key: str) -> str | None:
        """The option that has this name below another, or one spelled much like it."""
        last = {name.rpartition(".")[2]: name for name in reversed(list(self.keys))}
        wanted = key.rpartition(".")[2]
        if key in self.keys or wanted in last:
            return key if key in self.keys else last[wanted]
        close = difflib.get_close_matches(wanted, last, 1, 0.7)
        return last[close[0]] if close else None

    def _paths(self, value: str, several: bool) -> str:
        if several and not Path(value).exists():
            return ",".join(quoted(part) for part in value.split(","))
        return quoted(value)


def quoted(path: str) -> str:
    """A path as Hydra reads it back unchanged, whatever it holds; `null`, and what is quoted already, as it is.

    Example:
        >>> print(quoted("a, b=[1]"))
        'a, b=[1]'
    """
    if path == "null" or (path[:1] in ("'", '"') and path[-1:] == path[:1] and len(path) > 1 and not _exists(path)):
        return path
    # OmegaConf reads ${…} as a reference, unless it is escaped; backslashes before it then count twice.
    literal = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", path)
    return QuotedString(text=literal, quote=Quote.single).with_quotes()


def _exists(path: str) -> bool:
    return Path(path).exists()
