"""`make demo`: train the `demo` configuration from scratch and show what it found. Minutes on two cores.

python -m experiments.static_shapes.demo
"""

from pathlib import Path

from absl import flags

from experiments.static_shapes.config import get_config
from nem_jax.launch import launch
from nem_jax.training.run import run
from nem_jax.training.workdir import RESULT

_DIRECTORY = flags.DEFINE_string("directory", "runs", "where demo-1, demo-2, ... are made")


def next_workdir(directory: Path) -> Path:
    """The first `demo-N` without a result: a new one, or one that was interrupted and resumes."""
    number = 1
    while (directory / f"demo-{number}" / RESULT).exists():
        number += 1
    return directory / f"demo-{number}"


def main() -> None:
    """Train, score, say where everything lies."""
    workdir = next_workdir(Path(_DIRECTORY.value))
    print(f"RNN-EM learns to pull overlapping shapes apart, without a label. Workdir: {workdir}")
    run(get_config("demo"), str(workdir))


if __name__ == "__main__":
    launch(main)
