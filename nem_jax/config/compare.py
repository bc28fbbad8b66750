"""Compares configurations, without the fields that do not change the numbers of a run."""

import json
from typing import Any

from ml_collections import ConfigDict

_OF_MACHINE = ("data.mnist_dir", "training.seed_devices")
_HOW_TO_COMPUTE = tuple(
    f"training.{name}"
    for name in ("seed_mapping", "remat", "scan_unroll", "num_microbatches", "log_interval", "figure_interval")
)


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON types."""
    return json.loads(config.to_json())


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration, as JSON types, without what is its machine's and changes no number: MNIST's place, the mesh."""
    changed = _without(config, _OF_MACHINE)
    for field in _OF_MACHINE:
        section, name = field.split(".")
        changed[section] = {**changed.get(section, {}), name: None}
    return changed


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What fixes the numbers of a run, up to rounding: without the fields of `training` that say how to compute them.

    A run resumes with others of these, for instance with more microbatches after memory was short.
    """
    return _without(portable(config), _HOW_TO_COMPUTE)


def _without(config: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """The configuration without dotted fields, in its sections and its stages."""
    left = {
        section: {name: new for name, new in entries.items() if f"{section}.{name}" not in fields}
        for section, entries in config.items()
        if isinstance(entries, dict)
    }
    stages = [{name: new for name, new in stage.items() if name not in fields} for stage in config.get("stages", ())]
    return {**config, **left, "stages": stages}


def differences(old: Any, new: Any, name: str = "config") -> list[str]:
    """One phrase for each field in which `new` ("here") differs from `old` ("there")."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{name} is {old!r} there and {new!r} here"]
    keys = sorted(old.keys() | new.keys())
    return [line for key in keys for line in differences(old.get(key), new.get(key), f"{name}.{key}")]
