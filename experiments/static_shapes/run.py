"""Train and evaluate static shapes: see config.py for the command."""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from nem_jax.config import build_experiment
from nem_jax.training.loop import train
from nem_jax.training.workdir import open_workdir

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run", required=True)


def main(argv: list[str]) -> None:
    del argv
    experiment = build_experiment(_CONFIG.value)
    open_workdir(Path(_WORKDIR.value), _CONFIG.value)
    train(experiment, Path(_WORKDIR.value))


if __name__ == "__main__":
    app.run(main)
