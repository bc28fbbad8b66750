"""Several seeds in one program: each is what it is alone."""

import jax
import numpy as np
import pytest

from experiments.static_shapes.config import get_config
from nem_jax.config import build_experiment
from nem_jax.config.training import SEED_MAPPINGS
from nem_jax.training import loop
from nem_jax.training.logs import METRICS, read_records
from nem_jax.training.loop import Training
from nem_jax.training.run import run
from nem_jax.training.seeds import MAPPINGS, create_states, make_seed_keys, take_seed
from nem_jax.training.state import make_keys
from nem_jax.training.trained import initial_params, load_trained, restore_best
from nem_jax.training.workdir import WEIGHTS
from nem_jax.weights import read_weights, weights_sha256

pytestmark = pytest.mark.compiled_quickly

SEEDS = 3


def tiny(seed, num_seeds, mapping=None, **training):
    config = get_config("smoke")
    config.seed, config.num_seeds, config.training.seed_mapping = seed, num_seeds, mapping
    config.data.num_training, config.training.batch_size, config.training.log_interval = 128, 16, 5
    config.training.update(training)
    return config


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Results of each seed in a run of its own."""
    path = tmp_path_factory.mktemp("alone")
    return [run(tiny(5 + seed, 1), str(path / str(seed)))["runs"][0] for seed in range(SEEDS)]


def assert_alike(found, expected, rtol):
    assert [one["seed"] for one in found] == [one["seed"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one["epochs"], one["best_epoch"]) == (other["epochs"], other["best_epoch"])
        assert one["best_valid_loss"] == pytest.approx(other["best_valid_loss"], rel=rtol)
        assert one["scores"]["total"] == pytest.approx(other["scores"]["total"], rel=rtol)


def test_the_mappings_are_those_that_the_configuration_knows():
    assert tuple(MAPPINGS) == SEED_MAPPINGS


def test_given_weights_are_every_seeds():
    config = get_config("rnn_em")
    config.num_seeds, config.training.init_from = SEEDS, "static_shapes_rnn_em"
    params = initial_params(build_experiment(config))
    given = load_trained("static_shapes_rnn_em").params
    for index in range(SEEDS):
        jax.tree.map(np.testing.assert_array_equal, take_seed(params, index), given)


@pytest.mark.parametrize(("mapping", "rtol"), [("sequence", 1e-6), ("vmap", 1e-5)])
def test_a_seed_among_others_is_what_it_is_alone(alone, tmp_path, mapping, rtol):
    result = run(tiny(5, SEEDS, mapping), str(tmp_path))
    assert_alike(result["runs"], alone, rtol)
    totals = [one["scores"]["total"] for one in result["runs"]]
    assert result["scores"]["total"] == {"mean": pytest.approx(np.mean(totals)), "std": pytest.approx(np.std(totals))}
    losses = [one["best_valid_loss"] for one in result["runs"]]
    assert len(set(losses)) == SEEDS
    best = result["runs"][int(np.argmin(losses))]
    assert weights_sha256(read_weights(tmp_path / WEIGHTS)) == best["weights_sha256"]
    _, params, config = load_trained(str(tmp_path))
    assert (config.seed, config.num_seeds) == (best["seed"], 1)
    assert weights_sha256(params) == best["weights_sha256"]


def test_the_log_has_each_seed_and_their_mean(alone, tmp_path):
    run(tiny(5, SEEDS), str(tmp_path))
    for record in read_records(tmp_path):
        for name, values in record["per_seed"].items():
            assert len(values) == SEEDS
            assert record[name] == pytest.approx(np.mean(values))
    assert record["per_seed"]["valid_total"] == pytest.approx([one["best_valid_loss"] for one in alone])


@pytest.mark.parametrize("mapping", SEED_MAPPINGS)
def test_a_seed_that_has_stopped_rests_while_the_others_go_on(tmp_path, monkeypatch, mapping):
    """Of the losses by epoch, the second seed's are best at epoch 1: with patience 2 it ends after epoch 3."""
    losses = iter([[5.0, 1.0], [4.0, 2.0], [3.0, 3.0], [2.0, 0.5], [1.0, 0.5]])
    names = ("valid_total", "valid_ami_max_mean")
    monkeypatch.setattr(
        loop, "validate", lambda *of: dict.fromkeys(names, np.where(of[-1], np.array(next(losses)), np.nan))
    )
    training = Training.of(build_experiment(tiny(0, 2, mapping, patience=2, max_epochs=5)))
    after = []
    train_epoch = loop.train_epoch

    def watched(*arguments):
        state, means = train_epoch(*arguments)
        after.append((jax.tree.map(np.array, state.params), means))  # a copy: the state is donated
        return state, means

    monkeypatch.setattr(loop, "train_epoch", watched)
    state = loop.train(training, tmp_path)
    assert training.standing(state).epoch.tolist() == [5, 3]
    assert not training.standing(state).failed.any()
    third, last = (take_seed(after[number][0], 1) for number in (2, 4))
    jax.tree.map(np.testing.assert_array_equal, third, last)
    assert np.isnan(after[4][1]["train_total"]).tolist() == [False, True]
    records = read_records(tmp_path)
    assert [record["per_seed"]["valid_total"][1] for record in records] == [1.0, 2.0, 3.0, None, None]
    assert records[4]["valid_total"] == 1.0
    assert [record["step"] for record in records] == [8, 16, 24, 32, 40]


