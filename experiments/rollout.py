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
from experiments.command_line import launch
from experiments.output import beside
from experiments.shared_flags import define_example
from experiments.subject import check_example, describe_subject
from experiments.subject_flags import load_flagged, trained_name
from nem_jax import charts, plots
from nem_jax.evaluation import over_split, quartiles, rollout_batch
from nem_jax.model import to_frames
from nem_jax.rollouts import Rollout

_EXAMPLE = define_example()
_NUM_AHEAD = flags.DEFINE_integer("num_ahead", 20, "steps on the model's own predictions", lower_bound=1)

GREY = 0.5
"""Drawn where a frame would be, once they have ended."""


def measure() -> figure.Measured:
    """Error of each step over the test set; prediction, gamma and psi of one example."""
    subject = load_flagged(trained_name(), {"model.num_draws": 1}, _NUM_AHEAD.value)
    check_example(subject, _EXAMPLE.value)
    model, params, dataset = subject.experiment.model, subject.params, subject.dataset
    key, split, index = subject.key(), dataset.splits["test"], np.array([_EXAMPLE.value])

    def batch(source: Any, index: np.ndarray) -> tuple[Rollout, jax.Array]:
        return rollout_batch(model, params, key, dataset.sample, source, index, _NUM_AHEAD.value)

    losses = over_split(lambda *of: batch(*of)[1], split, subject.experiment.training.batch_size)
    source = split.fetch(index)
    (observed, ahead, x_noisy), _ = batch(source, index)
    x = to_frames(dataset.sample(source, index[0]).x, model.num_frames + _NUM_AHEAD.value)[model.lookahead :]
    arrays: dict[str, Any] = {"x": x, "x_noisy": x_noisy[0]}
    for name in ("gamma", "psi"):
        arrays[name] = np.concatenate([getattr(observed, name)[0], getattr(ahead, name)[0]])
    record = {"num_observed": model.num_steps, "num_ahead": _NUM_AHEAD.value, "example": _EXAMPLE.value}
    return {**describe_subject(subject), **record, "loss_upper_bound": quartiles(losses)}, jax.device_get(arrays)


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """The error's curve, the sequence as a picture, and its animation."""
    curves = {Path(record["trained"]).name: record["loss_upper_bound"]}
    charts.curve(curves, "error [nats per image]", record["num_observed"]).savefig(beside(path))
    shown = {name: arrays[name] for name in ("x", "gamma", "psi")}
    no_frame = np.full_like(arrays["x"][len(arrays["x_noisy"]) :], GREY)
    shown["x_noisy"] = np.concatenate([arrays["x_noisy"], no_frame])
    plots.sequence(**shown, every=2).savefig(beside(path, "_sequence.png"))
    predicted = ("prediction", arrays["psi"].max(axis=1))
    plots.write_animation(beside(path, ".gif"), [predicted, *plots.sequence_panels(**shown)])


def main() -> None:
    """Measure and draw."""

    def default() -> Path:
        return figure.own(f"rollout_{Path(trained_name()).name}")

    figure.produce(default, measure, draw, has_arrays=True, naming=("trained",))


if __name__ == "__main__":
    launch(main)
