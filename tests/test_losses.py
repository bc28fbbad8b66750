"""The outer objective against its equations, in float64."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax import losses
from nem_jax.distributions import Bernoulli, Gaussian
from nem_jax.types import Trajectory

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

DISTS = [Bernoulli(), Gaussian(loss_sigma=0.5)]


def _terms(x, psi, gamma, dist):
    """(intra, inter) of equation 5, pixel by pixel."""
    x, psi, gamma = (np.asarray(array, np.float64) for array in (x, psi, gamma))
    if dist == Bernoulli():
        nll, kl = -(x * np.log(psi) + (1 - x) * np.log(1 - psi)), -np.log(1 - psi)
    else:
        nll, kl = (x - psi) ** 2 / (2 * dist.loss_sigma**2), psi**2 / (2 * dist.loss_sigma**2)
    return (gamma * nll).sum(), ((1 - gamma) * kl).sum()


@pytest.fixture(name="trajectory")
def _trajectory(problem):
    scales = jnp.array([1.0, 0.8, 0.6, 0.4])[:, None, None, None, None]
    theta = jnp.broadcast_to(problem.state.theta, (4, *problem.state.theta.shape))
    gamma = jnp.broadcast_to(problem.state.gamma, (4, *problem.state.gamma.shape))
    return Trajectory(theta, scales * problem.state.psi[None], gamma)


@pytest.mark.parametrize("inter_weight", [1.0, 0.2])
@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_total_loss_is_equation_5(problem, dist, inter_weight):
    arrays = (problem.x[0], problem.state.psi, problem.state.gamma)
    intra, inter = _terms(*arrays, dist)
    assert inter > 10
    found = losses.total_loss(*arrays, dist, inter_weight)
    np.testing.assert_allclose(found, [intra + inter_weight * inter, intra, inter], rtol=1e-5)


@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_owned_pixels_cost_intra_and_the_others_inter(problem, dist):
    """gamma = 1 and psi = x: no cost. gamma = 0: x is of no concern, only psi away from the prior."""
    x, ones = problem.x[0], jnp.ones((1, 5, 6, 1))
    assert losses.intra_loss(x, x[None], ones, dist) < 1e-3
    assert losses.inter_loss(x[None], ones, dist) == 0
    assert losses.intra_loss(1 - x, x[None], 0 * ones, dist) == 0
    assert losses.inter_loss(x[None], 0 * ones, dist) > 10
    assert losses.inter_loss(0 * x[None], 0 * ones, dist) == 0


def test_inter_loss_goes_from_the_prior_to_psi():
    """-log(1 - psi) = 2.3026 for psi = 0.9; with the arguments of the KL swapped the value would be unbounded."""
    psi, gamma = jnp.full((1, 1, 1, 1), 0.9), jnp.zeros((1, 1, 1, 1))
    assert losses.inter_loss(psi, gamma, Bernoulli()) == pytest.approx(np.log(10), rel=1e-5)


@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_losses_do_not_depend_on_the_order_of_the_components(problem, dist):
    order = np.array([2, 0, 1])
    psi, gamma = problem.state.psi, problem.state.gamma
    plain = losses.total_loss(problem.x[0], psi, gamma, dist)
    np.testing.assert_allclose(losses.total_loss(problem.x[0], psi[order], gamma[order], dist), plain, rtol=1e-5)
    mixed = losses.total_loss(problem.x[0], psi[order], gamma, dist)
    assert abs(mixed.total - plain.total) > 1e-2 * abs(plain.total)


def test_loss_upper_bound_is_the_cost_of_the_largest_psi(problem):
    psi = np.asarray(problem.state.psi, np.float64)
    intra, _ = _terms(problem.x[0], psi.max(axis=0), 1.0, Bernoulli())
    found = losses.loss_upper_bound(problem.x[0], problem.state.psi, Bernoulli())
    assert found == pytest.approx(intra, rel=1e-5)
    one = losses.loss_upper_bound(problem.x[0], problem.state.psi[:1], Bernoulli())
    owned = losses.intra_loss(problem.x[0], problem.state.psi[:1], jnp.ones((1, 5, 6, 1)), Bernoulli())
    assert one == pytest.approx(float(owned), rel=1e-6)


def test_step_weights():
    np.testing.assert_array_equal(losses.step_weights("last", 4), [0, 0, 0, 1])
    np.testing.assert_array_equal(losses.step_weights("all", 4), [1, 1, 1, 1])
    np.testing.assert_array_equal(losses.step_weights("last", 1), losses.step_weights("all", 1))
    with pytest.raises(ValueError, match=r"^step_weights must be 'last' or 'all', got 'first'$"):
        losses.step_weights("first", 4)
    with pytest.raises(ValueError, match=r"^num_steps must be at least 1, got 0$"):
        losses.step_weights("last", 0)


@pytest.mark.parametrize("weights", [(0, 0, 0, 1), (1, 1, 1, 1), (0, 2, 0, 0.5)], ids=str)
@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_trajectory_loss_is_the_weighted_sum_over_steps(problem, trajectory, dist, weights):
    expected = np.zeros(3)
    for t, weight in enumerate(weights):
        intra, inter = _terms(problem.x[t], trajectory.psi[t], trajectory.gamma[t], dist)
        expected += weight * np.array([intra + 0.3 * inter, intra, inter])
    found = losses.trajectory_loss(problem.x, trajectory, dist, weights, 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [(0, 0, 0, 0, 0, 1), (1,), (0, 0, 0, 0)], ids=["long", "short", "zeros"])
def test_weights_that_do_not_fit_the_steps_are_refused(problem, trajectory, weights):
    with pytest.raises(ValueError, match=r"^weights must be 4 numbers, one for each EM step and not all 0, got \["):
        losses.trajectory_loss(problem.x, trajectory, Bernoulli(), weights)


def test_a_target_is_needed_for_each_step(problem, trajectory):
    """A static image is to be repeated."""
    x, weights = problem.x[:1], losses.step_weights("last", 4)
    with pytest.raises(ValueError, match=r"^x must be one target frame for each of 4 EM steps, got 1$"):
        inspect.unwrap(losses.trajectory_loss)(x, trajectory, Bernoulli(), weights)


@pytest.mark.parametrize("kind", ["last", "all"])
def test_only_weighted_steps_are_scored(problem, trajectory, kind):
    weights = losses.step_weights(kind, 4)

    def loss(psi):
        return losses.trajectory_loss(problem.x, trajectory._replace(psi=psi), Bernoulli(), weights).total

    slopes = np.abs(jax.grad(loss)(trajectory.psi)).max(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(slopes > 0, weights > 0)


@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_gradients_are_the_slopes_of_the_equations(problem, dist):
    arrays = (problem.x[0], problem.state.psi, problem.state.gamma)
    grads = jax.grad(lambda *args: losses.total_loss(*args, dist, 0.3).total, argnums=(1, 2))(*arrays)
    rng, step = np.random.default_rng(0), 1e-6
    for argument, grad in zip((1, 2), grads, strict=True):
        direction = rng.normal(size=grad.shape)
        values = []
        for sign in (1, -1):
            moved = [np.asarray(array, np.float64) for array in arrays]
            moved[argument] = moved[argument] + sign * step * direction
            intra, inter = _terms(*moved, dist)
            values.append(intra + 0.3 * inter)
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(np.vdot(grad, direction) - slope) < 1e-4 * np.linalg.norm(grad) * np.linalg.norm(direction)
        assert abs(slope) > 1e-2 * np.linalg.norm(grad)


@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_a_jitted_batch_equals_single_calls(problem, trajectory, dist):
    """A trajectory loss of two examples, and the step losses of components one by one, which add up over K."""
    weights = losses.step_weights("all", 4)
    loss = functools.partial(losses.trajectory_loss, pixel_dist=dist, weights=weights)
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), (problem.x, trajectory))
    found = jax.jit(jax.vmap(lambda x, trajectory: loss(x, trajectory)))(*batch)
    for row in range(2):
        single = loss(*jax.tree.map(lambda leaf, i=row: leaf[i], batch))
        np.testing.assert_allclose([term[row] for term in found], single, rtol=1e-5)

    psi, gamma = problem.state.psi[:, None], problem.state.gamma[:, None]
    parts = jax.vmap(lambda psi, gamma: losses.total_loss(problem.x[0], psi, gamma, dist))(psi, gamma)
    whole = losses.total_loss(problem.x[0], problem.state.psi, problem.state.gamma, dist)
    np.testing.assert_allclose([jnp.sum(part) for part in parts], whole, rtol=1e-5)
    bounds = jax.vmap(lambda x: losses.loss_upper_bound(x, problem.state.psi, dist))(problem.x)
    np.testing.assert_allclose(bounds[2], losses.loss_upper_bound(problem.x[2], problem.state.psi, dist), rtol=1e-5)
