"""Training: one compiled step, chunks, early stopping, interruption, bad numbers."""

import contextlib
import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.flying_mnist import config as flying_mnist
from experiments.flying_shapes import config as flying_shapes
from experiments.recipe import shrink_sequences
from experiments.static_shapes.config import NAMES, get_config
from nem_jax.config import build_experiment, build_stages
from nem_jax.distributions import Bernoulli
from nem_jax.evaluation import evaluate, examine, summarise
from nem_jax.training import loop, step
from nem_jax.training import run as training_run
from nem_jax.training.checkpoint import Checkpoints
from nem_jax.training.logs import METRICS, print_mean_std, print_scores, read_records, say
from nem_jax.training.loop import Training
from nem_jax.training.run import run
from nem_jax.training.seeds import take_seed
from nem_jax.training.state import create_state, draw_key, make_keys, update_best
from nem_jax.training.trained import load_trained, restore_best
from nem_jax.training.workdir import OVERVIEW, RESULT, WEIGHTS
from nem_jax.weights import read_weights, weights_sha256

pytestmark = pytest.mark.compiled_quickly


def tiny(**training):
    config = get_config("smoke")
    config.data.num_training, config.training.batch_size = 128, 16
    config.training.update(training)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of the smoke configuration: (workdir, result)."""
    path = tmp_path_factory.mktemp("runs") / "smoke"
    return path, run(tiny(), str(path))


@pytest.mark.smoke
def test_a_run_learns_and_leaves_all_its_files(finished):
    path, result = finished
    first, second = read_records(path)
    assert second["train_total"] < 0.95 * first["train_total"]
    assert second["valid_total"] < 0.95 * first["valid_total"]
    assert json.loads((path / RESULT).read_text()) == result
    assert (path / OVERVIEW).stat().st_size > 10_000
    assert weights_sha256(read_weights(path / WEIGHTS)) == result["runs"][0]["weights_sha256"]
    (events,) = (path / "tensorboard").iterdir()
    assert b"overview" in events.read_bytes()
    dataset = build_experiment(tiny()).load_data()
    model, params, _ = load_trained(str(path))
    shown = examine(model, params, draw_key(0, draw=0), dataset, "test").last
    with np.load(path / "overview.npz") as arrays:
        np.testing.assert_array_equal(arrays["x_noisy"], shown.x_noisy)  # of this draw
        np.testing.assert_allclose(arrays["gamma"], shown.gamma, atol=1e-4)  # of these weights
        assert arrays["gamma"].shape == (8, 4, 28, 28, 1)
        for index, x in enumerate(arrays["x"]):
            example = dataset.sample(dataset.splits["test"].source, jnp.int32(index))
            np.testing.assert_array_equal(x, example.x[0])
    assert (result["protocol"]["split"], result["protocol"]["num_examples"]) == ("test", tiny().data.num_test)
    (only,) = result["runs"]
    assert not only["stopped_early"]
    assert only["scores"]["total"] == pytest.approx(second["valid_total"], rel=0.05)


def test_a_run_is_finished_when_all_else_is_written(finished, tmp_path, monkeypatch):
    """Were its result the first, a kill would leave a finished run without weights."""
    copy = shutil.copytree(finished[0], tmp_path / "run")
    (copy / RESULT).unlink()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "write_weights", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), str(copy))
    assert not (copy / RESULT).exists()


def test_printed_scores_bear_their_names(capsys):
    scores = {
        "ami_max_mean": 0.1, "ami_max_last": 0.6, "ami_arithmetic_mean": 0.2, "ari_mean": 0.3, "confidence_mean": 0.4,
        "total": 5.0,
    }  # fmt: skip
    print_scores(scores, "seed 3: ")
    assert capsys.readouterr().out.split("   ") == [
        "seed 3: AMI 0.1000 (max), 0.2000 (arithmetic), 0.6000 (max, last step)",
        "ARI 0.3000", "confidence 0.4000", "loss 5.00\n",
    ]  # fmt: skip
    print_scores({**scores, "ami_max_last": 0.1})
    assert "last step" not in capsys.readouterr().out


def test_a_directory_that_cannot_be_used_is_refused_before_data_are_loaded(finished, monkeypatch):
    monkeypatch.setattr(training_run.Training, "of", None)
    with pytest.raises(ValueError, match="holds a finished run"):
        run(tiny(), finished[0])


def test_a_run_repeats_bit_for_bit(finished, tmp_path):
    path, result = finished
    again = run(tiny(), str(tmp_path / "again"))
    assert read_records(tmp_path / "again") == read_records(path)
    assert again["runs"] == result["runs"]


def test_an_interrupted_run_resumes_bit_for_bit(finished, tmp_path, stop_at_checkpoint):
    """Stopped between the second epoch's line in metrics.jsonl and its checkpoint, the worst moment."""
    path, result = finished
    stop_at_checkpoint(8, lambda: run(tiny(), str(tmp_path / "run")))
    assert len(read_records(tmp_path / "run")) == 2
    resumed = run(tiny(), str(tmp_path / "run"))
    assert read_records(tmp_path / "run") == read_records(path)
    assert resumed["runs"] == result["runs"]