def ruin(monkeypatch, by_epoch):
    """The weights of the seed number `by_epoch[epoch]` are NaN when that epoch begins."""
    train_epoch = loop.train_epoch

    def ruined(training, state, active, epoch, valid_ami):
        if epoch in by_epoch:
            number = by_epoch[epoch]
            state = state._replace(params=jax.tree.map(lambda leaf: leaf.at[number].set(np.nan), state.params))
        return train_epoch(training, state, active, epoch, valid_ami)

    monkeypatch.setattr(loop, "train_epoch", ruined)


def test_a_seed_whose_step_is_not_finite_rests_while_the_others_go_on(alone, tmp_path, monkeypatch, capfd):
    ruin(monkeypatch, {2: 1})
    runs = run(tiny(5, SEEDS), str(tmp_path))["runs"]
    assert_alike([runs[0], runs[2]], [alone[0], alone[2]], rtol=1e-6)
    assert (runs[1]["epochs"], runs[1]["best_epoch"], runs[1]["failed_at_step"]) == (1, 1, 9)
    assert "failed_at_step" not in runs[0]
    assert np.isfinite(runs[1]["scores"]["total"])
    said = capfd.readouterr().out
    assert "warning: step 9 of seed 6: the loss or its gradient is not finite" in said
    assert said.count("warning: ") == 1
    first, second = (record["per_seed"]["train_total"] for record in read_records(tmp_path))
    assert None not in first
    assert second[1] is None
    monkeypatch.undo()
    longer = Training.of(build_experiment(tiny(5, SEEDS, max_epochs=3)))
    assert longer.standing(loop.train(longer, tmp_path)).epoch.tolist() == [3, 1, 3]


@pytest.mark.parametrize("bad_epoch", [1, 2])
def test_a_validation_loss_of_one_seed_that_is_not_finite(tmp_path, monkeypatch, bad_epoch, capfd):
    validate = loop.validate

    def validated(training, params, active):
        scores = validate(training, params, active)
        bad = active & (len(read_records(tmp_path)) + 1 == bad_epoch)
        return {**scores, "valid_total": np.where(bad & [False, True], np.nan, scores["valid_total"])}

    monkeypatch.setattr(loop, "validate", validated)
    if bad_epoch == 1:
        with pytest.raises(FloatingPointError, match=r"^step 8 of seed 6: the validation loss .*, in the first epoch$"):
            run(tiny(5, 2, max_epochs=3), str(tmp_path))
        return
    first, second = run(tiny(5, 2, max_epochs=3), str(tmp_path))["runs"]
    assert (first["epochs"], second["best_epoch"], second["failed_at_step"]) == (3, 1, 16)
    assert "warning: step 16 of seed 6: the validation loss after it is not finite" in capfd.readouterr().out
    assert [record["per_seed"]["valid_total"][1] is None for record in read_records(tmp_path)] == [False, True, True]


