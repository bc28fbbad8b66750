"""The convolutional cells of the sequential experiments (N-EM appendix A.2 and A.3): encoder, recurrent layer, decoder.

A Linen module on one component, as in cells.py; `jax.vmap` over components and examples folds into the convolutions'
batch. A layer is a linear map, layer norm, activation, but theta passes on without layer norm, and the last
convolution has none. Layer norm takes its moments over height, width and channels, with scale and offset per channel.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

from nem_jax.networks.cells import XAVIER
from nem_jax.networks.convolution import conv, upsample_conv
from nem_jax.types import at_least_float32

LAYER_NORM_EPSILON = 1e-12
INPUT_NORM_EPSILON = 1e-6

dense = functools.partial(nn.Dense, kernel_init=XAVIER)
unit_norm = functools.partial(nn.LayerNorm, epsilon=LAYER_NORM_EPSILON, use_fast_variance=False)
image_norm = functools.partial(unit_norm, reduction_axes=(-2, -1), feature_axes=-1)
"""Of an image `[pixels, C]`."""


class Conv4x4(nn.Module):
    """A layer of 4x4 kernels and a bias; `convolve` is `(x [H, W, I], kernel [4, 4, I, O]) -> [H', W', O]`."""

    features: int
    convolve: Callable[[jax.Array, jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: Float[Array, "H W I"]) -> Float[Array, "H2 W2 O"]:
        """An image of `features` channels."""
        kernel = self.param("kernel", XAVIER, (4, 4, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias)
        y = self.convolve(x, kernel)
        return (_pixels(y) + bias[None]).reshape(y.shape)


def _pixels(x: Float[Array, "H W C"]) -> Float[Array, "pixels C"]:
    """Height and width as one axis: XLA's CPU backend runs what is elementwise a few percent faster so."""
    return x.reshape(-1, x.shape[-1])


down_conv = functools.partial(Conv4x4, convolve=functools.partial(conv, stride=2, padding=(1, 1)))
up_conv = functools.partial(Conv4x4, convolve=upsample_conv)


class ConvRNNEMCell(nn.Module):
    """RNN-EM with a convolutional encoder and decoder.

    Attributes:
        hidden_size: M, units of the recurrent layer: 100 (flying shapes) or 250 (flying MNIST).
        features: channels of the encoder's convolutions, each of stride 2; the decoder mirrors them.
        dense_size: units of the dense layer before and after the recurrent one.
        output_activation: from the last convolution to psi.
        normalise_input: whether each residual is first brought to mean 0 and variance 1 (flying MNIST).
    """

    hidden_size: int
    output_activation: Callable[[jax.Array], jax.Array]
    features: tuple[int, ...]
    dense_size: int = 512
    normalise_input: bool = False

    @nn.compact
    def __call__(
        self, residual: Float[Array, "H W C"], theta: Float[Array, " M"]
    ) -> tuple[Float[Array, " M"], Float[Array, "H W C"]]:
        """(residual, theta) -> (theta, psi)."""
        divisor = 2 ** len(self.features)
        if residual.shape[0] % divisor or residual.shape[1] % divisor:
            raise ValueError(
                f"an image of {residual.shape[0]}x{residual.shape[1]} cannot be decoded to its size: "
                f"{len(self.features)} convolutions of stride 2 need multiples of {divisor}"
            )
        x = normalised(residual) if self.normalise_input else residual
        encoded, shape = self._encode(x)
        # Of an image of zeros the layer norms multiply slopes by 1e6 each, until the gradient's norm overflows: such an
        # image teaches the encoder nothing.
        encoded = jnp.where(jnp.any(x != 0), encoded, jax.lax.stop_gradient(encoded))
        linear = dense(self.hidden_size, name="rnn")(jnp.concatenate([encoded, theta]))
        output = nn.sigmoid(unit_norm(name="rnn_norm")(linear))
        return nn.sigmoid(linear), self.output_activation(self._decode(output, shape, residual.shape[-1]))

    def _encode(self, x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        """The dense code, and the shape of the image before it."""
        for layer, features in enumerate(self.features):
            x = down_conv(features, name=f"encoder_conv_{layer}")(x)
            x = elu(image_norm(name=f"encoder_norm_{layer}")(_pixels(x))).reshape(x.shape)
        code = dense(self.dense_size, name="encoder_dense")(x.reshape(-1))
        return elu(unit_norm(name="encoder_dense_norm")(code)), x.shape

    def _decode(self, code: jax.Array, shape: tuple[int, ...], channels: int) -> jax.Array:
        """The image before its activation."""
        sizes = (self.dense_size, shape[0] * shape[1] * shape[2])
        for layer, size in enumerate(sizes):
            code = dense(size, name=f"decoder_dense_{layer}")(code)
            code = nn.relu(unit_norm(name=f"decoder_dense_norm_{layer}")(code))
        x = code.reshape(shape)
        for layer, features in enumerate(self.features[-2::-1]):
            x = up_conv(features, name=f"decoder_conv_{layer}")(x)
            x = nn.relu(image_norm(name=f"decoder_norm_{layer}")(_pixels(x))).reshape(x.shape)
        return up_conv(channels, name="output")(x)


def elu(x: jax.Array) -> jax.Array:
    """exp(x) - 1 below 0, in float32: near 0 `nn.elu` is more exact, by less than an addition rounds, and slower."""
    # -x, where it is not used, and not 0, of which the compiled loop would read an image
    negative = jnp.where(x > 0, -x, x).astype(at_least_float32(x.dtype))
    return jnp.where(x > 0, x, (jnp.exp(negative) - 1).astype(x.dtype))


def normalised(x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """Mean 0 and variance 1 over the whole image. The epsilon is ours: without it a constant image gives NaN."""
    centred = x - jnp.mean(x)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2) + INPUT_NORM_EPSILON)
