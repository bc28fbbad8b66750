"""N-EM's section 4.1 in one command: RNN-EM against N-EM, several seeds each, results published.

    python -m experiments.static_shapes.sweep --directory=runs/section_4_1 --seeds=5

Runs that are finished are kept, interrupted ones resume: call it again until it is through.
"""

import json
from pathlib import Path
from typing import Any

from absl import flags

from experiments import publish, table
from experiments.static_shapes.config import SECTION_4_1, get_config
from nem_jax.launch import launch
from nem_jax.training.run import run
from nem_jax.training.workdir import RESULT

_DIRECTORY = flags.DEFINE_string("directory", "runs/section_4_1", "where the runs are kept, one directory each")
_SEEDS = flags.DEFINE_integer("seeds", 5, "number of seeds of each configuration", lower_bound=1)
_NAMES = flags.DEFINE_list("names", list(SECTION_4_1), "configurations, by name")
_PUBLISH = flags.DEFINE_boolean("publish", True, "write results, pictures, weights and the table")


def run_all(name: str, seeds: int, directory: Path) -> list[Path]:
    """Every seed of one configuration, finished; returns their directories."""
    workdirs = [directory / f"{name}_seed{seed}" for seed in range(seeds)]
    for seed, workdir in enumerate(workdirs):
        if not (workdir / RESULT).exists():
            config = get_config(name)
            config.seed = seed
            run(config, str(workdir))
    return workdirs


def main() -> None:
    """Train what is missing, then publish."""
    for name in _NAMES.value:
        workdirs = run_all(name, _SEEDS.value, Path(_DIRECTORY.value))
        results: list[dict[str, Any]] = [json.loads((workdir / RESULT).read_text()) for workdir in workdirs]
        print(name, "AMI (max) of each seed:", [round(result["scores"]["ami_max_last"], 4) for result in results])
        if _PUBLISH.value:
            publish.publish(workdirs)
            table.write()


if __name__ == "__main__":
    launch(main)
