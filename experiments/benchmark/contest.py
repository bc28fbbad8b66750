"""Training steps of several programs against each other on the CPU: time in turns, memory in a process each.

A benchmark names its contestants, ours first, each by a function that builds it; what it builds takes one turn of
training steps and waits for them. In turns, so that other work on the machine meets all of them.
"""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nem_jax.config import Experiment
from nem_jax.training import loop
from nem_jax.training.loop import Training

OURS = "nem_jax"
TORCH_MISSING = (
    "This benchmark needs PyTorch, which nem_jax does not install; install its CPU build by hand into this environment "
    "with `pip install torch --index-url URL`, where URL is the one that PyTorch's installation page gives for pip and "
    "CPU (on Linux a plain `pip install torch` fetches the CUDA build of several GB)."
)

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""glibc gives back at once what is freed, from so many bytes on: it would keep some of it, and hide the next step's."""

Run = Callable[[], None]
"""Takes a turn's training steps and waits for them."""


class Memory(NamedTuple):
    """Of one contestant, in MB of resident memory."""

    working: float
    """Peak while it trains above the same process just before: warmed up, compiled, the free heap given back."""
    peak: float
    """Peak from the end of its imports, compilation included, above the same process at that point."""


@dataclass(frozen=True)
class Contest:
    """Programs that do the same training step, timed in turns.

    Attributes:
        name: in `contests.CONTESTS`.
        build: the contestants by name.
        difference: the largest between ours and PyTorch's loss and gradients on one batch, each array's relative to
            its largest entry.
        steps_per_turn, num_rounds: how long.
        batch_size: examples in a step.
    """

    name: str
    build: dict[str, Callable[[], Run]]
    difference: Callable[[], float]
    steps_per_turn: int
    num_rounds: int
    batch_size: int

    def step_times(self) -> dict[str, list[float]]:
        """Milliseconds per step of each contestant, one entry per round; compilation comes before."""
        runs = {name: build() for name, build in self.build.items()}
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(self.num_rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start) / self.steps_per_turn)
        return times

    def memory(self) -> dict[str, Memory]:
        """Of each contestant, in a process of its own."""
        command = [sys.executable, "-m", "experiments.benchmark.contests", self.name]
        environ = {**os.environ, **ALLOCATOR}
        output = {
            name: subprocess.run([*command, name], env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout
            for name in self.build
        }
        return {name: Memory(*json.loads(text.splitlines()[-1])) for name, text in output.items()}

    def measure_memory(self, name: str) -> Memory:
        """Of the contestant `name`, alone in this process."""
        if name != OURS:
            import torch  # noqa: F401 - its memory is no part of a step's
        imported = _resident("VmRSS")
        run = self.build[name]()
        run()
        run()
        peak = _resident("VmHWM") - imported
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        ready = _resident("VmRSS")
        _forget_peak()
        run()
        return Memory(_resident("VmHWM") - ready, peak)

    def report(self, times: dict[str, list[float]], memories: dict[str, Memory]) -> str:
        """A table, and ours against the better of the others."""
        lines = [f"{'':24}{'ms/step':>9}{'min':>8}{'examples/s':>12}{'working MB':>12}{'peak MB':>9}"]
        for name, values in times.items():
            median = statistics.median(values)
            lines.append(
                f"{name:24}{median:9.1f}{min(values):8.1f}{1e3 * self.batch_size / median:12.0f}"
                f"{memories[name].working:12.0f}{memories[name].peak:9.0f}"
            )
        memory = f"working memory {working_ratio(memories):.2f}, peak {peak_ratio(memories):.2f}"
        ratios = f"time {time_ratio(times):.2f}, {memory}"
        return "\n".join([*lines, f"Against the best PyTorch: {ratios}"])


def build_ours(experiment: Experiment, steps_per_turn: int) -> Run:
    """What training runs, data and noise drawn inside the step: `loop.take_steps`."""
    training = Training.of(experiment)
    batch_size = experiment.training.batch_size
    batches = np.arange(steps_per_turn * batch_size).reshape(1, steps_per_turn, batch_size)
    state = loop.create(training)

    def run() -> None:
        nonlocal state
        state, _ = loop.take_steps(training, state, batches, np.array([True]))

    return run


def time_ratio(times: dict[str, list[float]]) -> float:
    """Ours over the fastest of the others, medians."""
    return _ratio({name: statistics.median(values) for name, values in times.items()})


def working_ratio(memories: dict[str, Memory]) -> float:
    """Ours over the smallest of the others, while they train."""
    return _ratio({name: used.working for name, used in memories.items()})


def peak_ratio(memories: dict[str, Memory]) -> float:
    """Ours over the smallest of the others, compilation included."""
    return _ratio({name: used.peak for name, used in memories.items()})


def _ratio(values: dict[str, float]) -> float:
    return values[OURS] / min(value for name, value in values.items() if name != OURS)


def prepare_torch() -> None:
    """PyTorch on all cores, like ours, with the same weights each time."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)


def _resident(field: str) -> float:
    """`VmRSS`, what this process holds in memory, or `VmHWM`, the most it has held since `_forget_peak`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
