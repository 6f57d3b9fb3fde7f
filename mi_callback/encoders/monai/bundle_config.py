"""The configuration of a MONAI bundle, read as data: modules and plain values, never a program."""

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mi_callback.errors import EncoderError


@dataclass(frozen=True)
class PlannedModule:
    """A module that a configuration asks for."""

    made: type[nn.Module]
    arguments: Mapping[str, Any]


def find_network(folder: Path, config: str | None, node: str | None) -> tuple[Path, dict[str, Any], str]:
    """The configuration file of a bundle that describes a network, what it says, and where in it."""
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
                return path, content, key
    raise EncoderError(
        f"needed {'network_def or network' if node is None else node} in one of {[path.name for path in found]} of "
        f"{folder}; none has it. Name the entry that describes the network: node=…"
    )


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run_config(path: Path, folder: Path, node: str) -> nn.Module:
    """What MONAI makes of the configuration, expressions and all."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(path))
    parser["bundle_root"] = str(folder)
    try:
        network: nn.Module = parser.get_parsed_content(node)
    except Exception as error:
        raise EncoderError(f"needed the network {node!r} of {path}; building it failed: {error}") from error
    return network


def plan_network(value: Any, content: Mapping[str, Any], path: Path, within: tuple[str, ...]) -> Any:
    """A node of a configuration with its references resolved and its modules found; nothing is run.

    Raises:
        EncoderError: For whatever is more than modules, plain values and references to them.
    """

    def refused(what: str) -> EncoderError:
        return EncoderError(
            f"needed a network of plain values and of modules of monai.networks or torch.nn; {path} says {what} at "
            f"{'::'.join(within)}. It can run code: where you trust every file of the bundle, pass trusted=True."
        )

    if isinstance(value, list):
        return [plan_network(part, content, path, (*within, str(i))) for i, part in enumerate(value)]
    if isinstance(value, str):
        if value.startswith("$") or value.startswith("%"):
            raise refused(f"the {'expression' if value[0] == '$' else 'macro'} {value!r}")
        if not value.startswith("@"):
            return value
        if value in within:
            raise EncoderError(f"needed references that end; in {path} {value!r} refers to itself.")
        target: Any = content
        for part in re.split("::|#", value[1:]):
            try:
                target = target[int(part)] if isinstance(target, list) else target[part]
            except (KeyError, IndexError, ValueError, TypeError):
                raise refused(f"{value!r}, which refers to nothing,") from None
        return plan_network(target, content, path, (*within, value))
    if not isinstance(value, dict):
        return value
    special = {key for key in value if str(key).startswith("_") and str(key).endswith("_")} - {"_target_", "_desc_"}
    if special:
        raise refused(f"{sorted(special)}")
    parts = {
        key: plan_network(part, content, path, (*within, str(key)))
        for key, part in value.items()
        if key not in ("_target_", "_desc_")
    }
    if "_target_" not in value:
        return parts
    made = _safe_class(value["_target_"])
    if made is None:
        raise refused(f"_target_ {value['_target_']!r}")
    for key in parts:
        if key.startswith("pretrained") and parts[key]:
            if parts[key] is not True:
                raise refused(f"{key}: {parts[key]!r}")
            parts[key] = False  # it would be downloaded, and then overwritten by the checkpoint
    return PlannedModule(made, parts)


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
