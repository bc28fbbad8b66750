"""`make demo`: train the `demo` configuration from scratch and show what it found. Minutes on two cores.

python -m experiments.static_shapes.demo
"""

import itertools
from pathlib import Path

from ml_collections import ConfigDict

from experiments.command_line import launch
from experiments.cores import use_cores
from experiments.shared_flags import define_directory
from experiments.static_shapes.config import get_config
from nem_jax.training.run import run
from nem_jax.training.workdir import WorkdirError, check_trainable

_DIRECTORY = define_directory()


def next_workdir(directory: Path, config: ConfigDict) -> Path:
    """The first `demo-N` that is new, or that this configuration began and did not finish."""
    numbered = (directory / f"demo-{number}" for number in itertools.count(1))
    return next(workdir for workdir in numbered if _is_trainable(workdir, config))


def _is_trainable(workdir: Path, config: ConfigDict) -> bool:
    try:
        check_trainable(workdir, config)
    except WorkdirError:
        if not workdir.exists():  # the next number would be refused for the same reason
            raise
        return False
    return True


def main() -> None:
    """Train, score, say where everything lies."""
    config = get_config("demo")
    workdir = next_workdir(Path(_DIRECTORY.value), config)
    print(f"RNN-EM learns to pull overlapping shapes apart, without a label. Workdir: {workdir}")
    use_cores([config])
    run(config, workdir)


if __name__ == "__main__":
    launch(main)
