"""How fast the papers' models train here: step time, FLOP, share of the matmul peak, memory, growth, seeds, PyTorch.

    python -m experiments.benchmark --output=FILE       all of it: a table, a json, a picture; 15 min on two cores
    python -m experiments.benchmark --parts=models --output=FILE    or growth, remat, seeds, pytorch, some with commas
    python -m experiments.benchmark --profile=DIR       a trace of RNN-EM's step for TensorBoard or Perfetto, no more

Nothing else should run on the machine. PyTorch is compared with on the CPU, where it is installed. `growth` is what the
picture shows.
"""

import importlib.metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import figure
from experiments.benchmark.contests import CONTESTS
from experiments.benchmark.convolutional import paper_config
from experiments.benchmark.measure import flop_per_example, growth, matmul_peak, training_step
from experiments.command_line import allow_only, launch
from experiments.cores import use_cores
from experiments.output import beside
from experiments.static_shapes.config import get_config as static_shapes
from nem_jax import charts, devices

PARTS = ("models", "growth", "remat", "seeds", "pytorch")

_PARTS = flags.DEFINE_list("parts", list(PARTS), f"what is measured: some of {', '.join(PARTS)}")
_PROFILE = flags.DEFINE_string("profile", None, "write a trace of RNN-EM's training step to this directory, and end")

VARIED = {
    "K": ("model.num_components", [2, 4, 8]),
    "T": ("model.num_steps", [8, 15, 30]),
    "batch": ("training.batch_size", [32, 64, 128]),
}
LONG = [20, 50, 200]
"""T of the table of what `training.remat` saves."""
FORMS = {"laid out": ("none", None), "none": ("none", 1), "elementwise": ("elementwise", 1), "all": ("all", 1)}
"""Its lines: `training.remat` and `training.scan_unroll`."""


def models() -> dict[str, ConfigDict]:
    """The papers' models at their sizes."""
    return {
        "RNN-EM, static shapes": static_shapes("rnn_em"),
        "N-EM, static shapes": static_shapes("n_em"),
        "RNN-EM, flying shapes": paper_config("flying_shapes"),
        "RNN-EM, flying MNIST": paper_config("flying_mnist"),
    }


def measure() -> figure.Measured:
    """Every part that --parts names."""
    unknown = [part for part in _PARTS.value if part not in PARTS]
    if unknown or not _PARTS.value:
        raise ValueError(f"--parts must be some of {', '.join(PARTS)}, got {','.join(_PARTS.value)!r}")
    measured = {
        "models": _measure_models,
        "growth": lambda: growth(static_shapes("rnn_em"), VARIED, print),
        "remat": _measure_remat,
        "seeds": _measure_seeds,
        "pytorch": _measure_pytorch,
    }
    return {part: measured[part]() for part in _PARTS.value}, {}


def _measure_models() -> dict[str, Any]:
    peak, num_devices = matmul_peak(), len(devices.available())
    print(f"matmul peak {peak / 1e9:.0f} GFLOP/s, devices: {num_devices}")
    found = {}
    for name, config in models().items():
        step, flop = training_step(config), flop_per_example(config)
        share = flop * step["examples_per_second"] / peak
        found[name] = {**step, "flop_per_example": flop, "share_of_peak": share}
        print(
            f"{name}: {step['ms']:.1f} ms/step, {step['examples_per_second']:.0f} examples/s, "
            f"{flop / 1e6:.0f} MFLOP/example, {share:.0%} of peak, {step['megabytes']:.0f} MB a device, "
            f"compiled in {step['compile_seconds']:.1f} s"
        )
    return {"matmul_peak": peak, "devices": num_devices, "steps": found}


def _measure_remat() -> dict[str, Any]:
    """Of RNN-EM on static shapes over T, and on flying shapes, whose steps are not laid out, at the paper's."""
    found: dict[str, Any] = {}
    for form, fields in FORMS.items():
        static, flying = static_shapes("rnn_em"), paper_config("flying_shapes")
        static.training.remat, static.training.scan_unroll = flying.training.remat, flying.training.scan_unroll = fields
        print(f"remat: {form}")
        found[form] = growth(static, {"T": ("model.num_steps", LONG)}, print)["T"]
        if flying.training.scan_unroll is not None:
            found[form]["flying"] = step = training_step(flying)
            print(f"flying shapes: {step['ms']:.0f} ms, {step['megabytes']:.0f} MB a device")
    return found


def _measure_seeds() -> dict[str, Any]:
    """Of both cells of static shapes; the convolutional one's convolutions are one after the other in any case."""
    found = {}
    for name in ("rnn_em", "n_em"):
        config = static_shapes(name)
        least = {"one": training_step(config)["min_ms"]}
        for mapping in ("sequence", "vmap"):
            config.num_seeds, config.training.seed_mapping = 5, mapping
            least[mapping] = training_step(config)["min_ms"]
            print(f"{name}, five seeds, {mapping}: {least[mapping] / least['one']:.2f} times one")
        found[name] = {"min_ms": least}
    return found


def _measure_pytorch() -> dict[str, Any] | None:
    if find_spec("torch") is None or jax.default_backend() != "cpu":
        print("PyTorch is not installed, or this is no CPU: not compared")
        return None
    found: dict[str, Any] = {"version": importlib.metadata.version("torch")}
    for name, make in CONTESTS.items():
        contest = make()
        difference, times, memories = contest.difference(), contest.step_times(), contest.memory()
        print(f"{name}: loss and gradients differ by {difference:.1e}\n{contest.report(times, memories)}")
        found[name] = {
            "difference": difference,
            "steps": {
                who: {"ms": float(np.median(values)), "min_ms": min(values), **memories[who]._asdict()}
                for who, values in times.items()
            },
        }
    return found


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """How a step of RNN-EM grows: time over K, T and batch, relative to the smallest."""
    del arrays
    if "growth" not in record:
        return
    curves = {
        label: (np.divide(found["values"], found["values"][0]), np.divide(found["min_ms"], found["min_ms"][0]))
        for label, found in record["growth"].items()
    }
    charts.growth(curves, "times the smallest", "times its step time").savefig(beside(path))


def profile(directory: str) -> None:
    """A trace of some steps of RNN-EM on static shapes."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the calls of tracing and compiling would hide them
    with jax.profiler.trace(directory, create_perfetto_trace=True, profiler_options=options):
        training_step(static_shapes("rnn_em"))
    print(f"trace: {directory}")


def main() -> None:
    """What the flags name."""
    use_cores(models().values())
    if _PROFILE.value is not None:
        allow_only(("profile", "compilation_cache"), "--profile writes a trace, no more")
        profile(_PROFILE.value)
    else:
        figure.produce(lambda: figure.results("benchmark", jax.default_backend()), measure, draw)


if __name__ == "__main__":
    launch(main)
