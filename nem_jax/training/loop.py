"""Epochs: compiled steps, validation, early stopping, checkpoints and logs.

Everything is of S seeds at once: states, keys, losses and scores have a leading axis S.
"""

import contextlib
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from nem_jax import plots
from nem_jax.compilation import Jit
from nem_jax.config import Experiment
from nem_jax.data.split import Dataset
from nem_jax.devices import DATA, SEED, fetch, place, training_mesh
from nem_jax.evaluation import Examined, evaluate, examine, summarise
from nem_jax.hosts import is_main, together
from nem_jax.training.checkpoint import Checkpoints
from nem_jax.training.logs import Logs, say
from nem_jax.training.seeds import create_states, faster_mapping, make_seed_keys, take_seed
from nem_jax.training.state import Keys, TrainState, update_best
from nem_jax.training.step import Program, train_steps
from nem_jax.types import Params

update_best_of_seeds = jax.jit(jax.vmap(update_best, in_axes=(0, 0, None, 0)))


class Standing(NamedTuple):
    """How far each seed has come, `[S]`, on the host."""

    epoch: np.ndarray
    """Number of epochs trained."""
    failed: np.ndarray
    """Whether a loss or gradient was not finite: it is trained no further."""
    stopped_early: np.ndarray
    """Whether, not having failed, it has not improved its validation loss for `patience` epochs."""
    finished: np.ndarray
    """Whether no epoch is left to train."""


