"""Records, array shapes and number types shared by the whole package.

Axis legend, always in this order:

    B  batch          T  EM steps (F = T + lookahead frames)      K  components
    H  height         W  width         C  channels        M  hidden units of one component
    N  objects, or examples of a data set        S  seeds        R  steps of a rollout beyond the frames

The core functions take one example, so that B never appears in them: `jax.vmap` adds it. Arrays that
belong to one component carry K first (`psi` is `[K, H, W, C]`); images have no K axis.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Params = Any
"""Weights of a network: any pytree (phi in the papers)."""

PRNGKey = Key[Array, ""]
"""A typed `jax.random.key`, consumed once."""

Cell = Callable[[Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`(params, residual [H, W, C], theta [M]) -> (theta [M], psi [H, W, C])` of one component."""


class Objects(NamedTuple):
    """The N objects of a generated example, in the order of their labels."""

    masks: Float[Array, "*b F N H W 1"]
    """What each object alone would paint, in [0, 1], hidden parts included; 0 or 1 for binary shapes."""
    positions: Int[Array, "*b F N 2"]
    """(y, x) of the top-left corner."""
    velocities: Int[Array, "*b F N 2"]
    """Pixels per frame with which the object moves from this frame to the next."""


class Example(NamedTuple):
    """One labelled sequence; a static image is a sequence of one frame."""

    x: Float[Array, "*b F H W C"]
    """Clean frames in [0, 1]."""
    groups: Int[Array, "*b F H W 1"]
    """True segmentation: 1..n, and 0 where no or several objects are (ignored by the metrics)."""
    overlaps: Int[Array, "*b F H W 1"]
    """Number of objects that cover each pixel."""
    objects: Objects | None = None
    """What a generated example knows of each object; None for stored data."""


class EMState(NamedTuple):
    """What the next EM step needs of the last one."""

    theta: Float[Array, "*b K M"]
    """Hidden state of each component."""
    psi: Float[Array, "*b K H W C"]
    """Predicted pixel parameters of each component: Bernoulli or Gaussian means."""
    gamma: Float[Array, "*b K H W 1"]
    """Responsibilities: posterior of the component given the pixel, sums to 1 over K."""


class Trajectory(NamedTuple):
    """The states after each of T EM steps."""

    theta: Float[Array, "*b T K M"]
    psi: Float[Array, "*b T K H W C"]
    gamma: Float[Array, "*b T K H W 1"]


def check_counts(lowest: int = 1, **counts: Any) -> None:
    """ValueError, which names the count, unless each is a whole number of at least `lowest`."""
    for name, count in counts.items():
        if not jnp.issubdtype(getattr(count, "dtype", type(count)), jnp.integer) or count < lowest:
            raise ValueError(f"{name} must be an integer of at least {lowest}, got {count!r}")


def at_least_float32(dtype: Any) -> Any:
    """What sums and differences of numbers of `dtype` are computed in before they are rounded to it."""
    return dtype if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32 else jnp.float32


def assert_psi_of(x: jax.Array, psi: jax.Array) -> None:
    """AssertionError unless x is `[H, W, C]` and psi `[K, H, W, C]`: other shapes broadcast to wrong numbers."""
    chex.assert_rank(x, 3)
    chex.assert_shape(psi, (None, *x.shape))


def assert_gamma_of(psi: jax.Array, gamma: jax.Array) -> None:
    """AssertionError unless psi is `[K, H, W, C]` and gamma `[K, H, W, 1]`, likewise."""
    chex.assert_rank(psi, 4)
    chex.assert_shape(gamma, (*psi.shape[:3], 1))
