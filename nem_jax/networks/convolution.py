"""2-D convolution whose gradients are as fast inside a loop as outside it, and its upsampling form.

Inside `lax.scan`, XLA's CPU backend runs the gradients that autodiff makes of `lax.conv` 20 to 75 times slower than
outside. So convolution is a primitive here, one of three that belong to one trilinear form <conv(x, kernel), y>:

    conv(x, kernel) -> y        conv_input(y, kernel) -> x        conv_kernel(x, y) -> kernel

Each is linear in both arguments, and its transpose in either is another of the three: forward mode, reverse mode and
higher derivatives follow. Under vmap with one kernel for all, conv and conv_input fold the mapped axis into the batch.
What each computes, on CPU and elsewhere: convolution_forms.py.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from nem_jax.networks.convolution_forms import (
    Geometry,
    cpu_conv,
    cpu_conv_input,
    cpu_conv_kernel,
    lax_conv,
    lax_conv_input,
    lax_conv_kernel,
)


def conv(
    x: Float[Array, "*n H W I"], kernel: Float[Array, "h w I O"], stride: int, padding: tuple[int, int]
) -> Float[Array, "*n H2 W2 O"]:
    """Cross-correlation of each image with `kernel`, as `lax.conv_general_dilated` gives it.

    Args:
        x: images; leading axes of any number are a batch.
        kernel: HWIO.
        stride: on both axes.
        padding: zeros (before, after), on both axes; fewer than the kernel's taps.

    Raises:
        ValueError: they are not, or no window fits.
    """
    height, width = x.shape[-3:-1]
    taps = (kernel.shape[0], kernel.shape[1])
    if not all(0 <= zeros < min(taps) for zeros in padding):  # XLA's gradients of more are wrong on CPU
        raise ValueError(f"padding must be from 0 to one less than the kernel's taps {taps}, got {padding}")
    geometry = _geometry(x, kernel, stride, (padding, padding))
    if min(geometry.output) < 1:
        raise ValueError(f"an image of {height}x{width} with padding {padding} is smaller than the kernel {taps}")
    return _convolve(x, kernel, geometry)


def upsample_conv(x: Float[Array, "*n H W I"], kernel: Float[Array, "4 4 I O"]) -> Float[Array, "*n 2*H 2*W O"]:
    """Nearest-neighbour upsampling by 2, then the 4x4 convolution that pads 1 before and 2 after.

    Neighbours among the upsampled pixels often are the same source pixel: an even output row sees three rows of x and
    an odd one two, by taps added up, and so with columns. Even and odd rows are a convolution each of the small image;
    even and odd columns are its channels: 30 products where the plain form takes 64.
    """
    *batch, height, width, _ = x.shape
    even, odd = (jnp.asarray(taps, kernel.dtype) for taps in (_EVEN_TAPS, _ODD_TAPS))
    columns = jnp.stack([even, jnp.pad(odd, [(1, 0), (0, 0)])])  # as many for both
    rows = []
    for taps, padding in ((even, (1, 1)), (odd, (0, 1))):
        row_kernel = jnp.einsum("uk,bvl,klio->uvibo", taps, columns, kernel)
        row_kernel = row_kernel.reshape(*row_kernel.shape[:3], -1)
        y = _convolve(x, row_kernel, _geometry(x, row_kernel, 1, (padding, (1, 1))))
        rows.append(y.reshape(*batch, height, 2 * width, kernel.shape[3]))
    return jnp.stack(rows, axis=-3).reshape(*batch, 2 * height, 2 * width, kernel.shape[3])


_EVEN_TAPS = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]])
"""[source pixel, tap]: those of a 4-kernel that fall on source pixels -1, 0 and +1, along one axis."""
_ODD_TAPS = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
"""On source pixels 0 and +1."""


def _geometry(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[tuple[int, int], ...]) -> Geometry:
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined] # made at run time
    return Geometry((x.shape[-3], x.shape[-2]), (kernel.shape[0], kernel.shape[1]), stride, padding, precision)


def _convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    batch = x.shape[:-3]
    y = _conv_p.bind(x.reshape(math.prod(batch), *x.shape[-3:]), kernel, geometry=geometry)
    return y.reshape(*batch, *geometry.output, kernel.shape[3])


def _define(name: str, function: Callable[..., jax.Array]) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(function, static_argnames="geometry"))

    def shape(*arguments: Any, geometry: Geometry) -> jax.core.ShapedArray:
        result = jax.eval_shape(functools.partial(function, geometry=geometry), *arguments)
        return jax.core.ShapedArray(result.shape, result.dtype)

    primitive.def_abstract_eval(shape)
    return primitive


def _lower(primitive: Primitive, function: Callable[..., jax.Array], platform: str | None = None) -> None:
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False), platform=platform)


_conv_p = _define("conv", lax_conv)
_conv_input_p = _define("conv_input", lax_conv_input)
_conv_kernel_p = _define("conv_kernel", lax_conv_kernel)

_lower(_conv_p, lax_conv)
_lower(_conv_p, cpu_conv, "cpu")
_lower(_conv_input_p, lax_conv_input)
_lower(_conv_input_p, cpu_conv_input, "cpu")
_lower(_conv_kernel_p, lax_conv_kernel)
_lower(_conv_kernel_p, cpu_conv_kernel, "cpu")

ad.defbilinear(
    _conv_p,
    lambda y, x, kernel, **options: _conv_input_p.bind(y, kernel, **options),
    lambda y, x, kernel, **options: _conv_kernel_p.bind(x, y, **options),
)
ad.defbilinear(
    _conv_input_p,
    lambda x, y, kernel, **options: _conv_p.bind(x, kernel, **options),
    lambda x, y, kernel, **options: _conv_kernel_p.bind(x, y, **options),
)
ad.defbilinear(
    _conv_kernel_p,
    lambda kernel, x, y, **options: _conv_input_p.bind(y, kernel, **options),
    lambda kernel, x, y, **options: _conv_p.bind(x, kernel, **options),
)


def _batch(primitive: Primitive, folds: bool, arguments: Any, axes: Any, *, geometry: Geometry) -> tuple[Any, int]:
    """vmap: one call on all images where they share the kernel, and one call after the other elsewhere."""
    bind = functools.partial(primitive.bind, geometry=geometry)
    first, second = (
        argument if axis is None else jnp.moveaxis(argument, axis, 0)
        for argument, axis in zip(arguments, axes, strict=True)
    )
    if folds and axes[1] is None:
        result = bind(first.reshape(-1, *first.shape[2:]), second)
        return result.reshape(*first.shape[:2], *result.shape[1:]), 0
    if axes[0] is None:
        return jax.lax.map(lambda b: bind(first, b), second), 0
    if axes[1] is None:
        return jax.lax.map(lambda a: bind(a, second), first), 0
    return jax.lax.map(lambda pair: bind(*pair), (first, second)), 0


for _primitive, _folds in ((_conv_p, True), (_conv_input_p, True), (_conv_kernel_p, False)):
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive, _folds)
