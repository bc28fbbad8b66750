"""N-EM's figure 6: AMI at each time step, also beyond the trained ones: mean and quartiles over the test set.

    python -m experiments.time_steps --trained=flying_mnist_direct_longer --num_steps=50 --mnist_dir=DIRECTORY

Several weights, separated by commas, give a curve each.
"""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import figure
from experiments.command_line import launch
from experiments.output import beside
from experiments.subject import describe_subject, evaluate_subject
from experiments.subject_flags import load_flagged, trained_name
from nem_jax import charts
from nem_jax.evaluation import quartiles


def names() -> dict[str, str]:
    """What --trained lists, by the names of the curves.

    Raises:
        ValueError: two have the same.
    """
    found = trained_name().split(",")
    named = {Path(source).name: source for source in found}
    if len(named) < len(found):
        raise ValueError(f"trained must list weights whose last names differ, got {', '.join(found)}")
    return named


def measure() -> figure.Measured:
    """AMI (max) at each step of all test examples, for each of the weights."""
    curves = {}
    subjects = {name: load_flagged(source, {"model.scored_steps": "all"}) for name, source in names().items()}
    for name, subject in subjects.items():
        ami = np.asarray(evaluate_subject(subject).scores.ami_max)
        trained_steps = subject.trained_config.model.num_steps
        curves[name] = {**describe_subject(subject), "trained_steps": trained_steps, "ami_max": quartiles(ami)}
    return {"curves": curves}, {}


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """A curve for each of the weights, and where training ended if it is the same for all."""
    curves = record["curves"]
    trained_steps = {curve["trained_steps"] for curve in curves.values()}
    shown = {name: curve["ami_max"] for name, curve in curves.items()}
    figure_6 = charts.curve(shown, "AMI (max)", trained_steps.pop() if len(trained_steps) == 1 else None)
    figure_6.savefig(beside(path))


def main() -> None:
    """Measure and draw."""
    figure.produce(lambda: figure.own(f"time_steps_{'_'.join(names())}"), measure, draw, naming=("trained",))


if __name__ == "__main__":
    launch(main)
