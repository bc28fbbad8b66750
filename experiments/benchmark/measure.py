"""Measurements of training steps on whatever device there is: time, work, memory, and how they grow."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nem_jax import devices
from nem_jax.compilation import Jit
from nem_jax.config import build_experiment
from nem_jax.config.checks import set_value
from nem_jax.model import NEM
from nem_jax.training import loop
from nem_jax.training.loop import Training
from nem_jax.training.step import batch_loss, train_steps

TURN_SECONDS, NUM_TURNS = 1.0, 7
"""A turn takes at least so long; the median of so many is reported."""


def training_step(config: ConfigDict) -> dict[str, float]:
    """Time, memory and compilation of one training step of `config`, all seeds together, data drawn inside.

    Returns `ms`, the median over the turns; `min_ms`; `examples_per_second`; `compile_seconds`; `megabytes`, what the
    compiled program takes on each device beside its arguments: the largest sum of intermediate values.
    """
    training = Training.of(build_experiment(config))
    batch_size, num_seeds = training.experiment.training.batch_size, len(training.experiment.seeds)
    active = np.full(num_seeds, fill_value=True)

    def arguments(state: Any, num_steps: int) -> tuple[Any, ...]:
        indices = np.arange(num_steps * batch_size).reshape(1, num_steps, batch_size) % config.data.num_training
        return loop.step_arguments(training, state, np.repeat(indices, num_seeds, axis=0), active)

    state = loop.create(training)
    given = arguments(state, 1)
    start = time.perf_counter()
    compiled = train_steps.jitted.lower(*given).compile()
    compile_seconds = time.perf_counter() - start

    def turn(num_steps: int) -> float:
        nonlocal state
        given = arguments(state, num_steps)[1:]
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(*given))
        return (time.perf_counter() - start) / num_steps

    turn(1)
    num_steps = int(np.clip(TURN_SECONDS / turn(1), 1, training.experiment.training.log_interval))
    times = [1e3 * turn(num_steps) for _ in range(NUM_TURNS)]
    median = statistics.median(times)
    memory = compiled.memory_analysis()
    assert memory is not None
    return {
        "ms": median,
        "min_ms": min(times),
        "examples_per_second": 1e3 * num_seeds * batch_size / median,
        "compile_seconds": compile_seconds,
        "megabytes": memory.temp_size_in_bytes / 2**20,
    }


def flop_per_example(config: ConfigDict) -> float:
    """Of the loss and its gradient: of the compiled program with one and with two EM steps, which are laid out, so that
    each is counted; the others cost what the second does.
    """
    experiment = build_experiment(config)
    model, batch_size, dataset = experiment.model, 8, experiment.load_data()
    params = jax.eval_shape(model.init, jax.random.key(0))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))

    grad = jax.grad(batch_loss, argnums=1, has_aux=True)
    gradient = Jit(grad, static_argnums=0)

    def flop(num_steps: int) -> float:
        short: NEM = replace(model, num_steps=num_steps, scan_unroll=None, remat="none")
        x = jax.ShapeDtypeStruct((batch_size, short.num_frames, *dataset.image_shape), jnp.float32)
        analysis = gradient.jitted.lower(short, params, keys, x).compile().cost_analysis()
        assert analysis is not None
        return analysis["flops"] / batch_size

    first, second = flop(1), flop(2)
    return first + (model.num_steps - 1) * (second - first)


def matmul_peak() -> float:
    """FLOP/s of the best of float32 products of 1024^3 and 2048^3, of all devices at once: a CPU's share its cores."""
    return max(_matmul_speed(size) for size in (1024, 2048))


def _matmul_speed(size: int) -> float:
    product = jax.jit(lambda a: a @ a)
    ones = np.ones((len(devices.available()), size, size), np.float32)
    a = devices.place(ones, devices.make_mesh(), (devices.SEED, devices.DATA))
    jax.block_until_ready(product(a))

    def turn(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            result = product(a)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / count

    count = int(np.clip(0.5 / turn(3), 3, 1000))
    return 2 * len(a) * size**3 / min(turn(count) for _ in range(NUM_TURNS))


def growth(config: ConfigDict, vary: dict[str, tuple[str, list[int]]], report: Callable[[str], None]) -> dict[str, Any]:
    """Time (the least: other work can only add to it) and memory of a step where a field takes other values.

    Args:
        config: what is varied.
        vary: for each label the dotted field and its values.
        report: told each measurement.
    """
    found: dict[str, Any] = {}
    for label, (field, values) in vary.items():
        found[label] = {"values": values, "min_ms": [], "megabytes": []}
        for value in values:
            varied = config.copy_and_resolve_references()
            set_value(varied, field, value)
            step = training_step(varied)
            report(f"{label} = {value}: {step['min_ms']:.1f} ms, {step['megabytes']:.0f} MB a device")
            for name in ("min_ms", "megabytes"):
                found[label][name].append(step[name])
    return found
