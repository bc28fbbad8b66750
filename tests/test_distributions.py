"""Pixel distributions against their definitions in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nem_jax.distributions import Bernoulli, Gaussian

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

DISTS = [Bernoulli(), Gaussian(), Gaussian(e_sigma=0.5, loss_sigma=0.7)]


def _pixels(num_pixels=20, channels=2):
    x_key, psi_key = jax.random.split(jax.random.key(0))
    x = jax.random.uniform(x_key, (num_pixels, channels))
    return x, jax.random.uniform(psi_key, (num_pixels, channels), minval=0.05, maxval=0.95)


def test_bernoulli_is_a_distribution_over_all_channels():
    _, psi = _pixels(channels=3)
    outcomes = [
        jnp.broadcast_to(jnp.array(bits, jnp.float32), psi.shape) for bits in itertools.product((0, 1), repeat=3)
    ]
    probs = np.stack([Bernoulli().prob(x, psi) for x in outcomes])
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-6)
    for x, prob in zip(outcomes, probs, strict=True):
        np.testing.assert_allclose(
            prob, np.prod(stats.bernoulli.pmf(np.asarray(x), np.asarray(psi)), axis=-1), rtol=1e-5
        )


def test_bernoulli_cost_is_the_binary_cross_entropy_in_nats():
    x, psi = (np.asarray(a, np.float64) for a in _pixels())
    expected = -np.sum(x * np.log(psi) + (1 - x) * np.log(1 - psi), axis=-1)
    np.testing.assert_allclose(Bernoulli().nll(*_pixels()), expected, rtol=1e-5)
    binary, psi = jnp.round(_pixels()[0]), _pixels()[1]
    np.testing.assert_allclose(Bernoulli().log_prob(binary, psi), -Bernoulli().nll(binary, psi), rtol=1e-5)


@pytest.mark.parametrize("dist", DISTS, ids=str)
def test_log_prob_is_the_logarithm_of_prob(dist):
    """Of grey pixels, and where psi is all but certain."""
    x, psi = _pixels()
    np.testing.assert_allclose(dist.log_prob(x, psi), np.log(dist.prob(x, psi)), rtol=1e-5, atol=1e-5)
    x, psi = jnp.array([[1.0], [0.0]]), jnp.array([[1e-9], [1e-9]])
    np.testing.assert_allclose(dist.log_prob(x, psi), np.log(dist.prob(x, psi)), rtol=1e-5, atol=1e-5)


def test_gaussian_density_has_the_width_of_the_e_step():
    x, psi = _pixels()
    for sigma in (0.25, 0.5):
        dist = Gaussian(e_sigma=sigma, loss_sigma=2.0)
        expected = stats.norm.logpdf(np.asarray(x), np.asarray(psi), sigma).sum(axis=-1)
        np.testing.assert_allclose(dist.log_prob(x, psi), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(dist.prob(x, psi), np.exp(expected), rtol=1e-4)


def test_gaussian_cost_has_the_width_of_the_loss():
    x, psi = _pixels()
    for sigma in (1.0, 0.7):
        dist = Gaussian(e_sigma=0.1, loss_sigma=sigma)
        expected = np.sum((np.asarray(x) - np.asarray(psi)) ** 2 / (2 * sigma**2), axis=-1)
        np.testing.assert_allclose(dist.nll(x, psi), expected, rtol=1e-5)


def test_bernoulli_kl_goes_from_the_prior_to_psi():
    """KL(Bernoulli(p) || Bernoulli(psi)) for p -> 0; the other direction diverges."""
    psi, prior = np.array([0.1, 0.5, 0.9]), np.full(3, 1e-12)
    expected = stats.entropy([prior, 1 - prior], [psi, 1 - psi])
    np.testing.assert_allclose(Bernoulli().kl_from_prior(jnp.asarray(psi[:, None], jnp.float32)), expected, rtol=1e-5)


@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_gaussian_kl_is_its_integral(sigma):
    psi, grid = 0.8, np.linspace(-12, 12, 200_001)
    log_ratio = stats.norm.logpdf(grid, 0, sigma) - stats.norm.logpdf(grid, psi, sigma)
    expected = np.sum(stats.norm.pdf(grid, 0, sigma) * log_ratio) * (grid[1] - grid[0])
    found = Gaussian(loss_sigma=sigma).kl_from_prior(jnp.array([psi], jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_costs_add_over_channels():
    x, psi = _pixels(channels=3)
    for dist in DISTS:
        for whole, part in (
            (dist.nll(x, psi), lambda c, d=dist: d.nll(x[:, c : c + 1], psi[:, c : c + 1])),
            (dist.log_prob(x, psi), lambda c, d=dist: d.log_prob(x[:, c : c + 1], psi[:, c : c + 1])),
            (dist.kl_from_prior(psi), lambda c, d=dist: d.kl_from_prior(psi[:, c : c + 1])),
        ):
            np.testing.assert_allclose(whole, sum(part(c) for c in range(3)), rtol=1e-4, atol=1e-5)


def test_bernoulli_is_finite_where_psi_saturates():
    x, psi = jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [0.0]])
    np.testing.assert_allclose(Bernoulli().nll(x, psi), -np.log(1e-6), rtol=2e-3)
    np.testing.assert_allclose(Bernoulli().kl_from_prior(jnp.ones((1, 1))), -np.log(1e-6), rtol=1e-5)
    dist = Bernoulli()
    for cost in (lambda psi: dist.nll(x, psi), lambda psi: dist.log_prob(x, psi), dist.kl_from_prior):
        assert np.all(np.isfinite(cost(psi)))
        assert np.all(np.isfinite(jax.grad(lambda psi, cost=cost: jnp.sum(cost(psi)))(psi)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_short_float_costs_what_it_stands_for(dtype):
    x, psi = jnp.array([0.0, 1.0, 1.0, 1.0], dtype)[:, None], jnp.array([1.0, 1.0, 0.0, 0.5], dtype)[:, None]
    cost, gradient = jax.value_and_grad(lambda psi: Bernoulli().nll(x, psi).sum())(psi)
    np.testing.assert_allclose(Bernoulli().nll(x, psi), [13.8, 1e-6, 13.8, np.log(2)], rtol=0.1)
    assert np.isfinite(cost)
    assert jnp.all(jnp.isfinite(gradient))
    np.testing.assert_allclose(Bernoulli().kl_from_prior(psi), [13.8, 13.8, 0, np.log(2)], rtol=0.1)
    assert jnp.all(jnp.isfinite(jax.grad(lambda psi: Bernoulli().kl_from_prior(psi).sum())(psi)))


@pytest.mark.parametrize("name", ["e_sigma", "loss_sigma"])
@pytest.mark.parametrize("sigma", [0.0, -0.25, float("nan")])
def test_a_width_that_is_none_is_refused(name, sigma):
    with pytest.raises(ValueError, match=f"^{name} must be above 0, got {sigma}$"):
        Gaussian(**{name: sigma})


def test_activations():
    output = jnp.array([[-2.0], [0.0], [3.0]])
    np.testing.assert_allclose(Bernoulli().activation(output), 1 / (1 + np.exp(-np.asarray(output))), rtol=1e-6)
    np.testing.assert_array_equal(Gaussian().activation(output), output)


def test_the_mode_is_the_likeliest_pixel():
    psi = jnp.array([[0.1, 0.7], [0.5, 0.51]])
    np.testing.assert_array_equal(Bernoulli().mode(psi), [[0, 1], [0, 1]])
    np.testing.assert_array_equal(Gaussian().mode(psi), psi)


@pytest.mark.parametrize("dist", DISTS, ids=str)
@pytest.mark.parametrize("name", ["prob", "log_prob", "nll"])
def test_a_target_of_fewer_axes_serves_all_components(dist, name):
    """With as many components as channels."""
    x, psi = _pixels(channels=3)
    psis, function = jnp.stack([psi, 1 - psi, psi**2]), getattr(dist, name)
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_array_equal(function(x, psis), function(x[None], psis))


@pytest.mark.parametrize("dist", DISTS, ids=str)
@pytest.mark.parametrize("name", ["prob", "log_prob", "nll"])
def test_broadcast_over_components_and_transforms(dist, name):
    x, psi = _pixels()
    function = getattr(dist, name)
    psis = jnp.stack([psi, 1 - psi, psi**2])
    per_component = np.stack([function(x, psi) for psi in psis])
    np.testing.assert_allclose(function(x[None], psis), per_component, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(function, in_axes=(None, 0)))(x, psis), per_component, rtol=1e-6)

    def total(psi):
        return jnp.sum(function(x, psi))

    direction, step = jnp.cos(jnp.arange(psi.size, dtype=jnp.float32)).reshape(psi.shape), 1e-2
    slope = (total(psi + step * direction) - total(psi - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(jax.grad(total)(psi), direction), slope, rtol=2e-2)
