"""EM steps over time: the only loop over them in the package."""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
from jaxtyping import Array, Float, Shaped

from nem_jax.types import EMState, Trajectory

Step = Callable[[EMState, jax.Array, jax.Array], EMState]
"""`(state, x_noisy [H, W, C], x [H, W, C]) -> state`: `em_step` with its cell, params and options bound."""

_PRODUCTS = {"dot_general", "conv_general_dilated"}
"""Primitives that may cost more than the memory of their results, beside our own convolution, `conv`."""

MIN_STORED_PRODUCTS = 32
"""A convolution of fewer products per result (on one grey channel: 16) is computed again like what is elementwise."""

REMAT: dict[str, Callable[..., Any]] = {
    "none": lambda body: body,
    "elementwise": lambda body: jax.checkpoint(body, prevent_cse=False, policy=_is_costly),
    "all": lambda body: jax.checkpoint(body, prevent_cse=False),
}
"""What the backward pass computes again instead of storing it: nothing, all but costly products, or a whole step."""


def _is_costly(primitive: Any, *avals: Any, **options: Any) -> bool:
    if primitive.name == "conv":
        return math.prod(avals[1].shape[:-1]) >= MIN_STORED_PRODUCTS  # kernel [h, w, I, O]
    return primitive.name in _PRODUCTS


def unroll(
    step: Step,
    state: EMState,
    x_noisy: Shaped[Array, "T *input"],
    x: Float[Array, "T H W C"],
    *,
    scan_unroll: int = 1,
    remat: str = "none",
) -> Trajectory:
    """Apply `step` T times: step t reads x_noisy[t] and its target x[t] (N-EM section 2.3).

    For next-step prediction the caller passes frames 0..T-1 as x_noisy and frames 1..T as x; a static image is the
    case in which all frames are equal.

    Args:
        step: one EM step, see `Step`.
        state: the state before the first step.
        x_noisy: corrupted inputs `[T, H, W, C]`; or whatever `step` makes them of, such as keys `[T]`.
        x: clean targets.
        scan_unroll: how many steps, at most T, a loop body lays out (compiled size against speed; same numbers).
        remat: one of `REMAT`: memory against time, the same numbers. 'all' keeps T states, and all else of one step.
            Where all steps are laid out XLA undoes it.

    Returns:
        The T states after each step.

    Raises:
        ValueError: `remat` is none of these.
    """
    if remat not in REMAT:
        raise ValueError(f"remat must be one of {', '.join(REMAT)}, got {remat!r}")
    chex.assert_equal_shape_prefix([x_noisy, x], 1)

    def body(carry: EMState, frames: tuple[jax.Array, jax.Array]) -> tuple[EMState, EMState]:
        new = step(carry, *frames)
        return new, new

    _, states = jax.lax.scan(REMAT[remat](body), state, (x_noisy, x), unroll=scan_unroll)
    return Trajectory(*states)
