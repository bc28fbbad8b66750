"""N-EM's figure 6: AMI at each time step, also beyond the trained ones: mean and quartiles over the test set.

python -m experiments.time_steps --trained=flying_mnist_direct --num_steps=50 --mnist_dir=DIRECTORY
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import figure
from experiments.trained import describe_subject, evaluate_subject, load_subject
from nem_jax import charts
from nem_jax.evaluation import quartiles
from nem_jax.launch import launch

_TRAINED = flags.DEFINE_list(
    "trained", None, "runs' directories, or weights of the package: a curve each", required=True
)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 50, "T", lower_bound=1)


def measure() -> figure.Measured:
    """AMI (max) at each step of all test examples, for each of the weights."""
    curves = {}
    for source in _TRAINED.value:
        subject = load_subject(source, {"model.num_steps": _NUM_STEPS.value, "model.step_weights": "all"})
        evaluation = evaluate_subject(subject)
        curves[Path(source).name] = {
            **describe_subject(subject),
            "ami_max": quartiles(np.asarray(evaluation.scores.ami_max)),
        }
    return {"trained_steps": subject.trained.model.num_steps, "curves": curves}, {}


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """A curve for each of the weights."""
    curves = {name: curve["ami_max"] for name, curve in record["curves"].items()}
    charts.curve(curves, "AMI (max)", record["trained_steps"]).savefig(figure.picture(path))


def main() -> None:
    """Measure and draw."""
    name = "_".join(Path(source).name for source in _TRAINED.value)
    figure.produce(Path("runs") / "figures" / f"time_steps_{name}", measure, draw)


if __name__ == "__main__":
    launch(main)
