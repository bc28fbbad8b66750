"""One EM iteration against its equations, classical EM and a gradient taken apart by hand."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import special, stats

from nem_jax import em, losses
from nem_jax.distributions import Bernoulli, Gaussian
from nem_jax.metrics import confidence
from nem_jax.types import EMState
from nem_jax.unrolling import unroll

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

PERMUTATION = np.array([2, 0, 1])


def _permuted(tree):
    return jax.tree.map(lambda leaf: leaf[PERMUTATION], tree)


def _assert_trees_close(found, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected)


@pytest.mark.parametrize("num_components", [1, 2, 5])
def test_init_state(num_components):
    state = em.init_state(jax.random.key(0), num_components=num_components, hidden_size=7, image_shape=(5, 6, 2))
    assert [leaf.shape for leaf in state] == [(num_components, 7), (num_components, 5, 6, 2), (num_components, 5, 6, 1)]
    np.testing.assert_array_equal(state.theta, 0)
    np.testing.assert_array_equal(state.psi, 0)
    np.testing.assert_allclose(state.gamma.sum(axis=0), 1, atol=1e-6)
    assert jnp.min(state.gamma) >= 0


@pytest.mark.parametrize(("field", "value"), [("num_components", 0), ("num_components", -1), ("hidden_size", 1.5)])
def test_impossible_counts_are_refused(field, value):
    given = {"num_components": 2, "hidden_size": 3, field: value}
    with pytest.raises(ValueError, match=f"^{field} must be an integer of at least 1, got {value}$"):
        inspect.unwrap(em.init_state)(jax.random.key(0), **given, image_shape=(4, 4, 1))


def test_initial_gamma_of_one_component_is_exactly_one():
    np.testing.assert_array_equal(
        em.init_state(jax.random.key(0), num_components=1, hidden_size=4, image_shape=(5, 6, 1)).gamma, 1
    )


def test_initial_gamma_is_a_normalised_half_normal():
    """For K = 2, |a| / (|a| + |b|) < t has probability 2/pi atan(t / (1 - t)); uniform draws would have 0.167 here."""
    gamma = np.asarray(
        em.init_state(jax.random.key(0), num_components=2, hidden_size=1, image_shape=(200, 200, 1)).gamma[0]
    )
    expected = 2 / np.pi * np.arctan(0.25 / 0.75)
    assert abs(np.mean(gamma < 0.25) - expected) < 5 * np.sqrt(expected * (1 - expected) / gamma.size)


def test_initial_gamma_is_a_function_of_the_key():
    first, again, other = (
        em.init_state(jax.random.key(seed), num_components=3, hidden_size=4, image_shape=(5, 6, 1)).gamma
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.max(np.abs(first - other)) > 0.1


def test_vmapped_seeds_give_the_single_states():
    keys = jax.random.split(jax.random.key(0), 3)
    single = functools.partial(em.init_state, num_components=3, hidden_size=4, image_shape=(5, 6, 1))
    batch = jax.jit(jax.vmap(single))(keys)
    for index in range(3):
        _assert_trees_close(jax.tree.map(lambda leaf, i=index: leaf[i], batch), single(keys[index]))


def test_masked_residual(problem):
    state, x_noisy = problem.state, problem.x_noisy[0]
    found = em.masked_residual(x_noisy, state.psi, state.gamma)
    expected = np.empty(state.psi.shape)
    for k in range(3):
        for c in range(2):
            expected[k, ..., c] = state.gamma[k, ..., 0] * (x_noisy[..., c] - state.psi[k, ..., c])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_update_theta_applies_one_network_to_each_component(problem):
    residual = em.masked_residual(problem.x_noisy[0], problem.state.psi, problem.state.gamma)
    theta, psi = em.update_theta(problem.cell, problem.params, residual, problem.state.theta)
    for k in range(3):
        expected = problem.cell(problem.params, residual[k], problem.state.theta[k])
        _assert_trees_close((theta[k], psi[k]), expected)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (lambda params, residual, theta: (theta[:-1], residual), "the cell must keep theta's shape"),
        (
            lambda params, residual, theta: (theta, residual[..., :1]),
            "the cell must return psi in the residual's shape",
        ),
    ],
)
def test_a_cell_that_changes_shapes_is_refused(problem, cell, message):
    with pytest.raises(AssertionError, match=message):
        em.update_theta(cell, None, problem.state.psi, problem.state.theta)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize("dist", [Bernoulli(), Gaussian(e_sigma=0.5)], ids=str)
def test_e_step_is_bayes_rule_over_all_channels(problem, dist, epsilon):
    x, psi = np.asarray(problem.x[0], np.float64), np.asarray(problem.state.psi, np.float64)
    channels = x * psi + (1 - x) * (1 - psi) if dist == Bernoulli() else stats.norm.pdf(x, psi, dist.e_sigma)
    likelihood = np.prod(channels, axis=-1) + epsilon
    gamma = em.e_step(problem.x[0], problem.state.psi, dist, epsilon)
    np.testing.assert_allclose(gamma[..., 0], likelihood / likelihood.sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(gamma.sum(axis=0), 1, atol=1e-6)


def test_epsilon_makes_far_pixels_uniform_where_the_exact_posterior_is_hard():
    x, psi = jnp.full((1, 1, 1), 9.0), jnp.array([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(em.e_step(x, psi, Gaussian())[:, 0, 0, 0], 1 / 3, atol=1e-6)
    np.testing.assert_allclose(em.e_step(x, psi, Gaussian(), epsilon=0.0)[:, 0, 0, 0], [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("e_sigma", [0.25, 0.5])
def test_log_odds_scale_with_the_variance_of_the_e_step(e_sigma):
    x, psi = jnp.full((1, 1, 1), 0.3), jnp.array([0.2, 0.6]).reshape(2, 1, 1, 1)
    gamma = em.e_step(x, psi, Gaussian(e_sigma=e_sigma, loss_sigma=3.0), epsilon=0.0)[:, 0, 0, 0]
    expected = (0.3**2 - 0.1**2) / (2 * e_sigma**2)
    assert np.log(gamma[0] / gamma[1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_one_component_owns_every_pixel(problem, epsilon):
    np.testing.assert_array_equal(em.e_step(problem.x[0], problem.state.psi[:1], Bernoulli(), epsilon), 1)


def test_em_step_reads_x_noisy_with_the_old_gamma_and_is_scored_on_x(problem):
    """A cell that returns its input as psi shows what it was fed."""
    state, x_noisy, x = problem.state, problem.x_noisy[0], problem.x[0]

    def cell(params, residual, theta):
        return theta + params, residual

    new = em.em_step(cell, jnp.float32(0.5), state, x_noisy, x, Gaussian())
    residual = em.masked_residual(x_noisy, state.psi, state.gamma)
    np.testing.assert_allclose(new.theta, state.theta + 0.5, rtol=1e-6)
    np.testing.assert_allclose(new.psi, residual, rtol=1e-6)
    np.testing.assert_allclose(new.gamma, em.e_step(x, residual, Gaussian()), rtol=1e-5)
    assert np.max(np.abs(new.gamma - em.e_step(x_noisy, residual, Gaussian()))) > 0.1


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_em_step_is_equivariant_to_the_order_of_the_components(problem, epsilon):
    def step(state):
        return em.em_step(
            problem.cell, problem.params, state, problem.x_noisy[0], problem.x[0], Bernoulli(), epsilon=epsilon
        )

    new = step(problem.state)
    _assert_trees_close(step(_permuted(problem.state)), _permuted(new))
    assert np.max(np.abs(new.gamma - _permuted(new.gamma))) > 0.1


def _two_steps_by_hand(problem, params, constant_gamma):
    """Total loss after two EM steps; `constant_gamma` [2, K, H, W, 1] replaces the responsibilities if given."""
    cell = jax.vmap(problem.cell, in_axes=(None, 0, 0))
    theta, psi, gamma = problem.state
    for t in range(2):
        theta, psi = cell(params, gamma * (problem.x_noisy[t][None] - psi), theta)
        gamma = em.e_step(problem.x[t], psi, Bernoulli()) if constant_gamma is None else constant_gamma[t]
    return losses.total_loss(problem.x[1], psi, gamma, Bernoulli()).total


@pytest.mark.parametrize("gradient_gamma", [True, False])
def test_gradient_gamma_is_one_switch_for_residual_and_loss(problem, gradient_gamma):
    """False: gamma is a constant in both, while gradients still flow through the old psi of the residual."""
    step = functools.partial(em.em_step, problem.cell, pixel_dist=Bernoulli(), gradient_gamma=gradient_gamma)

    def trajectory(params):
        return unroll(functools.partial(step, params), problem.state, problem.x_noisy[:2], problem.x[:2])

    def loss(params):
        return losses.trajectory_loss(
            problem.x[:2], trajectory(params), Bernoulli(), np.array([0, 1], np.float32)
        ).total

    constant = jax.jit(trajectory)(problem.params).gamma
    by_hand = jax.jit(jax.grad(lambda params, gamma: _two_steps_by_hand(problem, params, gamma)))
    expected, other = by_hand(problem.params, None), by_hand(problem.params, constant)
    if not gradient_gamma:
        expected, other = other, expected
    found = jax.jit(jax.grad(loss))(problem.params)
    _assert_trees_close(found, expected, rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(found["rnn"]["kernel"] - other["rnn"]["kernel"])) > 1e-2


def test_gradients_flow_through_the_old_psi_without_gradient_gamma(problem):
    def psi_sum(psi):
        state = problem.state._replace(psi=psi)
        args = (problem.cell, problem.params, state, problem.x_noisy[0], problem.x[0], Bernoulli())
        return jnp.sum(em.em_step(*args, gradient_gamma=False).psi)

    assert np.max(np.abs(jax.grad(psi_sum)(problem.state.psi))) > 1e-3


def test_a_vmapped_batch_and_seeds_equal_single_calls(problem):
    """Batch and seeds are axes of the caller: params have a seed axis, states and images a batch axis."""
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf**2]), problem.state)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 0.5 * leaf]), problem.params)

    def step(params, state, x_noisy, x):
        return em.em_step(problem.cell, params, state, x_noisy, x, Bernoulli())

    batched = jax.vmap(step, in_axes=(None, 0, 0, 0))
    found = jax.jit(jax.vmap(batched, in_axes=(0, None, None, None)))(seeds, states, problem.x_noisy[:2], problem.x[:2])
    for seed in range(3):
        for row in range(2):
            params, state = (jax.tree.map(lambda leaf, i=i: leaf[i], t) for i, t in ((seed, seeds), (row, states)))
            expected = step(params, state, problem.x_noisy[row], problem.x[row])
            _assert_trees_close(jax.tree.map(lambda leaf, i=seed, j=row: leaf[i, j], found), expected)


def test_linear_decoder_recovers_classical_em():
    """psi_k = theta_k for all pixels is a mixture of Gaussians with known width: same optimum, and a likelihood that
    never falls on the way."""
    rng, sigma = np.random.default_rng(0), 0.25
    x = rng.normal(rng.choice([0.0, 1.0, 2.0], size=(12, 10, 1)), sigma).astype(np.float32)
    state = em.init_state(jax.random.key(0), num_components=3, hidden_size=1, image_shape=x.shape)
    state = state._replace(theta=jnp.array([[0.1], [0.7], [1.5]]))
    state = state._replace(psi=jnp.broadcast_to(state.theta[:, :, None, None], state.psi.shape))
    state = state._replace(gamma=em.e_step(jnp.asarray(x), state.psi, Gaussian(), epsilon=0.0))

    def cell(params, residual, theta):
        theta = theta + jnp.mean(residual)  # a step of sigma^2 / pixels: below the curvature of Q, hence an ascent
        return theta, jnp.broadcast_to(theta, residual.shape)

    frames = jnp.broadcast_to(jnp.asarray(x), (100, *x.shape))
    step = functools.partial(em.em_step, cell, None, pixel_dist=Gaussian(e_sigma=sigma), epsilon=0.0)
    theta = np.asarray(unroll(step, state, frames, frames).theta[..., 0], np.float64)

    log_prob = stats.norm.logpdf(x.reshape(1, 1, -1), theta[:, :, None], sigma)
    likelihood = special.logsumexp(log_prob, axis=1).sum(axis=-1)
    assert np.all(np.diff(likelihood) > -1e-4)
    assert likelihood[-1] - likelihood[0] > 10

    means = np.array([0.1, 0.7, 1.5])
    for _ in range(100):
        gamma = special.softmax(stats.norm.logpdf(x.reshape(1, -1), means[:, None], sigma), axis=0)
        means = gamma @ x.ravel() / gamma.sum(axis=1)
    np.testing.assert_allclose(theta[-1], means, atol=1e-4)


def _swap(array):
    return jnp.swapaxes(array, 0, 1)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda s, x: em.masked_residual(x, _swap(s.psi), s.gamma), id="H and K of psi"),
        pytest.param(lambda s, x: em.masked_residual(_swap(x), s.psi, s.gamma), id="H and W of x"),
        pytest.param(lambda s, x: em.masked_residual(x, s.psi, s.gamma[:1]), id="one gamma for all"),
        pytest.param(lambda s, x: em.e_step(x[0], s.psi, Bernoulli()), id="rank of x"),
        pytest.param(lambda s, x: em.e_step(x[None], s.psi, Bernoulli()), id="batch"),
        pytest.param(lambda s, x: losses.total_loss(x, s.psi, _swap(s.gamma), Bernoulli()), id="H and K of gamma"),
        pytest.param(lambda s, x: losses.inter_loss(s.psi, s.psi, Bernoulli()), id="psi as gamma"),
        pytest.param(lambda s, x: losses.loss_upper_bound(_swap(x), s.psi, Bernoulli()), id="loss H and W"),
        pytest.param(lambda s, x: em.e_step(x > 0, s.psi, Bernoulli()), id="type of x"),
    ],
)
def test_shapes_are_enforced(problem, call):
    """Annotations are checks in this suite, see conftest.py; without them most of these calls would broadcast."""
    with pytest.raises(TypeCheckError):
        call(problem.state, problem.x[0])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        pytest.param(em.masked_residual, lambda s, x: (x[:, :1], s.psi, s.gamma), id="one column of x"),
        pytest.param(em.masked_residual, lambda s, x: (x, s.psi, s.gamma[:1]), id="one gamma for all"),
        pytest.param(em.e_step, lambda s, x: (x, s.psi[..., :1], Bernoulli()), id="one channel of psi"),
        pytest.param(losses.intra_loss, lambda s, x: (x[:1], s.psi, s.gamma, Bernoulli()), id="one row of x"),
        pytest.param(losses.intra_loss, lambda s, x: (x, s.psi, s.psi, Bernoulli()), id="psi as gamma"),
        pytest.param(losses.inter_loss, lambda s, x: (s.psi, s.gamma[:1], Bernoulli()), id="inter: one gamma"),
        pytest.param(losses.loss_upper_bound, lambda s, x: (x, s.psi[..., :1], Bernoulli()), id="bound: one channel"),
        pytest.param(confidence, lambda s, x: (jnp.ones((1, 6, 1), int), s.gamma), id="one row of groups"),
    ],
)
def test_the_functions_check_what_would_broadcast(problem, function, arguments):
    """Users have no annotations that check."""
    with pytest.raises(AssertionError):
        inspect.unwrap(function)(*arguments(problem.state, problem.x[0]))


@pytest.mark.parametrize("epsilon", [-1e-6, 1e-20, float("nan")])
def test_an_epsilon_whose_gradient_overflows_is_refused(problem, epsilon):
    with pytest.raises(ValueError, match=r"^epsilon must be 0 or at least 1e-18, got"):
        em.e_step(problem.x[0], problem.state.psi, Bernoulli(), epsilon)


def test_records_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Gaussian().e_sigma = 1.0
    with pytest.raises(AttributeError):
        EMState(jnp.zeros((1, 1)), jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))).theta = None
