"""Pixel distributions P(x_i | psi_ik), paper (N-EM) section 2.1.

A pixel distribution is a frozen record of its constants with functions of `x [..., C]` and `psi [..., C]`.
Channels are independent given psi: likelihoods multiply and costs add over them. (The original
program *adds likelihoods* over channels, which is no likelihood; for C = 1, all it ever ran, both agree.)
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nem_jax.types import at_least_float32

_CLIP = 1e-6  # the original program's bound on the arguments of its logarithms


@dataclass(frozen=True)
class Bernoulli:
    """Binary pixels with mean psi. The pixel prior of the inter-cluster loss is p = 0."""

    def log_prob(self, x: Float[Array, "*b C"], psi: Float[Array, "*k C"]) -> Float[Array, "*o"]:
        """log P(x | psi), natural logarithm of `prob`, which is bounded below (-87.3 per channel in float32)."""
        likelihood = x * psi + (1 - x) * (1 - psi)
        return jnp.sum(jnp.log(jnp.maximum(likelihood, jnp.finfo(likelihood.dtype).tiny)), axis=-1)

    def prob(self, x: Float[Array, "*b C"], psi: Float[Array, "*k C"]) -> Float[Array, "*o"]:
        """P(x | psi), for grey x the linear interpolation x psi + (1 - x)(1 - psi)."""
        return jnp.prod(x * psi + (1 - x) * (1 - psi), axis=-1)

    def nll(self, x: Float[Array, "*b C"], psi: Float[Array, "*k C"]) -> Float[Array, "*o"]:
        """Binary cross entropy in nats, psi clipped to [1e-6, 1 - 1e-6]; of a short float in float32."""
        x, psi = (leaf.astype(at_least_float32(leaf.dtype)) for leaf in (x, psi))  # in bfloat16 1 - 1e-6 is 1
        psi = jnp.clip(psi, _CLIP, 1 - _CLIP)

        def cost(x: jax.Array, psi: jax.Array) -> jax.Array:
            return -(x * jnp.log(psi) + (1 - x) * jnp.log(1 - psi))

        # Written out: XLA's CPU backend is slow to add up what ends with an axis of 1.
        return sum((cost(x[..., c], psi[..., c]) for c in range(1, psi.shape[-1])), cost(x[..., 0], psi[..., 0]))

    def kl_from_prior(self, psi: Float[Array, "*k C"]) -> Float[Array, "*k"]:
        """KL(Bernoulli(0) || Bernoulli(psi)) = -log(1 - psi), in nats."""
        psi = psi.astype(at_least_float32(psi.dtype))
        return jnp.sum(-jnp.log(jnp.maximum(1 - psi, _CLIP)), axis=-1)

    def activation(self, output: Float[Array, "*k C"]) -> Float[Array, "*k C"]:
        """From the network's linear output to psi: sigmoid."""
        return jax.nn.sigmoid(output)

    def mode(self, psi: Float[Array, "*k C"]) -> Float[Array, "*k C"]:
        """The likeliest x: 1 where psi > 1/2."""
        return (psi > 0.5).astype(psi.dtype)


@dataclass(frozen=True)
class Gaussian:
    """Grey pixels with mean psi. The pixel prior of the inter-cluster loss has mean 0.

    Attributes:
        e_sigma: standard deviation in the E-step. The original program's 0.25 (variance 0.0625); the
            paper's text says variance 0.25, which is `e_sigma=0.5`.
        loss_sigma: standard deviation in the losses; the original program's is 1.

    Raises:
        ValueError: one of them is not above 0.
    """

    e_sigma: float = 0.25
    loss_sigma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("e_sigma", "loss_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def log_prob(self, x: Float[Array, "*b C"], psi: Float[Array, "*k C"]) -> Float[Array, "*o"]:
        """log N(x; psi, e_sigma^2)."""
        log_norm = math.log(self.e_sigma * math.sqrt(2 * math.pi))
        return jnp.sum(-0.5 * ((x - psi) / self.e_sigma) ** 2 - log_norm, axis=-1)

    def prob(self, x: Float[Array, "*b C"], psi: Float[Array, "*k C"]) -> Float[Array, "*o"]:
        """Density N(x; psi, e_sigma^2)."""
        return jnp.exp(self.log_prob(x, psi))

    def nll(self, x: Float[Array, "*b C"], psi: Float[Array, "*k C"]) -> Float[Array, "*o"]:
        """(x - psi)^2 / (2 loss_sigma^2), without the constant, as in the original program."""
        return jnp.sum(0.5 * ((x - psi) / self.loss_sigma) ** 2, axis=-1)

    def kl_from_prior(self, psi: Float[Array, "*k C"]) -> Float[Array, "*k"]:
        """KL(N(0, loss_sigma^2) || N(psi, loss_sigma^2)) = psi^2 / (2 loss_sigma^2)."""
        return jnp.sum(0.5 * (psi / self.loss_sigma) ** 2, axis=-1)

    def activation(self, output: Float[Array, "*k C"]) -> Float[Array, "*k C"]:
        """From the network's linear output to psi: the identity."""
        return output

    def mode(self, psi: Float[Array, "*k C"]) -> Float[Array, "*k C"]:
        """The likeliest x: psi."""
        return psi


PixelDist = Bernoulli | Gaussian
