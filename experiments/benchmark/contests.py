"""Training steps of the papers' models against PyTorch's, on the CPU.

python -m experiments.benchmark.contests static_shapes     a table; or flying_shapes, flying_mnist
make benchmark                                             all of them, with bounds
"""

import functools
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec

import jax

from experiments.benchmark import convolutional, dense
from experiments.benchmark.contest import TORCH_MISSING, Contest
from experiments.cores import use_cores
from experiments.static_shapes.config import get_config

CONTESTS: dict[str, Callable[[], Contest]] = {
    "static_shapes": dense.contest,
    "flying_shapes": functools.partial(convolutional.contest, "flying_shapes"),
    "flying_mnist": functools.partial(convolutional.contest, "flying_mnist"),
}


def use_cpu() -> None:
    """As training does; all contests have the same batch size."""
    jax.config.update("jax_platforms", "cpu")
    use_cores([get_config("rnn_em")])


def main(name: str = "static_shapes", contestant: str | None = None) -> None:
    """The table of a contest, or with the name of a contestant its memory as JSON."""
    if name not in CONTESTS:
        sys.exit(f"error: the contest must be one of {', '.join(CONTESTS)}, got {name!r}")
    if find_spec("torch") is None:
        sys.exit(TORCH_MISSING)
    use_cpu()
    contest = CONTESTS[name]()
    if contestant is None:
        print(f"Largest relative difference of loss and gradients: {contest.difference():.1e}")
        print(contest.report(contest.step_times(), contest.memory()))
    elif contestant in contest.build:
        print(json.dumps(contest.measure_memory(contestant)))
    else:
        sys.exit(f"error: the contestant must be one of {', '.join(contest.build)}, got {contestant!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
