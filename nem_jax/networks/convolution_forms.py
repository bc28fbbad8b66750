"""How a convolution and its two gradients are computed: by lax, or in the forms that are fast on CPU.

`lax_conv`, `lax_conv_input` and `lax_conv_kernel` are the three of nem_jax.networks.convolution, which makes primitives
of them; `cpu_conv`, `cpu_conv_input` and `cpu_conv_kernel` give the same numbers, each by a matrix product or by a
convolution in a layout whose kernels are fast everywhere, also inside a loop.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nem_jax.types import at_least_float32

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Axis(NamedTuple):
    """What fixes one spatial axis of a convolution."""

    size: int
    """Of x."""
    taps: int
    outputs: int
    before: int
    """Zeros before x; below 0, pixels that are left out."""
    after: int


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
    def axes(self) -> tuple[Axis, Axis]:
        """Height and width."""
        height, width = (
            Axis(size, taps, (size + sum(padding) - taps) // self.stride + 1, *padding)
            for size, taps, padding in zip(self.image, self.kernel, self.padding, strict=True)
        )
        return height, width

    @property
    def output(self) -> tuple[int, int]:
        """(H, W) of y."""
        height, width = self.axes
        return height.outputs, width.outputs


def lax_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """y `[N, H2, W2, O]` of images x `[N, H, W, I]` and a kernel `[h, w, I, O]`."""
    strides, padding, precision = (geometry.stride,) * 2, geometry.padding, geometry.precision
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS, precision=precision)


def lax_conv_input(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """x `[N, H, W, I]`, from y: `lax_conv`'s transpose in its first argument."""
    shape = (y.shape[0], *geometry.image, kernel.shape[2])
    return _transpose(lambda x: lax_conv(x, kernel, geometry), shape, y)


def lax_conv_kernel(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """The kernel `[h, w, I, O]`, from x and y: `lax_conv`'s transpose in its second argument."""
    shape = (*geometry.kernel, x.shape[3], y.shape[3])
    return _transpose(lambda kernel: lax_conv(x, kernel, geometry), shape, y)


def _transpose(linear: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], cotangent: jax.Array) -> jax.Array:
    (result,) = jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, cotangent.dtype))(cotangent)
    return result


def cpu_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution; where there are so few channels on one side that its kernels idle, a matrix product."""
    num_taps, (inputs, outputs) = math.prod(geometry.kernel), kernel.shape[2:]
    if num_taps * inputs <= outputs:  # an encoder's first layer, 16 and 32: half the time
        windows, taps = _windows(x, geometry), _by_shifts(kernel, geometry.stride)
        return jnp.einsum("nhwstabi,stabio->nhwo", windows, taps, precision=geometry.precision)
    if geometry.stride == 1 and num_taps * outputs <= 2 * inputs:  # a decoder's last, 18 and 12, and 32: a third
        return _overlap_add(x, kernel, geometry)
    return lax_conv(x, kernel, geometry)


def cpu_conv_input(y: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of stride 1 that makes blocks of `stride` x `stride` pixels, as channels, which then are laid out.

    Windows of x begin at the corners of blocks. Of the padding before x, whole blocks are skipped, and what is left of
    it is cropped from the first.
    """
    stride, shifts = geometry.stride, _shifts(geometry.kernel, geometry.stride)
    padding, crop = [], []
    for axis, count in zip(geometry.axes, shifts, strict=True):
        skipped, inside = divmod(axis.before, stride)
        blocks = -(-(inside + axis.size) // stride)
        padding.append((count - 1 - skipped, blocks - axis.outputs + skipped))
        crop.append(slice(inside, inside + axis.size))
    to_blocks = Geometry(geometry.output, shifts, 1, tuple(padding), geometry.precision)
    taps = _by_shifts(kernel, stride).reshape(*shifts, -1, kernel.shape[3])  # [s, t, channels of a block, O]
    # For blocks a convolution would take more products, for those at the edge: 1.3 to 1.8 times as many.
    convolve = _overlap_add if stride > 1 else cpu_conv
    x = convolve(y, jnp.flip(taps, (0, 1)).swapaxes(2, 3), to_blocks)
    height, width = to_blocks.output
    x = x.reshape(len(x), height, width, stride, stride, kernel.shape[2]).swapaxes(2, 3)
    return x.reshape(len(x), height * stride, width * stride, kernel.shape[2])[:, *crop]


def cpu_conv_kernel(x: jax.Array, y: jax.Array, geometry: Geometry) -> jax.Array:
    """A convolution of x with y, or of y with x, summed over the images in the place of channels.

    XLA takes 20 to 50 times as long if the second is the larger image. It copies the windows of the first: of two
    equally large ones it should be the one with fewer channels.
    """
    larger = [axis.outputs - axis.size for axis in geometry.axes]  # y than x
    if geometry.stride == 1 and min(larger) >= 0 and (max(larger) > 0 or y.shape[3] < x.shape[3]):
        padding = [(axis.taps - 1 - axis.before, axis.taps - 1 - axis.after) for axis in geometry.axes]
        return jnp.flip(_correlate(y, x, padding, 1, geometry.precision), (0, 1)).swapaxes(2, 3)
    seen = [(axis.outputs - 1) * geometry.stride + axis.taps for axis in geometry.axes]
    padding = [
        (axis.before, pixels - axis.size - axis.before) for axis, pixels in zip(geometry.axes, seen, strict=True)
    ]
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
        (axis.before, count * stride - axis.size - axis.before, 0)
        for axis, count in zip(geometry.axes, blocks, strict=True)
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
            (axis.before - first, axis.outputs - axis.size - axis.before + first, 0)
            for axis, first in zip(geometry.axes, tap, strict=True)
        ]
        return jax.lax.pad(products[:, :, :, *tap], jnp.zeros((), exact), [(0, 0, 0), *padding, (0, 0, 0)])

    return functools.reduce(jnp.add, map(placed, np.ndindex(*geometry.kernel))).astype(x.dtype)
