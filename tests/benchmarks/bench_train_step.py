"""The training step of RNN-EM on static shapes (B = 64, K = 4, T = 15): ours against PyTorch, on the CPU.

    python tests/benchmarks/bench_train_step.py          a table
    python -m pytest tests/benchmarks -m benchmark -s    the same with its bounds checked

Ours is what training runs: `train_steps`, several steps in one compiled call, each drawing its images, its noise and
its initial gamma. PyTorch's is `torch_rnn_em.RNNEM` with backward and Adam on ready-made images, eager and compiled.
First both must give the same loss and gradients. Times are taken in turns in one process, so that other work on the
machine meets all three; memory in a process each.
"""

import ctypes
import functools
import gc
import json
import math
import os
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

from nem_jax.config import Experiment, build_experiment
from nem_jax.em import init_state
from nem_jax.model import to_frames
from nem_jax.training.state import create_state, make_keys
from nem_jax.training.step import batch_loss, train_steps

MAX_TIME_RATIO, AIMED_TIME_RATIO, MAX_MEMORY_RATIO = 0.65, 0.5, 0.5
NUM_ROUNDS, STEPS_PER_TURN = 12, 10
MAX_DIFFERENCE = 1e-4
LEARNING_RATE, MEAN_PIXEL = 1e-3, 0.16
CONFIG = Path(__file__).parents[2] / "experiments/static_shapes/config.py"
TORCH_MISSING = (
    "This benchmark needs PyTorch, which nem_jax does not install; install its CPU build by hand into this environment "
    "with `pip install torch --index-url URL`, where URL is the one that PyTorch's installation page gives for pip and "
    "CPU (on Linux a plain `pip install torch` fetches the CUDA build of several GB)."
)

Run = Callable[[], None]
"""Takes `STEPS_PER_TURN` training steps and waits for them."""


class Memory(NamedTuple):
    """Of one contestant, in MB of resident memory."""

    working: float
    """Peak while it trains above the same process just before: warmed up, compiled, the free heap given back."""
    peak: float
    """Peak from the end of its imports, compilation included, above the same process at that point."""


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


def _torch_model(experiment: Experiment) -> Any:
    """The PyTorch model of the configuration that ours is built from, and PyTorch on all cores."""
    import torch
    from torch_rnn_em import RNNEM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
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


OURS = "nem_jax"
BUILD: dict[str, Callable[[], Run]] = {
    OURS: _build_ours,
    "PyTorch, eager": functools.partial(_build_torch, compiled=False),
    "PyTorch, compiled": functools.partial(_build_torch, compiled=True),
}


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


def step_times() -> dict[str, list[float]]:
    """Milliseconds per step of each contestant, one entry per round; compilation comes before."""
    runs = {name: build() for name, build in BUILD.items()}
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(NUM_ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start) / STEPS_PER_TURN)
    return times


def _resident(field: str) -> float:
    """`VmRSS`, what this process holds in memory, or `VmHWM`, the most it has held since `_forget_peak`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _measure_memory(name: str) -> Memory:
    """Of the contestant `name`, alone in this process."""
    if name != OURS:
        import torch_rnn_em  # noqa: F401
    imported = _resident("VmRSS")
    run = BUILD[name]()
    run()
    run()
    peak = _resident("VmHWM") - imported
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    ready = _resident("VmRSS")
    _forget_peak()
    run()
    return Memory(_resident("VmHWM") - ready, peak)


def memory() -> dict[str, Memory]:
    """Of each contestant, in a process of its own."""
    output = {
        name: subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
        for name in BUILD
    }
    return {name: Memory(*json.loads(text.splitlines()[-1])) for name, text in output.items()}


def ratio(values: dict[str, float]) -> float:
    """Ours over the better of the others."""
    return values[OURS] / min(value for name, value in values.items() if name != OURS)


def report(times: dict[str, list[float]], memories: dict[str, Memory]) -> str:
    medians = {name: statistics.median(values) for name, values in times.items()}
    batch_size = _experiment().training.batch_size
    lines = [f"{'':20}{'ms/step':>9}{'min':>8}{'examples/s':>12}{'working MB':>12}{'peak MB':>9}"]
    for name, median in medians.items():
        lines.append(
            f"{name:20}{median:9.1f}{min(times[name]):8.1f}{1e3 * batch_size / median:12.0f}"
            f"{memories[name].working:12.0f}{memories[name].peak:9.0f}"
        )
    working = {name: used.working for name, used in memories.items()}
    lines.append(
        f"Against the better PyTorch: time {ratio(medians):.2f} (bound {MAX_TIME_RATIO}, aim {AIMED_TIME_RATIO}), "
        f"working memory {ratio(working):.2f} (bound {MAX_MEMORY_RATIO})"
    )
    return "\n".join(lines)


@pytest.mark.benchmark
def test_a_step_takes_less_time_and_memory_than_pytorch():
    if find_spec("torch") is None:
        pytest.skip(TORCH_MISSING)
    assert largest_difference() < MAX_DIFFERENCE
    times, memories = step_times(), memory()
    print("\n" + report(times, memories))
    assert ratio({name: statistics.median(values) for name, values in times.items()}) <= MAX_TIME_RATIO
    assert ratio({name: used.working for name, used in memories.items()}) <= MAX_MEMORY_RATIO


def main(name: str | None = None) -> None:
    """The table, or with the name of a contestant its memory as JSON."""
    if find_spec("torch") is None:
        sys.exit(TORCH_MISSING)
    if name is not None:
        print(json.dumps(_measure_memory(name)))
        return
    print(f"Largest relative difference of loss and gradients: {largest_difference():.1e}")
    print(report(step_times(), memory()))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(*sys.argv[1:])