def test_how_steps_are_grouped_into_calls_changes_nothing(finished, tmp_path):
    """One call of 3, 3 and 2 steps an epoch instead of two of 4."""
    path, _ = finished
    run(tiny(log_interval=3), str(tmp_path / "run"))
    for ours, theirs in zip(read_records(tmp_path / "run"), read_records(path), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            rounding = 1e-3 if "ami" in name or "ari" in name else 0  # of pixels that two components claim alike
            np.testing.assert_allclose(value, theirs[name], rtol=1e-6, atol=rounding, err_msg=name)


def test_the_training_step_is_compiled_once(tmp_path):
    config = tiny(log_interval=3)  # a short last call in every epoch
    config.model.hidden_size = 31  # nothing in the cache
    before = step.train_steps.jitted._cache_size()
    run(config, str(tmp_path / "run"))
    assert step.train_steps.jitted._cache_size() == before + 1


def test_training_stops_when_validation_no_longer_improves(tmp_path, monkeypatch):
    losses = iter([5.0, 3.0, 4.0, 3.0, 2.9, 1.0])
    names = ("valid_total", "valid_ami_max_mean")
    monkeypatch.setattr(loop, "validate", lambda *_: dict.fromkeys(names, np.array([next(losses)])))
    training = Training.of(build_experiment(tiny(patience=2, max_epochs=9)))
    state = loop.train(training, tmp_path)
    assert training.standing(state).stopped_early.tolist() == [True]
    assert state.best_epoch.tolist() == [2]
    assert state.best_loss.tolist() == [3.0]
    assert [record["epoch"] for record in read_records(tmp_path)] == [1, 2, 3, 4]


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    losses = iter([5.0, np.nan])
    monkeypatch.setattr(
        loop, "validate", lambda *_: dict.fromkeys(("valid_total", "valid_ami_max_mean"), np.array([next(losses)]))
    )
    training = Training.of(build_experiment(tiny()))
    with pytest.raises(FloatingPointError, match=r"^step 16: the validation loss after it is not finite; the last"):
        loop.train(training, tmp_path)
    assert [record["epoch"] for record in read_records(tmp_path)] == [1]
    assert training.standing(loop.train(training, tmp_path, stop_now=True)).epoch.tolist() == [1]


def test_the_best_weights_are_kept_apart():
    experiment = build_experiment(tiny())
    state = create_state(experiment.model, experiment.training.optimiser, jax.random.key(0))
    first, second = jnp.int32(1), jnp.int32(2)
    on = jnp.bool_(True)
    state = update_best(state, jnp.float32(2), first, on)
    moved = state._replace(params=jax.tree.map(lambda x: x + 1, state.params))
    for no_better in (3.0, 2.0):
        jax.tree.map(np.testing.assert_array_equal, update_best(moved, jnp.float32(no_better), second, on), moved)
    resting = update_best(moved, jnp.float32(jnp.nan), second, ~on)
    jax.tree.map(np.testing.assert_array_equal, resting, moved)
    failed = update_best(moved._replace(step=jnp.int32(8)), jnp.float32(jnp.nan), second, on)
    assert (int(failed.failed_at), int(failed.best_epoch)) == (8, 1)
    better = update_best(moved, jnp.float32(1), second, on)
    assert weights_sha256(better.best_params) == weights_sha256(moved.params) != weights_sha256(moved.best_params)
    assert int(better.best_epoch) == 2


@functools.partial(jax.jit, static_argnames="sample")
def poison(sample, source, index):
    example = sample(source, index)
    return example._replace(x=jnp.where(index == 70, jnp.nan, example.x))


def poisoned(training):
    bad = dataclasses.replace(training.dataset, sample=functools.partial(poison, training.dataset.sample))
    return training._replace(dataset=bad)


def test_a_step_that_is_not_finite_stops_the_run_and_is_not_applied(tmp_path):
    """Example 70 is NaN, and of an epoch's 8 batches one holds it."""
    training = Training.of(build_experiment(tiny()))
    order = jax.random.permutation(jax.random.fold_in(training.keys.shuffle[0], 1), 128)
    bad_step = int(np.flatnonzero(np.asarray(order) == 70)[0]) // 16 + 1
    with pytest.raises(FloatingPointError, match=f"^step {bad_step}: the loss or its gradient is not finite"):
        loop.train(poisoned(training), tmp_path)
    assert not (tmp_path / METRICS).read_text()


def test_the_last_good_checkpoint_survives_a_bad_step(tmp_path):
    training = Training.of(build_experiment(tiny(max_epochs=1)))
    first = loop.train(training, tmp_path)
    longer = Training.of(build_experiment(tiny(max_epochs=2)))
    with pytest.raises(FloatingPointError):
        loop.train(poisoned(longer), tmp_path)
    kept, losses = restore_best(training.experiment, tmp_path)
    assert weights_sha256(kept) == weights_sha256(first.best_params)
    assert losses == first.best_loss


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    loop.train(Training.of(build_experiment(tiny(max_epochs=1))), tmp_path)
    other = tiny(max_epochs=1)
    other.model.hidden_size = 16
    with pytest.raises(ValueError, match=r"checkpoint in .* is of another configuration"):
        restore_best(build_experiment(other), tmp_path)


def test_shuffled_epochs_visit_every_example_once_but_for_an_odd_rest(tmp_path, monkeypatch):
    """Eight batches of 16 of 130 examples."""
    seen, config = [], tiny()
    config.data.num_training = 130
    take = loop.take_steps
    monkeypatch.setattr(loop, "take_steps", lambda t, s, chunk, on: (seen.append(chunk[0]), take(t, s, chunk, on))[1])
    training = Training.of(build_experiment(config))
    assert training.standing(loop.train(training, tmp_path)).epoch.tolist() == [2]
    epochs = np.concatenate(seen).reshape(2, 128)
    assert [len(set(epoch.tolist()) & set(range(130))) for epoch in epochs] == [128, 128]
    assert (epochs[0] != epochs[1]).mean() > 0.9
    assert set(epochs.ravel().tolist()) == set(range(130))  # no rest is left out twice


def test_a_run_that_began_with_other_weights_resumes_without_them(finished, tmp_path, monkeypatch):
    source, compared, streams = shutil.copytree(finished[0], tmp_path / "source"), {}, []
    config, begun_with = tiny(init_from=str(source)), weights_sha256(read_weights(source / WEIGHTS))
    train = loop.train
    monkeypatch.setattr(training_run, "train", lambda *args: streams.append(args[0].keys.train[0]) or train(*args))
    with monkeypatch.context() as first:
        first.setattr(Checkpoints, "save", save_then_stop)
        first.setattr(training_run, "check_alike", compared.__setitem__)
        with pytest.raises(KeyboardInterrupt):
            run(config, str(tmp_path / "run"))
    assert compared["checkpoints"] == "[False]"
    assert compared["initial weights"] == begun_with
    shutil.rmtree(source)
    result = run(config, str(tmp_path / "run"))
    assert result["runs"][0]["epochs"] == 2
    assert streams == [make_keys(0, given_sha256=begun_with).train] * 2
    assert result["initial_weights"] == {"source": str(source), "weights_sha256": begun_with}
    assert read_records(tmp_path / "run")[0]["valid_total"] < read_records(finished[0])[0]["valid_total"]


def test_each_stage_draws_anew_and_validates_alike():
    first, second, third = (Training.of(stage).keys for stage in build_stages(staged()))
    for one, other in ((first, second), (first, third), (second, third)):
        for name, key in one._asdict().items():
            same = jax.random.key_data(key).tolist() == jax.random.key_data(getattr(other, name)).tolist()
            assert same == (name not in ("shuffle", "train")), name
    assert first.train[0] == make_keys(0).train  # what runs without stages draw from
    consumed = [jax.random.fold_in(first.train[0], step) for step in range(9)]
    assert second.train[0] not in consumed


def test_a_run_from_given_weights_repeats_no_order_or_noise():
    """Each weights', in each stage: streams of their own; validation and test stay what they are."""
    runs = [(0, None), (1, None), *((stage, given) for stage in (0, 1) for given in ("00000000", "00000001", "f" * 64))]
    drawn = [jax.tree.map(lambda key: tuple(jax.random.key_data(key).tolist()), make_keys(3, *run)) for run in runs]
    for name in ("shuffle", "train"):
        assert len({getattr(keys, name) for keys in drawn}) == len(runs)
    for name in ("init", "validation", "test"):
        assert len({getattr(keys, name) for keys in drawn}) == 1


def test_a_failure_in_a_later_stage_names_it(tmp_path):
    second = Training.of(build_stages(staged())[1])
    params = jax.tree.map(lambda leaf: leaf * np.nan, jax.device_get(loop.create(second)).params)
    with pytest.raises(FloatingPointError) as error:
        loop.train(second, tmp_path, params)
    assert str(error.value) == (
        "step 1 of stage 2: the loss or its gradient is not finite, in the first epoch; the run's --stop_now scores "
        "stage 1"
    )


def test_a_line_on_the_console_is_in_its_file_at_once(tmp_path):
    """As where a scheduler keeps it: a run may be killed at any moment."""
    said = tmp_path / "said"
    with said.open("w") as file, contextlib.redirect_stdout(file):
        say("epoch 1")
        assert said.read_text() == "epoch 1\n"


def staged():
    config = tiny()
    config.stages = ({"training.patience": 3}, {"training.learning_rate": 5e-4}, {"training.patience": 2})
    config.training.patience = 2
    return config


def test_each_stage_has_its_own_training_fields():
    stages = [stage.training for stage in build_stages(staged())]
    assert [stage.patience for stage in stages] == [3, 2, 2]
    plain = build_experiment(tiny()).training
    assert stages[0].optimiser is stages[2].optimiser is plain.optimiser
    assert stages[1].optimiser is not plain.optimiser


def test_the_best_weights_are_handed_on_and_left_not_the_last(tmp_path, monkeypatch):
    """Two stages of two epochs, of which for seed 0 the first is each time the better, and for seed 1 the second."""
    config = tiny(max_epochs=2)
    config.num_seeds = 2
    config.stages = ({"training.patience": 9}, {"training.learning_rate": config.training.learning_rate})
    losses, states, begun = iter([(1.0, 4.0), (2.0, 3.0), (0.5, 2.0), (1.5, 1.0)]), [], []
    names = ("valid_total", "valid_ami_max_mean")
    monkeypatch.setattr(loop, "validate", lambda *_: dict.fromkeys(names, np.array(next(losses))))
    create, train = loop.create, training_run.train
    monkeypatch.setattr(loop, "create", lambda training, params: begun.append(params) or create(training, params))
    monkeypatch.setattr(training_run, "train", lambda *args: states.append(train(*args)) or states[-1])
    described, other = run(config, str(tmp_path))["runs"]
    assert (described["epochs"], described["best_epoch"]) == (4, 3)
    assert (other["epochs"], other["best_epoch"]) == (4, 4)
    first, second = jax.device_get(states)
    assert [state.best_epoch.tolist() for state in (first, second)] == [[1, 2], [1, 2]]
    assert begun[0] is None
    assert weights_sha256(begun[1]) == weights_sha256(first.best_params) != weights_sha256(first.params)
    assert weights_sha256(take_seed(begun[1], 1)) == weights_sha256(take_seed(first.params, 1))
    assert other["weights_sha256"] == weights_sha256(take_seed(second.params, 1))
    left = weights_sha256(read_weights(tmp_path / WEIGHTS))
    assert left == described["weights_sha256"] == weights_sha256(take_seed(second.best_params, 0))
    assert left != weights_sha256(take_seed(second.params, 0))


def test_stopping_now_scores_the_best_weights_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "save", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), str(tmp_path))
    monkeypatch.undo()
    result = run(tiny(), str(tmp_path), stop_now=True)
    assert (result["runs"][0]["epochs"], result["runs"][0]["stopped_early"]) == (1, False)
    assert len(read_records(tmp_path)) == 1


