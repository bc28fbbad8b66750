"""The training step of RNN-EM on static shapes (B = 64, K = 4, T = 15): ours against PyTorch, on the CPU.

    python tests/benchmarks/bench_train_step.py          a table
    python -m pytest tests/benchmarks -m benchmark -s    the same with its bounds checked

Ours is what training runs: `train_steps`, several steps in one compiled call, each drawing its images, its noise and its
initial gamma. PyTorch's is `torch_rnn_em.RNNEM` with backward and Adam on ready-made images, eager and compiled. Both
are first checked to compute the same loss and gradients. Times are taken in turns in one process, so that other work
on the machine meets all; memory in a process each.
"""

import functools
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax import em
from nem_jax.config import Experiment, build_experiment
from nem_jax.model import to_frames
from nem_jax.training.state import create_state, make_keys
from nem_jax.training.step import batch_loss, train_steps

MAX_TIME_RATIO, AIMED_TIME_RATIO, MAX_MEMORY_RATIO = 0.65, 0.5, 0.5
NUM_ROUNDS, STEPS_PER_TURN = 12, 10
CONFIG = Path(__file__).parents[2] / "experiments/static_shapes/config.py"
TORCH_MISSING = (
    "This benchmark needs PyTorch, which nem_jax does not install; install its CPU build by hand into this environment "
    "with `pip install torch --index-url URL`, where URL is the one that PyTorch's installation page gives for pip and "
    "CPU (on Linux a plain `pip install torch` fetches the CUDA build of several GB)."
)

Run = Callable[[], None]
"""Takes `STEPS_PER_TURN` training steps and waits for them."""


class Measurement(NamedTuple):
    """Of one contestant."""

    median_ms: float
    """Per step, over the rounds."""
    min_ms: float
    peak_mb: float
    """Peak resident memory of compiling and training, above the same process after its imports."""


def _experiment() -> Experiment:
    return build_experiment(runpy.run_path(str(CONFIG))["get_config"]("rnn_em"))


def _build_ours() -> Run:
    experiment = _experiment()
    model, optimiser, batch_size = experiment.model, experiment.training.optimiser, experiment.training.batch_size
    dataset, keys = experiment.load_data(), make_keys(0)
    source = dataset.splits["training"].source
    batches = jnp.arange(STEPS_PER_TURN * batch_size).reshape(STEPS_PER_TURN, batch_size)
    state = create_state(model, optimiser, keys.init)

    def run() -> None:
        nonlocal state
        state, _ = train_steps(model, optimiser, dataset.sample, state, keys.train, source, batches, STEPS_PER_TURN)
        jax.block_until_ready(state)

    return run


def _torch_model() -> Any:
    """The PyTorch model of the configuration that ours is built from, and PyTorch on all cores."""
    import torch
    from torch_rnn_em import RNNEM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model = _experiment().model
    noise_prob = model.corrupt.keywords["prob"]
    return RNNEM(NUM_PIXELS, model.hidden_size, model.num_components, model.num_steps, noise_prob, model.epsilon)


def _build_torch(compiled: bool) -> Run:
    import torch
    from torch_rnn_em import make_train_step

    train_step = make_train_step(_torch_model(), LEARNING_RATE, compiled)
    images = (torch.rand(STEPS_PER_TURN, BATCH_SIZE, 1, NUM_PIXELS) < MEAN_PIXEL).float()

    def run() -> None:
        for x in images:
            train_step(x)

    return run


OURS = "nem_jax"
BUILD: dict[str, Callable[[], Run]] = {
    OURS: _build_ours,
    "PyTorch, eager": functools.partial(_build_torch, compiled=False),
    "PyTorch, compiled": functools.partial(_build_torch, compiled=True),
}
