"""2-D convolution whose gradients are as fast inside a loop as outside it, and its upsampling form.

Inside `lax.scan`, XLA's CPU backend runs the gradients that autodiff makes of `lax.conv` 20 to 75 times slower than
outside. So convolution is a primitive here, one of three that belong to one trilinear form <conv(x, kernel), y>:

    conv(x, kernel) -> y        conv_input(y, kernel) -> x        conv_kernel(x, y) -> kernel

Each is linear in both arguments, and its transpose in either is another of the three: forward mode, reverse mode and
higher derivatives follow. Under vmap with one kernel for all, conv and conv_input fold the mapped axis into the batch.
On CPU each is a matrix product, or a convolution in a layout whose kernels are fast everywhere; elsewhere lax's own.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from nem_jax.types import at_least_float32

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """What fixes all shapes of one convolution but the number of images and channels."""

    image: tuple[int, int]
    """(H, W) of x."""
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    """Zeros before and after, on both axes."""
    precision: str | None
    """`jax.default_matmul_precision` where it was called: the backward pass is lowered elsewhere."""

    @property
    def output(self) -> tuple[int, int]:
        """(H, W) of y."""
        height, width = (
            (size + sum(self.padding) - taps) // self.stride + 1
            for size, taps in zip(self.image, self.kernel, strict=True)
        )
        return height, width


def conv(
    x: Float[Array, "*n H W I"], kernel: Float[Array, "h w I O"], stride: int, padding: tuple[int, int]
) -> Float[Array, "*n H2 W2 O"]:
    """Cross-correlation of each image with `kernel`, as `lax.conv_general_dilated` gives it.

    Args:
        x: images; leading axes of any number are a batch.
        kernel: HWIO.
        stride: on both axes.
        padding: zeros (before, after), on both axes.
    """
    *batch, height, width, channels = x.shape
    geometry = Geometry((height, width), (kernel.shape[0], kernel.shape[1]), stride, padding, _precision())
    if min(geometry.output) < 1:
        raise ValueError(
            f"an image of {height}x{width} with padding {padding} is smaller than the kernel {kernel.shape[:2]}"
        )
    y = _conv_p.bind(x.reshape(math.prod(batch), height, width, channels), kernel, geometry=geometry)
    return y.reshape(*batch, *geometry.output, kernel.shape[3])


def upsample_conv(x: Float[Array, "*n H W I"], kernel: Float[Array, "4 4 I O"]) -> Float[Array, "*n 2*H 2*W O"]:
    """Nearest-neighbour upsampling by 2, then the 4x4 convolution that pads 1 before and 2 after.

    Two neighbours of an upsampled pixel often are the same source pixel: each of the four output pixels of a source
    pixel sees at most 3x3 of these, with kernel entries added up. That is one 3x3 convolution on the small image with
    four times the channels, which are then laid out in space: 36 products where the plain form takes 64.
    """
    height, width, _ = x.shape[-3:]
    taps = jnp.asarray(_PHASE_TAPS, kernel.dtype)
    phases = jnp.einsum("auk,bvl,klio->uviabo", taps, taps, kernel)
    y = conv(x, phases.reshape(*phases.shape[:3], -1), stride=1, padding=(1, 1))
    y = y.reshape(*x.shape[:-1], 2, 2, -1)
    return jnp.moveaxis(y, -3, -4).reshape(*x.shape[:-3], 2 * height, 2 * width, -1)


_PHASE_TAPS = np.array(
    [[[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]],  # even output pixels: source pixels -1, 0 and +1
     [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]]  # odd ones: source pixels 0 and +1
)  # fmt: skip
"""[phase, source pixel, tap]: which taps of a 4-kernel fall on which source pixel, along one axis."""


def _precision() -> str | None:
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined] # made at run time


def _conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    strides, padding = (geometry.stride,) * 2, (geometry.padding,) * 2
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=_DIMENSIONS, precision=geometry.precision
    )


def _conv_input(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    shape = (y.shape[0], *geometry.image, kernel.shape[2])
    return _transpose(lambda x: _conv(x, kernel, geometry), shape, y)


def _conv_kernel(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    shape = (*geometry.kernel, x.shape[3], y.shape[3])
    return _transpose(lambda kernel: _conv(x, kernel, geometry), shape, y)


def _transpose(linear: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], cotangent: jax.Array) -> jax.Array:
    (result,) = jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, cotangent.dtype))(cotangent)
    return result


def _conv_cpu(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution; where there are so few channels on one side that its kernels idle, a matrix product."""
    num_taps, (inputs, outputs) = kernel.shape[0] * kernel.shape[1], kernel.shape[2:]
    if num_taps * inputs <= outputs:  # an encoder's first layer, 16 and 32: half the time
        return jnp.einsum("nhwabi,abio->nhwo", _windows(x, geometry), kernel, precision=geometry.precision)
    if geometry.stride == 1 and num_taps * outputs <= 2 * inputs:  # a decoder's last, 36 and 32: a third
        turned = jnp.flip(kernel, (0, 1))
        before = [taps - 1 - geometry.padding[0] for taps in geometry.kernel]
        return _overlap_add(x, turned, 1, before, geometry.output, geometry.precision)
    return _conv(x, kernel, geometry)


