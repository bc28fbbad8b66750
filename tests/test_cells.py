"""The two cells against their equations, and the theorem that names the N-EM one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from nem_jax import em
from nem_jax.distributions import Bernoulli
from nem_jax.networks.cells import NEMCell, RNNEMCell, original_step_size, positive_step_size
from nem_jax.networks.conv_cell import ConvRNNEMCell
from nem_jax.unrolling import unroll

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

IMAGE_SHAPE, HIDDEN_SIZE = (5, 6, 2), 7
CELLS = [RNNEMCell(HIDDEN_SIZE, jax.nn.sigmoid), NEMCell(HIDDEN_SIZE)]


def _sigmoid(value):
    return 1 / (1 + np.exp(-value))


def _inputs():
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], IMAGE_SHAPE), jax.random.normal(keys[1], (HIDDEN_SIZE,))


def _params(module, seed=1):
    return module.init(jax.random.key(seed), *_inputs())["params"]


def test_rnn_em_cell_is_its_equation():
    """Pixels in the order H, W, C, before theta; random biases, so that they count."""
    module, (residual, theta) = CELLS[0], _inputs()
    params = jax.tree.map(lambda w: w + 0.3, _params(module))
    rnn, output = (
        {name: np.asarray(w, np.float64) for name, w in params[layer].items()} for layer in ("rnn", "output")
    )
    new_theta = _sigmoid(np.concatenate([np.ravel(residual), theta]) @ rnn["kernel"] + rnn["bias"])
    psi = _sigmoid(new_theta @ output["kernel"] + output["bias"]).reshape(IMAGE_SHAPE)
    found = module.apply({"params": params}, residual, theta)
    np.testing.assert_allclose(found[0], new_theta, rtol=1e-5)
    np.testing.assert_allclose(found[1], psi, rtol=1e-5)


def test_rnn_em_output_activation_is_the_callers():
    residual, theta = _inputs()
    params = _params(CELLS[0])
    linear = RNNEMCell(HIDDEN_SIZE, lambda output: output).apply({"params": params}, residual, theta)
    squashed = CELLS[0].apply({"params": params}, residual, theta)
    np.testing.assert_allclose(jax.nn.sigmoid(linear[1]), squashed[1], rtol=1e-6)
    assert jnp.min(linear[1]) < 0


def test_n_em_cell_is_its_equation():
    module, (residual, theta) = CELLS[1], _inputs()
    params = {"kernel": _params(module)["kernel"], "step_size": jnp.float32(0.7)}
    kernel, old = np.asarray(params["kernel"], np.float64), np.asarray(theta, np.float64)
    new_theta = old + 0.7 * _sigmoid(old) * (1 - _sigmoid(old)) * (kernel.T @ np.ravel(residual))
    psi = _sigmoid(kernel @ _sigmoid(new_theta)).reshape(IMAGE_SHAPE)
    found = module.apply({"params": params}, residual, theta)
    np.testing.assert_allclose(found[0], new_theta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], psi, rtol=1e-5)


def test_n_em_cell_ascends_the_expected_log_likelihood():
    """theta' - theta = eta dQ/dtheta, Q = sum_i gamma_i log P(x_i | psi_i(theta)), by differentiation (equation 4)."""
    module, (_, theta) = CELLS[1], _inputs()
    params = {"kernel": _params(module)["kernel"], "step_size": jnp.float32(0.7)}
    keys = jax.random.split(jax.random.key(3))
    gamma = jax.random.uniform(keys[0], (*IMAGE_SHAPE[:2], 1))
    x = jax.random.bernoulli(keys[1], 0.4, IMAGE_SHAPE).astype(jnp.float32)

    def psi_of(theta):
        return jax.nn.sigmoid(params["kernel"] @ jax.nn.sigmoid(theta)).reshape(IMAGE_SHAPE)

    def expected_log_likelihood(theta):
        psi = psi_of(theta)
        return jnp.sum(gamma * (x * jnp.log(psi) + (1 - x) * jnp.log(1 - psi)))

    new_theta, _ = module.apply({"params": params}, gamma * (x - psi_of(theta)), theta)
    gradient = jax.grad(expected_log_likelihood)(theta)
    np.testing.assert_allclose(new_theta - theta, 0.7 * gradient, rtol=1e-3, atol=1e-5)
    assert np.max(np.abs(gradient)) > 0.1


def test_parameters_of_the_cells():
    pixels = int(np.prod(IMAGE_SHAPE))
    shapes = jax.tree.map(jnp.shape, _params(CELLS[0]))
    assert shapes == {
        "rnn": {"kernel": (pixels + HIDDEN_SIZE, HIDDEN_SIZE), "bias": (HIDDEN_SIZE,)},
        "output": {"kernel": (HIDDEN_SIZE, pixels), "bias": (pixels,)},
    }
    assert jax.tree.map(jnp.shape, _params(CELLS[1])) == {"kernel": (pixels, HIDDEN_SIZE), "step_size": ()}


