"""The directory of one run: who may write to it, and how its files survive a kill.

A run owns its directory: config.json is written first, result.json last. The same configuration resumes an unfinished
run; everything else is refused before anything is written.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

CONFIG, METRICS, RESULT, CHECKPOINTS, LOCK = "config.json", "metrics.jsonl", "result.json", "checkpoints", "lock"


class WorkdirError(ValueError):
    """The directory cannot be used for this run; nothing in it was changed."""


def write_json(path: Path, content: Any) -> None:
    """Write atomically: a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON types."""
    return json.loads(config.to_json())


def open_workdir(path: Path, config: ConfigDict) -> None:
    """Make `path` the directory of this run, or check that it is already.

    Raises:
        WorkdirError: it holds a finished run, a run of another configuration, anything that is no run, or it
            cannot be written.
    """
    config_file = path / CONFIG
    if config_file.exists():
        different = _differences(json.loads(config_file.read_text()), to_json(config))
        if different:
            raise WorkdirError(f"{path} belongs to a run of another configuration: {'; '.join(different)}")
        if (path / RESULT).exists():
            raise WorkdirError(f"{path} holds a finished run: its scores are in {path / RESULT}; choose another workdir")
        return
    if path.exists() and (not path.is_dir() or any(f.name != f".{CONFIG}.tmp" for f in path.iterdir())):
        raise WorkdirError(f"{path} exists and holds no run: choose a new or empty workdir")
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_json(config_file, to_json(config))
    except OSError as error:
        raise WorkdirError(f"workdir {path} cannot be written: {error.strerror}") from error


def lock(path: Path) -> Any:
    """Hold the run's lock for as long as the returned file is open (a killed process releases it)."""
    file = open(path / LOCK, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise WorkdirError(f"another process is training in {path}") from error
    return file


def cut_metrics(path: Path, step: int) -> list[dict[str, Any]]:
    """Cut metrics.jsonl back to the lines of steps up to `step`, and return them."""
    file = path / METRICS
    if not file.exists():
        return []
    lines = []
    for line in file.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break  # a kill in the middle of a line
        if record["step"] <= step:
            lines.append(record)
    temporary = file.with_name(f".{METRICS}.tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(temporary, file)
    return lines


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl."""
    with open(path / METRICS, "a") as file:
        file.write(json.dumps(record) + "\n")


def _differences(old: Any, new: Any, name: str = "config") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{name} is {old!r} there and {new!r} here"]
    keys = sorted(old.keys() | new.keys())
    return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{name}.{key}")]
