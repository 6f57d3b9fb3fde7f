"""Directives that print what the code says: constants, defaults, floors, encoders. A page cannot fall behind it.

`{constants} mi_callback.registration`: tuned constants of a package or module: fields of its `…Config` dataclasses,
and module-level names in capitals that have a docstring, with value and documentation.

`{arguments} mi_callback.MemorizationDetector`: arguments of a callable with defaults and documentation.

`{floors}`: order of the packages, as the import-linter contract in pyproject.toml has it.

`{encoders}`: the catalogue of encoders. `{public}`: what `mi_callback` exports.
"""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
LONGEST = 120
"""Values whose text is longer are shown by their keys, or left to the code."""

DIMENSIONS = {2: "images", 3: "volumes"}


class FromCode(Directive):
    """A directive that writes Markdown and has it parsed where it stands."""

    required_arguments = 0
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        lines = [line for text in self.markdown() for line in text.split("\n")]
        self.state.nested_parse(StringList(lines, source=self.name), self.content_offset, container)
        return [container]

    def markdown(self) -> Iterable[str]:
        raise NotImplementedError


class Constants(FromCode):
    def markdown(self) -> Iterator[str]:
        for name in self.arguments:
            found = False
            for module in modules(name):
                rows = list(module_constants(module))
                configs = list(config_tables(module))
                if rows or configs:
                    found = True
                    yield f"**{{py:mod}}`{module.__name__}`**\n"
                if rows:
                    yield table(["constant", "value", "meaning"], rows)
                yield from configs
            if not found:
                raise self.error(f"{name} has no documented constants")


class Arguments(FromCode):
    def markdown(self) -> Iterator[str]:
        (name,) = self.arguments
        called = resolve(name)
        documented = section(inspect.getdoc(called) or "", "Args")
        rows = []
        for parameter in inspect.signature(called).parameters.values():
            if parameter.name == "self" or parameter.kind is parameter.VAR_KEYWORD:
                continue
            default = "required" if parameter.default is parameter.empty else code(shown(parameter.default))
            if parameter.name not in documented:
                raise self.error(f"{name} does not document its argument {parameter.name}")
            rows.append([code(parameter.name), default, documented[parameter.name]])
        yield table(["argument", "default", "meaning"], rows)


class Floors(FromCode):
    def markdown(self) -> Iterator[str]:
        linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"].get("importlinter", {})
        for contract in linter.get("contracts", ()):
            if contract["type"] != "layers":
                continue
            rows = []
            for height, layer in enumerate(reversed(contract["layers"])):
                for name in re.findall(r"[\w.]+", layer):
                    full = name if name.startswith("mi_callback") else f"mi_callback.{name}"
                    rows.insert(0, [str(height), f"{{py:mod}}`{name} <{full}>`", first_line(full)])
            yield table(["floor", "package or module", "holds"], rows)


class Public(FromCode):
    def markdown(self) -> Iterator[str]:
        rows = []
        for name in importlib.import_module("mi_callback").__all__:
            if name.startswith("__"):  # the version
                continue
            known = resolve(f"mi_callback.{name}")
            role = "class" if inspect.isclass(known) else "func"
            rows.append([f"{{py:{role}}}`~{known.__module__}.{known.__name__}`", introduction_line(known)])
        yield table(["name", "what it is"], rows)


class Encoders(FromCode):
    def markdown(self) -> Iterator[str]:
        from mi_callback.encoders import available, entry

        rows = []
        for name in available():
            known = entry(name)
            licence = known.card.licence + (" (restricted)" if known.card.restricted else "")
            trained_on = f"{DIMENSIONS[known.dims]}; {known.card.modality}"
            rows.append([code(name), trained_on, known.needs or "nothing", licence])
        yield table(["name", "takes; trained on", "you bring", "licence of the weights"], rows)


