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

_OUTPUT = flags.DEFINE_string("output", None, "path of the files, without their suffix")
_REDRAW = flags.DEFINE_boolean("redraw", False, "compute nothing: draw again from the files that are there")

HERE = Path(__file__).parent

Measured = tuple[dict[str, Any], dict[str, Any]]


def results(experiment: str, figure: str) -> Path:
    """Where a figure of an experiment lies unless --output says otherwise."""
    return HERE / experiment / "results" / "figures" / figure


def produce(
    default: Path, measure: Callable[[], Measured], draw: Callable[[dict[str, Any], dict[str, np.ndarray], Path], None]
) -> None:
    """Measure and write, or read, the numbers; then `draw(record, arrays, path without suffix)`.

    Raises:
        ValueError: there are numbers already, which are not replaced; or none to draw from.
    """
    path = Path(_OUTPUT.value) if _OUTPUT.value else default
    file, arrays_file = (path.with_name(path.name + suffix) for suffix in (".json", ".npz"))
    if file.exists() != _REDRAW.value:
        raise ValueError(
            f"{file} exists already: draw it again with --redraw, or remove it"
            if file.exists()
            else f"{file} does not exist: there is nothing to redraw"
        )
    if not _REDRAW.value:
        record, arrays = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrays:
            np.savez_compressed(arrays_file, **arrays)
        write_json(file, {**record, **provenance.record()})
    record = json.loads(file.read_text())
    arrays = dict(np.load(arrays_file)) if arrays_file.exists() else {}
    draw(record, arrays, path)
    print(f"numbers: {file}")


def picture(path: Path, suffix: str = ".png") -> Path:
    """Where a figure's picture lies."""
    return path.with_name(path.name + suffix)