def save_then_stop(self, state, save=Checkpoints.save):
    save(self, state)
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", [name for name in NAMES if name != "smoke"])
def test_every_named_configuration_takes_two_steps(name):
    """Of the optimiser, at its own K, cell, noise and loss; fewer EM steps, hidden units and examples."""
    config = get_config(name)
    config.model.num_steps, config.model.hidden_size = 2, 8
    config.training.batch_size = 16
    training = Training.of(build_experiment(config))
    state, losses = loop.take_steps(training, loop.create(training), np.arange(32).reshape(1, 2, 16), np.array([True]))
    assert state.step.tolist() == [2]
    assert np.isfinite(losses).all()


def test_an_autoencoder_that_cleans_its_frame_takes_two_steps():
    config = flying_shapes.get_config("rnn_ae_3_denoising")
    shrink_sequences(config)
    training = Training.of(build_experiment(config))
    assert (training.experiment.model.num_components, training.experiment.model.lookahead) == (1, 0)
    state, losses = loop.take_steps(training, loop.create(training), np.arange(32).reshape(1, 2, 16), np.array([True]))
    assert state.step.tolist() == [2]
    assert losses[1] > 0 == losses[2]  # gamma is 1: nothing is out of the only cluster


def test_the_fast_recipe_takes_two_steps_of_its_first_and_last_stage():
    config = flying_mnist.get_config("staged_fast")
    shrink_sequences(config)
    config.data.digits, config.data.image_size = "sklearn", 16
    params = None
    for stage in build_stages(config)[::3]:
        training = Training.of(stage)
        index = np.arange(32).reshape(1, 2, 16)
        state, losses = loop.take_steps(training, loop.create(training, params), index, np.array([True]))
        assert state.step.tolist() == [2]
        assert np.isfinite(losses).all()
        params = state.params


