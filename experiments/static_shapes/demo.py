"""`make demo`: train the `demo` configuration from scratch and show what it found. Minutes on two cores.

python -m experiments.static_shapes.demo
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from experiments.shared_flags import define_directory
from experiments.static_shapes.config import get_config
from nem_jax.launch import launch
from nem_jax.training.run import run
from nem_jax.training.workdir import CONFIG, RESULT, to_json

_DIRECTORY = define_directory()


def next_workdir(directory: Path, config: ConfigDict) -> Path:
    """The first `demo-N` that is new, or that this configuration began and did not finish."""
    number = 1
    while not _is_usable(directory / f"demo-{number}", config):
        number += 1
    return directory / f"demo-{number}"


def _is_usable(workdir: Path, config: ConfigDict) -> bool:
    if not workdir.exists():
        return True
    begun = workdir / CONFIG
    return begun.exists() and json.loads(begun.read_text()) == to_json(config) and not (workdir / RESULT).exists()


def main() -> None:
    """Train, score, say where everything lies."""
    config = get_config("demo")
    workdir = next_workdir(Path(_DIRECTORY.value), config)
    print(f"RNN-EM learns to pull overlapping shapes apart, without a label. Workdir: {workdir}")
    run(config, str(workdir))


if __name__ == "__main__":
    launch(main)
