"""Checkpoints of a TrainState, by Orbax: written atomically, the two latest kept. The best weights are in the state."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from nem_jax.devices import fetch
from nem_jax.training.state import TrainState

_CHECKPOINTS, _ITEM = "checkpoints", "state"


def has_checkpoint(path: Path) -> bool:
    """Whether a stage in `path` has finished an epoch."""
    directory = path / _CHECKPOINTS
    return directory.is_dir() and any(child.name.isdecimal() for child in directory.iterdir())


class Checkpoints:
    """The checkpoints of one stage, trained in `path`. A context manager.

    They are numbered by optimiser steps and failed seeds together: one that records a failure alone is a new one.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=None if read_only else 2, read_only=read_only)
        self._directory = path / _CHECKPOINTS
        handlers = {_ITEM: ocp.StandardCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._directory.absolute(), options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def latest(self) -> int | None:
        """The number of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write `state` and wait until it is on disk; Ctrl-C waits, too.

        Raises:
            RuntimeError: there is a later one.
        """
        step, failed_at = fetch((state.step, state.failed_at))
        number = int(step.max() + (failed_at > 0).sum())
        with _interrupted_after():
            saved = self._manager.save(number, args=ocp.args.Composite(**{_ITEM: ocp.args.StandardSave(state)}))
            self._manager.wait_until_finished()
        if not saved:
            raise RuntimeError(f"checkpoint {number} was not written: a later one exists")

    def restore(self, like: TrainState) -> TrainState:
        """The newest state, with the shapes, types and devices of `like`.

        Raises ValueError if there is none, or if it holds another structure or other shapes.
        """
        number = self.latest()
        if number is None:
            raise ValueError(f"{self._directory} holds no checkpoint")
        if _shapes(self._manager.item_metadata(number)[_ITEM].tree) != _shapes(like):
            raise ValueError(f"the checkpoint in {self._directory} is of another configuration or version")
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        args = ocp.args.Composite(**{_ITEM: ocp.args.StandardRestore(target)})
        return self._manager.restore(number, args=args)[_ITEM]


@contextlib.contextmanager
def _interrupted_after() -> Iterator[None]:
    """Ctrl-C ends the block's program after it, not within: Orbax's threads would leave with tracebacks."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _shapes(tree: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each leaf by its path: Orbax casts types silently, and refuses shapes by a long traceback."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves
    }