def test_a_step_takes_the_place_of_the_state_before():
    training = Training.of(build_experiment(tiny()))
    before = loop.create(training)
    loop.take_steps(training, before, np.arange(32).reshape(1, 2, 16), np.array([True]))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)))


def test_an_epochs_progress_bar_and_picture(tmp_path, monkeypatch):
    bars = []

    class Bar(contextlib.AbstractContextManager):
        def __init__(self, **options):
            self.options, self.done, self.told = options, 0, []
            bars.append(self)

        def __exit__(self, *raised):
            pass

        def update(self, count):
            self.done += count

        def set_postfix(self, **told):
            self.told.append(told)

    monkeypatch.setattr(loop, "tqdm", Bar)
    draw, drawn = loop.examine_first, []
    monkeypatch.setattr(loop, "examine_first", lambda *args: drawn.append(args) or draw(*args))
    config = tiny(max_epochs=2, figure_interval=2)
    run(config, str(tmp_path))
    assert len(drawn) == 1
    assert [bar.options["desc"] for bar in bars] == ["epoch 1", "epoch 2"]
    assert all(
        bar.options["unit"] == "ex" and bar.done == bar.options["total"] == config.data.num_training for bar in bars
    )
    ami = read_records(tmp_path)[0]["valid_ami_max_mean"]
    assert {told["valid_AMI"] for told in bars[0].told} == {"nan"}
    assert {told["valid_AMI"] for told in bars[1].told} == {f"{ami:.3f}"}
    assert all(float(told["loss"]) > 0 for bar in bars for told in bar.told)


