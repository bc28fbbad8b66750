"""A figure's files: a json with its numbers and where they come from, arrays if it shows any, and the picture.

They lie beside each other under one name; a figure is drawn again from the files alone (--redraw). Whoever measures
gives a record and a dictionary of arrays, whoever draws gets them back from the files.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from nem_jax import provenance
from nem_jax.training.workdir import write_json

OUTPUT = flags.DEFINE_string("output", None, "path of the new files, without their suffix")
NUM_TEST = flags.DEFINE_integer("num_test", None, "test examples, if not the trained number", lower_bound=1)
_REDRAW = flags.DEFINE_boolean("redraw", False, "compute nothing: draw again from the files that are there")

HERE = Path(__file__).parent

Measured = tuple[dict[str, Any], dict[str, Any]]


def results(experiment: str, figure: str) -> Path:
    """Where a figure of an experiment lies unless --output says otherwise."""
    return HERE / experiment / "results" / "figures" / figure


def produce(
    default: Callable[[], Path],
    measure: Callable[[], Measured],
    draw: Callable[[dict[str, Any], dict[str, np.ndarray], Path], None],
) -> None:
    """Measure and write, or read, the numbers; then `draw(record, arrays, path without suffix)`.

    The path is --output, or else `default()`, which may need other flags.

    Raises:
        ValueError: there are numbers already, which are not replaced; or none to draw from.
    """
    path = Path(OUTPUT.value) if OUTPUT.value else default()
    file, arrays_file = beside(path, ".json"), beside(path, ".npz")
    if _REDRAW.value and not file.exists():
        raise ValueError(f"{file} does not exist: there is nothing to redraw")
    if not _REDRAW.value:
        make_room(file)
        record, arrays = measure()
        if arrays:
            np.savez_compressed(arrays_file, **arrays)
        write_json(file, {**record, **provenance.record()})
    record = json.loads(file.read_text())
    arrays = dict(np.load(arrays_file)) if arrays_file.exists() else {}
    draw(record, arrays, path)
    print(f"numbers: {file}")


def make_room(file: Path) -> None:
    """Before anything is computed: `file` is not there, its directory is.

    Raises:
        ValueError: it exists, or its directory cannot be made.
    """
    if file.exists():
        raise ValueError(f"{file} exists already: remove it, or have a figure drawn again with --redraw")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"output {file} cannot be written: {error.strerror}") from error


def beside(path: Path, suffix: str = ".png") -> Path:
    """The file of a figure with this suffix: names may have dots."""
    return path.with_name(path.name + suffix)
