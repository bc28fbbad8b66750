"""Input noise, from the clean x to x_noisy: each function is `(key, x) -> x_noisy` once its strength is bound.

It consumes the key; a probability outside [0, 1] is a ValueError, unless it is traced.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nem_jax.types import PRNGKey


def bitflip(key: PRNGKey, x: Float[Array, "*shape"], prob: float) -> Float[Array, "*shape"]:
    """Flip each binary pixel (x -> 1 - x) with probability `prob` (N-EM appendix A.1: 0.1, A.2: 0.2)."""
    _check(prob)
    flip = jax.random.bernoulli(key, prob, (x.size,)).reshape(x.shape)  # flat draws are twice as fast on CPU
    return jnp.where(flip, 1 - x, x)


def masked_uniform(key: PRNGKey, x: Float[Array, "*shape"], prob: float) -> Float[Array, "*shape"]:
    """Replace each pixel by a sample of U(0, 1) with probability `prob` (N-EM section 4.3: 0.2)."""
    _check(prob)
    mask_key, value_key = jax.random.split(key)
    mask = jax.random.bernoulli(mask_key, prob, x.shape)
    return jnp.where(mask, jax.random.uniform(value_key, x.shape, x.dtype), x)


def _check(prob: float | jax.Array) -> None:
    if not isinstance(prob, jax.core.Tracer) and not 0 <= prob <= 1:
        raise ValueError(f"prob must be from 0 to 1, got {prob}")
