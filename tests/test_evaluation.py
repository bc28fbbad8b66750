"""Evaluation: the protocol, batches, other K and T."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.static_shapes.config import get_config
from experiments.subject import describe_subject, load_subject, without_noise
from nem_jax.config import build_experiment
from nem_jax.data.shapes import flying_shapes
from nem_jax.evaluation import describe_protocol, evaluate, evaluate_example, examine, quartiles, summarise
from nem_jax.metrics import confidence
from nem_jax.model import example_loss, infer, infer_likeliest

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def smoke():
    config = get_config("smoke")
    config.data.num_test = 50
    experiment = build_experiment(config)
    params = jax.tree.map(lambda w: 2 * w, experiment.model.init(jax.random.key(3)))
    return experiment.model, params, experiment.load_data()


def test_the_batch_size_changes_no_score(smoke):
    """50 examples in batches of 20, 20 and 10 padded to 20: example i draws by its number."""
    model, params, dataset = smoke
    key = jax.random.key(0)
    by_20 = evaluate(model, params, key, dataset, "test", batch_size=20)
    by_50 = evaluate(model, params, key, dataset, "test", batch_size=50)
    assert by_20.loss.total.shape == (50,)
    assert by_20.scores.ami_max.shape == (50, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), by_20, by_50)


def test_each_example_is_scored_as_alone(smoke):
    model, params, dataset = smoke
    key = jax.random.key(0)
    evaluation = evaluate(model, params, key, dataset, "test", batch_size=25)
    example = dataset.sample(dataset.splits["test"].source, jnp.int32(7))
    alone = example_loss(model, params, jax.random.fold_in(key, 7), example.x)
    np.testing.assert_allclose(evaluation.loss.total[7], alone.total, rtol=1e-5)


def test_the_likeliest_draw_is_scored_and_shown(smoke):
    model, params, dataset = smoke
    model = dataclasses.replace(model, num_draws=4)
    key, index = jax.random.key(0), np.array([7])
    example = dataset.sample(dataset.splits["test"].source, jnp.int32(7))
    expected, _ = infer_likeliest(model, params, jax.random.fold_in(key, 7), example.x)
    first, _ = infer(model, params, jax.random.fold_in(key, 7), example.x)
    shown = examine(model, params, key, dataset, "test", index)
    np.testing.assert_allclose(shown.gamma[0], expected.gamma, atol=1e-5)
    assert np.abs(np.asarray(expected.gamma - first.gamma)).max() > 1e-3
    scores = evaluate(model, params, key, dataset, "test", batch_size=50).scores
    np.testing.assert_allclose(scores.confidence[7, -1], confidence(example.groups[0], expected.gamma[-1]), rtol=1e-4)


def test_another_key_gives_another_grouping(smoke):
    model, params, dataset = smoke
    first, second = (evaluate(model, params, jax.random.key(k), dataset, "test", 50).scores.ami_max for k in (0, 1))
    assert np.any(first != second)


def test_all_steps_are_scored_where_the_model_says_so(smoke):
    model, params, dataset = smoke
    model = dataclasses.replace(model, scored_steps="all", num_steps=5, num_components=6)
    evaluation = evaluate(model, params, jax.random.key(0), dataset, "test", batch_size=50)
    assert evaluation.scores.ari.shape == (50, 5)
    means = summarise(evaluation)
    assert means["ari_last"] == pytest.approx(evaluation.scores.ari[:, -1].mean())
    assert means["ari_mean"] == pytest.approx(evaluation.scores.ari.mean())
    assert describe_protocol(model, dataset, "test", "none", 1)["num_components"] == 6


def test_a_figure_shows_what_was_scored(smoke):
    model, params, dataset = smoke
    key = jax.random.key(0)
    shown = examine(model, params, key, dataset, "test")
    example = dataset.sample(dataset.splits["test"].source, jnp.int32(2))
    trajectory, x_noisy = infer(model, params, jax.random.fold_in(key, 2), example.x)
    for frames in shown.x[2]:
        np.testing.assert_array_equal(frames, example.x[0])
    np.testing.assert_array_equal(shown.last.groups[2], example.groups[0])
    np.testing.assert_array_equal(shown.x_noisy[2], x_noisy)
    np.testing.assert_allclose(shown.gamma[2], trajectory.gamma, atol=1e-5)
    np.testing.assert_allclose(shown.last.psi[2], trajectory.psi[-1], atol=1e-5)
    alone = examine(model, params, key, dataset, "test", np.array([2]))
    np.testing.assert_allclose(alone.gamma[0], shown.gamma[2], atol=1e-5)


def test_a_sequences_figure_shows_the_frames_that_are_predicted(smoke):
    model, params, _ = smoke
    params = jax.tree.map(lambda w: 5 * w, params)  # with small ones gamma would be all but uniform
    model, dataset = dataclasses.replace(model, num_steps=3, lookahead=1), flying_shapes(0, (4, 4, 4), num_frames=4)
    shown = examine(model, params, jax.random.key(0), dataset, "test")
    example = dataset.sample(dataset.splits["test"].source, jnp.int32(1))
    assert np.any(example.x[1:] != example.x[:-1])
    np.testing.assert_array_equal(shown.x[1], example.x[1:])
    np.testing.assert_array_equal(shown.groups[1], example.groups[1:])
    model = dataclasses.replace(model, scored_steps="all")
    scored = evaluate(model, params, jax.random.key(0), dataset, "test", batch_size=4).scores
    of_steps = jax.vmap(jax.vmap(confidence))(jnp.asarray(shown.groups), jnp.asarray(shown.gamma))
    np.testing.assert_allclose(scored.confidence, of_steps, rtol=1e-4)
    of_inputs = jax.vmap(confidence)(example.groups[:-1], jnp.asarray(shown.gamma[1]))
    assert np.max(np.abs(of_steps[1] - of_inputs)) > 1e-3


def test_frames_that_the_model_does_not_read_are_left_out(smoke):
    """Of longer sequences, for instance in a data set that a rollout needs; `infer` itself refuses them."""
    model, params, _ = smoke
    model, dataset = dataclasses.replace(model, num_steps=3), flying_shapes(0, (4, 4, 4), num_frames=6)
    example = dataset.example("test", 0)
    score = functools.partial(evaluate_example, model, num_groups=3)
    assert jax.eval_shape(score, params, jax.random.key(0), example).scores.ari.shape == (1,)
    with pytest.raises(ValueError, match="4 frames"):
        jax.eval_shape(functools.partial(infer, model), params, jax.random.key(0), example.x)


def test_fewer_steps_than_training_laid_out_are_evaluated():
    subject = load_subject("static_shapes_n_em", {"training.scan_unroll": 15, "model.num_steps": 2})
    assert (subject.experiment.model.num_steps, subject.experiment.model.scan_unroll) == (2, 2)


def test_clean_input_is_the_image():
    subject = without_noise(load_subject("static_shapes_n_em", {"data.num_test": 2, "model.num_steps": 2}))
    model, dataset = subject.experiment.model, subject.dataset
    shown = examine(model, subject.params, jax.random.key(0), dataset, "test")
    np.testing.assert_array_equal(shown.x_noisy, shown.x)
    assert describe_subject(subject)["protocol"]["input_noise"] == "none"


def test_quartiles_are_of_the_examples_and_not_of_the_steps():
    values = np.array([[0.0, 10.0], [1.0, 10.0], [2.0, 10.0], [3.0, 10.0], [9.0, 15.0]])
    assert quartiles(values) == {"mean": [3.0, 11.0], "lower": [1.0, 10.0], "upper": [3.0, 10.0]}
