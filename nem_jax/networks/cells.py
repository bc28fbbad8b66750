"""The two fully connected cells of the static experiments (N-EM appendix A.1): RNN-EM and N-EM.

A cell is a Linen module on one component: `(residual [H, W, C], theta [M]) -> (theta [M], psi [H, W, C])`. Pixels are
flattened in the order H, W, C. `flax_cell` makes a `nem_jax.types.Cell` of it.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nem_jax.types import Cell, Params, PRNGKey

XAVIER = nn.initializers.xavier_uniform()


def flax_cell(module: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Callable[[PRNGKey], Params], Cell]:
    """`(init, cell)` of a Linen module such as those here, for images (H, W, C): all that the EM code sees of Flax.

    The module has the attribute `hidden_size`, M, and is called with `(residual, theta)`.
    """

    def init(key: PRNGKey) -> Params:
        return module.init(key, jnp.zeros(image_shape), jnp.zeros(module.hidden_size))["params"]

    def cell(params: Params, residual: jax.Array, theta: jax.Array) -> Any:
        return module.apply({"params": params}, residual, theta)

    return init, cell


class RNNEMCell(nn.Module):
    """RNN-EM: a sigmoid recurrent layer and a dense output (N-EM section 2.3, figure 2).

    theta' = sigmoid(W [residual, theta] + b),   psi = activation(V theta' + c).
    The kernel is one matrix over the joint [residual, theta], which sets its Xavier range.

    Attributes:
        hidden_size: M.
        output_activation: from the linear output to psi, such as `Bernoulli().activation`.
    """

    hidden_size: int
    output_activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(
        self, residual: Float[Array, "H W C"], theta: Float[Array, " M"]
    ) -> tuple[Float[Array, " M"], Float[Array, "H W C"]]:
        """(residual, theta) -> (theta, psi)."""
        pixels = residual.reshape(-1)
        theta = nn.sigmoid(nn.Dense(self.hidden_size, kernel_init=XAVIER, name="rnn")(jnp.concatenate([pixels, theta])))
        output = nn.Dense(pixels.size, kernel_init=XAVIER, name="output")(theta)
        return theta, self.output_activation(output).reshape(residual.shape)


def positive_step_size(key: PRNGKey) -> Float[Array, ""]:
    """|U(-sqrt(3), sqrt(3))|: the original program's draw, made an ascent."""
    return jnp.abs(original_step_size(key))


def original_step_size(key: PRNGKey) -> Float[Array, ""]:
    """U(-sqrt(3), sqrt(3)), the original program's: Xavier for a 1x1 weight; a descent in half of the runs."""
    return jax.random.uniform(key, minval=-(3**0.5), maxval=3**0.5)


class NEMCell(nn.Module):
    """N-EM: the exact generalised EM step of psi = sigmoid(W^T sigmoid(theta)) (N-EM equation 4), no biases.

    theta' = theta + eta sigmoid'(theta) * (W residual), with the step size eta learnt along with W: for Bernoulli
    pixels and a sigmoid output, sigmoid'(theta) * (W residual) is the gradient of the expected log-likelihood Q. The
    weights are of JAX's default type, unlike those of Flax's layers float64 where that is on.

    Attributes:
        hidden_size: M.
        step_size_init: draws the initial eta: `positive_step_size` or `original_step_size`.
    """

    hidden_size: int
    step_size_init: Callable[[PRNGKey], jax.Array] = positive_step_size

    @nn.compact
    def __call__(
        self, residual: Float[Array, "H W C"], theta: Float[Array, " M"]
    ) -> tuple[Float[Array, " M"], Float[Array, "H W C"]]:
        """(residual, theta) -> (theta, psi)."""
        pixels = residual.reshape(-1)
        kernel = self.param("kernel", XAVIER, (pixels.size, self.hidden_size))
        step_size = self.param("step_size", self.step_size_init)
        squashed = nn.sigmoid(theta)
        theta = theta + step_size * squashed * (1 - squashed) * (pixels @ kernel)
        psi = nn.sigmoid(nn.sigmoid(theta) @ kernel.T)
        return theta, psi.reshape(residual.shape)