class Training(NamedTuple):
    """What the epochs of one run share."""

    experiment: Experiment
    dataset: Dataset
    keys: Keys
    """`[S]`."""
    mesh: Mesh
    """The devices, and what is split over them."""

    @classmethod
    def of(cls, experiment: Experiment, given_sha256: str | None = None) -> "Training":
        """Arrange the devices, load the experiment's data and make its keys: `given_sha256` as in `make_keys`."""
        options = experiment.training
        mesh = training_mesh(len(experiment.seeds), options.batch_size, options.num_microbatches, options.seed_devices)
        dataset = together(experiment.load_data)
        splits = {name: split.moved(lambda source: place(source, mesh)) for name, split in dataset.splits.items()}
        keys = make_seed_keys(experiment.seeds, experiment.stage, given_sha256)
        return cls(experiment, replace(dataset, splits=splits), keys, mesh)

    @property
    def program(self) -> Program:
        """What its training steps compile."""
        options = self.experiment.training
        mapping = options.seed_mapping or faster_mapping()
        return Program(
            self.experiment.model,
            options.optimiser,
            self.dataset.sample,
            options.num_microbatches,
            self.mesh,
            mapping,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split; the odd rest of each shuffled epoch is left out."""
        return self.dataset.splits["training"].size // self.experiment.training.batch_size

    def standing(self, state: TrainState) -> Standing:
        """How far each seed has come."""
        step, best_epoch, failed_at = fetch((state.step, state.best_epoch, state.failed_at))
        epoch, failed, options = step // self.steps_per_epoch, failed_at > 0, self.experiment.training
        stopped_early = (epoch - best_epoch >= options.patience) & ~failed
        return Standing(epoch, failed, stopped_early, (epoch >= options.max_epochs) | stopped_early | failed)


def train(training: Training, path: str | Path, params: Params | None = None, stop_now: bool = False) -> TrainState:
    """Train each seed until its validation loss has not improved for `patience` epochs, or `max_epochs`, or at once.

    Resumes from the newest checkpoint in `path`, to which the logs are cut back; begins with `params`, `[S]`, or with
    random weights. Returns the last state. A seed that has ended keeps its state while the others go on; so does, with
    a warning, one that has failed: a step's loss or gradient, or a validation loss, was not finite.

    Raises:
        FloatingPointError: a seed has failed, and all others have too, or it has no validated weights yet. The last
            checkpoint stays.
    """
    path = Path(path)
    with Checkpoints(path) as checkpoints:
        state = create(training, params)
        if checkpoints.latest() is not None:
            state = checkpoints.restore(state)
        step = int(fetch(state.step).max())
        with Logs(path, step, training.experiment.seeds) if is_main() else contextlib.nullcontext() as logs:
            while not stop_now and (active := ~training.standing(state).finished).any():
                epoch = step // training.steps_per_epoch + 1
                valid_ami = logs.records[-1]["valid_ami_max_mean"] if logs and logs.records else float("nan")
                state, losses = train_epoch(training, state, active, epoch, valid_ami)
                on_host = fetch(state.params)
                active &= ~training.standing(state).failed
                state, scores = validate_epoch(training, state, on_host, active, epoch)
                active &= ~training.standing(state).failed
                if not active.any():  # the last that trained have failed
                    checkpoints.save(state)
                    break
                step = int(fetch(state.step).max())
                if logs:
                    logs.epoch(step, epoch, {**losses, **scores}, active)
                if epoch % training.experiment.training.figure_interval == 0:
                    shown = examine_first(training, on_host)
                    if logs:
                        logs.figure("overview", plots.overview(*shown), step)
                checkpoints.save(state)
    return state


def create(training: Training, params: Params | None = None) -> TrainState:
    """A fresh state of each seed, `[S]`, on the run's devices; it begins with `params`, `[S]`, if they are given."""
    fresh = functools.partial(create_states, training.experiment.model, training.experiment.training.optimiser)
    of_seeds = NamedSharding(training.mesh, PartitionSpec(SEED))
    return Jit(fresh, out_shardings=of_seeds)(*place((training.keys, params), training.mesh, SEED))


def train_epoch(
    training: Training, state: TrainState, active: np.ndarray, epoch: int, valid_ami: float
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """All steps of epoch number `epoch` (from 1) on freshly shuffled examples, with a progress bar.

    Returns the state and each seed's mean losses (nan of those that are not `active`, or fail); `valid_ami` is only
    shown.
    """
    options, num_steps = training.experiment.training, training.steps_per_epoch
    batches, totals = shuffled_batches(training, epoch), np.zeros((3, len(active)))
    with tqdm(
        total=num_steps * options.batch_size,
        desc=f"epoch {epoch}",
        unit="ex",
        leave=False,
        mininterval=0.5,
        disable=not is_main(),
    ) as bar:
        for start in range(0, num_steps, options.log_interval):
            chunk = batches[:, start : start + options.log_interval]
            state, loss = take_steps(training, state, chunk, active)
            totals, active = totals + loss, active & np.isfinite(loss[0])
            if not active.any():
                break
            bar.update(chunk[0].size)
            bar.set_postfix(loss=f"{loss[0, active].mean() / chunk.shape[1]:.2f}", valid_AMI=f"{valid_ami:.3f}")
    means = np.where(active, totals / num_steps, np.nan)
    return state, dict(zip(("train_total", "train_intra", "train_inter"), means, strict=True))


def shuffled_batches(training: Training, epoch: int) -> np.ndarray:
    """The example numbers of each seed's batches in an epoch, `[S, N, B]`."""
    size, num_steps = training.dataset.splits["training"].size, training.steps_per_epoch
    orders = [jax.random.permutation(jax.random.fold_in(key, epoch), size) for key in training.keys.shuffle]
    batch_size = training.experiment.training.batch_size
    return np.stack(orders)[:, : num_steps * batch_size].reshape(len(orders), num_steps, batch_size)


def take_steps(
    training: Training, state: TrainState, batches: np.ndarray, active: np.ndarray
) -> tuple[TrainState, np.ndarray]:
    """One compiled call on example numbers `[S, N, B]`, of the seeds that are `active`.

    Returns the state and each seed's summed (total, intra, inter) losses, `[3, S]`, nan where a step was not finite.
    """
    state, progress = train_steps(*step_arguments(training, state, batches, active))
    progress = fetch(progress)
    _report_failures(training, state, ~progress.finite, "the loss or its gradient")
    return state, np.where(progress.finite, np.stack(progress.loss), np.nan)


def _report_failures(training: Training, state: TrainState, failed_now: np.ndarray, what: str) -> None:
    """Warn of each seed that has just failed; raise if it has no validated weights, or if all have failed."""
    if not failed_now.any():
        return
    stage = training.experiment.stage
    best_epoch, failed_at = fetch((state.best_epoch, state.failed_at))
    for index in np.flatnonzero(failed_now):
        seed = f" of seed {training.experiment.seeds[index]}" if len(failed_now) > 1 else ""
        sentence = f"step {failed_at[index]}{f' of stage {stage + 1}' if stage else ''}{seed}: {what} is not finite"
        if best_epoch[index] == 0:
            before = f"; the run's --stop_now scores stage {stage}" if stage else ""
            raise FloatingPointError(f"{sentence}, in the first epoch{before}")
        if failed_at.all():
            raise FloatingPointError(f"{sentence}; the last checkpoint is kept, the run's --stop_now scores it")
        if is_main():
            say(f"warning: {sentence}; its best weights are kept")


def step_arguments(training: Training, state: TrainState, batches: np.ndarray, active: np.ndarray) -> tuple[Any, ...]:
    """Those of `train_steps`, laid on the run's devices, batches filled up: one shape, one compilation."""
    num_seeds, num_steps, batch_size = batches.shape
    padded = np.zeros((num_seeds, training.experiment.training.log_interval, batch_size), batches.dtype)
    padded[active, :num_steps] = batches[active]
    mesh, split = training.mesh, training.dataset.splits["training"]
    steps = np.where(active, num_steps, 0).astype(np.int32)
    state, keys, steps = place((state, training.keys.train, steps), mesh, SEED)
    source, padded = place(split.fetch(padded), mesh), place(padded, mesh, SEED, None, DATA)
    return training.program, state, keys, source, padded, steps


def validate_epoch(
    training: Training, state: TrainState, on_host: Params, active: np.ndarray, epoch: int
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """`validate` the state's weights after an epoch: the state that has kept each seed's best, and the scores."""
    if not active.any():
        return state, {}
    scores = validate(training, on_host, active)
    valid_loss = scores["valid_total"].astype(np.float32)
    state = update_best_of_seeds(state, valid_loss, np.int32(epoch), active)
    _report_failures(training, state, active & ~np.isfinite(valid_loss), "the validation loss after it")
    return state, scores


def validate(training: Training, params: Params, active: np.ndarray) -> dict[str, np.ndarray]:
    """Mean losses and scores of weights `[S]` on the validation split, under the same noise and gammas at every epoch.

    Of the `active` seeds, one after the other, and nan of the others; from one initial gamma each, to save time.
    """
    experiment, dataset, keys, mesh = training
    batch_size, model = experiment.training.batch_size, replace(experiment.model, num_draws=1)
    found: dict[int, dict[str, float]] = {}
    for index in np.flatnonzero(active).tolist():
        of_seed, key = take_seed(params, index), keys.validation[index]
        evaluation = evaluate(model, of_seed, key, dataset, "validation", batch_size, mesh)
        found[index] = summarise(evaluation)
    missing = dict.fromkeys(next(iter(found.values())), np.nan)
    rows = [found.get(index, missing) for index in range(len(active))]
    return {f"valid_{name}": np.array([row[name] for row in rows]) for name in missing}


def examine_first(training: Training, params: Params) -> Examined:
    """What the first seed of weights `[S]` makes of the first validation images: N-EM's figure 3."""
    model, key = training.experiment.model, training.keys.validation[0]
    return examine(model, take_seed(params, 0), key, training.dataset, "validation").last
