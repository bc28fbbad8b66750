"""All of an experiment in one command: its configurations, several seeds each, results published.

    python -m experiments.sweep --experiment=static_shapes --directory=runs/section_4_1 --seeds=5
    python -m experiments.sweep --experiment=flying_shapes --names=rnn_em_3_3,rnn_em_3_5 --seeds=1

Runs that are finished are kept, interrupted ones resume: call it again until it is through.
"""

import importlib
from pathlib import Path

from absl import flags

from experiments import publish, table
from nem_jax.launch import launch
from nem_jax.training.run import run
from nem_jax.training.workdir import RESULT

EXPERIMENTS = ("static_shapes", "flying_shapes", "flying_mnist")

_EXPERIMENT = flags.DEFINE_enum("experiment", None, EXPERIMENTS, "whose configurations", required=True)
_NAMES = flags.DEFINE_list("names", [], "configurations, by name; default: those of the paper's main comparison")
_SEEDS = flags.DEFINE_integer("seeds", 5, "number of seeds of each configuration", lower_bound=1)
_DIRECTORY = flags.DEFINE_string("directory", "runs", "where the runs are kept, one directory each")
_MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "holds MNIST's IDX files")
_PUBLISH = flags.DEFINE_boolean("publish", True, "write results, pictures, weights and the table")


def run_all(experiment: str, name: str, seeds: int, directory: Path, mnist_dir: str | None = None) -> list[Path]:
    """Every seed of one configuration, finished; returns their directories."""
    module = importlib.import_module(f"experiments.{experiment}.config")
    workdirs = [directory / f"{name}_seed{seed}" for seed in range(seeds)]
    for seed, workdir in enumerate(workdirs):
        if not (workdir / RESULT).exists():
            config = module.get_config(name)
            config.seed, config.data.mnist_dir = seed, mnist_dir
            run(config, str(workdir))
    return workdirs


def main() -> None:
    """Train what is missing, then publish."""
    experiment = _EXPERIMENT.value
    default = importlib.import_module(f"experiments.{experiment}.config").SWEEP
    for name in _NAMES.value or default:
        workdirs = run_all(experiment, name, _SEEDS.value, Path(_DIRECTORY.value), _MNIST_DIR.value)
        if _PUBLISH.value:
            publish.publish(workdirs)
            table.write()


if __name__ == "__main__":
    launch(main)
