"""One generalised EM step of one example (N-EM sections 2.1 to 2.3), in the original program's order:

    residual_k  = gamma_k (x_noisy - psi_k)            masked_residual
    theta_k, psi_k = cell(params, residual_k, theta_k)  update_theta, one network for all k
    gamma_ik    = P(x_i | psi_ik) / sum_k ...          e_step, on the clean target

`em_step` is the three lines in a row. Nothing here knows of batches, time or devices: `jax.vmap` over `em_step`
adds a batch, `nem_jax.unroll` repeats it over T.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nem_jax.distributions import PixelDist
from nem_jax.types import Cell, EMState, Params, PRNGKey, assert_gamma_of, assert_psi_of, check_counts

E_STEP_EPSILON = 1e-6

MIN_EPSILON = 1e-18
"""The E-step's gradient divides by the square of what may be epsilon alone: of a smaller one it overflows."""


def init_state(
    key: PRNGKey,
    *,
    num_components: int,
    hidden_size: int,
    image_shape: tuple[int, ...],
) -> EMState:
    """The state before the first step: theta = 0, psi = 0, and gamma random.

    gamma = |N(0, 1)| per pixel and component, normalised over K (the original program's `init_state`);
    with one component gamma is 1. The random gamma is all that tells the components apart.

    Args:
        key: consumed.
        num_components: K >= 1.
        hidden_size: M, the size of theta.
        image_shape: (H, W, C).

    Raises:
        ValueError: a count is below 1.
    """
    check_counts(num_components=num_components, hidden_size=hidden_size)
    height, width, _ = image_shape
    gamma = jnp.abs(jax.random.normal(key, (num_components, height * width)))
    gamma = gamma / jnp.sum(gamma, axis=0, keepdims=True) if num_components > 1 else jnp.ones_like(gamma)
    gamma = gamma.reshape(num_components, height, width, 1)
    theta = jnp.zeros((num_components, hidden_size))
    return EMState(theta, jnp.zeros((num_components, *image_shape)), gamma)


def masked_residual(
    x_noisy: Float[Array, "H W C"], psi: Float[Array, "K H W C"], gamma: Float[Array, "K H W 1"]
) -> Float[Array, "K H W C"]:
    """gamma_k (x_noisy - psi_k): what each component still has to explain of its pixels (N-EM equation 4)."""
    assert_psi_of(x_noisy, psi)
    assert_gamma_of(psi, gamma)
    return gamma * (x_noisy[None] - psi)


def update_theta(
    cell: Cell, params: Params, residual: Float[Array, "K H W C"], theta: Float[Array, "K M"]
) -> tuple[Float[Array, "K M"], Float[Array, "K H W C"]]:
    """The generalised M-step (N-EM equation 4, or the RNN in its place): `cell` on each component, weights shared.

    Returns the new theta and its psi. Raises AssertionError if the cell changes the shape of either.
    """
    new_theta, psi = jax.vmap(cell, in_axes=(None, 0, 0))(params, residual, theta)
    chex.assert_equal_shape([new_theta, theta], custom_message="the cell must keep theta's shape")
    chex.assert_equal_shape([psi, residual], custom_message="the cell must return psi in the residual's shape")
    return new_theta, psi


def check_epsilon(epsilon: float) -> None:
    """Refuse what `e_step` does not take.

    Raises:
        ValueError: it is neither 0 nor at least `MIN_EPSILON`.
    """
    if epsilon != 0 and not epsilon >= MIN_EPSILON:
        raise ValueError(f"epsilon must be 0 or at least {MIN_EPSILON}, got {epsilon}")


def e_step(
    x: Float[Array, "H W C"],
    psi: Float[Array, "K H W C"],
    pixel_dist: PixelDist,
    epsilon: float = E_STEP_EPSILON,
) -> Float[Array, "K H W 1"]:
    """Responsibilities gamma_ik = P(x_i | psi_ik) / sum_j P(x_i | psi_ij), uniform mixing (N-EM equation 3).

    The original program adds `epsilon` to the *linear* likelihood before it normalises. That is part of the
    model: a pixel far from every mean gets uniform responsibilities, where the exact posterior picks the least
    wrong component. `epsilon=0.0` is the exact posterior, computed in log space; under jit `epsilon` is static.
    Binary or grey, pixels lie in [0, 1]: outside, Bernoulli's is no likelihood.

    Raises:
        ValueError: see `check_epsilon`.
    """
    assert_psi_of(x, psi)
    check_epsilon(epsilon)
    if epsilon == 0:
        return jax.nn.softmax(pixel_dist.log_prob(x[None], psi), axis=0)[..., None]
    likelihood = pixel_dist.prob(x[None], psi) + epsilon
    # Written out: XLA's CPU backend runs the gradient of jnp.sum over this axis at a fifth of the speed.
    evidence = sum(likelihood[k : k + 1] for k in range(likelihood.shape[0]))
    return (likelihood / evidence)[..., None]


def em_step(
    cell: Cell,
    params: Params,
    state: EMState,
    x_noisy: Float[Array, "H W C"],
    x: Float[Array, "H W C"],
    pixel_dist: PixelDist,
    *,
    gradient_gamma: bool = True,
    epsilon: float = E_STEP_EPSILON,
) -> EMState:
    """One EM step: residual with the old gamma, new theta and psi, then the E-step (N-EM figure 1).

    Args:
        cell: one component's network, see `nem_jax.types.Cell`; static under jit, like `pixel_dist` and the options.
        params: its weights.
        state: the last step's.
        x_noisy: corrupted input of this step.
        x: clean target of this step: the same frame for static images, the next one for sequences.
        pixel_dist: `Bernoulli()` or `Gaussian(...)`.
        gradient_gamma: False stops gradients through gamma (N-EM section 2.4); psi's in the residual stay.
        epsilon: see `e_step`.

    Returns:
        The new state, of the old one's shapes.

    Raises:
        ValueError, AssertionError: see `e_step` and `update_theta`.
    """
    residual = masked_residual(x_noisy, state.psi, state.gamma)
    theta, psi = update_theta(cell, params, residual, state.theta)
    gamma = e_step(x, psi, pixel_dist, epsilon)
    return EMState(theta, psi, gamma if gradient_gamma else jax.lax.stop_gradient(gamma))
