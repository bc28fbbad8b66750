"""The training step of RNN-EM on static shapes (B = 64, K = 4, T = 15): ours against PyTorch, on the CPU.

    python tests/benchmarks/bench_train_step.py          a table
    python -m pytest tests/benchmarks -m benchmark -s    the same with its bounds checked

Ours is what training runs: `train_steps`, several steps in one compiled call, each drawing its images, its noise and
its initial gamma. PyTorch's is `torch_rnn_em.RNNEM` with backward and Adam on ready-made images, eager and compiled.
First both must give the same loss and gradients. Times are taken in turns in one process, so that other work on the
machine meets all three; memory in a process each.
"""

import functools
import math
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contest import OURS, TORCH_MISSING, Contest, Run, memory_ratio, run_as_script, time_ratio, torch_threads

from nem_jax.config import Experiment, build_experiment
from nem_jax.em import init_state
from nem_jax.model import to_frames
from nem_jax.training.seeds import create_states, make_seed_keys
from nem_jax.training.state import make_keys
from nem_jax.training.step import Program, batch_loss, train_steps

MAX_TIME_RATIO, MAX_MEMORY_RATIO = 0.65, 0.5
STEPS_PER_TURN = 10
MAX_DIFFERENCE = 1e-4
LEARNING_RATE, MEAN_PIXEL = 1e-3, 0.16
CONFIG = Path(__file__).parents[2] / "experiments/static_shapes/config.py"


def _experiment() -> Experiment:
    return build_experiment(runpy.run_path(str(CONFIG))["get_config"]("rnn_em"))


def _build_ours() -> Run:
    experiment = _experiment()
    model, optimiser, batch_size = experiment.model, experiment.training.optimiser, experiment.training.batch_size
    dataset, keys = experiment.load_data(), make_seed_keys(range(1))
    source = dataset.splits["training"].source
    batches = jnp.arange(STEPS_PER_TURN * batch_size).reshape(1, STEPS_PER_TURN, batch_size)
    state = create_states(model, optimiser, keys)
    program = Program(model, optimiser, dataset.sample, "sequence")

    def run() -> None:
        nonlocal state
        state, _ = train_steps(program, state, keys.train, source, batches, jnp.array([STEPS_PER_TURN]))
        jax.block_until_ready(state)

    return run


def _torch_model(experiment: Experiment) -> Any:
    """The PyTorch model of the configuration that ours is built from, and PyTorch on all cores."""
    from torch_rnn_em import RNNEM

    torch_threads()
    model, num_pixels = experiment.model, math.prod(experiment.load_data().image_shape)
    noise_prob = model.corrupt.keywords["prob"]
    return RNNEM(num_pixels, model.hidden_size, model.num_components, model.num_steps, noise_prob, model.epsilon)


def _build_torch(compiled: bool) -> Run:
    import torch
    from torch_rnn_em import make_train_step

    experiment = _experiment()
    model = _torch_model(experiment)
    train_step = make_train_step(model, LEARNING_RATE, compiled)
    shape = (STEPS_PER_TURN, experiment.training.batch_size, 1, model.output.out_features)
    images = torch.bernoulli(torch.full(shape, MEAN_PIXEL))

    def run() -> None:
        for x in images:
            train_step(x)

    return run


CONTEST = Contest(
    file=__file__,
    build={
        OURS: _build_ours,
        "PyTorch, eager": functools.partial(_build_torch, compiled=False),
        "PyTorch, compiled": functools.partial(_build_torch, compiled=True),
    },
    steps_per_turn=STEPS_PER_TURN,
    num_rounds=12,
    batch_size=64,
)


def largest_difference() -> float:
    """Of the loss and of all gradients, ours and PyTorch's on one batch: relative to the largest entry of each."""
    import torch

    experiment = _experiment()
    model, dataset, keys = experiment.model, experiment.load_data(), make_keys(0)
    params = model.init(keys.init)
    index = jnp.arange(experiment.training.batch_size)
    examples = jax.jit(jax.vmap(dataset.sample, in_axes=(None, 0)))(dataset.splits["training"].source, index)

    def drawn(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:  # as `nem_jax.model.infer` draws them
        noise_key, state_key = jax.random.split(key)
        x_noisy = model.corrupt(noise_key, to_frames(x, model.num_steps))
        return x_noisy, init_state(state_key, model.num_components, model.hidden_size, x.shape[1:]).gamma

    x_noisy, gamma = jax.jit(jax.vmap(drawn))(jax.random.split(keys.train, index.size), examples.x)
    loss_and_grads = jax.jit(jax.value_and_grad(batch_loss, argnums=1, has_aux=True), static_argnums=0)
    (loss, _), grads = loss_and_grads(model, params, keys.train, examples)

    torch_model = _torch_model(experiment)
    layers = {"rnn": torch_model.rnn, "output": torch_model.output}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"]).T))
            layer.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
    flat_x, flat_noisy, flat_gamma = (
        torch.from_numpy(np.array(array).reshape(*array.shape[:2], -1)) for array in (examples.x, x_noisy, gamma)
    )
    torch_loss = torch_model.loss(flat_x, flat_noisy.transpose(0, 1)[:, :, None], flat_gamma)
    torch_loss.backward()

    pairs = [(loss, torch_loss.detach())]
    for name, layer in layers.items():
        pairs += [(grads[name]["kernel"].T, layer.weight.grad), (grads[name]["bias"], layer.bias.grad)]
    return max(np.max(np.abs(np.array(a) - b.numpy())) / np.max(np.abs(b.numpy())) for a, b in pairs)


@pytest.mark.benchmark
def test_a_step_takes_less_time_and_memory_than_pytorch():
    if find_spec("torch") is None:
        pytest.skip(TORCH_MISSING)
    assert largest_difference() < MAX_DIFFERENCE
    times, memories = CONTEST.step_times(), CONTEST.memory()
    print("\n" + CONTEST.report(times, memories))
    assert time_ratio(times) <= MAX_TIME_RATIO
    assert memory_ratio(memories) <= MAX_MEMORY_RATIO


if __name__ == "__main__":
    run_as_script(CONTEST, largest_difference, *sys.argv[1:])