def test_each_step_draws_noise_and_gamma_anew_for_each_example():
    """Two steps on the same examples against their losses by hand; at learning rate 0 the weights stay."""
    training = Training.of(build_experiment(tiny(learning_rate=0.0)))
    model, index = training.experiment.model, jnp.arange(16)
    params = jax.tree.map(lambda leaf: 6 * leaf, model.init(jax.random.key(0)))  # untrained, they hardly heed the input
    x = jax.jit(jax.vmap(training.dataset.sample, (None, 0)))(training.dataset.splits["training"].source, index).x
    by_hand = [
        step.batch_loss(model, params, jax.random.split(key, 16), x)[0]
        for key in (jax.random.fold_in(training.keys.train[0], number) for number in range(2))
    ]
    assert abs(by_hand[1] - by_hand[0]) > 1e-3 * by_hand[0]
    state = loop.create(training, jax.tree.map(lambda leaf: leaf[None], params))
    _, losses = loop.take_steps(training, state, np.tile(index, (1, 2, 1)), np.array([True]))
    assert losses[0, 0] == pytest.approx(sum(map(float, by_hand)), rel=1e-5)


class Infinite(Bernoulli):
    """Its cost is infinite, and the cost's gradient is not."""

    def nll(self, x, psi):
        return super().nll(x, psi) + jnp.inf


