"""The model fed its own predictions: which frames it reads, what it reads in their place, and how it is scored."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax import corruption, losses, model
from nem_jax.distributions import Bernoulli
from nem_jax.losses import predicted_frame
from nem_jax.rollouts import _AHEAD, rollout, rollout_losses, rollout_step

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

NUM_STEPS, NUM_AHEAD, SHAPE, HIDDEN_SIZE = 3, 4, (5, 6, 2), 7
SIZE = 5 * 6 * 2
KEY = jax.random.key(2)


def _init(key):
    """A rotation of theta keeps the components apart, where a sigmoid RNN with random weights makes them equal."""
    keys = jax.random.split(key, 3)
    return {
        "theta": jax.random.orthogonal(keys[0], HIDDEN_SIZE),
        "residual": 0.3 * jax.random.normal(keys[1], (SIZE, HIDDEN_SIZE)),
        "psi": jax.random.normal(keys[2], (HIDDEN_SIZE, SIZE)),
    }


def _cell(params, residual, theta):
    theta = theta @ params["theta"] + residual.reshape(-1) @ params["residual"]
    return theta, jax.nn.sigmoid(theta @ params["psi"]).reshape(SHAPE)


NEM = model.NEM(
    init=_init,
    cell=_cell,
    hidden_size=HIDDEN_SIZE,
    pixel_dist=Bernoulli(),
    corrupt=functools.partial(corruption.bitflip, prob=0.2),
    num_components=3,
    num_steps=NUM_STEPS,
    gradient_gamma=True,
    step_weights="last",
    scored_steps="last",
)
run = jax.jit(rollout, static_argnums=(0, 4))


def _moving_cell(params, residual, theta):
    """Predicts frames that move by `params` columns without error: with one component, theta is the last psi."""
    psi = jnp.roll(residual + theta.reshape(residual.shape), params, axis=1)
    return psi.reshape(-1), psi


def _clean(key, x):
    return x


MOVING = dataclasses.replace(NEM, cell=_moving_cell, hidden_size=int(np.prod(SHAPE)), corrupt=_clean, num_components=1)


@pytest.fixture(name="params", scope="module")
def _params():
    return _init(jax.random.key(0))


@pytest.fixture(name="x", scope="module")
def _x():
    return jax.random.bernoulli(jax.random.key(1), 0.4, (NUM_STEPS + NUM_AHEAD + 1, *SHAPE)).astype(jnp.float32)


@pytest.fixture(name="moving", scope="module")
def _moving(x):
    """Frames that move by one column each."""
    return jnp.stack([jnp.roll(x[0], t, axis=1) for t in range(len(x))])


def _numpy_loop(params, state, num_ahead):
    """The states after each step ahead, in float64, without a line of the package."""
    params = {name: np.asarray(w, np.float64) for name, w in params.items()}
    theta, psi, gamma = (np.asarray(leaf, np.float64) for leaf in state)
    states = []
    for _ in range(num_ahead):
        residual = (gamma * ((psi.max(axis=0) > 0.5) - psi)).reshape(len(psi), -1)
        theta = theta @ params["theta"] + residual @ params["residual"]
        psi = (1 / (1 + np.exp(-theta @ params["psi"]))).reshape(psi.shape)
        x = psi.max(axis=0) > 0.5
        likelihood = np.prod(x * psi + (1 - x) * (1 - psi), axis=-1, keepdims=True) + 1e-6
        gamma = likelihood / likelihood.sum(axis=0)
        states.append((theta, psi, gamma))
    return [np.stack(leaves) for leaves in zip(*states, strict=True)]


@pytest.mark.parametrize("scan_unroll", [None, 1])
def test_steps_ahead_equal_a_numpy_loop(params, x, scan_unroll):
    found = run(dataclasses.replace(NEM, scan_unroll=scan_unroll, corrupt=_clean), params, KEY, x, NUM_AHEAD)
    expected = _numpy_loop(params, [leaf[-1] for leaf in found.observed], NUM_AHEAD)
    for leaf, reference in zip(found.ahead, expected, strict=True):
        np.testing.assert_allclose(leaf, reference, rtol=1e-4, atol=1e-5)
    for leaf in (found.ahead.psi, found.ahead.gamma):
        moved = np.abs(np.diff(leaf, axis=0)).max(axis=(1, 2, 3, 4))
        assert np.all(moved > 0.1), "the steps must differ for this comparison to mean anything"
    np.testing.assert_allclose(found.ahead.gamma.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("num_ahead", [0, NUM_AHEAD])
def test_the_observed_part_is_infer(params, x, num_ahead):
    found = run(NEM, params, KEY, x, num_ahead)
    trajectory, x_noisy = jax.jit(model.infer, static_argnums=0)(NEM, params, KEY, x[: NEM.num_frames])
    for leaf, expected in zip((*found.observed, found.x_noisy), (*trajectory, x_noisy), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    for leaf, expected in zip(found.ahead, trajectory, strict=True):
        assert leaf.shape == (num_ahead, *expected.shape[1:])


def test_no_frame_after_the_last_target_is_read(params, x):
    found = run(NEM, params, KEY, x, NUM_AHEAD)
    future, last = (run(NEM, params, KEY, x.at[t:].set(1 - x[t:]), NUM_AHEAD) for t in (NUM_STEPS + 1, NUM_STEPS))
    jax.tree.map(np.testing.assert_array_equal, future, found)
    assert np.max(np.abs(last.ahead.psi[0] - found.ahead.psi[0])) > 1e-3  # by the last observed gamma
    short = run(NEM, params, KEY, x[: NUM_STEPS + 1], NUM_AHEAD)
    jax.tree.map(np.testing.assert_array_equal, short, found)


def test_a_perfect_prediction_stays_perfect(moving):
    """Each observed and each predicted frame, and only against the frames in their order."""
    found = run(MOVING, jnp.asarray(1), KEY, moving, NUM_AHEAD)
    psi = np.concatenate([found.observed.psi, found.ahead.psi])[:, 0]
    np.testing.assert_allclose(psi, moving[1:], atol=1e-6)
    observed, ahead = rollout_losses(MOVING, found, moving)
    assert np.max(np.concatenate([observed, ahead])) < 1e-2
    assert np.min(np.concatenate(rollout_losses(MOVING, found, moving[::-1]))) > 10


def test_a_wrong_motion_shows_ahead(moving):
    """It moves by two columns: the observed frames put it right each time, ahead it goes further astray."""
    found = run(MOVING, jnp.asarray(2), KEY, moving, NUM_AHEAD)
    for r in range(NUM_AHEAD):
        np.testing.assert_allclose(found.ahead.psi[r, 0], jnp.roll(moving[NUM_STEPS + 1 + r], r + 2, axis=1), atol=1e-6)


def test_losses_are_those_of_the_true_frames(params, x):
    found = run(NEM, params, KEY, x, NUM_AHEAD)
    observed, ahead = jax.jit(rollout_losses, static_argnums=0)(NEM, found, x)
    assert observed.shape == (NUM_STEPS,)
    assert ahead.shape == (NUM_AHEAD,)
    psi = np.concatenate([found.observed.psi, found.ahead.psi]).astype(np.float64).max(axis=1)
    expected = -np.sum(x[1:] * np.log(psi) + (1 - x[1:]) * np.log(1 - psi), axis=(1, 2, 3))
    np.testing.assert_allclose(np.concatenate([observed, ahead]), expected, rtol=1e-4)
    assert np.min(np.abs(np.diff(expected))) > 1e-2, "each step must have its own loss"


def test_no_step_ahead_has_no_loss_ahead(params, x):
    observed, ahead = rollout_losses(NEM, run(NEM, params, KEY, x, 0), x[: NUM_STEPS + 1])
    np.testing.assert_allclose(observed, rollout_losses(NEM, run(NEM, params, KEY, x, 2), x)[0], rtol=1e-5)
    assert ahead.shape == (0,)


def test_a_static_image_is_the_sequence_of_equal_frames(params, x):
    copies = jnp.broadcast_to(x[:1], x.shape)
    one, many = (run(NEM, params, KEY, frames, NUM_AHEAD) for frames in (x[:1], copies))
    jax.tree.map(np.testing.assert_array_equal, one, many)
    for found, expected in zip(rollout_losses(NEM, one, x[:1]), rollout_losses(NEM, many, copies), strict=True):
        np.testing.assert_array_equal(found, expected)
    denoising = run(dataclasses.replace(NEM, lookahead=0), params, KEY, x[:1], NUM_AHEAD)
    jax.tree.map(np.testing.assert_array_equal, denoising, one)


def test_what_cannot_be_rolled_out_or_scored_is_refused(params, x):
    found = run(NEM, params, KEY, x, NUM_AHEAD)
    with pytest.raises(ValueError, match="7 steps that predict 1 ahead need 8 frames, got 7"):
        rollout_losses(NEM, found, x[:-1])
    with pytest.raises(ValueError, match="only a model of lookahead 1"):
        rollout(dataclasses.replace(NEM, lookahead=0), params, KEY, x, NUM_AHEAD)
    with pytest.raises(ValueError, match="num_ahead must be at least 0, got -1"):
        rollout(NEM, params, KEY, x, -1)


def test_losses_of_a_denoising_model_are_on_the_frames_it_read(params, x):
    denoising = dataclasses.replace(NEM, lookahead=0)
    found = run(NEM, params, KEY, x, 0)
    np.testing.assert_allclose(
        rollout_losses(denoising, found, x[:NUM_STEPS])[0],
        [losses.loss_upper_bound(x[t], found.observed.psi[t], Bernoulli()) for t in range(NUM_STEPS)],
        rtol=1e-5,
    )


def test_predicted_frame_is_the_one_the_upper_bound_scores(x):
    psi = jax.random.uniform(KEY, (3, *SHAPE), minval=0.1, maxval=0.9)
    frame = predicted_frame(psi)
    np.testing.assert_array_equal(frame, np.max(psi, axis=0))
    bound = losses.loss_upper_bound(x[0], psi, Bernoulli())
    np.testing.assert_allclose(jnp.sum(Bernoulli().nll(x[0], frame)), bound, rtol=1e-6)


def test_epsilon_reaches_the_step(problem):
    step = functools.partial(rollout_step, problem.cell, problem.params, problem.state, KEY, _clean, Bernoulli())
    hard, soft = (step(epsilon) for epsilon in (0.0, 10.0))
    np.testing.assert_array_equal(hard.psi, soft.psi)
    assert np.max(np.abs(hard.gamma - soft.gamma)) > 1e-2
    assert np.max(np.abs(soft.gamma - 1 / 3)) < 0.1


def test_each_step_ahead_draws_its_own_noise(params, x):
    """Noise that is drawn and not added: the same frame at every step would get the same."""
    seen = []

    def watched(key, x):
        jax.debug.callback(lambda bits: seen.append(bits.tobytes()), jax.random.key_data(key))
        return x

    jax.block_until_ready(rollout(dataclasses.replace(NEM, corrupt=watched), params, KEY, x, NUM_AHEAD))
    jax.effects_barrier()
    assert len(set(seen)) == 1 + NUM_AHEAD  # `infer` draws all of its own with one key
    noisy, other = (run(NEM, params, key, x, NUM_AHEAD) for key in (KEY, jax.random.key(3)))
    assert np.max(np.abs(noisy.ahead.psi - other.ahead.psi)) > 1e-3
    ahead = jax.random.fold_in(KEY, _AHEAD)  # drawn from by none of the steps with a frame
    assert jax.random.key_data(ahead).tolist() not in jax.random.key_data(jax.random.split(KEY, 9)).tolist()


def test_noise_reaches_the_step_ahead(problem):
    step = functools.partial(rollout_step, problem.cell, problem.params, problem.state, KEY, pixel_dist=Bernoulli())
    clean, flipped = (step(corrupt=corrupt) for corrupt in (_clean, lambda key, x: 1 - x))
    assert np.max(np.abs(clean.theta - flipped.theta)) > 1e-2


def test_epsilon_of_the_model_reaches_the_steps_ahead(params, x):
    soft = run(dataclasses.replace(NEM, epsilon=100.0), params, KEY, x, NUM_AHEAD)
    assert np.max(np.abs(soft.ahead.gamma - 1 / 3)) < 0.01
    assert np.max(np.abs(run(NEM, params, KEY, x, NUM_AHEAD).ahead.gamma - 1 / 3)) > 0.1


def test_a_vmapped_batch_equals_single_calls(params, x):
    frames, keys = jnp.stack([x, x[::-1]]), jax.random.split(KEY, 2)
    batch = jax.jit(jax.vmap(functools.partial(rollout, NEM, num_ahead=NUM_AHEAD), in_axes=(None, 0, 0)))
    found = batch(params, keys, frames)
    for row in range(2):
        single = run(NEM, params, keys[row], frames[row], NUM_AHEAD)
        for leaf, expected in zip(found.ahead, single.ahead, strict=True):
            np.testing.assert_allclose(leaf[row], expected, rtol=1e-4, atol=1e-6)
