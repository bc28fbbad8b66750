"""The whole forward pass of one example: which frame goes where, and what is drawn from the key."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nem_jax
from experiments.static_shapes.config import get_config
from nem_jax import corruption, em, losses, model
from nem_jax.config import build_experiment
from nem_jax.distributions import Bernoulli
from nem_jax.networks.cells import RNNEMCell
from nem_jax.unrolling import unroll

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

NUM_STEPS, SHAPE, HIDDEN_SIZE = 3, (5, 6, 1), 7
MODULE = RNNEMCell(HIDDEN_SIZE, jax.nn.sigmoid)


def _clean(key, x):
    return x


def _init(key):
    params = MODULE.init(key, jnp.zeros(SHAPE), jnp.zeros(HIDDEN_SIZE))["params"]
    return jax.tree.map(lambda w: 6 * w, params)


NEM = model.NEM(
    init=_init,
    cell=lambda params, residual, theta: MODULE.apply({"params": params}, residual, theta),
    hidden_size=HIDDEN_SIZE,
    pixel_dist=Bernoulli(),
    corrupt=functools.partial(corruption.bitflip, prob=0.2),
    num_components=2,
    num_steps=NUM_STEPS,
    gradient_gamma=True,
    step_weights="last",
    scored_steps="last",
)
CLEAN = dataclasses.replace(NEM, corrupt=_clean)
infer_with_input = jax.jit(model.infer, static_argnums=0)
example_loss = jax.jit(model.example_loss, static_argnums=0)


def infer(*args):
    return infer_with_input(*args)[0]


@pytest.fixture(name="params", scope="module")
def _params():
    return _init(jax.random.key(0))


@pytest.fixture(name="x", scope="module")
def _x():
    return jax.random.bernoulli(jax.random.key(1), 0.4, (NUM_STEPS + 1, *SHAPE)).astype(jnp.float32)


KEY = jax.random.key(2)


def test_a_static_image_is_the_sequence_of_equal_frames(params, x):
    """Bit for bit: nothing in the package knows the difference."""
    copies = jnp.broadcast_to(x[:1], (NUM_STEPS + 1, *SHAPE))
    for function in (infer_with_input, example_loss):
        one, many = function(NEM, params, KEY, x[:1]), function(NEM, params, KEY, copies)
        jax.tree.map(np.testing.assert_array_equal, one, many)


def test_to_frames(x):
    np.testing.assert_array_equal(model.to_frames(x, 2), x[:2])
    np.testing.assert_array_equal(model.to_frames(x[:1], 3), np.repeat(x[:1], 3, axis=0))
    with pytest.raises(AssertionError):
        model.to_frames(x, NUM_STEPS + 2)


@pytest.mark.parametrize("num_frames", [NUM_STEPS, 64])
def test_a_batch_of_images_is_no_sequence(params, num_frames):
    images = jnp.zeros((num_frames, *SHAPE))
    sentence = rf"^x must be one example \[F, H, W, C\] of 4 frames \(T \+ lookahead\) or 1 .*\({num_frames}, 5, 6, 1\)"
    with pytest.raises(ValueError, match=sentence):
        model.infer(NEM, params, KEY, images)


def test_an_image_without_frames_is_refused():
    with pytest.raises(ValueError, match=r"^x must be one example \[F, H, W, C\]"):
        inspect.unwrap(model.draw_inputs)(NEM, KEY, jnp.zeros(SHAPE))


@pytest.mark.parametrize(
    ("field", "value", "lowest"),
    [(name, 0, 1) for name in ("hidden_size", "num_components", "num_steps", "num_draws", "scan_unroll")]
    + [("lookahead", -1, 0)],
)
def test_impossible_counts_are_refused(field, value, lowest):
    with pytest.raises(ValueError, match=f"^{field} must be an integer of at least {lowest}, got {value}$"):
        dataclasses.replace(NEM, **{field: value})


def test_options_of_speed_reach_the_loop(params, x):
    def stored(remat):
        nem = dataclasses.replace(CLEAN, remat=remat, scan_unroll=1)
        _, back = jax.vjp(lambda params: jnp.sum(model.infer(nem, params, KEY, x)[0].psi), params)
        return sum(leaf.size for leaf in jax.tree.leaves(back))

    assert stored("none") > stored("all")
    for given, expected in ((2, 2), (None, NUM_STEPS)):
        nem = dataclasses.replace(CLEAN, scan_unroll=given)
        equations = jax.make_jaxpr(functools.partial(model.infer, nem))(params, KEY, x).eqns
        assert [each.params["unroll"] for each in equations if each.primitive.name == "scan"] == [expected]


def test_the_defaults_are_those_of_static_images():
    """README says so to whoever brings a model."""
    configured = build_experiment(get_config("rnn_em")).model
    given = {"init", "cell", "hidden_size", "pixel_dist", "corrupt", "num_components", "num_steps", "scan_unroll"}
    for field in {field.name for field in dataclasses.fields(model.NEM)} - given:
        assert getattr(NEM, field) == getattr(configured, field), field


def test_the_public_cell_is_the_experiments():
    """What README gives a notebook is what `rnn_em` trains."""
    init, cell = nem_jax.flax_cell(nem_jax.RNNEMCell(250, jax.nn.sigmoid), (28, 28, 1))
    configured = build_experiment(get_config("rnn_em")).model
    params = init(KEY)
    jax.tree.map(np.testing.assert_array_equal, params, configured.init(KEY))
    residual, theta = jnp.ones((28, 28, 1)), jnp.zeros(250)
    jax.tree.map(np.testing.assert_array_equal, cell(params, residual, theta), configured.cell(params, residual, theta))


def _depends_on_frames(function, x):
    """Which of the T + 1 frames a scalar function of x depends on."""
    return np.abs(jax.jit(jax.grad(function))(x)).max(axis=(1, 2, 3)) > 0


@pytest.mark.parametrize("lookahead", [1, 0])
def test_step_t_reads_frame_t_and_is_scored_on_frame_t_plus_lookahead(params, x, lookahead):
    """Through gradients: psi knows the frames that were read, gamma the target too."""
    nem = dataclasses.replace(CLEAN, lookahead=lookahead)
    weights = jnp.cos(jnp.arange(60, dtype=jnp.float32)).reshape(2, *SHAPE)
    x = x[: nem.num_frames]

    def leaf(name, t, x):
        return jnp.sum(weights * getattr(model.infer(nem, params, KEY, x)[0], name)[t])

    for t in (0, NUM_STEPS - 1):
        frames = np.arange(nem.num_frames)
        np.testing.assert_array_equal(_depends_on_frames(functools.partial(leaf, "psi", t), x), frames <= t)
        np.testing.assert_array_equal(
            _depends_on_frames(functools.partial(leaf, "gamma", t), x), frames <= t + lookahead
        )


def test_noise_is_drawn_with_the_first_half_of_the_key(params, x):
    """As in the published runs; gamma with the second, see `test_example_loss_is_put_together_by_hand`."""
    noise_key, _ = jax.random.split(KEY)
    x_noisy = infer_with_input(NEM, params, KEY, x)[1]
    np.testing.assert_array_equal(x_noisy, corruption.bitflip(noise_key, x[:NUM_STEPS], prob=0.2))


def test_the_first_psi_sees_the_corrupted_frame_alone(params, x):
    """With an input that is noise and nothing else, x must not matter before it is a target."""
    blind = dataclasses.replace(NEM, corrupt=lambda key, x: jax.random.uniform(key, x.shape))
    first, other = (infer(blind, params, KEY, frames) for frames in (x, 1 - x))
    np.testing.assert_array_equal(first.psi[0], other.psi[0])
    assert np.max(np.abs(first.gamma[0] - other.gamma[0])) > 1e-2
    assert np.max(np.abs(first.psi[0] - infer(CLEAN, params, KEY, x).psi[0])) > 1e-2


@pytest.mark.parametrize("lookahead", [1, 0])
@pytest.mark.parametrize("step_weights", ["last", "all"])
def test_example_loss_is_put_together_by_hand(params, x, step_weights, lookahead):
    """Targets are frames 1..T, or 0..T-1; the same pieces as a notebook would use."""
    nem = dataclasses.replace(CLEAN, step_weights=step_weights, inter_weight=0.2, lookahead=lookahead)
    found = example_loss(nem, params, KEY, x[: nem.num_frames])
    _, state_key = jax.random.split(KEY)
    state = em.init_state(state_key, num_components=2, hidden_size=HIDDEN_SIZE, image_shape=SHAPE)
    step = functools.partial(em.em_step, NEM.cell, params, pixel_dist=Bernoulli())
    targets = x[lookahead : NUM_STEPS + lookahead]
    trajectory = jax.jit(functools.partial(unroll, step))(state, x[:-1], targets)
    parts = [
        losses.total_loss(targets[t], trajectory.psi[t], trajectory.gamma[t], Bernoulli(), 0.2)
        for t in range(NUM_STEPS)
    ]
    expected = parts[-1] if step_weights == "last" else [sum(term) for term in zip(*parts, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("step_weights", "first", "must be one of last, all, got 'first'"),
        ("scored_steps", "first", "must be one of last, all, got 'first'"),
        ("remat", "some", "must be one of none, elementwise, all, got 'some'"),
        ("epsilon", -1e-6, "must be 0 or at least 1e-18, got -1e-06"),
        ("epsilon", 1e-19, "must be 0 or at least 1e-18, got 1e-19"),
        ("inter_weight", -1.0, "must be at least 0, got -1.0"),
        ("inter_weight", float("nan"), "must be at least 0, got nan"),
    ],
)
def test_what_no_model_can_have_is_refused(field, value, sentence):
    with pytest.raises(ValueError, match=f"^{field} {sentence}$"):
        dataclasses.replace(NEM, **{field: value})


def test_noise_is_drawn_anew_for_every_frame(params, x):
    """A static image: equal frames go in, unequal ones come out of the corruption, and are what was read."""
    trajectory, noisy = infer_with_input(NEM, params, KEY, x[:1])
    assert noisy.shape == (NUM_STEPS, *SHAPE)
    assert all(np.any(noisy[s] != noisy[t]) for s in range(NUM_STEPS) for t in range(s))
    given = dataclasses.replace(NEM, corrupt=lambda key, x: jnp.asarray(noisy))
    np.testing.assert_array_equal(infer(given, params, KEY, x[:1]).psi, trajectory.psi)
    np.testing.assert_array_equal(infer_with_input(CLEAN, params, KEY, x)[1], x[:-1])


def test_results_are_a_function_of_the_key(params, x):
    first, again, other = (infer(CLEAN, params, jax.random.key(seed), x) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.max(np.abs(first.psi - other.psi)) > 1e-4  # the initial gamma: CLEAN draws nothing else
    gamma = infer(NEM, params, jax.random.key(0), x).gamma
    assert np.max(np.abs(first.gamma - gamma)) > 1e-2  # the noise


def test_one_component_is_a_recurrent_autoencoder(params, x):
    trajectory = infer(dataclasses.replace(NEM, num_components=1), params, KEY, x)
    np.testing.assert_array_equal(trajectory.gamma, 1)


def test_k_and_t_of_a_trained_model_can_be_replaced(params, x):
    trajectory = infer(dataclasses.replace(NEM, num_components=4, num_steps=6), params, KEY, x[:1])
    assert trajectory.gamma.shape == (6, 4, *SHAPE)
    np.testing.assert_allclose(trajectory.gamma.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("options", [{"scan_unroll": 1}, {"scan_unroll": 2, "remat": "all"}], ids=str)
def test_options_of_speed_change_no_number(params, x, options):
    other = dataclasses.replace(NEM, **options)
    for leaf, expected in zip(infer(other, params, KEY, x), infer(NEM, params, KEY, x), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6)


def test_options_of_the_model_reach_the_em_step(params, x):
    plain = infer(CLEAN, params, KEY, x)
    softer = infer(dataclasses.replace(CLEAN, epsilon=1.0), params, KEY, x)
    assert np.max(np.abs(plain.gamma - softer.gamma)) > 1e-2

    def gradient(nem):
        return jax.jit(jax.grad(lambda params: model.example_loss(nem, params, KEY, x).total))(params)["rnn"]["kernel"]

    assert np.max(np.abs(gradient(CLEAN) - gradient(dataclasses.replace(CLEAN, gradient_gamma=False)))) > 1e-3


def test_the_likeliest_of_several_draws_is_kept(params, x):
    """Each draw is what `infer` makes of its key, and the psi of the kept one explains the last frame best."""
    several = dataclasses.replace(NEM, num_draws=5)
    kept, x_noisy = jax.jit(model.infer_likeliest, static_argnums=0)(several, params, KEY, x)
    draws = [infer_with_input(NEM, params, key, x) for key in jax.random.split(KEY, 5)]
    costs = [losses.loss_upper_bound(x[NUM_STEPS], drawn.psi[-1], NEM.pixel_dist) for drawn, _ in draws]
    assert len({float(cost) for cost in costs}) == 5
    expected, expected_input = draws[int(np.argmin(costs))]
    np.testing.assert_allclose(kept.gamma, expected.gamma, rtol=1e-5)
    np.testing.assert_array_equal(x_noisy, expected_input)
    one, _ = model.infer_likeliest(NEM, params, KEY, x)
    np.testing.assert_allclose(one.psi, infer(NEM, params, KEY, x).psi, rtol=1e-5)


def test_a_draw_that_is_no_number_is_not_the_likeliest(params, x):
    """Its cost is NaN, which `argmin` takes for the least."""

    def unknown_or_clean(key, x):
        return jnp.where(jax.random.bernoulli(key), x, jnp.nan)

    nem = dataclasses.replace(CLEAN, corrupt=unknown_or_clean, num_draws=6)
    draws = [infer(nem, params, key, x).psi for key in jax.random.split(KEY, 6)]
    assert {bool(np.isnan(psi).any()) for psi in draws} == {True, False}
    assert np.all(np.isfinite(jax.jit(model.infer_likeliest, static_argnums=0)(nem, params, KEY, x)[0].psi))


def test_a_vmapped_batch_equals_single_calls_and_has_its_own_draws(params, x):
    keys = jax.random.split(KEY, 3)
    batch = jax.jit(jax.vmap(functools.partial(model.example_loss, NEM), in_axes=(None, 0, None)))(params, keys, x)
    for row in range(3):
        np.testing.assert_allclose([term[row] for term in batch], example_loss(NEM, params, keys[row], x), rtol=1e-4)
    assert np.ptp(batch.total) > 1e-2


def test_training_takes_one_draw_whatever_an_evaluation_will(params, x):
    several = dataclasses.replace(NEM, num_draws=5)
    np.testing.assert_allclose(example_loss(several, params, KEY, x), example_loss(NEM, params, KEY, x), rtol=1e-6)
