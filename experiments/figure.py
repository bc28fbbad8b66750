"""A figure's files: a json with its numbers and where they come from, arrays if it shows any, and the picture.

They lie beside each other under one name; a figure is drawn again from the files alone (--redraw). Whoever measures
gives a record and a dictionary of arrays, whoever draws gets them back from the files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.command_line import allow_only
from experiments.output import OUTPUT, beside, make_room, tell
from nem_jax import provenance
from nem_jax.files import read_json, write_json

_REDRAW = flags.DEFINE_boolean("redraw", False, "compute nothing: draw again from the files that are there")

HERE = Path(__file__).parent

Measured = tuple[dict[str, Any], dict[str, Any]]


def results(experiment: str, figure: str) -> Path:
    """Where a figure of an experiment lies unless --output says otherwise."""
    return HERE / experiment / "results" / "figures" / figure


def own(figure: str) -> Path:
    """Where a figure of the user's weights lies unless --output says otherwise."""
    return Path("runs") / "figures" / figure


def output_path(default: Callable[[], Path]) -> Path:
    """Where this command's figure lies, without suffix: --output, or else `default()`."""
    return Path(OUTPUT.value) if OUTPUT.value else default()


def produce(
    default: Callable[[], Path],
    measure: Callable[[], Measured],
    draw: Callable[[dict[str, Any], dict[str, np.ndarray], Path], None],
    has_arrays: bool = False,
    naming: tuple[str, ...] = (),
    drawing: tuple[str, ...] = (),
) -> None:
    """Measure and write, or read, the numbers; then `draw(record, arrays, path without suffix)`.

    The path is `output_path(default)`; `default` may need other flags. `has_arrays`: `measure` returns some. `naming`
    and `drawing`: the flags that `default` and `draw` read.

    Raises:
        ValueError: there are numbers already, which are not replaced; or none to draw from, or another figure's, or a
            flag that has no effect on that.
    """
    if _REDRAW.value:
        read = ("redraw", "output", "compilation_cache", *drawing, *(() if OUTPUT.value else naming))
        allow_only(read, "--redraw draws the numbers that are there")
    path = output_path(default)
    file, arrays_file = beside(path, ".json"), beside(path, ".npz")
    for needed in [file, arrays_file] if has_arrays else [file]:
        if _REDRAW.value and not needed.exists():
            raise ValueError(f"{needed} does not exist: there is nothing to redraw")
    if not _REDRAW.value:
        make_room(path, " (a figure is drawn again by --redraw)")
        record, arrays = measure()
        if has_arrays:
            np.savez_compressed(arrays_file, **arrays)
        write_json(file, {**record, **provenance.record()})
    record = read_json(file)
    made_by = program_of(record["command"]) if isinstance(record, dict) and "command" in record else "no command"
    if made_by != program_of(provenance.command()):
        raise ValueError(f"{file} holds no numbers of this figure: {made_by} wrote it")
    draw(record, dict(np.load(arrays_file)) if has_arrays else {}, path)
    tell(path)


def program_of(command: str) -> str:
    """`python -m module`, without its flags."""
    return " ".join(command.split()[:3]).removesuffix(".__main__")
