"""The one loop over EM steps: a plain loop's numbers, causality, and nothing else."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from nem_jax import em, unrolling
from nem_jax.distributions import Bernoulli
from nem_jax.networks.conv_cell import ConvRNNEMCell
from nem_jax.unrolling import unroll

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

NUM_STEPS = 4


def _step(problem, params, state, x_noisy, x):
    return em.em_step(problem.cell, params, state, x_noisy, x, Bernoulli())


@pytest.fixture(name="run")
def _run(problem):
    """(params, state, x_noisy, x) -> Trajectory."""

    def run(params, state, x_noisy, x, **options):
        return unroll(functools.partial(_step, problem, params), state, x_noisy, x, **options)

    return run


def _sigmoid(value):
    return 1 / (1 + np.exp(-value))


def _numpy_loop(problem):
    """The states after each step, in float64, without a line of the package."""
    rnn, output = (
        {name: np.asarray(w, np.float64) for name, w in problem.params[k].items()} for k in ("rnn", "output")
    )
    theta, psi, gamma = (np.asarray(leaf, np.float64) for leaf in problem.state)
    states = []
    for x_noisy, x in zip(np.asarray(problem.x_noisy, np.float64), np.asarray(problem.x, np.float64), strict=True):
        residual = (gamma * (x_noisy - psi)).reshape(len(psi), -1)
        theta = _sigmoid(np.concatenate([residual, theta], axis=1) @ rnn["kernel"] + rnn["bias"])
        psi = _sigmoid(theta @ output["kernel"] + output["bias"]).reshape(psi.shape)
        likelihood = np.prod(x * psi + (1 - x) * (1 - psi), axis=-1, keepdims=True) + 1e-6
        gamma = likelihood / likelihood.sum(axis=0)
        states.append((theta, psi, gamma))
    return [np.stack(leaves) for leaves in zip(*states, strict=True)]


@pytest.mark.parametrize("options", [{}, {"scan_unroll": 2}, {"scan_unroll": NUM_STEPS}, {"remat": "all"}], ids=str)
def test_unroll_equals_a_numpy_loop(problem, run, options):
    arrays = (problem.params, problem.state, problem.x_noisy, problem.x)
    found = jax.jit(functools.partial(run, **options))(*arrays)
    for leaf, expected in zip(found, _numpy_loop(problem), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6)
    moved = np.abs(np.diff(found.gamma, axis=0)).max(axis=(1, 2, 3, 4))
    assert np.all(moved > 1e-2), "the steps must differ for this comparison to mean anything"


@pytest.mark.parametrize(
    "options",
    [{"scan_unroll": NUM_STEPS}, {"remat": "elementwise"}, {"remat": "all"}, {"scan_unroll": 2, "remat": "all"}],
    ids=str,
)
def test_options_change_no_gradient(problem, run, options):
    def loss(params, options):
        trajectory = run(params, problem.state, problem.x_noisy, problem.x, **options)
        return jnp.sum(trajectory.psi[-1] ** 2) + jnp.sum(trajectory.gamma[-1] ** 2)

    plain, found = (jax.jit(jax.grad(functools.partial(loss, options=o)))(problem.params) for o in ({}, options))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, plain)
    assert np.max(np.abs(plain["rnn"]["kernel"])) > 1e-2


def test_what_is_recomputed_is_not_stored(problem, run):
    """The number of values kept from the forward for the backward pass falls from 'none' to 'all'."""

    def loss(params, remat):
        return jnp.sum(run(params, problem.state, problem.x_noisy, problem.x, remat=remat).psi[-1] ** 2)

    def stored(remat):
        _, backward = jax.vjp(functools.partial(loss, remat=remat), problem.params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    none, elementwise, everything = (stored(remat) for remat in ("none", "elementwise", "all"))
    assert none > elementwise > everything


def test_convolutions_of_many_products_are_stored_and_others_computed_again(monkeypatch):
    """Of a convolutional cell: its first kernel takes 16 products per result, the others 32 and more."""
    module = ConvRNNEMCell(5, Bernoulli().activation, features=(2, 2), dense_size=6, normalise_input=False)
    x = jnp.full((2, 8, 8, 1), 0.5)
    params = jax.jit(module.init)(jax.random.key(0), x[0], jnp.zeros(5))["params"]
    state = em.init_state(jax.random.key(1), num_components=2, hidden_size=5, image_shape=(8, 8, 1))

    def loss(params, remat):
        step = functools.partial(
            em.em_step, lambda p, *inputs: module.apply({"params": p}, *inputs), params, pixel_dist=Bernoulli()
        )
        return jnp.sum(unrolling.unroll(step, state, x, x, remat=remat).psi)

    def stored(remat):
        _, backward = jax.vjp(functools.partial(loss, remat=remat), params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    sizes = {"everything": stored("none"), "chosen": stored("elementwise")}
    for name, least in (("any product", 0), ("no convolution", 10**9)):
        monkeypatch.setattr(unrolling, "MIN_STORED_PRODUCTS", least)
        sizes[name] = stored("elementwise")
    assert sizes["everything"] > sizes["any product"] > sizes["chosen"] > sizes["no convolution"]


def _touched(run, problem, name):
    """[T, T] booleans: whether leaf `name` after step t depends on (x_noisy[s], x[s]), one matrix for each."""

    def summary(x_noisy, x):
        leaf = getattr(run(problem.params, problem.state, x_noisy, x), name)
        weights = jnp.cos(jnp.arange(leaf[0].size, dtype=jnp.float32)).reshape(leaf.shape[1:])
        return jnp.sum(leaf * weights[None], axis=(1, 2, 3, 4))

    jacobians = jax.jit(jax.jacrev(summary, argnums=(0, 1)))(problem.x_noisy, problem.x)
    return [np.abs(jacobian).max(axis=(2, 3, 4)) > 0 for jacobian in jacobians]


def test_step_t_reads_x_noisy_t_and_is_scored_on_x_t(problem, run):
    """psi[t] depends on x_noisy[..t] and on x[..t-1] only, gamma[t] on both up to t."""
    past_and_now, past = (
        np.tril(np.ones((NUM_STEPS, NUM_STEPS), bool)),
        np.tril(np.ones((NUM_STEPS, NUM_STEPS), bool), -1),
    )
    psi_on_noisy, psi_on_x = _touched(run, problem, "psi")
    np.testing.assert_array_equal(psi_on_noisy, past_and_now)
    np.testing.assert_array_equal(psi_on_x, past)
    gamma_on_noisy, gamma_on_x = _touched(run, problem, "gamma")
    np.testing.assert_array_equal(gamma_on_noisy, past_and_now)
    np.testing.assert_array_equal(gamma_on_x, past_and_now)


def test_unroll_is_equivariant_to_the_order_of_the_components(problem, run):
    order = np.array([2, 0, 1])
    run = jax.jit(run)
    arrays = (problem.x_noisy, problem.x)
    plain = run(problem.params, problem.state, *arrays)
    permuted = run(problem.params, jax.tree.map(lambda leaf: leaf[order], problem.state), *arrays)
    for leaf, other in zip(plain, permuted, strict=True):
        np.testing.assert_allclose(other, leaf[:, order], rtol=1e-4, atol=1e-6)
        assert np.max(np.abs(leaf[:, order] - leaf)) > 1e-2


def test_gamma_sums_to_one_and_one_component_owns_everything(problem, run):
    run = jax.jit(run)
    arrays = (problem.x_noisy, problem.x)
    gamma = run(problem.params, problem.state, *arrays).gamma
    np.testing.assert_allclose(gamma.sum(axis=1), 1, atol=1e-6)
    alone = jax.tree.map(lambda leaf: leaf[:1], problem.state)
    np.testing.assert_array_equal(run(problem.params, alone, *arrays).gamma, 1)


def test_rows_of_a_vmapped_batch_are_independent(problem, run):
    """They equal single calls, and a change of one row leaves the other as it was."""
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf**2]), problem.state)
    x_noisy, x = (jnp.stack([frames, frames[::-1]]) for frames in (problem.x_noisy, problem.x))
    batch = jax.jit(jax.vmap(run, in_axes=(None, 0, 0, 0)))
    found = batch(problem.params, states, x_noisy, x)
    single = jax.jit(run)
    for row in range(2):
        expected = single(problem.params, jax.tree.map(lambda leaf, i=row: leaf[i], states), x_noisy[row], x[row])
        for leaf, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(leaf[row], other, rtol=1e-4, atol=1e-6)
    changed = batch(problem.params, states, x_noisy.at[1].set(1 - x_noisy[1]), x)
    for leaf, other in zip(found, changed, strict=True):
        np.testing.assert_array_equal(leaf[0], other[0])
        assert np.max(np.abs(leaf[1] - other[1])) > 1e-3


def test_the_step_is_traced_once_for_all_steps_and_compiled_once_for_all_calls(problem):
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def step(state, x_noisy, x):
        return _step(problem, problem.params, state, x_noisy, x)

    run = jax.jit(lambda state, x_noisy, x: unroll(step, state, x_noisy, x))
    for scale in (1.0, 0.5):
        run(problem.state, scale * problem.x_noisy, problem.x)


def test_an_unknown_remat_is_refused(problem, run):
    with pytest.raises(ValueError, match=r"^remat must be one of none, elementwise, all, got 'full'$"):
        run(problem.params, problem.state, problem.x_noisy, problem.x, remat="full")


def test_inputs_and_targets_of_different_length_are_refused(problem, run):
    with pytest.raises((AssertionError, TypeCheckError)):
        run(problem.params, problem.state, problem.x_noisy[1:], problem.x)