def test_a_loss_that_is_not_finite_stops_the_run_though_the_gradient_is(tmp_path):
    experiment = build_experiment(tiny())
    model = dataclasses.replace(experiment.model, pixel_dist=Infinite(), gradient_gamma=False)
    with pytest.raises(FloatingPointError, match=r"^step 1: the loss or its gradient is not finite"):
        loop.train(Training.of(dataclasses.replace(experiment, model=model)), tmp_path)


def with_cell(experiment, init, cell):
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, init=init, cell=cell))


def test_a_gradient_that_is_not_finite_stops_the_run_though_the_loss_is(tmp_path):
    def cell(params, residual, theta):
        return theta, jnp.full_like(residual, 0.5) * jnp.exp(-jnp.sqrt(jnp.sum(params["scale"] ** 2)))

    experiment = with_cell(build_experiment(tiny()), lambda key: {"scale": jnp.zeros(3)}, cell)
    with pytest.raises(FloatingPointError, match=r"^step 1: the loss or its gradient is not finite"):
        loop.train(Training.of(experiment), tmp_path)


def test_validation_takes_one_draw_whatever_the_test_will(monkeypatch):
    config = tiny()
    config.model.num_draws = 3
    training, seen = Training.of(build_experiment(config)), []
    evaluate = loop.evaluate

    def watched(model, params, key, dataset, split, *rest):
        seen.append((model.num_draws, split, key))
        return evaluate(model, params, key, dataset, split, *rest)

    monkeypatch.setattr(loop, "evaluate", watched)
    loop.validate(training, loop.create(training).params, np.array([True]))
    assert seen == [(1, "validation", training.keys.validation[0])]


def test_training_in_float64():
    with jax.enable_x64(True):
        training = Training.of(build_experiment(tiny()))
        state, losses = loop.take_steps(
            training, loop.create(training), np.arange(32).reshape(1, 2, 16), np.array([True])
        )
    assert int(state.step[0]) == 2
    assert losses.dtype == np.float64
    assert np.isfinite(losses).all()


def test_a_seed_that_rests_asks_for_example_0_alone():
    config = tiny()
    config.num_seeds = 2
    training = Training.of(build_experiment(config))
    batches = np.arange(1, 65).reshape(2, 2, 16)
    *_, padded, steps = loop.step_arguments(training, loop.create(training), batches, np.array([False, True]))
    assert steps.tolist() == [0, 2]
    assert not padded[0].any()
    np.testing.assert_array_equal(padded[1, :2], batches[1])


def test_a_checkpoint_of_an_earlier_step_than_the_last_is_an_error(tmp_path):
    training = Training.of(build_experiment(tiny()))
    state = loop.create(training)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state._replace(step=state.step + 5))
        with pytest.raises(RuntimeError, match="checkpoint 0 was not written: a later one exists"):
            checkpoints.save(state)


def test_grey_images_train_too(tmp_path):
    """Gaussian pixels, masked uniform noise, gamma without gradients, and whole steps computed again."""
    config = tiny(max_epochs=1, scan_unroll=1, remat="all")
    config.model.pixel_dist, config.model.e_sigma, config.model.noise = "gaussian", 0.25, "masked_uniform"
    config.model.gradient_gamma, config.model.step_weights, config.model.inter_weight = False, "all", 0.2
    loop.train(Training.of(build_experiment(config)), tmp_path)
    assert np.isfinite(list(read_records(tmp_path)[0].values())).all()


def test_an_epochs_losses_are_means_over_its_steps(monkeypatch):
    """Two calls of four steps each, whose sums are given."""
    training = Training.of(build_experiment(tiny()))
    sums = iter([np.array([[8.0], [6.0], [2.0]]), np.array([[4.0], [3.0], [1.0]])])
    monkeypatch.setattr(loop, "take_steps", lambda training, state, batches, active: (state, next(sums)))
    _, losses = loop.train_epoch(training, loop.create(training), np.array([True]), epoch=1, valid_ami=0.0)
    assert {name: value.tolist() for name, value in losses.items()} == {
        "train_total": [1.5], "train_intra": [1.125], "train_inter": [0.375]
    }  # fmt: skip


