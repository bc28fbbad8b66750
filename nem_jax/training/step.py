"""One optimiser step, and many of them in one compiled call."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from nem_jax.losses import StepLoss
from nem_jax.model import NEM, example_loss
from nem_jax.networks.convolution import COMPILER_OPTIONS
from nem_jax.training.seeds import MAPPINGS
from nem_jax.training.state import TrainState
from nem_jax.types import Example, PRNGKey


class Progress(NamedTuple):
    """What one compiled call did."""

    loss: StepLoss
    """Sum over its steps of the batch means."""
    num_steps: Int[Array, ""]
    """Steps taken, the bad one excluded."""
    finite: Bool[Array, ""]
    """False if the call ended at a step whose loss or gradient was not finite; that step was not applied."""


def batch_loss(model: NEM, params: Any, key: PRNGKey, examples: Example) -> tuple[Float[Array, ""], StepLoss]:
    """Mean training objective of a batch `[B, ...]`, every example with its own noise and initial gamma."""
    keys = jax.random.split(key, examples.x.shape[0])
    losses = jax.vmap(functools.partial(example_loss, model), in_axes=(None, 0, 0))(params, keys, examples.x)
    mean = StepLoss(*(jnp.mean(loss) for loss in losses))
    return mean.total, mean


def train_step(
    model: NEM, optimiser: optax.GradientTransformation, state: TrainState, key: PRNGKey, examples: Example
) -> tuple[TrainState, StepLoss, Bool[Array, ""]]:
    """One optimiser step on a batch.

    Returns the new state, the batch's loss before it, and whether loss and gradients were finite; if not, the state
    comes back as it was.
    """
    (_, loss), grads = jax.value_and_grad(batch_loss, argnums=1, has_aux=True)(model, state.params, key, examples)
    finite = jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(loss.total)

    def apply(state: TrainState) -> TrainState:
        updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state)

    return jax.lax.cond(finite, apply, lambda state: state, state), loss, finite


class Program(NamedTuple):
    """What is compiled in: two programs are one only if all of it is the same."""

    model: NEM
    optimiser: optax.GradientTransformation
    sample: Any
    """Of the data set: `(source, index) -> Example`."""
    seed_mapping: str
    """One of `seeds.MAPPINGS`."""


@functools.partial(jax.jit, static_argnames="program", donate_argnames="state", compiler_options=COMPILER_OPTIONS)
def train_steps(
    program: Program,
    state: TrainState,
    key: Key[Array, " S"],
    source: Any,
    batches: Int[Array, "S N B"],
    num_steps: Int[Array, " S"],
) -> tuple[TrainState, Progress]:
    """For each seed, take the first `num_steps` steps of `batches` on the device; stop before one that is not finite.

    Args:
        program: static.
        state: of each seed, `[S]`; donated.
        key: of each seed's training stream, `[S]`; step number s uses `fold_in(key, s)`.
        source: of the split; the seeds share it.
        batches: example indices of each step.
        num_steps: at most N, dynamic, so that one compilation serves every length; 0 for a seed that has ended.
    """
    of_seed = functools.partial(_train_steps_of_seed, program, source)
    return MAPPINGS[program.seed_mapping](of_seed)(state, key, batches, num_steps)


def _train_steps_of_seed(
    program: Program,
    source: Any,
    state: TrainState,
    key: PRNGKey,
    batches: Int[Array, "N B"],
    num_steps: Int[Array, ""],
) -> tuple[TrainState, Progress]:
    model, optimiser, sample, _ = program

    def body(carry: tuple[TrainState, Progress]) -> tuple[TrainState, Progress]:
        state, progress = carry
        examples = jax.vmap(sample, in_axes=(None, 0))(source, batches[progress.num_steps])
        step_key = jax.random.fold_in(key, state.step)
        state, loss, finite = train_step(model, optimiser, state, step_key, examples)
        loss = jax.tree.map(lambda total, new: total + jnp.where(finite, new, 0), progress.loss, loss)
        return state, Progress(loss, progress.num_steps + finite.astype(jnp.int32), finite)

    def unfinished(carry: tuple[TrainState, Progress]) -> Bool[Array, ""]:
        return carry[1].finite & (carry[1].num_steps < num_steps)

    zero = jnp.float32(0)
    start = Progress(StepLoss(zero, zero, zero), jnp.int32(0), jnp.bool_(True))
    return jax.lax.while_loop(unfinished, body, (state, start))