def test_initial_weights_are_xavier_uniform_over_the_joint_input():
    module = RNNEMCell(40, jax.nn.sigmoid)
    params = module.init(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(40))["params"]
    for layer, fan_sum in (("rnn", 64 + 40 + 40), ("output", 40 + 64)):
        bound, kernel = np.sqrt(6 / fan_sum), np.asarray(params[layer]["kernel"])
        assert 0.98 * bound < np.max(np.abs(kernel)) <= bound
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.05)
        np.testing.assert_array_equal(params[layer]["bias"], 0)


@pytest.mark.parametrize(
    "module",
    [NEMCell(40), ConvRNNEMCell(40, jax.nn.sigmoid, features=(16, 24), dense_size=32)],
    ids=lambda module: type(module).__name__,
)
def test_initial_weights_are_xavier_uniform_in_every_layer(module):
    """A kernel's fans are its inputs and outputs, times its 4x4 taps if it has any."""
    params = flatten_dict(module.init(jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.zeros(40))["params"])
    kernels = {path: np.asarray(value) for path, value in params.items() if path[-1] == "kernel"}
    assert len(kernels) == (1 if isinstance(module, NEMCell) else 8)
    for path, kernel in kernels.items():
        *taps, inputs, outputs = kernel.shape
        bound = np.sqrt(6 / (np.prod(taps) * (inputs + outputs)))
        assert 0.95 * bound < np.max(np.abs(kernel)) <= bound, path
        np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.1, err_msg=str(path))
    assert all(not np.any(value) for path, value in params.items() if path[-1] == "bias")


def test_step_sizes():
    keys = jax.random.split(jax.random.key(0), 2000)
    original, positive = (np.asarray(jax.vmap(draw)(keys)) for draw in (original_step_size, positive_step_size))
    assert 0.98 * np.sqrt(3) < np.max(np.abs(original)) <= np.sqrt(3)
    assert abs(np.mean(original < 0) - 0.5) < 5 * np.sqrt(0.25 / 2000)
    np.testing.assert_array_equal(positive, np.abs(original))
    assert _params(CELLS[1])["step_size"] > 0


@pytest.mark.parametrize("module", CELLS, ids=lambda module: type(module).__name__)
def test_cells_under_jit_vmap_and_grad(module):
    """Over components; initialisation is a function of the key."""
    residual, theta = _inputs()
    params = _params(module)
    residuals, thetas = jnp.stack([residual, -residual, 0 * residual]), jnp.stack([theta, 2 * theta, theta])
    apply = jax.jit(lambda params, residual, theta: module.apply({"params": params}, residual, theta))
    batch = jax.jit(jax.vmap(apply, in_axes=(None, 0, 0)))(params, residuals, thetas)
    for k in range(3):
        for leaf, other in zip(batch, apply(params, residuals[k], thetas[k]), strict=True):
            np.testing.assert_allclose(leaf[k], other, rtol=1e-5, atol=1e-6)
    grads = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, residual, theta)[1] ** 2)))(params)
    assert all(np.max(np.abs(leaf)) > 0 for leaf in jax.tree.leaves(grads))
    again, other = _params(module), _params(module, seed=2)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert np.max(np.abs(jax.tree.leaves(params)[-1] - jax.tree.leaves(other)[-1])) > 0.01


def _log_likelihoods(step_size):
    """sum_i log (1/K sum_k P(x_i | psi_ik)) after each of 40 exact EM steps on clean input, in float64.

    The first step leaves psi = 0, which is not of the model, and is always a small one; the others have `step_size`.
    """
    num_steps, num_components, shape, hidden_size = 40, 3, (8, 9, 1), 6
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.bernoulli(keys[0], 0.4, shape).astype(float)
        kernel = 3 * jax.random.normal(keys[1], (x.size, hidden_size), float)
        state = em.init_state(keys[2], num_components=num_components, hidden_size=hidden_size, image_shape=shape)
        state = jax.tree.map(lambda leaf: leaf.astype(float), state)
        module = NEMCell(hidden_size)

        def step(step_size, state, x_noisy, x):
            def cell(params, residual, theta):
                return module.apply({"params": params}, residual, theta)

            params = {"kernel": kernel, "step_size": step_size}
            return em.em_step(cell, params, state, x_noisy, x, Bernoulli(), epsilon=0.0)

        @jax.jit
        def run(state, step_size):
            state = step(jnp.asarray(0.05, float), state, x, x)
            frames = jnp.broadcast_to(x, (num_steps - 1, *shape))
            psi = unroll(functools.partial(step, step_size), state, frames, frames).psi
            return jnp.concatenate([state.psi[None], psi])

        psi, x = np.asarray(run(state, jnp.asarray(step_size, float))), np.asarray(x)
    return np.log(np.mean(np.prod(x * psi + (1 - x) * (1 - psi), axis=-1), axis=1)).sum(axis=(1, 2))


def test_theorem_the_likelihood_never_falls():
    """N-EM is an exact generalised EM, from the second step on."""
    likelihood = _log_likelihoods(0.05)
    assert np.all(np.diff(likelihood) >= -1e-10)
    assert likelihood[-1] - likelihood[0] > 1


@pytest.mark.parametrize("step_size", [-0.05, 3.0])
def test_theorem_needs_a_small_positive_step(step_size):
    assert np.min(np.diff(_log_likelihoods(step_size))) < -1e-3
