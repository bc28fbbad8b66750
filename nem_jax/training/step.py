"""One optimiser step, and many of them in one compiled call."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from nem_jax.compilation import Jit
from nem_jax.devices import DATA, SEED
from nem_jax.losses import StepLoss
from nem_jax.model import NEM, example_loss
from nem_jax.training.seeds import MAPPINGS
from nem_jax.training.state import TrainState
from nem_jax.types import Params, PRNGKey


class Progress(NamedTuple):
    """What one compiled call did."""

    loss: StepLoss
    """Sum over its steps of the batch means, if all were finite."""
    num_steps: Int[Array, ""]
    """Steps taken, the bad one excluded."""
    finite: Bool[Array, ""]
    """False if the call ended at a step whose loss or gradient was not finite; that step was not applied."""


class Program(NamedTuple):
    """The static arguments of `train_steps`: equal ones share a compiled program."""

    model: NEM
    optimiser: optax.GradientTransformation
    sample: Any
    """Of the data set: `(source, index) -> Example`."""
    num_microbatches: int
    """Parts of a device's share of a batch, one after the other."""
    mesh: Mesh
    """`devices.training_mesh`."""
    seed_mapping: str
    """How the seeds of one device are one program: one of `seeds.MAPPINGS`."""


def batch_loss(
    model: NEM, params: Params, keys: Key[Array, " B"], x: Float[Array, "B F H W C"]
) -> tuple[Float[Array, ""], StepLoss]:
    """Mean training objective of a batch, every example with its own noise and initial gamma."""
    losses = jax.vmap(functools.partial(example_loss, model), in_axes=(None, 0, 0))(params, keys, x)
    mean = StepLoss(*(jnp.mean(loss) for loss in losses))
    return mean.total, mean


def batch_gradient(
    program: Program, params: Params, key: PRNGKey, source: Any, index: Int[Array, " B"]
) -> tuple[StepLoss, Params]:
    """Loss and gradient of a whole batch, of which this device has the examples number `index`.

    The devices average what they found, the only time that they speak to each other: left to itself, the partitioner
    would sum each EM step's gradient. Example number i of the whole batch has key number i, wherever it is.
    """
    keys = jax.random.split(key, index.size * jax.lax.axis_size(DATA))
    own_keys = jax.lax.dynamic_slice_in_dim(keys, index.size * jax.lax.axis_index(DATA), index.size)

    def of_part(keys: jax.Array, index: jax.Array) -> tuple[StepLoss, Params]:
        x = jax.vmap(lambda index: program.sample(source, index).x)(index)
        (_, loss), grads = jax.value_and_grad(batch_loss, argnums=1, has_aux=True)(program.model, params, keys, x)
        return loss, grads

    return jax.lax.pmean(mean_over_parts(of_part, program.num_microbatches, own_keys, index), DATA)


def mean_over_parts(function: Callable[..., Any], num_parts: int, *batch: jax.Array) -> Any:
    """Mean of `function` over equal parts of `batch`, one after the other: in the memory of one, and of the result."""
    if num_parts == 1:
        return function(*batch)
    parts = [leaf.reshape(num_parts, -1, *leaf.shape[1:]) for leaf in batch]
    zero = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *(p[0] for p in parts))
    )
    total, _ = jax.lax.scan(lambda sums, part: (jax.tree.map(jnp.add, sums, function(*part)), None), zero, parts)
    return jax.tree.map(lambda leaf: leaf / num_parts, total)


def train_step(
    program: Program, state: TrainState, key: PRNGKey, source: Any, index: Int[Array, " B"]
) -> tuple[TrainState, StepLoss, Bool[Array, ""]]:
    """One optimiser step on a batch; see `batch_gradient`.

    Returns the new state, the batch's loss before it, and whether loss and gradients were finite; if not, the state
    comes back as it was.
    """
    loss, grads = batch_gradient(program, state.params, key, source, index)
    finite = jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(loss.total)

    def apply(state: TrainState) -> TrainState:
        updates, opt_state = program.optimiser.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state)

    return jax.lax.cond(finite, apply, lambda state: state, state), loss, finite


@functools.partial(Jit, static_argnames="program", donate_argnames="state")
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
        batches: example indices of each step; B is split along the mesh's data axis.
        num_steps: at most N, dynamic, so that one compilation serves every length; 0 for a seed that has ended.
    """

    def of_device(source: Any, *of_its_seeds: Any) -> tuple[TrainState, Progress]:
        of_seed = functools.partial(_train_steps_of_seed, program, source)
        return MAPPINGS[program.seed_mapping](of_seed)(*of_its_seeds)

    shared, seeds, batches_of_seeds = PartitionSpec(), PartitionSpec(SEED), PartitionSpec(SEED, None, DATA)
    return jax.shard_map(
        of_device,
        mesh=program.mesh,
        in_specs=(shared, seeds, seeds, batches_of_seeds, seeds),
        out_specs=seeds,
        check_vma=False,  # it would have every zero that a loop starts with declare its axes
    )(source, state, key, batches, num_steps)


def _train_steps_of_seed(
    program: Program,
    source: Any,
    state: TrainState,
    key: PRNGKey,
    batches: Int[Array, "N B"],
    num_steps: Int[Array, ""],
) -> tuple[TrainState, Progress]:
    def body(carry: tuple[TrainState, Progress]) -> tuple[TrainState, Progress]:
        state, progress = carry
        step_key = jax.random.fold_in(key, state.step)
        state, loss, finite = train_step(program, state, step_key, source, batches[progress.num_steps])
        loss = jax.tree.map(jnp.add, progress.loss, loss)
        return state, Progress(loss, progress.num_steps + finite.astype(jnp.int32), finite)

    def unfinished(carry: tuple[TrainState, Progress]) -> Bool[Array, ""]:
        return carry[1].finite & (carry[1].num_steps < num_steps)

    zero = jnp.zeros(())  # float64 where the losses are
    start = Progress(StepLoss(zero, zero, zero), jnp.int32(0), jnp.bool_(True))
    state, progress = jax.lax.while_loop(unfinished, body, (state, start))
    return state._replace(failed_at=jnp.where(progress.finite, state.failed_at, state.step + 1)), progress
