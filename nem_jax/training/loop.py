"""Epochs: compiled steps, validation, early stopping, checkpoints and logs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from nem_jax.config import Experiment
from nem_jax.data.split import Dataset
from nem_jax.evaluation import Evaluation, evaluate
from nem_jax.training import workdir as files
from nem_jax.training.checkpoint import Checkpoints
from nem_jax.training.state import Keys, TrainState, create_state, make_keys, update_best
from nem_jax.training.step import train_steps


def train(experiment: Experiment, path: Path) -> TrainState:
    """Train until the validation loss has not improved for `patience` epochs, or `max_epochs`.

    Resumes from the newest checkpoint in `path`, whose metrics.jsonl is cut back to it. Returns the last state.

    Raises:
        FloatingPointError: a step's loss or gradient is not finite; the last checkpoint stays.
    """
    options, keys = experiment.training, make_keys(experiment.seed)
    dataset = experiment.load_data()
    with Checkpoints(path / files.CHECKPOINTS) as checkpoints:
        state = jax.jit(lambda key: create_state(experiment.model, options.optimiser, key))(keys.init)
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
            logging.info("resuming at step %d", state.step)
        files.cut_metrics(path, int(state.step))
        steps_per_epoch = dataset.splits["training"].size // options.batch_size
        epoch = int(state.step) // steps_per_epoch
        while epoch < options.max_epochs and epoch - int(state.best_epoch) < options.patience:
            epoch += 1
            state, losses = train_epoch(experiment, dataset, keys, state, epoch)
            valid = evaluate(
                experiment.model, state.params, keys.evaluate, dataset, "validation", options.batch_size
            )
            state = update_best(state, np.mean(valid.loss.total), epoch)
            files.append_metrics(path, {"step": int(state.step), "epoch": epoch, **losses, **summarise(valid)})
            checkpoints.save(state)
    return state


def train_epoch(
    experiment: Experiment, dataset: Dataset, keys: Keys, state: TrainState, epoch: int
) -> tuple[TrainState, dict[str, float]]:
    """All steps of epoch number `epoch` (from 1) on freshly shuffled training examples, the odd rest left out."""
    options, (source, size) = experiment.training, dataset.splits["training"]
    steps_per_epoch = size // options.batch_size
    order = jax.random.permutation(jax.random.fold_in(keys.shuffle, epoch), size)
    batches = order[: steps_per_epoch * options.batch_size].reshape(steps_per_epoch, options.batch_size)
    totals = np.zeros(3)
    with tqdm(total=steps_per_epoch, desc=f"epoch {epoch}", unit="step", leave=False) as bar:
        for start in range(0, steps_per_epoch, options.log_interval):
            chunk = np.minimum(np.arange(start, start + options.log_interval), steps_per_epoch - 1)
            num_steps = min(options.log_interval, steps_per_epoch - start)
            state, progress = train_steps(
                experiment.model, options.optimiser, dataset.sample, state, keys.train, source, batches[chunk], num_steps
            )
            if not progress.finite:
                raise FloatingPointError(
                    f"step {int(state.step) + 1}: the loss or its gradient is not finite; the last checkpoint is kept"
                )
            totals += np.array(progress.loss)
            bar.update(num_steps)
            bar.set_postfix(loss=f"{progress.loss.total / num_steps:.2f}")
    means = totals / steps_per_epoch
    return state, {f"train_{name}": float(mean) for name, mean in zip(progress.loss._fields, means, strict=True)}


def summarise(evaluation: Evaluation, prefix: str = "valid_") -> dict[str, float]:
    """Means over the examples: losses, and the scores of the last step and over all scored steps."""
    means: dict[str, Any] = {name: np.mean(value) for name, value in evaluation.loss._asdict().items()}
    means["upper_bound"] = np.mean(evaluation.upper_bound)
    for name, value in evaluation.scores._asdict().items():
        means[f"{name}_last"], means[f"{name}_mean"] = np.mean(value[:, -1]), np.mean(value)
    return {prefix + name: float(mean) for name, mean in means.items()}
