"""N-EM has no golden file: here are its equations again, in NumPy and float64, from images to the loss.

Slopes of that loss stand for gradients. The measure is that of test_golden.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax import em, losses
from nem_jax.distributions import Bernoulli
from nem_jax.networks.cells import NEMCell
from nem_jax.types import EMState
from nem_jax.unrolling import unroll

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

TOLERANCE = 1e-5


def _sigmoid(value):
    return 1 / (1 + np.exp(-value))


def _numpy_n_em(kernel, step_size, x_noisy, x, gamma):
    """States after each step and the loss of the last, one example; images are flat [T, D], gamma is [K, D]."""
    theta, psi = np.zeros((len(gamma), kernel.shape[1])), np.zeros_like(gamma)
    states = []
    for noisy, target in zip(x_noisy, x, strict=True):
        slope = _sigmoid(theta) * (1 - _sigmoid(theta))
        theta = theta + step_size * slope * ((gamma * (noisy - psi)) @ kernel)
        psi = _sigmoid(_sigmoid(theta) @ kernel.T)
        likelihood = target * psi + (1 - target) * (1 - psi) + 1e-6
        gamma = likelihood / likelihood.sum(axis=0)
        states.append((theta, psi, gamma))
    cross_entropy = -(target * np.log(psi) + (1 - target) * np.log(1 - psi))
    loss = np.sum(gamma * cross_entropy - (1 - gamma) * np.log(1 - psi))
    return [np.stack(leaves) for leaves in zip(*states, strict=True)], loss


@pytest.fixture(name="n_em", scope="module")
def _n_em():
    """Arguments of `_numpy_n_em`: T = 4, K = 3, 5x6 pixels, M = 4."""
    rng = np.random.default_rng(0)
    gamma = np.abs(rng.normal(size=(3, 30)))
    kernel, step_size = rng.normal(size=(30, 4)).round(2), np.array(1.3)
    x_noisy, x = (rng.integers(0, 2, (4, 30)).astype(float) for _ in range(2))
    return kernel, step_size, x_noisy, x, gamma / gamma.sum(axis=0)


def _our_n_em(arguments, dtype):
    """(trajectory, loss, gradients of kernel and step size) of this package."""
    kernel, step_size, x_noisy, x, gamma = (jnp.asarray(array, dtype) for array in arguments)
    module, shape = NEMCell(kernel.shape[1]), (5, 6, 1)
    state = EMState(jnp.zeros((3, kernel.shape[1]), dtype), jnp.zeros((3, *shape), dtype), gamma.reshape(3, *shape))
    x_noisy, x = x_noisy.reshape(-1, *shape), x.reshape(-1, *shape)

    def run(params):
        def cell(params, residual, theta):
            return module.apply({"params": params}, residual, theta)

        trajectory = unroll(functools.partial(em.em_step, cell, params, pixel_dist=Bernoulli()), state, x_noisy, x)
        weights = losses.step_weights("last", len(x)).astype(dtype)
        return losses.trajectory_loss(x, trajectory, Bernoulli(), weights).total, trajectory

    params = {"kernel": kernel, "step_size": step_size}
    (loss, trajectory), grads = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    return jax.device_get((trajectory, loss, grads))


def _slopes(n_em):
    """Central differences of the NumPy loss in every weight."""
    kernel, step_size, *rest = n_em

    def slope(move):
        return (_numpy_n_em(*move(1e-6), *rest)[1] - _numpy_n_em(*move(-1e-6), *rest)[1]) / 2e-6

    units = np.eye(kernel.size).reshape(-1, *kernel.shape)
    kernel_slopes = [slope(lambda h, unit=unit: (kernel + h * unit, step_size)) for unit in units]
    return np.reshape(kernel_slopes, kernel.shape), slope(lambda h: (kernel, step_size + h))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_n_em_equals_a_float64_derivation(n_em, relative_error, dtype):
    with jax.enable_x64(dtype == np.float64):
        trajectory, loss, grads = _our_n_em(n_em, dtype)
    tolerance = TOLERANCE if dtype == np.float32 else 1e-7
    states, expected_loss = _numpy_n_em(*n_em)
    for leaf, expected in zip(trajectory, states, strict=True):
        assert leaf.dtype == dtype
        assert relative_error(leaf.reshape(expected.shape), expected) <= tolerance
    assert relative_error(loss, expected_loss) <= tolerance
    kernel_slopes, step_size_slope = _slopes(n_em)
    assert relative_error(grads["kernel"], kernel_slopes) <= tolerance
    assert relative_error(grads["step_size"], step_size_slope) <= tolerance
    assert abs(step_size_slope) > 0.1
