"""Scores of a trained model on a split (FACTS: the papers' protocol): (model, params, split, key) -> metrics.

Per image, AMI and ARI of argmax_k gamma against the true groups, over the pixels with exactly one object; background and
overlaps are ignored. The input is corrupted as in training (the original program's protocol) unless the model's `corrupt`
is replaced. Training calls this for validation; nothing here knows of checkpoints.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nem_jax import losses, metrics
from nem_jax.data.split import Dataset
from nem_jax.model import NEM, infer, to_frames
from nem_jax.types import Example, Params, PRNGKey


class Evaluation(NamedTuple):
    """Per example (leading axis N): what the tables average."""

    loss: losses.StepLoss
    """The training objective in nats, `[N]`."""
    upper_bound: Float[Array, "*n"]
    """`losses.loss_upper_bound` after the last step, `[N]`."""
    scores: metrics.Scores
    """After each scored EM step, `[N, S]`: the steps that carry a loss (static images: the last; sequences: all)."""


def evaluate_example(model: NEM, params: Params, key: PRNGKey, example: Example, num_groups: int) -> Evaluation:
    """Loss and scores of one example."""
    trajectory = infer(model, params, key, example.x)
    targets = to_frames(example.x, model.num_steps + 1)[1:]
    groups = to_frames(example.groups, model.num_steps + 1)[1:]
    loss = losses.trajectory_loss(targets, trajectory, model.pixel_dist, model.weights, model.inter_weight)
    upper_bound = losses.loss_upper_bound(targets[-1], trajectory.psi[-1], model.pixel_dist)
    scored = slice(int(np.flatnonzero(model.weights)[0]), None)
    score = functools.partial(metrics.segmentation_scores, num_groups=num_groups)
    return Evaluation(loss, upper_bound, jax.vmap(score)(trajectory.gamma[scored], groups[scored]))


@functools.partial(jax.jit, static_argnames=("model", "sample", "num_groups"))
def evaluate_batch(
    model: NEM, params: Params, key: PRNGKey, sample: Any, source: Any, index: Int[Array, " B"], num_groups: int
) -> Evaluation:
    """`evaluate_example` on examples number `index`; example i draws with `fold_in(key, i)`, whatever its batch."""

    def one(index: jax.Array) -> Evaluation:
        example = sample(source, index)
        return evaluate_example(model, params, jax.random.fold_in(key, index), example, num_groups)

    return jax.vmap(one)(index)


def evaluate(
    model: NEM, params: Params, key: PRNGKey, dataset: Dataset, split: str, batch_size: int
) -> Evaluation:
    """Every example of `split`, in its order, as NumPy arrays with leading axis N."""
    source, size = dataset.splits[split]
    padded = np.arange(-(-size // batch_size) * batch_size) % size
    run = functools.partial(evaluate_batch, model, params, key, dataset.sample, source, num_groups=dataset.num_groups)
    parts = [jax.device_get(run(index=jnp.asarray(index))) for index in padded.reshape(-1, batch_size)]
    return jax.tree.map(lambda *rows: np.concatenate(rows)[:size], *parts)