def test_random_streams_are_those_of_the_published_numbers():
    """Written out from the seeds: of another order, or of a key used twice, no other test would know."""
    config = tiny()
    config.seed, config.data.seed = 3, 4
    training = Training.of(build_experiment(config))
    init, *_, test = streams = jax.random.split(jax.random.fold_in(jax.random.key(3), 1), 5)
    assert [key[0] for key in training.keys] == list(streams)
    assert draw_key(3, draw=2) == jax.random.fold_in(test, 2)
    splits = jax.random.split(jax.random.key(4), 3)
    assert [training.dataset.splits[name].source for name in ("training", "validation", "test")] == list(splits)
    params = jax.tree.map(lambda leaf: leaf[0], loop.create(training).params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), params, training.experiment.model.init(init))


def test_no_two_random_streams_are_the_same():
    """Those of a run and of its data's splits, from the same seed. (Examples' keys: see `make_keys`.)"""
    dataset = build_experiment(tiny()).load_data()
    keys = [*make_keys(0), *(split.source for split in dataset.splits.values()), jax.random.key(0)]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)


def test_the_weights_that_are_loaded_are_the_best_not_the_last(tmp_path, monkeypatch):
    losses, names = iter([1.0, 2.0]), ("valid_total", "valid_ami_max_mean")
    monkeypatch.setattr(loop, "validate", lambda *_: dict.fromkeys(names, np.array([next(losses)])))
    (described,) = run(tiny(), tmp_path)["runs"]
    assert (described["epochs"], described["best_epoch"]) == (2, 1)
    assert weights_sha256(load_trained(str(tmp_path)).params) == described["weights_sha256"]


def test_a_third_stage_begins_with_the_second_ones_weights(tmp_path, monkeypatch):
    config, begun, states = tiny(max_epochs=1), [], []
    config.stages = ({}, {}, {})
    create, train = loop.create, training_run.train
    monkeypatch.setattr(loop, "create", lambda training, params: begun.append(params) or create(training, params))
    monkeypatch.setattr(training_run, "train", lambda *args: states.append(train(*args)) or states[-1])
    run(config, tmp_path)
    first, second, _ = jax.device_get(states)
    assert weights_sha256(begun[2]) == weights_sha256(second.best_params) != weights_sha256(first.best_params)


def test_a_run_is_scored_as_its_protocol_says(tmp_path):
    config = tiny(max_epochs=1)
    config.model.num_draws = 3
    result = run(config, tmp_path)
    assert result["protocol"]["kept_draws"] == "the likeliest of 3"
    model, params, _ = load_trained(str(tmp_path))
    dataset, scores = build_experiment(config).load_data(), result["runs"][0]["scores"]
    kept, one = (
        summarise(evaluate(each, params, draw_key(0, draw=0), dataset, "test", batch_size=16))["loss_upper_bound_last"]
        for each in (model, dataclasses.replace(model, num_draws=1))
    )
    assert scores["loss_upper_bound_last"] == pytest.approx(kept, rel=1e-6) != pytest.approx(one, rel=1e-6)


def test_the_mean_is_printed_as_the_mean(capsys):
    names = ("ami_max_mean", "ami_max_last", "ami_arithmetic_mean", "ari_mean", "confidence_mean", "total")
    print_mean_std(dict.fromkeys(names, 0.5), dict.fromkeys(names, 0.25), "3 seeds")
    mean, std = capsys.readouterr().out.splitlines()
    assert mean.startswith("mean of 3 seeds: AMI 0.5000")
    assert std.startswith("standard deviation: AMI 0.2500")


def test_a_failed_seed_has_not_stopped_early():
    training = Training.of(build_experiment(tiny(patience=1, max_epochs=9)))
    state = jax.device_get(loop.create(training))._replace(step=np.array([24]))
    assert training.standing(state).stopped_early.tolist() == [True]
    failed = training.standing(state._replace(failed_at=np.array([24])))
    assert (failed.stopped_early.tolist(), failed.finished.tolist()) == ([False], [True])
