"""The configuration of a MONAI bundle, read as data: modules and plain values, never a program."""

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from mi_callback.errors import EncoderError


@dataclass(frozen=True)
class PlannedModule:
    """A module that a configuration asks for."""

    made: type[nn.Module]
    arguments: Mapping[str, Any]


class NetworkConfig(NamedTuple):
    """Where a bundle describes its network: the file, all that it says, and the entry that is the network."""

    path: Path
    content: dict[str, Any]
    node: str


def find_network(folder: Path, config: str | None, node: str | None) -> NetworkConfig:
    """The configuration of a bundle that describes a network: the file that was named, else `inference`, else `train`.

    Raises:
        EncoderError: If there is none, or it is neither JSON nor YAML.
    """
    found = [
        path
        for path in sorted((folder / "configs").glob("*"))
        if path.suffix in (".json", ".yaml", ".yml") and path.stem != "metadata"
    ]
    if config is not None:
        found = [path for path in found if config in (path.name, path.stem)]
    if not found:
        raise EncoderError(
            f"needed a MONAI bundle, a folder with configs/{config or '*.json'}; {folder} has none. Fetch it first: "
            "nothing is downloaded."
        )
    for path in sorted(found, key=lambda path: (path.stem != "inference", path.stem != "train")):
        try:
            content = _read(path)
        except Exception as error:
            raise EncoderError(f"needed a configuration in JSON or YAML; {path} is none ({error}).") from error
        for key in ("network_def", "network") if node is None else (node,):
            if isinstance(content, dict) and key in content:
                return NetworkConfig(path, content, key)
    raise EncoderError(
        f"needed {'network_def or network' if node is None else node} in one of {[path.name for path in found]} of "
        f"{folder}; none has it. Name the entry that describes the network: node=…"
    )


def run_config(config: NetworkConfig, folder: Path) -> nn.Module:
    """What MONAI makes of the configuration of a bundle in `folder`, expressions and all."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(config.path))
    parser["bundle_root"] = str(folder)
    try:
        network: nn.Module = parser.get_parsed_content(config.node)
    except Exception as error:
        raise EncoderError(
            f"needed the network {config.node!r} of {config.path}; building it failed: {error}"
        ) from error
    return network


def plan_network(config: NetworkConfig) -> Any:
    """The network of a configuration with its references resolved and its modules found; nothing is run.

    Raises:
        EncoderError: For whatever is more than modules, plain values and references to them.
    """
    return _Planner(config).plan(config.content[config.node], (config.node,))


def instantiate(plan: Any) -> Any:
    """What `plan_network` planned, modules made."""
    if isinstance(plan, list):
        return [instantiate(part) for part in plan]
    if isinstance(plan, dict):
        return {key: instantiate(part) for key, part in plan.items()}
    if not isinstance(plan, PlannedModule):
        return plan
    arguments = {key: instantiate(part) for key, part in plan.arguments.items()}
    try:
        return plan.made(**arguments)
    except (TypeError, ValueError) as error:
        raise EncoderError(f"needed arguments of {plan.made.__name__}; {arguments} came ({error}).") from error


class _Planner:
    """Plans the parts of one configuration; `within` says where a part stands."""

    def __init__(self, config: NetworkConfig) -> None:
        self.path, self.content = config.path, config.content

    def plan(self, value: Any, within: tuple[str, ...]) -> Any:
        match value:
            case list():
                return [self.plan(part, (*within, str(i))) for i, part in enumerate(value)]
            case str():
                return self._plan_text(value, within)
            case dict():
                return self._plan_mapping(value, within)
            case _:
                return value

    def _plan_text(self, text: str, within: tuple[str, ...]) -> Any:
        """Plain text, or what a reference refers to."""
        if text.startswith(("$", "%")):
            raise self._refusal(f"the {'expression' if text[0] == '$' else 'macro'} {text!r}", within)
        if not text.startswith("@"):
            return text
        if text in within:
            raise EncoderError(f"needed references that end; in {self.path} {text!r} refers to itself.")
        target: Any = self.content
        for part in re.split("::|#", text[1:]):
            try:
                target = target[int(part)] if isinstance(target, list) else target[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise self._refusal(f"{text!r}, which refers to nothing,", within) from None
        return self.plan(target, (*within, text))

    def _plan_mapping(self, value: Mapping[str, Any], within: tuple[str, ...]) -> Any:
        """Plain values by name, or a module with its arguments."""
        known = ("_target_", "_desc_")
        special = {key for key in value if str(key).startswith("_") and str(key).endswith("_")} - set(known)
        if special:
            raise self._refusal(f"{sorted(special)}", within)
        parts = {key: self.plan(part, (*within, str(key))) for key, part in value.items() if key not in known}
        if "_target_" not in value:
            return parts
        made = _safe_class(value["_target_"])
        if made is None:
            raise self._refusal(f"_target_ {value['_target_']!r}", within)
        return PlannedModule(made, self._without_downloads(parts, within))

    def _without_downloads(self, arguments: dict[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
        """Pretrained weights would be downloaded, and then overwritten by the checkpoint."""
        asked = [key for key in arguments if str(key).startswith("pretrained") and arguments[key]]
        for key in asked:
            if arguments[key] is not True:
                raise self._refusal(f"{key}: {arguments[key]!r}", within)
        return arguments | dict.fromkeys(asked, False)

    def _refusal(self, what: str, within: tuple[str, ...]) -> EncoderError:
        return EncoderError(
            f"needed a network of plain values and of modules of monai.networks or torch.nn; {self.path} says {what} "
            f"at {'::'.join(within)}. It can run code: where you trust every file of the bundle, pass trusted=True."
        )


def _safe_class(target: Any) -> type[nn.Module] | None:
    """The class of that name, if it is a module that `monai.networks` or `torch.nn` defines."""
    if not isinstance(target, str):
        return None
    places = ("monai.networks.nets", "monai.networks.blocks", "monai.networks.layers", "torch.nn")
    where, _, name = target.rpartition(".")
    if where and not f"{where}.".startswith(("monai.networks.", "torch.nn.")):
        return None
    for place in (where,) if where else places:
        try:
            found = getattr(importlib.import_module(place), name, None)
        except ImportError:
            continue
        # Where it is defined counts: modules have whatever they import as attributes, `os` for instance.
        is_module = isinstance(found, type) and issubclass(found, nn.Module)
        if is_module and f"{found.__module__}.".startswith(("monai.networks.", "torch.nn.")):
            return found
    return None


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))
