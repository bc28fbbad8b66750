"""All of an experiment in one command: its configurations, several seeds of each as one program.

    python -m experiments.sweep --experiment=static_shapes --directory=runs/section_4_1 --seeds=5
    python -m experiments.sweep --experiment=flying_shapes --names=rnn_em_3_3,rnn_em_3_5 --seeds=1

Runs that are finished are kept, interrupted ones resume: call it again until it is through. With --publish their
results and weights take the place of this repository's.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from experiments import publish
from experiments.command_line import launch
from experiments.cores import use_cores
from experiments.recipe import config_module
from experiments.shared_flags import define_directory, define_mnist_dir
from nem_jax.training.run import check_startable, run_unless_finished

EXPERIMENTS = ("static_shapes", "flying_shapes", "flying_mnist")

_EXPERIMENT = flags.DEFINE_enum("experiment", None, EXPERIMENTS, "whose configurations", required=True)
_NAMES = flags.DEFINE_list("names", [], "configurations, by name; default: those of the paper's main comparison")
_DIRECTORY, _MNIST_DIR = define_directory(), define_mnist_dir()
_SEEDS = flags.DEFINE_integer("seeds", 5, "number of seeds of each configuration", lower_bound=1)
_PUBLISH = flags.DEFINE_boolean("publish", False, "write results, pictures, weights and the table")


def plan(experiment: str, names: list[str], seeds: int, directory: Path) -> dict[Path, ConfigDict]:
    """Directory and configuration of every run, all of them checked.

    Raises:
        ValueError: see `check_startable`; or a name is none of the experiment's, or has a result of more seeds.
    """
    module = config_module(experiment)
    planned = {}
    for name in names or module.SWEEP:
        if _PUBLISH.value:
            publish.check_seeds(publish.result_file(experiment, name), seeds)
        config = module.get_config(name)
        config.num_seeds, config.data.mnist_dir = seeds, _MNIST_DIR.value
        check_startable(config, directory / name)
        planned[directory / name] = config
    return planned


def main() -> None:
    """Train what is missing, and publish it if that is asked for."""
    planned = plan(_EXPERIMENT.value, _NAMES.value, _SEEDS.value, Path(_DIRECTORY.value))
    use_cores(planned.values())
    for workdir, config in planned.items():
        run_unless_finished(config, workdir)
        if _PUBLISH.value:
            publish.publish_in_table([workdir], _MNIST_DIR.value)


if __name__ == "__main__":
    launch(main)
