"""N-EM's figures 4 and 7: one sequence step by step, its grouping and each component's prediction, and as animation.

python -m experiments.sequence --trained=flying_shapes_rnn_em_3_3
python -m experiments.sequence --trained=runs/mnist --example=3 --num_steps=50
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import figure
from experiments.trained import describe_subject, load_subject
from nem_jax import plots
from nem_jax.evaluation import examine
from nem_jax.launch import launch
from nem_jax.training.run import draw_key

_TRAINED = flags.DEFINE_string(
    "trained", None, "a run's directory, or weights that come with the package", required=True
)
_EXAMPLE = flags.DEFINE_integer("example", 0, "number of the test example", lower_bound=0)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "T, if not the trained one", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 1, "the picture shows one step in so many; the animation all", lower_bound=1)


def measure() -> figure.Measured:
    """The example's inputs, targets, gamma and psi at each step."""
    subject = load_subject(_TRAINED.value, {"model.num_steps": _NUM_STEPS.value})
    experiment, size = subject.experiment, subject.dataset.splits["test"].size
    if _EXAMPLE.value >= size:
        raise ValueError(f"example must be from 0 to {size - 1}, got {_EXAMPLE.value}")
    key, index = draw_key(experiment.seed, 0), np.array([_EXAMPLE.value])
    shown = examine(experiment.model, subject.params, key, subject.dataset, "test", index)
    arrays = {name: leaf[0] for name, leaf in shown._asdict().items()}
    return {**describe_subject(subject), "example": _EXAMPLE.value}, arrays


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """Picture and animation."""
    shown = {name: arrays[name] for name in ("x", "gamma", "psi", "x_noisy")}
    plots.sequence(**shown, every=_EVERY.value).savefig(figure.picture(path))
    plots.write_animation(figure.picture(path, ".gif"), plots.sequence_panels(**shown))


def main() -> None:
    """Measure and draw."""
    name = Path(_TRAINED.value).name
    figure.produce(Path("runs") / "figures" / f"sequence_{name}_{_EXAMPLE.value}", measure, draw)


if __name__ == "__main__":
    launch(main)
