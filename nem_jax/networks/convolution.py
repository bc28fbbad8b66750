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
    padding: tuple[tuple[int, int], ...]
    """Zeros before and after, on each axis; below 0, pixels that are left out."""
    precision: str | None
    """`jax.default_matmul_precision` where it was called: the backward pass is lowered elsewhere."""

    @property
    def output(self) -> tuple[int, int]:
        """(H, W) of y."""
        height, width = (
            (size + sum(padding) - taps) // self.stride + 1
            for size, taps, padding in zip(self.image, self.kernel, self.padding, strict=True)
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
        padding: zeros (before, after), on both axes; fewer than the kernel's taps.

    Raises:
        ValueError: they are not, or no window fits.
    """
    *batch, height, width, channels = x.shape
    taps = (kernel.shape[0], kernel.shape[1])
    if not all(0 <= zeros < min(taps) for zeros in padding):  # XLA's gradients of more are wrong on CPU
        raise ValueError(f"padding must be from 0 to one less than the kernel's taps {taps}, got {padding}")
    geometry = Geometry((height, width), taps, stride, (padding, padding), _precision())
    if min(geometry.output) < 1:
        raise ValueError(f"an image of {height}x{width} with padding {padding} is smaller than the kernel {taps}")
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
    y = y.reshape(*x.shape[:-1], 2, 2, kernel.shape[3])
    return jnp.moveaxis(y, -3, -4).reshape(*x.shape[:-3], 2 * height, 2 * width, kernel.shape[3])


_PHASE_TAPS = np.array(
    [[[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]],  # even output pixels: source pixels -1, 0 and +1
     [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]]  # odd ones: source pixels 0 and +1
)  # fmt: skip
"""[phase, source pixel, tap]: which taps of a 4-kernel fall on which source pixel, along one axis."""


def _precision() -> str | None:
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined] # made at run time


def _conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    strides, padding, precision = (geometry.stride,) * 2, geometry.padding, geometry.precision
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS, precision=precision)


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
    num_taps, (inputs, outputs) = math.prod(geometry.kernel), kernel.shape[2:]
    if num_taps * inputs <= outputs:  # an encoder's first layer, 16 and 32: half the time
        windows, taps = _windows(x, geometry), _by_shifts(kernel, geometry.stride)
        return jnp.einsum("nhwstabi,stabio->nhwo", windows, taps, precision=geometry.precision)
    if geometry.stride == 1 and num_taps * outputs <= 2 * inputs:  # a decoder's last, 36 and 32: a third
        return _overlap_add(x, kernel, geometry)
    return _conv(x, kernel, geometry)


def _conv_input_cpu(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of stride 1 that makes blocks of `stride` x `stride` pixels, as channels, which then are laid out.

    Windows of x begin at the corners of blocks. Of the padding before x, whole blocks are skipped, and what is left of
    it is cropped from the first.
    """
    stride, shifts = geometry.stride, _shifts(geometry.kernel, geometry.stride)
    padding, crop = [], []
    for size, outputs, count, (before, _) in zip(
        geometry.image, geometry.output, shifts, geometry.padding, strict=True
    ):
        skipped, inside = divmod(before, stride)
        blocks = -(-(inside + size) // stride)
        padding.append((count - 1 - skipped, blocks - outputs + skipped))
        crop.append(slice(inside, inside + size))
    to_blocks = Geometry(geometry.output, shifts, 1, tuple(padding), geometry.precision)
    taps = _by_shifts(kernel, stride).reshape(*shifts, -1, kernel.shape[3])  # [s, t, channels of a block, O]
    # For blocks a convolution would take more products, for those at the edge: 1.3 to 1.8 times as many.
    convolve = _overlap_add if stride > 1 else _conv_cpu
    x = convolve(y, jnp.flip(taps, (0, 1)).swapaxes(2, 3), to_blocks)
    height, width = to_blocks.output
    x = x.reshape(len(x), height, width, stride, stride, kernel.shape[2]).swapaxes(2, 3)
    return x.reshape(len(x), height * stride, width * stride, kernel.shape[2])[:, *crop]


def _conv_kernel_cpu(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of x with y, or of y with x, summed over the images in the place of channels.

    The convolution copies the windows of its first argument, which should be the one with fewer channels.
    """
    if geometry.stride == 1 and y.shape[3] < x.shape[3]:
        padding = [
            (taps - 1 - before, taps - 1 - after)
            for taps, (before, after) in zip(geometry.kernel, geometry.padding, strict=True)
        ]
        return jnp.flip(_correlate(y, x, padding, 1, geometry.precision), (0, 1)).swapaxes(2, 3)
    padding = []
    for size, taps, outputs, (before, _) in zip(
        geometry.image, geometry.kernel, geometry.output, geometry.padding, strict=True
    ):
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


def _shifts(taps: tuple[int, ...], stride: int) -> tuple[int, int]:
    """How many strides a kernel reaches over, the last maybe in part."""
    return -(-taps[0] // stride), -(-taps[1] // stride)


def _by_shifts(kernel: jax.Array, stride: int) -> jax.Array:
    """`[h, w, I, O]` -> `[s, t, stride, stride, I, O]`: a tap is a shift by whole strides (s, t) and a phase."""
    shifts = _shifts(kernel.shape[:2], stride)
    missing = [(0, count * stride - taps) for count, taps in zip(shifts, kernel.shape[:2], strict=True)]
    kernel = jnp.pad(kernel, [*missing, (0, 0), (0, 0)])
    return kernel.reshape(shifts[0], stride, shifts[1], stride, *kernel.shape[2:]).swapaxes(1, 2)


def _windows(x: jax.Array, geometry: Geometry) -> jax.Array:
    """What each output pixel sees of x, `[N, H2, W2, s, t, stride, stride, I]`, in the order of `_by_shifts`."""
    stride, shifts, (height, width) = geometry.stride, _shifts(geometry.kernel, geometry.stride), geometry.output
    blocks = height - 1 + shifts[0], width - 1 + shifts[1]
    padding = [
        (before, count * stride - size - before, 0)
        for count, size, (before, _) in zip(blocks, geometry.image, geometry.padding, strict=True)
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    x = x.reshape(len(x), blocks[0], stride, blocks[1], stride, x.shape[3]).swapaxes(2, 3)
    windows = jnp.stack([x[:, s : s + height, t : t + width] for s, t in np.ndindex(*shifts)], axis=3)
    return windows.reshape(len(x), height, width, *shifts, *windows.shape[4:])


def _overlap_add(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of stride 1: each pixel's product with all taps, laid where they are seen, and added up."""
    exact = at_least_float32(x.dtype)
    products = jnp.einsum("nhwi,abio->nhwabo", x, kernel, precision=geometry.precision, preferred_element_type=exact)

    def placed(tap: tuple[int, ...]) -> jax.Array:
        padding = [
            (before - first, outputs - size - before + first, 0)
            for first, size, outputs, (before, _) in zip(
                tap, geometry.image, geometry.output, geometry.padding, strict=True
            )
        ]
        return jax.lax.pad(products[:, :, :, *tap], jnp.zeros((), exact), [(0, 0, 0), *padding, (0, 0, 0)])

    return functools.reduce(jnp.add, map(placed, np.ndindex(*geometry.kernel))).astype(x.dtype)


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