def modules(name: str) -> Iterator[ModuleType]:
    """A module, or a package with everything in it that is not private."""
    module = importlib.import_module(name)
    yield module
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), name + "."):
        if not any(part.startswith("_") for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def module_constants(module: ModuleType) -> Iterator[list[str]]:
    """Names in capitals that are assigned in this module and followed by a string: name, value, meaning."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, following in pairwise(body):
        meaning = string_of(following)
        for name in assigned(statement) if meaning else ():
            value = getattr(module, name)
            displayed = None if list(instances(value)) else shown(value)
            if re.fullmatch(r"[A-Z][A-Z0-9_]*", name) and displayed is not None:
                yield [code(name), code(displayed), meaning]


def string_of(statement: ast.stmt) -> str:
    """The text of a statement that is a string, as the documentation of what stands before it is; else empty."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def assigned(statement: ast.stmt) -> Iterator[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    for target in targets:
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        yield from (part.id for part in parts if isinstance(part, ast.Name))


def config_tables(module: ModuleType) -> Iterator[str]:
    """A table for each dataclass `…Config` of this module, with a column for each of its instances there."""
    for name, kind in vars(module).items():
        own = inspect.isclass(kind) and kind.__module__ == module.__name__
        if not (own and name.endswith("Config") and dataclasses.is_dataclass(kind)):
            continue
        made = {
            label or constant: instance
            for constant, value in vars(module).items()
            if not isinstance(value, tuple | list)  # those of the module once more
            for label, instance in instances(value)
            if type(instance) is kind
        }
        doc = inspect.getdoc(kind) or ""
        documented = section(doc, "Attributes") | section(doc, "Args") | field_strings(kind)
        yield f"{{py:class}}`~{module.__name__}.{name}`: {introduction(doc)}\n"
        rows = []
        for field in dataclasses.fields(kind):
            values = [getattr(instance, field.name) for instance in made.values()] or [default_of(field)]
            texts = [code(shown(value)) for value in values]
            if len(set(texts)) == 1:
                texts = [texts[0]] * len(texts)
            rows.append([code(field.name), *texts, documented.get(field.name, "")])
        yield table(["constant", *(made if len(made) > 1 else ["value"]), "meaning"], rows)


def instances(value: Any) -> Iterator[tuple[str, Any]]:
    """Config instances in a module-level value, labelled where it is a mapping."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and type(value).__name__.endswith("Config"):
        yield "", value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            for _, instance in instances(inner):
                yield DIMENSIONS.get(key, str(key)), instance
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from instances(inner)


def field_strings(kind: type) -> dict[str, str]:
    """Strings that follow the fields of a dataclass in its source."""
    (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    return {
        name: meaning
        for statement, following in pairwise(definition.body)  # type: ignore[attr-defined]
        if (meaning := string_of(following))
        for name in assigned(statement)
    }


def default_of(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else "required"


def section(doc: str, title: str) -> dict[str, str]:
    """Entries of a section of a Google-style docstring, `Args` or `Attributes`, by name."""
    match = re.search(rf"^{title}:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    entries: dict[str, str] = {}
    if match:
        for names, meaning in re.findall(
            r"^    (\S[^:\n]*): ((?:.*\n?)(?:^(?:     +.*)?\n?)*)", match[1], re.MULTILINE
        ):
            for name in names.split(","):
                entries[name.strip().lstrip("*")] = " ".join(meaning.split())
    return entries


def introduction(doc: str) -> str:
    """A docstring up to its first section."""
    text = re.split(r"^(?:Attributes|Args|Returns|Raises|References|Example):$", doc, maxsplit=1, flags=re.MULTILINE)[0]
    return " ".join(text.split())


def shown(value: Any) -> str | None:
    """A value as a reader writes it; None where it is no plain one."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool | int | str | None):
        return str(value) if not isinstance(value, str) else value
    if isinstance(value, Mapping):
        whole = ", ".join(f"{DIMENSIONS.get(key, key)}: {shown(inner)}" for key, inner in value.items())
        if None not in map(shown, value.values()) and len(whole) <= LONGEST:
            return whole
        return ", ".join(map(str, value))
    if isinstance(value, tuple | list | frozenset):
        parts = [shown(inner) for inner in value]
        if None in parts:
            return None
        if len(", ".join(parts)) > LONGEST:  # type: ignore[arg-type]
            return f"{parts[0]}, {parts[1]}, …, {parts[-1]}"
        return f"({', '.join(parts)})"  # type: ignore[arg-type]
    if dataclasses.is_dataclass(value):
        return type(value).__name__
    if inspect.isclass(value) or callable(value):
        return None
    return str(value)


def resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def first_line(name: str) -> str:
    return introduction_line(importlib.import_module(name))


def introduction_line(documented: Any) -> str:
    return " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())


def code(value: str | None) -> str:
    return f"`{value}`" if value not in (None, "") else "–"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(heads), *map(list, rows)]
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


PAGES = {
    "../examples/detection/RESULTS.md": "results/detection.md",
    "../examples/statistics/RESULTS.md": "results/statistics.md",
    "../examples/volumes/RESULTS.md": "results/volumes.md",
    "../examples/paper/RESULTS.md": "results/paper.md",
    "../examples/peers/RESULTS.md": "results/peers.md",
    "../mi_callback/encoders/weights/MODEL_CARD.md": "model_card.md",
    "../SECURITY.md": "security.md",
    "../.github/CONTRIBUTING.md": "contributing.md",
}
"""Files outside this folder → the page that includes them: links work in the repository and in the built pages."""


def point_to_pages(app: Sphinx, page: str, source: list[str]) -> None:
    for file, included in PAGES.items():
        source[0] = source[0].replace(f"({file})", f"({included})")


def as_rst(line: str) -> str:
    """A line of a docstring, which is written to be read as it stands, so that reStructuredText reads the same in it.

    Outside code bars are norms, not substitutions; a word may go on after code; a star before a name is no emphasis.
    """
    parts = re.split(r"(`[^`]*`)", line)
    parts[::2] = [re.sub(r"\*(?=[a-z]+[\]\)\",])", r"\\*", part.replace("|", r"\|")) for part in parts[::2]]
    return re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", "".join(parts))


_verbatim: dict[str, list[str]] = {}


def keep(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes "similar: that is …" under a constant for a type and its description; it gets no say there."""
    lines[:] = [line if line.lstrip().startswith(">>>") else as_rst(line) for line in lines]
    if what in ("data", "attribute"):
        _verbatim[name] = list(lines)


def put_back(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if name in _verbatim:
        lines[:] = _verbatim.pop(name)


def setup(app: Sphinx) -> dict[str, Any]:
    for name, directive in (
        ("constants", Constants),
        ("arguments", Arguments),
        ("floors", Floors),
        ("encoders", Encoders),
        ("public", Public),
    ):
        app.add_directive(name, directive)
    app.connect("source-read", point_to_pages)
    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", put_back, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