def _conv_input_cpu(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A window for each pixel of y, the windows laid over each other; with stride 1 a convolution does that better."""
    if geometry.stride > 1:
        before, image = [geometry.padding[0]] * 2, geometry.image
        return _overlap_add(y, kernel.swapaxes(2, 3), geometry.stride, before, image, geometry.precision)
    padding = []
    for size, taps, outputs in zip(geometry.image, geometry.kernel, geometry.output, strict=True):
        padding.append((taps - 1 - geometry.padding[0], size - 1 + geometry.padding[0] - (outputs - 1)))
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return jax.lax.conv_general_dilated(
        y, turned, (1, 1), padding, dimension_numbers=_DIMENSIONS, precision=geometry.precision
    )


def _windows(x: jax.Array, geometry: Geometry) -> jax.Array:
    """What each output pixel sees of x, `[N, H2, W2, h, w, I]`."""
    x = jnp.pad(x, ((0, 0), geometry.padding, geometry.padding, (0, 0)))
    (height, width), stride = geometry.output, geometry.stride
    taps = [
        x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i, j in np.ndindex(*geometry.kernel)
    ]
    return jnp.stack(taps, axis=3).reshape(-1, height, width, *geometry.kernel, x.shape[3])


def _overlap_add(
    pixels: jax.Array,
    kernel: jax.Array,
    stride: int,
    before: list[int],
    image: tuple[int, int],
    precision: str | None,
) -> jax.Array:
    """Windows, each a pixel's product with `kernel`, `stride` apart and added up where they overlap.

    The image begins `before` pixels (rows, columns) inside the first window. A tap is `stride` times a shift by whole
    windows, and a phase within one: shifts are added, phases then laid out in space.
    """
    shifts = [-(-taps // stride) for taps in kernel.shape[:2]]
    missing = [(0, n * stride - taps) for n, taps in zip(shifts, kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, [*missing, (0, 0), (0, 0)])
    exact = at_least_float32(pixels.dtype)
    windows = jnp.einsum("nhwi,abio->nhwabo", pixels, kernel, precision=precision, preferred_element_type=exact)
    count, height, width, channels = *windows.shape[:3], windows.shape[-1]
    windows = windows.reshape(count, height, width, shifts[0], stride, shifts[1], stride, channels)
    placed = [
        jnp.pad(windows[:, :, :, i, :, j], [(0, 0), (i, shifts[0] - 1 - i), (j, shifts[1] - 1 - j)] + [(0, 0)] * 3)
        for i, j in np.ndindex(*shifts)
    ]
    total = functools.reduce(jnp.add, placed)
    total = total.transpose(0, 1, 3, 2, 4, 5).reshape(count, -1, total.shape[2] * stride, channels)
    sizes = zip(before, image, total.shape[1:3], strict=True)
    crop = [(-first, first + size - found, 0) for first, size, found in sizes]
    return jax.lax.pad(total.astype(pixels.dtype), jnp.zeros((), pixels.dtype), [(0, 0, 0), *crop, (0, 0, 0)])


def _conv_kernel_cpu(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of x with y, or of y with x, summed over the images in the place of channels.

    The convolution copies the windows of its first argument, which should be the one with fewer channels.
    """
    if geometry.stride == 1 and y.shape[3] < x.shape[3]:
        padding = [(taps - 1 - geometry.padding[0], taps - 1 - geometry.padding[1]) for taps in geometry.kernel]
        return jnp.flip(_correlate(y, x, padding, 1, geometry.precision), (0, 1)).swapaxes(2, 3)
    padding = []
    for size, taps, outputs in zip(geometry.image, geometry.kernel, geometry.output, strict=True):
        before = geometry.padding[0]
        padding.append((before, (outputs - 1) * geometry.stride + taps - size - before))
    return _correlate(x, y, padding, geometry.stride, geometry.precision)


def _correlate(
    a: jax.Array, b: jax.Array, padding: list[tuple[int, int]], dilation: int, precision: str | None
) -> jax.Array:
    """Sum over images and pixels of shifted a times b, for every shift and pair of channels, `[h, w, A, B]`."""
    result = jax.lax.conv_general_dilated(
        a.transpose(3, 1, 2, 0), b.transpose(1, 2, 0, 3), (1, 1), padding,
        rhs_dilation=(dilation, dilation), dimension_numbers=_DIMENSIONS, precision=precision,
    )  # fmt: skip
    return result.transpose(1, 2, 0, 3)


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


_conv_p = _define("conv", _conv)
_conv_input_p = _define("conv_input", _conv_input)
_conv_kernel_p = _define("conv_kernel", _conv_kernel)

_lower(_conv_p, _conv)
_lower(_conv_p, _conv_cpu, "cpu")
_lower(_conv_input_p, _conv_input)
_lower(_conv_input_p, _conv_input_cpu, "cpu")
_lower(_conv_kernel_p, _conv_kernel)
_lower(_conv_kernel_p, _conv_kernel_cpu, "cpu")

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
