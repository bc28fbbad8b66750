"""Checks of one field: each raises ValueError with one sentence that names the field, what it may be and what it is."""

import functools
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict


def value(config: ConfigDict, field: str) -> Any:
    """The value at a dotted name such as `model.num_steps`."""
    return functools.reduce(lambda section, name: section[name], field.split("."), config)


def set_value(config: ConfigDict, field: str, new: Any) -> None:
    """Set a dotted name.

    Raises:
        KeyError: the configuration lacks it.
        TypeError: what it holds is of another type.
    """
    section, name = field.split(".")
    if name not in config[section]:
        raise KeyError(field)
    config[section][name] = new


def given_exactly_if(config: ConfigDict, field: str, used: bool, condition: str) -> None:
    """An option must be given where it is used, and left out where nothing reads it."""
    if used != (value(config, field) is not None):
        raise ValueError(f"{field} must be given exactly if {condition}, got {value(config, field)!r}")


def given_only_if(config: ConfigDict, fields: Iterable[str], used: bool, condition: str) -> None:
    """Options may be left out, and must be where nothing reads them."""
    for field in fields:
        if not used and value(config, field) is not None:
            raise ValueError(f"{field} is given, but used only if {condition}")


def choice(config: ConfigDict, field: str, allowed: Iterable[str]) -> None:
    """One of `allowed`."""
    if value(config, field) not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, allowed))}, got {value(config, field)!r}")


def integer(config: ConfigDict, field: str, low: int, high: int | None = None) -> None:
    """A whole number from `low` to `high`."""
    if not _is_integer(value(config, field), low, high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{field} must be an integer {bounds}, got {value(config, field)!r}")


def divides(config: ConfigDict, field: str, other: str) -> None:
    """Both are positive integers, and `other` is a multiple of `field`."""
    if value(config, other) % value(config, field):
        raise ValueError(f"{field} must divide {other} ({value(config, other)}), got {value(config, field)}")


def integers(config: ConfigDict, field: str, low: int) -> None:
    """One or more whole numbers of at least `low`."""
    entries = value(config, field)
    if not isinstance(entries, (tuple, list)) or not entries or not all(_is_integer(e, low, None) for e in entries):
        raise ValueError(f"{field} must be one or more integers of at least {low}, got {entries!r}")


MAX_NUMBER = 1e38
"""Finite in float32 and in bfloat16."""


def number(config: ConfigDict, field: str, low: float, high: float = MAX_NUMBER) -> None:
    """A number from `low` to `high`."""
    found = value(config, field)
    if isinstance(found, bool) or not (isinstance(found, (int, float)) and low <= found <= high):
        raise ValueError(f"{field} must be a number from {low} to {high}, got {found!r}")


def _is_integer(found: Any, low: int, high: int | None) -> bool:
    is_integer = isinstance(found, int) and not isinstance(found, bool)
    return is_integer and found >= low and (high is None or found <= high)
