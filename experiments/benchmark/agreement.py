"""Do ours and PyTorch's program train the same? One batch for both, and how far their losses and gradients differ."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nem_jax.compilation import Jit
from nem_jax.config import Experiment
from nem_jax.model import draw_inputs, target_frames
from nem_jax.training.state import make_keys
from nem_jax.training.step import batch_loss
from nem_jax.types import Params


class OneBatch(NamedTuple):
    """All that is random in a step, and our loss and gradients of it."""

    params: Params
    x_noisy: Float[Array, "B T H W C"]
    targets: Float[Array, "B T H W C"]
    gamma: Float[Array, "B K H W 1"]
    """Initial."""
    loss: Float[Array, ""]
    grads: Params


def one_batch(experiment: Experiment, num_examples: int) -> OneBatch:
    """The first training examples, with the weights, noise and gamma that `batch_loss` draws for seed 0."""
    model, dataset, keys = experiment.model, experiment.load_data(), make_keys(0)
    params = model.init(keys.init)
    index = jnp.arange(num_examples)
    x = jax.jit(jax.vmap(dataset.sample, in_axes=(None, 0)))(dataset.splits["training"].source, index).x

    def drawn(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x_noisy, state = draw_inputs(model, key, x)
        return x_noisy, target_frames(model, x), state.gamma

    example_keys = jax.random.split(keys.train, num_examples)
    loss_and_grads = Jit(jax.value_and_grad(batch_loss, argnums=1, has_aux=True), static_argnums=0)
    (loss, _), grads = loss_and_grads(model, params, example_keys, x)
    x_noisy, targets, gamma = jax.jit(jax.vmap(drawn))(example_keys, x)
    return OneBatch(params, x_noisy, targets, gamma, loss, grads)


def largest_difference(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Over pairs of arrays (ours, theirs): the largest |difference| relative to the largest entry of theirs."""
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)
