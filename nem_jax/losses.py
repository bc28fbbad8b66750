"""The outer training objective of N-EM (section 2.4, equation 5), for one EM step of one example.

Losses are sums over pixels, those of the objective over components too, in nats (of Gaussian pixels up to a constant);
the mean over a batch is the caller's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nem_jax.distributions import PixelDist
from nem_jax.types import Trajectory, assert_gamma_of, assert_psi_of

WHICH_STEPS = ("last", "all")
"""EM steps that carry a loss, see `step_weights`, or whose grouping is scored."""


class StepLoss(NamedTuple):
    """The objective and its two terms, `inter` without its weight."""

    total: Float[Array, "*t"]
    intra: Float[Array, "*t"]
    inter: Float[Array, "*t"]


def intra_loss(
    x: Float[Array, "H W C"], psi: Float[Array, "K H W C"], gamma: Float[Array, "K H W 1"], pixel_dist: PixelDist
) -> Float[Array, ""]:
    """sum_ik gamma_ik (-log P(x_i | psi_ik)): each component explains its own pixels (equation 5, first term).

    `x` is the clean target, as in `e_step`.
    """
    assert_psi_of(x, psi)
    assert_gamma_of(psi, gamma)
    return jnp.sum(gamma[..., 0] * pixel_dist.nll(x[None], psi))


def inter_loss(psi: Float[Array, "K H W C"], gamma: Float[Array, "K H W 1"], pixel_dist: PixelDist) -> Float[Array, ""]:
    """sum_ik (1 - gamma_ik) KL(P(x_i) || P(x_i | psi_ik)): where pixels are the others', a component predicts the prior
    P(x_i), which is 0 (equation 5, second term).
    """
    assert_gamma_of(psi, gamma)
    return jnp.sum((1 - gamma[..., 0]) * pixel_dist.kl_from_prior(psi))


def total_loss(
    x: Float[Array, "H W C"],
    psi: Float[Array, "K H W C"],
    gamma: Float[Array, "K H W 1"],
    pixel_dist: PixelDist,
    inter_weight: float = 1.0,
) -> StepLoss:
    """Equation 5: `intra_loss` + inter_weight * `inter_loss`; `x` is the clean target."""
    intra = intra_loss(x, psi, gamma, pixel_dist)
    inter = inter_loss(psi, gamma, pixel_dist)
    return StepLoss(intra + inter_weight * inter, intra, inter)


def loss_upper_bound(x: Float[Array, "H W C"], psi: Float[Array, "K H W C"], pixel_dist: PixelDist) -> Float[Array, ""]:
    """sum_i -log P(x_i | max_k psi_ik), by `pixel_dist.nll`: the error of N-EM's figure 5, which needs no gamma."""
    assert_psi_of(x, psi)
    return jnp.sum(pixel_dist.nll(x, predicted_frame(psi)))


def predicted_frame(psi: Float[Array, "K H W C"]) -> Float[Array, "H W C"]:
    """max_k psi_ik: the frame that `loss_upper_bound` scores (N-EM figure 5), without any gamma."""
    return jnp.max(psi, axis=0)


def step_weights(kind: str, num_steps: int) -> np.ndarray:
    """Weight of each EM step's loss: 'last' (static images) or 'all' (1 each, sequences). Shape [T], T at least 1."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if kind == "last":
        return np.eye(num_steps, dtype=np.float32)[-1]
    if kind == "all":
        return np.ones(num_steps, np.float32)
    raise ValueError(f"step_weights must be 'last' or 'all', got {kind!r}")


def trajectory_loss(
    x: Float[Array, "T H W C"],
    trajectory: Trajectory,
    pixel_dist: PixelDist,
    weights: Float[np.ndarray, " _"] | Sequence[int | float],
    inter_weight: float = 1.0,
) -> StepLoss:
    """The weighted sum of `total_loss` over the EM steps: what training minimises.

    `weights` `[T]` is a constant, so that the steps before its first non-zero entry cost nothing.

    Raises:
        ValueError: there are not as many frames as steps, or not one weight for each, or none but zeros.
    """
    if len(x) != len(trajectory.psi):
        raise ValueError(f"x must be one target frame for each of {len(trajectory.psi)} EM steps, got {len(x)}")
    weights = np.asarray(weights)
    if weights.shape != (len(x),) or not weights.any():
        raise ValueError(f"weights must be {len(x)} numbers, one for each EM step and not all 0, got {weights}")
    used = slice(int(np.flatnonzero(weights)[0]), None)

    def loss_at(x: jax.Array, psi: jax.Array, gamma: jax.Array) -> StepLoss:
        return total_loss(x, psi, gamma, pixel_dist, inter_weight)

    losses = jax.vmap(loss_at)(x[used], trajectory.psi[used], trajectory.gamma[used])
    # a dot might be of low precision
    return StepLoss(*(jnp.sum(weights[used].astype(loss.dtype) * loss) for loss in losses))
