"""The directory of one run: who may write to it, and how its files survive a kill.

A run owns its directory: provenance.json and config.json are written first, result.json last. The same configuration
(`comparable`) resumes an unfinished run, which only one process may do at a time, and provenance.json gains a record if
that happens with other code, on another machine or by another command; everything else is refused before anything is
written. result.json has the configuration of the last start.
"""

import contextlib
import fcntl
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from nem_jax.config.compare import comparable, differences, to_json
from nem_jax.files import read_json, temporary_name, write_json

CONFIG, PROVENANCE, RESULT, LOCK = "config.json", "provenance.json", "result.json", "lock"
WEIGHTS, OVERVIEW = "weights.safetensors", "overview.png"
INITIAL_WEIGHTS = "initial_weights.json"


_LOOKS = (0.05, 0.2, 0.0)
"""Seconds after each look at a lock that is held: by another start's `check_free`, only for a moment."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_BEFORE_CONFIG = {LOCK, PROVENANCE, temporary_name(PROVENANCE), temporary_name(CONFIG)}


def stage_paths(workdir: Path, num_stages: int) -> list[Path]:
    """Where each stage is trained: a single one in `workdir` itself, several in `stage_1`, `stage_2`, ... there."""
    return [workdir] if num_stages == 1 else [workdir / f"stage_{number}" for number in range(1, num_stages + 1)]


class WorkdirError(ValueError):
    """The directory cannot be used for this run; no file of a run in it was changed."""


@contextlib.contextmanager
def owned(path: Path, config: ConfigDict, provenance: dict[str, Any]) -> Iterator[None]:
    """Hold `path` as the directory of this run, new or resumed, with its start on record; a killed process lets go.

    Raises:
        WorkdirError: it holds a finished run, a run of another configuration, anything that is no run, or it
            cannot be written, or its provenance is damaged or tells of other data, or another process trains in it.
    """
    check_trainable(path, config)  # before so much as a lock is written
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / LOCK).open("w")
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        _take(lock, fcntl.LOCK_EX, path)
        check_trainable(path, config)  # another process may have begun or finished a run meanwhile
        try:
            _record_start(path, config, provenance)
        except OSError as error:
            raise _unwritable(path, error) from error
        yield


def check_free(path: Path) -> None:
    """No process holds `path` at this moment. (`owned` looks again.)

    Raises:
        WorkdirError: one does, or its lock cannot be read.
    """
    if not (path / LOCK).exists():
        return
    try:
        lock = (path / LOCK).open()
    except OSError as error:
        raise _unwritable(path, error) from error
    with lock:
        _take(lock, fcntl.LOCK_SH, path)


def _take(lock: IO[str], kind: int, path: Path) -> None:
    """Lock the open file of `path` until it is closed: as its only process, or (shared) beside others that look."""
    for pause in _LOOKS:
        try:
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        except OSError as error:  # a file system without locks
            raise WorkdirError(f"workdir {path} cannot be locked: {error.strerror}") from error
    raise WorkdirError(f"another process is training in {path}")


def check_trainable(path: Path, config: ConfigDict) -> None:
    """`path` is new or empty, or holds an unfinished run of `config`.

    Raises:
        WorkdirError: it does not.
    """
    check_usable(path, config)
    if (path / RESULT).exists():
        raise WorkdirError(f"{path} holds a finished run, scored in {path / RESULT}: choose another workdir")


def _unwritable(path: Path, error: OSError) -> WorkdirError:
    return WorkdirError(f"workdir {path} cannot be written: {error.strerror}")


def _record_start(path: Path, config: ConfigDict, provenance: dict[str, Any]) -> None:
    if not (path / CONFIG).exists():
        write_json(path / PROVENANCE, [provenance])
        write_json(path / CONFIG, to_json(config))
        return
    records = _read(path / PROVENANCE)
    if not isinstance(records, list) or not records or not isinstance(records[-1], dict):
        raise WorkdirError(f"{path / PROVENANCE} is damaged: it lists no start of the run")
    data = provenance.get("data_sha256")
    if records[-1].get("data_sha256", data) != data:
        raise WorkdirError(f"{path} belongs to a run on other data: the file {config.data.path} has changed since")
    if records[-1] != provenance:
        write_json(path / PROVENANCE, [*records, provenance])


def check_usable(path: Path, config: ConfigDict) -> None:
    """`path` is new or empty, or holds a run of `config`, finished or not.

    Raises:
        WorkdirError: it does not.
    """
    if _URL.match(str(path)):  # to pathlib a directory called gs: lies here
        raise WorkdirError(f"workdir must be a directory of this machine, maybe a mounted one, got the address {path}")
    if (path / CONFIG).exists():
        check_same(path, config)
    elif path.exists() and (not path.is_dir() or any(f.name not in _BEFORE_CONFIG for f in path.iterdir())):
        raise WorkdirError(f"{path} exists and holds no run: choose a new or empty workdir")


def check_same(path: Path, config: ConfigDict) -> None:
    """The run in `path` is one of `config`.

    Raises:
        WorkdirError: it is not; the sentence says in what they differ.
    """
    try:
        present = comparable(_read(path / CONFIG))
    except (TypeError, KeyError, AttributeError) as error:
        raise WorkdirError(f"{path / CONFIG} holds no configuration: {error}") from error
    different = differences(present, comparable(to_json(config)))
    if different:
        raise WorkdirError(f"{path} belongs to a run of another configuration: {'; '.join(different)}")


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except ValueError as error:
        raise WorkdirError(str(error)) from error


def read_result(path: Path) -> dict[str, Any]:
    """The result of the finished run in `path`.

    Raises:
        WorkdirError: there is none, or one of another version, or it was ended before its last stage, or it is damaged.
    """
    if not (path / RESULT).exists():
        raise WorkdirError(f"workdir {path} holds no finished run")
    result = _read(path / RESULT)
    try:
        num_stages = len(result["config"]["stages"])
        begun = {run["seed"]: len(run.get("stages", ())) for run in result["runs"]}
    except (TypeError, KeyError, AttributeError) as error:
        raise WorkdirError(f"{path / RESULT} was written by another version, or is damaged: {error}") from error
    if num_stages > 1 and any(number < num_stages for number in begun.values()):
        raise WorkdirError(f"workdir {path} was ended before its last stage")
    return result


def read_provenance(path: Path) -> dict[str, Any]:
    """The record of the run's last start, and as `earlier_starts` those before it that differ."""
    *earlier, last = _read(path / PROVENANCE)
    return {**last, "earlier_starts": earlier} if earlier else last
