"""Everything that training carries from step to step, and that a checkpoint holds.

The functions here are of one seed; `nem_jax.training.seeds` gives their arrays a leading axis S.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from nem_jax.model import NEM
from nem_jax.types import Params, PRNGKey

_STREAM = 1
_STAGES = 2**31
"""Added to a stage's number, and the sum folded in: no step or epoch gets there, and smaller numbers are theirs."""
_GIVEN_WEIGHTS = 2**32 - 1
"""Folded in before the given weights' hash: no stage gets there."""


class Keys(NamedTuple):
    """The independent random streams of one stage of a run, all from one seed."""

    init: PRNGKey
    shuffle: PRNGKey
    """Folded with the epoch."""
    train: PRNGKey
    """Folded with the step."""
    validation: PRNGKey
    """The same at every epoch, so that losses compare."""
    test: PRNGKey


class TrainState(NamedTuple):
    """A resumed run needs this, the configuration and, if it began with given weights, their hash."""

    step: Int[Array, ""]
    """Number of optimiser steps taken."""
    params: Params
    opt_state: optax.OptState
    best_params: Params
    """Weights of the epoch with the lowest validation loss."""
    best_loss: Float[Array, ""]
    best_epoch: Int[Array, ""]
    """Number of epochs trained when it was reached; 0 before the first validation."""
    failed_at: Int[Array, ""]
    """0, or the step (from 1) at which the seed failed: its loss or gradient was not finite, and it was not taken, or
    the validation loss after it was not.
    """


def make_keys(seed: int, stage: int = 0, given_sha256: str | None = None) -> Keys:
    """The random streams of `seed`; each stage (number from 0) shuffles and draws anew, and validates as the others.

    So does a run that began with given weights, whose `weights.weights_sha256` is `given_sha256`: it would repeat the
    order and noise that made them.

    With jax's counter-based keys they coincide with the keys of five validation examples of data of the same seed.
    That changes nothing (a stream draws other numbers than a generator of images), and resumed runs rely on it.
    """
    keys = Keys(*jax.random.split(jax.random.fold_in(jax.random.key(seed), _STREAM), len(Keys._fields)))

    def apart(key: PRNGKey) -> PRNGKey:
        if given_sha256 is not None:
            key = jax.random.fold_in(jax.random.fold_in(key, _GIVEN_WEIGHTS), int(given_sha256[:8], 16))
        return key if stage == 0 else jax.random.fold_in(key, _STAGES + stage)

    return keys._replace(shuffle=apart(keys.shuffle), train=apart(keys.train))


def draw_key(seed: int, draw: int) -> PRNGKey:
    """The key of the test's draw number `draw`; published scores and pictures are of draw 0."""
    return jax.random.fold_in(make_keys(seed).test, draw)


def create_state(
    model: NEM, optimiser: optax.GradientTransformation, key: PRNGKey, params: Params | None = None
) -> TrainState:
    """A fresh state: no step taken, nothing validated; the weights are drawn unless `params` are given."""
    params = model.init(key) if params is None else jax.tree.map(jnp.copy, params)
    best_params = jax.tree.map(jnp.copy, params)  # a copy: the state is donated, and a buffer can be donated only once
    counts = (jnp.int32(0), jnp.int32(0))
    return TrainState(jnp.int32(0), params, optimiser.init(params), best_params, jnp.float32(jnp.inf), *counts)


def update_best(
    state: TrainState, valid_loss: Float[Array, ""], epoch: Int[Array, ""], validated: Bool[Array, ""]
) -> TrainState:
    """Keep the weights if `valid_loss` is the lowest so far (a NaN never is); if `validated`, it must be finite."""
    best = (state.params, valid_loss, epoch)
    kept = (state.best_params, state.best_loss, state.best_epoch)
    finite = jnp.isfinite(valid_loss)
    better = finite & (valid_loss < state.best_loss)
    params, loss, best_epoch = jax.tree.map(lambda new, old: jnp.where(better, new, old), best, kept)
    failed_at = jnp.where(validated & ~finite, state.step, state.failed_at)
    return state._replace(best_params=params, best_loss=loss, best_epoch=best_epoch, failed_at=failed_at)
