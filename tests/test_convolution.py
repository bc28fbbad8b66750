"""Convolution: equal to lax's in every transformation, and folded into one call where one kernel serves all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nem_jax.networks.convolution import conv, upsample_conv
from nem_jax.networks.convolution_forms import Geometry, cpu_conv_kernel

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

GEOMETRIES = [
    ((9, 8), (3, 4), 1, (1, 2)),
    ((8, 6), (4, 4), 2, (1, 1)),
    ((7, 9), (2, 3), 2, (0, 1)),
    ((8, 11), (3, 5), 3, (2, 0)),
    ((7, 6), (5, 4), 2, (3, 0)),
    ((9, 7), (2, 1), 3, (0, 0)),
    ((8, 9), (3, 2), 1, (0, 0)),
    ((6, 7), (3, 3), 1, (1, 1)),
]
"""(image, kernel, stride, padding), no two sizes alike: in the fourth the final column of x is in no window, in the
fifth the padding is more than a stride, in the sixth the kernel is less; y is larger than x in the first, smaller in
the seventh, and as large in the eighth."""


def lax_conv(x, kernel, stride, padding):
    strides, padding = (stride, stride), (padding, padding)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_upsample_conv(x, kernel):
    return lax_conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel, 1, (1, 2))


def draw(image, taps, channels=(5, 3), batch=2):
    """x `[batch, *image, I]` and a kernel."""
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    return jax.random.normal(x_key, (batch, *image, channels[0])), jax.random.normal(kernel_key, (*taps, *channels))


def value_and_grads(convolve, x, kernel):
    """The output, and gradients of a function of it that is not linear."""
    y = convolve(x, kernel)
    return y, *jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel))), (0, 1))(x, kernel)


@pytest.mark.parametrize(("channels", "tolerance"), [((5, 3), 1e-6), ((2, 4), 1e-6), ((1, 16), 1e-6), ((16, 1), 3e-6)])
@pytest.mark.parametrize(("image", "taps", "stride", "padding"), GEOMETRIES)
def test_equals_lax_in_value_and_gradients(relative_error, image, taps, stride, padding, channels, tolerance):
    """With more, fewer, many more and many fewer channels in x than in y: each is computed in another way."""
    x, kernel = draw(image, taps, channels)
    ours = jax.jit(functools.partial(value_and_grads, functools.partial(conv, stride=stride, padding=padding)))
    expected = value_and_grads(functools.partial(lax_conv, stride=stride, padding=padding), x, kernel)
    for found, reference in zip(ours(x, kernel), expected, strict=True):
        assert relative_error(found, reference) <= tolerance


@pytest.mark.parametrize("channels", [(5, 3), (3, 5)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (0, 2)])
def test_the_kernels_gradient_convolves_no_image_with_a_larger_one(channels, padding):
    """On CPU that takes 20 to 50 times as long (tests/benchmarks/bench_convolution.py)."""
    geometry = Geometry((8, 8), (3, 3), 1, (padding, padding), None)
    x, y = jnp.zeros((2, *geometry.image, channels[0])), jnp.zeros((2, *geometry.output, channels[1]))
    jaxpr = jax.make_jaxpr(functools.partial(cpu_conv_kernel, geometry=geometry))(x, y)
    (call,) = (equation for equation in jaxpr.eqns if equation.primitive.name == "conv_general_dilated")
    image, kernel = (variable.aval.shape for variable in call.invars)
    assert kernel[0] <= image[1]
    if padding == (1, 1):  # as large: the one with fewer channels is copied into windows
        assert image[0] == 3


@pytest.mark.parametrize(("image", "taps", "stride", "padding"), GEOMETRIES)
def test_all_derivatives_up_to_the_third(image, taps, stride, padding):
    """Forward over reverse and back: each of the three primitives is transposed in both of its arguments."""
    arguments = draw(image, taps, (2, 3), batch=1)

    @jax.jit
    def ours(x, kernel):
        return conv(x, kernel, stride, padding)

    check_grads(ours, arguments, order=3, atol=0.1, rtol=0.1)


def test_upsampling_equals_its_plain_form(relative_error):
    x, kernel = draw((3, 5), (4, 4))
    for found, reference in zip(
        value_and_grads(upsample_conv, x, kernel), value_and_grads(plain_upsample_conv, x, kernel), strict=True
    ):
        assert relative_error(found, reference) <= 1e-5


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (2, None), (2, 1)])
def test_vmap_equals_a_loop(relative_error, in_axes):
    """Of values and of gradients per example, whatever is mapped."""
    x, kernel = draw((8, 6), (4, 4))
    mapped = [
        argument if axis is None else jnp.stack([argument, 2 * argument, argument - 1], axis)
        for argument, axis in zip((x, kernel), in_axes, strict=True)
    ]
    each = functools.partial(value_and_grads, functools.partial(conv, stride=2, padding=(1, 1)))
    found = jax.vmap(each, in_axes)(*mapped)
    for i in range(3):
        one = [a if axis is None else jnp.take(a, i, axis) for a, axis in zip(mapped, in_axes, strict=True)]
        for value, reference in zip(found, each(*one), strict=True):
            assert relative_error(value[i], reference) <= 1e-6


def test_examples_and_components_become_one_batch():
    """One convolution each for the output and the two gradients, of all images at once, and none per example."""
    x, kernel = draw((8, 6), (4, 4), batch=12)
    x = x.reshape(4, 3, 8, 6, 5)

    def loss(kernel, x):
        y = jax.vmap(jax.vmap(lambda x: conv(x, kernel, stride=2, padding=(1, 1))))(x)
        return jnp.sum(y**2)

    jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1)))(kernel, x)
    calls = [equation for equation in jaxpr.eqns if equation.primitive.name.startswith("conv")]
    assert sorted(call.primitive.name for call in calls) == ["conv", "conv_input", "conv_kernel"]
    assert {name for equation in jaxpr.eqns for name in [equation.primitive.name]}.isdisjoint({"scan", "while"})
    (kernel_gradient,) = (call for call in calls if call.primitive.name == "conv_kernel")
    assert [variable.aval.shape[0] for variable in kernel_gradient.invars] == [12, 12]


@pytest.mark.parametrize(("channels", "stride"), [((2, 5), 1), ((1, 16), 2), ((16, 1), 1), ((3, 3), 2)])
def test_no_images_are_a_batch_too(channels, stride):
    x, kernel = jnp.zeros((0, 6, 6, channels[0])), jnp.ones((4, 4, *channels))
    convolve = functools.partial(conv, stride=stride, padding=(1, 2))
    y, of_x, of_kernel = value_and_grads(convolve, x, kernel)
    assert (y.shape, of_x.shape) == ((0, 6 // stride, 6 // stride, channels[1]), x.shape)
    np.testing.assert_array_equal(of_kernel, jnp.zeros_like(kernel))
    assert upsample_conv(x, kernel).shape == (0, 12, 12, channels[1])


@pytest.mark.parametrize(("channels", "stride"), [((16, 1), 1), ((4, 6), 2)])
def test_short_floats_are_rounded_once(relative_error, channels, stride):
    """The output of the first and the gradient of the second, in x, are products laid over each other."""
    x, kernel = (leaf.astype(jnp.bfloat16) for leaf in draw((8, 6), (4, 4), channels, batch=8))

    def value_and_gradient(convolve, x, kernel):
        y, transposed = jax.vjp(functools.partial(convolve, stride=stride, padding=(1, 2)), x, kernel)
        return y, transposed(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(jnp.bfloat16).astype(y.dtype))[0]

    expected = value_and_gradient(lax_conv, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for found, exact in zip(value_and_gradient(conv, x, kernel), expected, strict=True):
        assert found.dtype == jnp.bfloat16
        assert relative_error(found.astype(jnp.float32), exact) <= 2**-8


def test_an_image_smaller_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match=r"an image of 2x6 with padding \(0, 0\) is smaller than the kernel \(3, 3\)"):
        conv(jnp.zeros((1, 2, 6, 1)), jnp.zeros((3, 3, 1, 1)), stride=1, padding=(0, 0))


@pytest.mark.parametrize("padding", [(2, 0), (0, 2), (-1, 0)])
def test_padding_by_as_much_as_the_kernel_is_refused(padding):
    with pytest.raises(ValueError, match="padding must be from 0 to one less than the kernel's taps"):
        conv(jnp.zeros((1, 5, 6, 1)), jnp.zeros((2, 3, 1, 1)), stride=1, padding=padding)


def test_leading_axes_are_a_batch(relative_error):
    x, kernel = draw((8, 6), (4, 4), batch=6)
    one, flat = (conv(images, kernel, 2, (1, 1)) for images in (x[0], x))
    assert relative_error(one, flat[0]) <= 1e-6
    np.testing.assert_array_equal(conv(x.reshape(2, 3, *x.shape[1:]), kernel, 2, (1, 1)).reshape(flat.shape), flat)
