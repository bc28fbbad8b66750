"""Epochs: compiled steps, validation, early stopping, checkpoints and logs."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from nem_jax import plots
from nem_jax.config import Experiment
from nem_jax.data.split import Dataset
from nem_jax.evaluation import evaluate, examine, summarise
from nem_jax.training.checkpoint import Checkpoints
from nem_jax.training.logs import Logs
from nem_jax.training.state import Keys, TrainState, create_state, make_keys, update_best
from nem_jax.training.step import train_steps
from nem_jax.types import Params

CHECKPOINTS = "checkpoints"


class Training(NamedTuple):
    """What the epochs of one run share."""

    experiment: Experiment
    dataset: Dataset
    keys: Keys

    @classmethod
    def of(cls, experiment: Experiment) -> "Training":
        """Load the experiment's data and make its keys."""
        return cls(experiment, experiment.load_data(), make_keys(experiment.seed))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split; the odd rest of each shuffled epoch is left out."""
        return self.dataset.splits["training"].size // self.experiment.training.batch_size

    def epoch(self, state: TrainState) -> int:
        """Number of epochs trained."""
        return int(state.step) // self.steps_per_epoch

    def stopped_early(self, state: TrainState) -> bool:
        """Whether the validation loss has not improved for `patience` epochs."""
        return self.epoch(state) - int(state.best_epoch) >= self.experiment.training.patience

    def finished(self, state: TrainState) -> bool:
        """Whether no epoch is left to train."""
        return self.stopped_early(state) or self.epoch(state) >= self.experiment.training.max_epochs


def train(training: Training, path: Path, params: Params | None = None, stop_now: bool = False) -> TrainState:
    """Train until the validation loss has not improved for `patience` epochs, or `max_epochs`, or at once.

    Resumes from the newest checkpoint in `path`, to which the logs are cut back; begins with `params`, or with random
    weights. Returns the last state.

    Raises:
        FloatingPointError: a step's loss or gradient is not finite; the last checkpoint stays.
    """
    with Checkpoints(path / CHECKPOINTS) as checkpoints:
        state = restore_or_create(training, checkpoints, params)
        with Logs(path, int(state.step)) as logs:
            while not (stop_now or training.finished(state)):
                epoch = training.epoch(state) + 1
                valid_ami = logs.records[-1]["valid_ami_max_last"] if logs.records else float("nan")
                state, losses = train_epoch(training, state, epoch, valid_ami)
                scores = validate(training, state)
                state = update_best(state, scores["valid_total"], epoch)
                logs.epoch({"step": int(state.step), "epoch": epoch, **losses, **scores})
                if epoch % training.experiment.training.figure_interval == 0:
                    logs.figure("overview", draw_overview(training, state), int(state.step))
                checkpoints.save(state)
    return state


def restore_or_create(training: Training, checkpoints: Checkpoints, params: Params | None = None) -> TrainState:
    """The newest checkpoint, or a fresh state, from `params` if they are given."""
    model, optimiser = training.experiment.model, training.experiment.training.optimiser
    state = jax.jit(lambda key, params: create_state(model, optimiser, key, params))(training.keys.init, params)
    return state if checkpoints.latest_step() is None else checkpoints.restore(state)


def restore_best(experiment: Experiment, path: Path) -> Params:
    """The best weights in the newest checkpoint of one stage, in `path`."""
    like = jax.eval_shape(lambda: create_state(experiment.model, experiment.training.optimiser, jax.random.key(0)))
    with Checkpoints(path / CHECKPOINTS, read_only=True) as checkpoints:
        return checkpoints.restore(like).best_params


def train_epoch(
    training: Training, state: TrainState, epoch: int, valid_ami: float
) -> tuple[TrainState, dict[str, float]]:
    """All steps of epoch number `epoch` (from 1) on freshly shuffled examples, with a progress bar.

    Returns the state and the mean losses; `valid_ami` is only shown.
    """
    options, num_steps = training.experiment.training, training.steps_per_epoch
    batch_size = options.batch_size
    split = training.dataset.splits["training"]
    order = jax.random.permutation(jax.random.fold_in(training.keys.shuffle, epoch), split.size)
    batches = np.asarray(order[: num_steps * batch_size]).reshape(num_steps, batch_size)
    totals = np.zeros(3)
    with tqdm(total=num_steps * batch_size, desc=f"epoch {epoch}", unit="ex", leave=False, mininterval=0.5) as bar:
        for start in range(0, num_steps, options.log_interval):
            chunk = batches[start : start + options.log_interval]
            state, loss = take_steps(training, state, chunk)
            totals += loss
            bar.update(chunk.size)
            bar.set_postfix(loss=f"{loss[0] / len(chunk):.2f}", valid_AMI=f"{valid_ami:.3f}")
    means = totals / num_steps
    return state, dict(zip(("train_total", "train_intra", "train_inter"), map(float, means), strict=True))


def take_steps(training: Training, state: TrainState, batches: np.ndarray) -> tuple[TrainState, np.ndarray]:
    """One compiled call on example numbers `[N, B]`; returns the state and the summed (total, intra, inter) losses."""
    experiment, dataset = training.experiment, training.dataset
    num_steps, options = len(batches), experiment.training
    padded = np.resize(batches, (options.log_interval, batches.shape[1]))  # one shape, one compilation
    source = dataset.splits["training"].fetch(padded)
    state, progress = train_steps(
        experiment.model, options.optimiser, dataset.sample, state, training.keys.train, source, padded, num_steps
    )
    if not progress.finite:
        raise FloatingPointError(
            f"step {int(state.step) + 1}: the loss or its gradient is not finite; the last checkpoint is kept"
        )
    return state, np.array(progress.loss)


def validate(training: Training, state: TrainState) -> dict[str, float]:
    """Mean losses and scores on the validation split, under the same noise and initial gammas at every epoch."""
    experiment = training.experiment
    batch_size = experiment.training.batch_size
    key = training.keys.validation
    evaluation = evaluate(experiment.model, state.params, key, training.dataset, "validation", batch_size)
    return {f"valid_{name}": value for name, value in summarise(evaluation).items()}


def draw_overview(training: Training, state: TrainState) -> Figure:
    """N-EM's figure 3 for the first validation images."""
    experiment, dataset = training.experiment, training.dataset
    shown = examine(experiment.model, state.params, training.keys.validation, dataset, "validation")
    return plots.overview(*shown.last)
