"""Training steps against PyTorch's: bounds on time and memory, measured in one run. `make benchmark`."""

from importlib.util import find_spec

import numpy as np
import pytest

from experiments.benchmark.contest import TORCH_MISSING, peak_ratio, time_ratio, working_ratio
from experiments.benchmark.contests import CONTESTS
from experiments.benchmark.convolutional import paper_config
from experiments.benchmark.measure import training_step

MAX_DIFFERENCE = 1e-4
"""Of loss and gradients: both train the same."""

BOUNDS = {"static_shapes": (0.65, 0.5), "flying_shapes": (0.5, 1 / 3), "flying_mnist": (0.5, 1 / 3)}
"""Our time and memory, while training and with compilation, over those of the best PyTorch."""

MAX_COMPILE_SECONDS = 10


@pytest.mark.benchmark
@pytest.mark.parametrize("name", ["flying_shapes", "flying_mnist"])
def test_the_convolutional_networks_compile_soon(name):
    assert training_step(paper_config(name))["compile_seconds"] < MAX_COMPILE_SECONDS


@pytest.mark.benchmark
@pytest.mark.parametrize("name", BOUNDS)
def test_a_step_takes_less_time_and_memory_than_pytorch(name):
    if find_spec("torch") is None:
        pytest.skip(TORCH_MISSING)
    contest = CONTESTS[name]()
    assert contest.difference() < MAX_DIFFERENCE
    times, memories = contest.step_times(), contest.memory()
    print("\n" + contest.report(times, memories))
    max_time, max_memory = BOUNDS[name]
    ratios = time_ratio(times), working_ratio(memories), peak_ratio(memories)
    assert all(np.array(ratios) <= (max_time, max_memory, max_memory)), ratios