def test_the_last_seed_that_trains_may_fail(tmp_path, monkeypatch):
    """The first ends after its second epoch, when patience is over; the other fails at once in its third."""
    validate = loop.validate

    def validated(training, params, active):
        scores = validate(training, params, active)
        epoch = len(read_records(tmp_path)) + 1
        return {**scores, "valid_total": np.where(active, [float(epoch), -float(epoch)], np.nan)}

    monkeypatch.setattr(loop, "validate", validated)
    ruin(monkeypatch, {3: 1})
    first, second = run(tiny(5, 2, patience=1, max_epochs=4), str(tmp_path))["runs"]
    assert (first["epochs"], first["best_epoch"], first["stopped_early"]) == (2, 1, True)
    assert "failed_at_step" not in first
    assert (second["epochs"], second["best_epoch"], second["failed_at_step"]) == (2, 2, 17)
    monkeypatch.undo()
    training = Training.of(build_experiment(tiny(5, 2, patience=1, max_epochs=4)))
    state = loop.train(training, tmp_path)  # as after a kill before it was scored
    assert (training.standing(state).epoch.tolist(), state.failed_at.tolist()) == ([2, 2], [0, 17])


def test_without_validated_weights_or_another_seed_a_step_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    training = Training.of(build_experiment(tiny(5, 2, max_epochs=1)))
    with monkeypatch.context() as patch:
        ruin(patch, {1: 1})
        with pytest.raises(FloatingPointError, match=r"^step 1 of seed 6: the loss .* not finite, in the first epoch$"):
            loop.train(training, tmp_path)
    loop.train(training, tmp_path)
    ruin(monkeypatch, {2: 1, 3: 0})
    longer = Training.of(build_experiment(tiny(5, 2, max_epochs=3)))
    with pytest.raises(FloatingPointError, match=r"^step 17 of seed 5: the loss"):
        loop.train(longer, tmp_path)


def test_a_seed_that_rests_is_not_validated():
    training = Training.of(build_experiment(tiny(0, 2)))
    state = create_states(training.experiment.model, training.experiment.training.optimiser, training.keys)
    scores = loop.validate(training, state.params, np.array([False, True]))
    both = loop.validate(training, state.params, np.array([True, True]))
    for name, values in scores.items():
        assert np.isnan(values[0])
        assert values[1] == both[name][1]


def test_an_interrupted_run_of_several_seeds_resumes_bit_for_bit(tmp_path, stop_at_checkpoint):
    """Between the second epoch's line in metrics.jsonl and its checkpoint."""
    whole = run(tiny(5, 2), str(tmp_path / "whole"))
    stop_at_checkpoint(8, lambda: run(tiny(5, 2), str(tmp_path / "run")))
    assert run(tiny(5, 2), str(tmp_path / "run"))["runs"] == whole["runs"]
    assert (tmp_path / "run" / METRICS).read_text() == (tmp_path / "whole" / METRICS).read_text()


def test_keys_are_those_of_each_seed():
    keys = make_seed_keys(range(3, 5))
    for index, seed in enumerate((3, 4)):
        for ours, expected in zip(keys, make_keys(seed), strict=True):
            np.testing.assert_array_equal(jax.random.key_data(ours[index]), jax.random.key_data(expected))


def test_a_checkpoint_of_other_seeds_is_refused(tmp_path):
    run(tiny(0, 2, max_epochs=1), str(tmp_path))
    with pytest.raises(ValueError, match=r"config\.num_seeds is 2 there and 3 here"):
        run(tiny(0, 3, max_epochs=1), str(tmp_path))
    with pytest.raises(ValueError, match=r"the checkpoint in .* is of another configuration"):
        restore_best(build_experiment(tiny(0, 3)), tmp_path)
