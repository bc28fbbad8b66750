"""Beyond the paper: a model that reads its own predictions once the frames end. Error by step, sequence and animation.

    python -m experiments.rollout --trained=flying_shapes_rnn_em_3_3 --num_ahead=20

The error is `losses.loss_upper_bound` on the true frames, in nats per image, mean and quartiles over the test set.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import figure
from experiments.trained import Subject, describe_subject, load_subject
from nem_jax import charts, plots
from nem_jax.evaluation import over_split, quartiles, rollout_batch
from nem_jax.launch import launch
from nem_jax.model import NEM, to_frames
from nem_jax.rollout import Rollout
from nem_jax.training.run import draw_key

_TRAINED = flags.DEFINE_string(
    "trained", None, "a run's directory, or weights that come with the package", required=True
)
_NUM_AHEAD = flags.DEFINE_integer("num_ahead", 20, "steps on the model's own predictions", lower_bound=1)
_EXAMPLE = flags.DEFINE_integer("example", 0, "number of the test example that is drawn", lower_bound=0)


def load() -> tuple[Subject, NEM]:
    """Weights, and data that go on for --num_ahead frames after the model's last; and the model."""
    subject = load_subject(_TRAINED.value)
    model = subject.experiment.model
    return load_subject(_TRAINED.value, {"model.num_steps": model.num_steps + _NUM_AHEAD.value}), model


def measure() -> figure.Measured:
    """Error of each step over the test set; prediction, gamma and psi of one example."""
    subject, model = load()
    params, key, dataset = subject.params, draw_key(subject.experiment.seed, 0), subject.dataset
    split = dataset.splits["test"]
    if _EXAMPLE.value >= split.size:
        raise ValueError(f"example must be from 0 to {split.size - 1}, got {_EXAMPLE.value}")

    def batch(source: Any, index: np.ndarray) -> tuple[Rollout, jax.Array]:
        return rollout_batch(model, params, key, dataset.sample, source, index, _NUM_AHEAD.value)

    losses = over_split(lambda *of: batch(*of)[1], split, subject.experiment.training.batch_size)
    index = np.array([_EXAMPLE.value])
    source = split.fetch(index)
    (observed, ahead, x_noisy), _ = batch(source, index)
    x = to_frames(dataset.sample(source, index[0]).x, subject.experiment.model.num_frames)[model.lookahead :]
    arrays: dict[str, Any] = {"x": x, "x_noisy": x_noisy[0]}
    for name in ("gamma", "psi"):
        arrays[name] = np.concatenate([getattr(observed, name)[0], getattr(ahead, name)[0]])
    record = {"num_observed": model.num_steps, "num_ahead": _NUM_AHEAD.value, "example": _EXAMPLE.value}
    return {**describe_subject(subject), **record, "upper_bound": quartiles(losses)}, jax.device_get(arrays)


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """The error's curve, the sequence as a picture, and its animation."""
    curves = {Path(record["trained"]).name: record["upper_bound"]}
    charts.curve(curves, "error [nats per image]", record["num_observed"]).savefig(figure.picture(path))
    shown = {name: arrays[name] for name in ("x", "gamma", "psi")}
    plots.sequence(**shown, every=2).savefig(figure.picture(path, "_sequence.png"))
    predicted = ("prediction", arrays["psi"].max(axis=1))
    plots.write_animation(figure.picture(path, ".gif"), [predicted, *plots.sequence_panels(**shown)])


def main() -> None:
    """Measure and draw."""
    figure.produce(Path("runs") / "figures" / f"rollout_{Path(_TRAINED.value).name}", measure, draw)


if __name__ == "__main__":
    launch(main)
