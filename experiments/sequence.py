"""N-EM's figures 4 and 7: one sequence step by step, its grouping and each component's prediction, and as animation.

python -m experiments.sequence --trained=flying_shapes_rnn_em_3_5 --num_objects=5
python -m experiments.sequence --trained=runs/direct --num_objects=3 --num_components=3 --example=3 --num_steps=50
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import figure
from experiments.command_line import launch
from experiments.output import beside
from experiments.shared_flags import define_example
from experiments.subject import check_example, describe_subject
from experiments.subject_flags import load_flagged, trained_name
from nem_jax import plots
from nem_jax.evaluation import examine

_EXAMPLE = define_example()
_EVERY = flags.DEFINE_integer("every", 1, "the picture shows one step in so many; the animation all", lower_bound=1)

SHOWN = ("x", "gamma", "psi", "x_noisy")
"""Of what `evaluation.examine` returns."""


def measure() -> figure.Measured:
    """The example's inputs, targets, gamma and psi at each step."""
    subject = load_flagged(trained_name())
    check_example(subject, _EXAMPLE.value)
    experiment = subject.experiment
    index = np.array([_EXAMPLE.value])
    shown = examine(experiment.model, subject.params, subject.key(), subject.dataset, "test", index)
    arrays = {name: getattr(shown, name)[0] for name in SHOWN}
    return {**describe_subject(subject), "example": _EXAMPLE.value}, arrays


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """Picture and animation."""
    shown = {name: arrays[name] for name in SHOWN}
    plots.sequence(**shown, every=_EVERY.value).savefig(beside(path))
    plots.write_animation(beside(path, ".gif"), plots.sequence_panels(**shown))


def main() -> None:
    """Measure and draw."""

    def default() -> Path:
        return figure.own(f"sequence_{Path(trained_name()).name}_{_EXAMPLE.value}")

    figure.produce(default, measure, draw, has_arrays=True, naming=("trained", "example"), drawing=("every",))


if __name__ == "__main__":
    launch(main)
