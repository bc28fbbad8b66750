"""EM steps over time: the only loop over them in the package."""

from collections.abc import Callable

import chex
import jax
from jaxtyping import Array, Float

from nem_jax.types import EMState, Trajectory

Step = Callable[[EMState, jax.Array, jax.Array], EMState]
"""`(state, x_noisy [H, W, C], x [H, W, C]) -> state`: `em_step` with its cell, params and options bound."""


def unroll(
    step: Step,
    state: EMState,
    x_noisy: Float[Array, "T H W C"],
    x: Float[Array, "T H W C"],
    *,
    scan_unroll: int = 1,
    remat: bool = False,
) -> Trajectory:
    """Apply `step` T times: step t reads x_noisy[t] and its target x[t] (N-EM section 2.3).

    For next-step prediction the caller passes frames 0..T-1 as x_noisy and frames 1..T as x; a static image is the
    case in which all frames are equal.

    Args:
        step: one EM step, see `Step`.
        state: the state before the first step.
        x_noisy: corrupted inputs.
        x: clean targets.
        scan_unroll: how many steps are laid out in one loop body (compiled size against speed; same numbers).
        remat: recompute each step in the backward pass instead of storing it: memory of one step, not T.

    Returns:
        The T states after each step.
    """
    chex.assert_equal_shape([x_noisy, x])

    def body(carry: EMState, frames: tuple[jax.Array, jax.Array]) -> tuple[EMState, EMState]:
        new = step(carry, *frames)
        return new, new

    if remat:
        body = jax.checkpoint(body, prevent_cse=False)
    _, states = jax.lax.scan(body, state, (x_noisy, x), unroll=scan_unroll)
    return Trajectory(*states)
