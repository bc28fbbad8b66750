"""The convolutional cells: sizes, and what their golden test cannot see (flying MNIST's depth and input norm)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.distributions import Bernoulli, Gaussian
from nem_jax.networks.conv_cell import ConvRNNEMCell, elu, normalised

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

FLYING_SHAPES = ConvRNNEMCell(100, Bernoulli().activation, features=(32, 64))
FLYING_MNIST = ConvRNNEMCell(250, Gaussian().activation, features=(32, 64, 128), normalise_input=True)


def init(module, size):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((size, size, 1)), jnp.zeros(module.hidden_size))


@pytest.mark.parametrize(
    ("module", "size", "expected"), [(FLYING_SHAPES, 28, 3_403_389), (FLYING_MNIST, 24, 1_835_091)]
)
def test_number_of_weights_is_the_original_programs(module, size, expected):
    assert sum(leaf.size for leaf in jax.tree.leaves(init(module, size))) == expected


def test_cell_keeps_shapes_and_psi_depends_on_theta_and_residual():
    module = ConvRNNEMCell(7, Gaussian().activation, features=(3, 4), dense_size=6, normalise_input=True)
    keys = jax.random.split(jax.random.key(0), 3)
    residual, theta = jax.random.normal(keys[0], (8, 12, 2)), jax.random.uniform(keys[1], (7,))
    variables = module.init(keys[2], residual, theta)

    @jax.jit
    def run(residual, theta):
        new_theta, psi = module.apply(variables, residual, theta)
        return jnp.sum(psi**2), (new_theta, psi)

    gradients, (new_theta, psi) = jax.grad(run, (0, 1), has_aux=True)(residual, theta)
    assert new_theta.shape == theta.shape
    assert psi.shape == residual.shape
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)


def test_float64_goes_through_a_network_of_float32():
    """As through Flax's own layers."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        variables = init(FLYING_SHAPES, 28)
        given = jnp.zeros((28, 28, 1)), jnp.zeros(100)
        theta, psi = jax.eval_shape(FLYING_SHAPES.apply, variables, *given)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert (theta.dtype, psi.dtype) == tuple(leaf.dtype for leaf in given) == ("float64", "float64")


def test_normalised_input_has_mean_0_and_variance_1():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (5, 6, 2))
    assert abs(np.mean(normalised(x))) < 1e-5
    assert abs(np.var(normalised(x)) - 1) < 1e-4
    assert abs(np.var(normalised(x / 20)) - 1) < 3e-4  # a residual's: an epsilon of 1e-6 beside a variance of 0.01


@pytest.mark.parametrize("normalise_input", [True, False])
def test_the_cell_normalises_its_input_if_it_is_to(normalise_input):
    module = ConvRNNEMCell(7, Gaussian().activation, features=(3, 4), dense_size=6, normalise_input=normalise_input)
    residual, theta = jax.random.normal(jax.random.key(0), (8, 8, 1)), jnp.zeros(7)
    variables = jax.jit(module.init)(jax.random.key(1), residual, theta)
    psi, of_scaled = (jax.jit(module.apply)(variables, x, theta)[1] for x in (residual, 3 * residual + 2))
    change = np.abs(psi - of_scaled)
    assert (change.max() < 1e-4) == normalise_input


@pytest.mark.parametrize("normalise_input", [True, False])
def test_an_image_without_residual_has_a_finite_gradient(normalise_input):
    """At initial weights all variances before layer norm are 0; squares of the gradient must not overflow."""
    module = ConvRNNEMCell(7, Bernoulli().activation, features=(3, 4), dense_size=6, normalise_input=normalise_input)
    nothing, theta = jnp.zeros((8, 8, 1)), jnp.zeros(7)
    params = jax.jit(module.init)(jax.random.key(0), nothing, theta)["params"]
    grads = jax.jit(jax.grad(lambda params: jnp.sum(module.apply({"params": params}, nothing, theta)[1])))(params)
    squares = [float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(grads)]
    assert np.isfinite(sum(squares))
    assert sum(squares) > 0


def test_a_constant_input_is_not_nan():
    """The original divides by its standard deviation, 0, and everything after it is NaN."""
    x = jnp.full((5, 6, 2), 0.3)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(normalised(x) ** 2))(x)
    assert abs(value) < 1e-3
    assert np.all(np.isfinite(gradient))


def test_an_image_that_cannot_be_halved_is_refused():
    """28 pixels can be halved twice, not three times: the decoder would return another size."""
    with pytest.raises(ValueError, match=r"28x28 .* 3 convolutions of stride 2 need multiples of 8"):
        init(ConvRNNEMCell(5, Gaussian().activation, features=(2, 2, 2)), 28)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 0), ("bfloat16", 0.01)])
def test_elu_is_flaxs(dtype, rounding):
    """Value and slope, near 0 and at infinity too."""
    x = jnp.array([-jnp.inf, -30, -1, -0.1, -0.005, -0.001, 0, 0.5, 3, jnp.inf], dtype)
    for ours, theirs in ((elu, nn.elu), (jax.vmap(jax.grad(elu)), jax.vmap(jax.grad(nn.elu)))):
        found, expected = ours(x), theirs(x)
        assert found.dtype == x.dtype
        np.testing.assert_allclose(found.astype("float32"), expected.astype("float32"), rtol=rounding, atol=1e-7)
