"""Equal to the original program (golden files, see golden/README.md), and N-EM to a float64 derivation in NumPy.

The measure is max|difference| / max|reference| per tensor, at most 1e-5 in float32.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nem_jax import em, losses, metrics
from nem_jax.distributions import Bernoulli
from nem_jax.networks.cells import NEMCell, RNNEMCell
from nem_jax.types import EMState
from nem_jax.unroll import unroll

TOLERANCE = 1e-5
NUM_STEPS, BATCH, NUM_COMPONENTS, HIDDEN_SIZE = 5, 3, 4, 250
RNN, OUTPUT = "NEM/multi_rnn_cell/cell_0/basic_rnn_cell/", "NEM/OutputWrapper0/fully_connected/"
WEIGHTS = [("rnn", "kernel"), ("rnn", "bias"), ("output", "kernel"), ("output", "bias")]
ORIGINAL_NAMES = dict(zip(WEIGHTS, [RNN + "kernel", RNN + "bias", OUTPUT + "weights", OUTPUT + "biases"], strict=True))
FOLDER = Path(__file__).parent / "golden"


@pytest.fixture(name="golden", scope="module")
def _golden():
    """All arrays of the files; the whole gradients of the two kernels are in files of their own."""
    arrays = {}
    for path in sorted(FOLDER.glob("static_rnnem_trained*.npz")):
        with np.load(path) as file:
            arrays.update(file)
    return arrays


@pytest.fixture(name="params", scope="module")
def _params(golden):
    params = {"rnn": {}, "output": {}}
    for (layer, name), original in ORIGINAL_NAMES.items():
        params[layer][name] = jnp.asarray(golden["w/" + original])
    return params


@pytest.fixture(name="ours", scope="module")
def _ours(golden, params):
    """(step losses, upper bounds, training loss, trajectory, gradients) of this package, batch first."""
    module = RNNEMCell(HIDDEN_SIZE, Bernoulli().activation)
    x_noisy = jnp.asarray(golden["corrupted"][:-1, :, 0].swapaxes(0, 1))
    x = jnp.asarray(golden["target"][1:, :, 0].swapaxes(0, 1))

    def example(params, x_noisy, x, gamma):
        state = em.init_state(jax.random.key(0), NUM_COMPONENTS, HIDDEN_SIZE, x.shape[1:])._replace(gamma=gamma)

        def cell(params, residual, theta):
            return module.apply({"params": params}, residual, theta)

        trajectory = unroll(functools.partial(em.em_step, cell, params, pixel_dist=Bernoulli()), state, x_noisy, x)
        loss = losses.trajectory_loss(x, trajectory, Bernoulli(), losses.step_weights("last", NUM_STEPS))
        steps = jax.vmap(lambda *step: losses.total_loss(*step, Bernoulli()))(x, trajectory.psi, trajectory.gamma)
        bounds = jax.vmap(lambda *step: losses.loss_upper_bound(*step, Bernoulli()))(x, trajectory.psi)
        return loss.total, (steps, bounds, trajectory)

    def batch(params):
        total, rest = jax.vmap(example, (None, 0, 0, 0))(params, x_noisy, x, jnp.asarray(golden["gamma_init"]))
        return jnp.mean(total), rest

    (loss, (steps, bounds, trajectory)), grads = jax.jit(jax.value_and_grad(batch, has_aux=True))(params)
    return {"loss": loss, "steps": steps, "bounds": bounds, "trajectory": trajectory, "grads": grads}


@pytest.mark.smoke
@pytest.mark.parametrize(("leaf", "original"), [("psi", "preds"), ("gamma", "gammas"), ("theta", "thetas")])
def test_forward_pass(golden, ours, relative_error, leaf, original):
    value = np.swapaxes(getattr(ours["trajectory"], leaf), 0, 1)
    assert relative_error(value.reshape(golden[original].shape), golden[original]) <= TOLERANCE


@pytest.mark.parametrize("t", range(NUM_STEPS))
def test_losses_of_every_step(golden, ours, t):
    """Term by term: total, intra, inter (without its weight), and the upper bound."""
    found = [np.mean(term[:, t]) for term in ours["steps"]]
    np.testing.assert_allclose(found, golden["step_losses"][t], rtol=TOLERANCE)
    np.testing.assert_allclose(np.mean(ours["bounds"][:, t]), golden["upper_bound_losses"][t], rtol=TOLERANCE)


def test_training_loss(golden, ours):
    np.testing.assert_allclose(ours["loss"], golden["loss"], rtol=TOLERANCE)


@pytest.mark.smoke
@pytest.mark.parametrize(("layer", "name"), WEIGHTS)
def test_gradient(golden, ours, relative_error, layer, name):
    assert relative_error(ours["grads"][layer][name], golden["grad/" + ORIGINAL_NAMES[layer, name]]) <= TOLERANCE


@pytest.mark.parametrize(("layer", "name"), WEIGHTS)
def test_adam_step(golden, ours, params, relative_error, layer, name):
    """The original optimiser adds 1e-8 to sqrt(v) before the bias correction: for the first step, optax's epsilon is
    1e-8 / sqrt(1 - 0.999). It shows in weights with tiny gradients, whose step is not of full length."""
    original = ORIGINAL_NAMES[layer, name]
    optimiser = optax.adam(1e-3, eps=1e-8 / np.sqrt(1 - 0.999))
    with jax.numpy_dtype_promotion("standard"):  # see conftest.py
        updates, _ = optimiser.update(ours["grads"], optimiser.init(params))
    before, after = (np.ravel(tree[layer][name]) for tree in (params, optax.apply_updates(params, updates)))
    if "adam1/" + original in golden:
        index, reference = np.arange(after.size), golden["adam1/" + original]
    else:
        index, reference = golden["adam1_idx/" + original], golden["adam1_val/" + original]
    assert relative_error(after[index], reference) <= TOLERANCE
    assert relative_error(before[index], reference) >= 10 * TOLERANCE


def test_scores(golden, ours):
    """AMI and confidence of every step and image; ARI of the last step, mean over the batch."""
    groups = jnp.asarray(golden["groups"][1:, :, 0].astype(np.int32).swapaxes(0, 1))
    score = functools.partial(metrics.segmentation_scores, num_groups=3)
    scores = jax.jit(jax.vmap(jax.vmap(score)))(ours["trajectory"].gamma, groups)
    np.testing.assert_allclose(scores.ami_max.T, golden["AMI_max"], rtol=TOLERANCE)
    np.testing.assert_allclose(scores.confidence.T, golden["AMI_conf"], rtol=TOLERANCE)
    _, ari, _, confidence = golden["ARI_seq_last_confseq_conflast"]
    np.testing.assert_allclose(np.mean(scores.ari[:, -1]), ari, rtol=TOLERANCE)
    np.testing.assert_allclose(np.mean(scores.confidence[:, -1]), confidence, rtol=TOLERANCE)


# N-EM has no golden file: below, its equations again, in NumPy, from images to the loss, with slopes for gradients.


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
