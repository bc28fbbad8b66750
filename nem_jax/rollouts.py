"""Beyond the paper: the model reads its own predictions once the frames end.

What it reads is like what it was trained on: the likeliest frame, with the training's noise. The frame is that of the
pixelwise maximum over the components, as in N-EM's figure 5: any other would weigh them by a gamma of the frame to
come, which is exactly what is not known. (Fed with psi itself, or without noise, RNN-EM forgets the objects at once.)
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nem_jax import em, losses
from nem_jax.distributions import PixelDist
from nem_jax.losses import predicted_frame
from nem_jax.model import NEM, infer, to_frames
from nem_jax.types import Cell, EMState, Params, PRNGKey, Trajectory
from nem_jax.unrolling import unroll

_AHEAD = 2**31  # folded into the key that `infer` splits: a smaller number gives the keys that a split gives


class Rollout(NamedTuple):
    """T EM steps on observed frames, and R steps on the model's own predictions (leading axes)."""

    observed: Trajectory
    """`[T, ...]`, as `model.infer` returns it."""
    ahead: Trajectory
    """`[R, ...]`, from the last observed state on."""
    x_noisy: Float[Array, "*b T H W C"]
    """What the observed steps read."""


def likeliest_frame(psi: Float[Array, "K H W C"], pixel_dist: PixelDist) -> Float[Array, "H W C"]:
    """The mode of P(x | max_k psi_k)."""
    return pixel_dist.mode(predicted_frame(psi))


def rollout_step(
    cell: Cell,
    params: Params,
    state: EMState,
    key: PRNGKey,
    corrupt: Callable[[PRNGKey, jax.Array], jax.Array],
    pixel_dist: PixelDist,
    epsilon: float = em.E_STEP_EPSILON,
) -> EMState:
    """`em.em_step` without a frame: the input is the state's likeliest frame with noise, the target the new state's.

    Args:
        cell: one component's network, see `nem_jax.types.Cell`.
        params: its weights.
        state: the last step's, observed or not.
        key: consumed by `corrupt`.
        corrupt: `(key, x [H, W, C]) -> x_noisy`.
        pixel_dist: `Bernoulli()` or `Gaussian(...)`.
        epsilon: see `em.e_step`.
    """
    x_noisy = corrupt(key, likeliest_frame(state.psi, pixel_dist))
    theta, psi = em.update_theta(cell, params, em.masked_residual(x_noisy, state.psi, state.gamma), state.theta)
    return EMState(theta, psi, em.e_step(likeliest_frame(psi, pixel_dist), psi, pixel_dist, epsilon))


def rollout(model: NEM, params: Params, key: PRNGKey, x: Float[Array, "F H W C"], num_ahead: int) -> Rollout:
    """`model.infer` on the first frames of one example, then `num_ahead` steps of `rollout_step`.

    Args:
        model: the model's constants.
        params: its weights.
        key: consumed, as by `infer`: with `num_ahead=0` the draws and results are the same.
        x: clean frames, T + lookahead or more, or one; no later frame is read.
        num_ahead: R >= 0, static under jit.

    Raises:
        ValueError: if x moves and the model predicts another than the next frame, the next step's input; or x has
            fewer frames than T + lookahead; or num_ahead is negative.
    """
    if num_ahead < 0:
        raise ValueError(f"num_ahead must be at least 0, got {num_ahead}")
    if model.lookahead != 1 and len(x) > 1:
        raise ValueError(f"only a model of lookahead 1 predicts its next input, this one's is {model.lookahead}")
    observed, x_noisy = infer(model, params, key, x[: model.num_frames])

    def step(state: EMState, key: PRNGKey, _unread: jax.Array) -> EMState:
        return rollout_step(model.cell, params, state, key, model.corrupt, model.pixel_dist, model.epsilon)

    last = EMState(*(leaf[-1] for leaf in observed))
    keys = jax.random.split(jax.random.fold_in(key, _AHEAD), num_ahead)
    unread = jnp.zeros((num_ahead, *x.shape[1:]), x.dtype)
    ahead = unroll(step, last, keys, unread, scan_unroll=model.scan_unroll or max(num_ahead, 1))
    return Rollout(observed, ahead, x_noisy)


def rollout_losses(
    model: NEM, rollout: Rollout, x: Float[Array, "F H W C"]
) -> tuple[Float[Array, " T"], Float[Array, " R"]]:
    """`losses.loss_upper_bound` (N-EM figure 5) of each step, observed and ahead, on the true frames.

    Step t, counted on through both parts, is scored on frame t + `model.lookahead`.

    Args:
        model: the model of the rollout.
        rollout: of one example.
        x: clean frames, T + lookahead + R or more, or one (a static image).

    Raises:
        ValueError: if x is a sequence too short for its rollout.
    """
    num_steps = len(rollout.observed.psi)
    psi = jnp.concatenate([rollout.observed.psi, rollout.ahead.psi])
    num_frames = len(psi) + model.lookahead
    if 1 < len(x) < num_frames:
        raise ValueError(
            f"{len(psi)} steps that predict {model.lookahead} ahead need {num_frames} frames, got {len(x)}"
        )
    bound = functools.partial(losses.loss_upper_bound, pixel_dist=model.pixel_dist)
    values = jax.vmap(bound)(to_frames(x, num_frames)[model.lookahead :], psi)
    return values[:num_steps], values[num_steps:]
