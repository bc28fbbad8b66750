"""The experiments on sequences from the command line: training, stages, evaluations and figures, refusals."""

import gzip
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from experiments import comparison
from experiments.comparison import to_bars
from experiments.named_weights import find_weights
from experiments.subject import load_subject
from nem_jax import provenance
from nem_jax.evaluation import examine
from nem_jax.model import draw_inputs
from nem_jax.pretrained import pretrained_names
from nem_jax.training.logs import read_records
from nem_jax.training.state import draw_key
from nem_jax.training.trained import load_trained
from nem_jax.training.workdir import CONFIG, RESULT
from nem_jax.weights import weights_sha256


def train(launch, experiment, workdir, *arguments, name="smoke"):
    config = f"--config=experiments/{experiment}/config.py:{name}"
    return launch(f"experiments.{experiment}.run", config, f"--workdir={workdir}", *arguments)


def read(path):
    return json.loads(path.read_text())


SMALL = [
    f"--config.{field}"
    for field in (
        "data.num_training=96", "data.num_validation=32", "data.num_test=32", "model.num_steps=3",
        "model.hidden_size=8", "model.features=(4,)", "model.dense_size=16", "training.batch_size=16",
        "training.max_epochs=2", "training.log_interval=3",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(launch, tmp_path_factory):
    """Small runs of the paper's configurations, and one in stages."""
    path = tmp_path_factory.mktemp("runs")
    digits = ("--config.data.digits=sklearn", "--config.data.image_size=16")
    both = "--config.num_seeds=2"
    for done in (
        train(launch, "flying_shapes", path / "rnn_em_3_3", *SMALL, both, name="rnn_em_3_3"),
        train(launch, "flying_mnist", path / "direct_seed0", *SMALL, *digits, name="direct"),
        train(launch, "flying_mnist", path / "smoke_seed0"),
        train(launch, "flying_shapes", path / "rnn_ae_3", *SMALL, "--config.training.max_epochs=1", name="rnn_ae_3"),
        train(launch, "flying_shapes", path / "smoke"),
    ):
        assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("name", ["rnn_em_3_3", "direct_seed0", "smoke_seed0", "smoke"])
def test_sequences_train_from_the_command_line(runs, name):
    result = read(runs / name / RESULT)
    assert result["protocol"]["scored_steps"] == "mean over all, and the last"
    assert result["runs"][0]["epochs"] == 2


def test_each_stage_goes_on_from_the_one_before(runs):
    run = runs / "smoke_seed0"
    (described,) = read(run / RESULT)["runs"]
    assert [stage["epochs"] for stage in described["stages"]] == [1, 1]
    params = load_trained(str(run)).params
    assert weights_sha256(params) == described["weights_sha256"]
    [first], [second] = (read_records(run / f"stage_{number}") for number in (1, 2))
    assert first["step"] == second["step"] == 6
    assert second["valid_total"] < first["valid_total"]


def test_a_run_ended_before_its_last_stage_is_scored_on_the_last_stages_data(runs, launch, tmp_path):
    copy = shutil.copytree(runs / "smoke_seed0", tmp_path / "run")
    shutil.rmtree(copy / "stage_2")
    (copy / RESULT).unlink()
    assert train(launch, "flying_mnist", copy, "--stop_now").returncode == 0
    assert not (copy / "stage_2").exists()
    (result,) = read(copy / RESULT)["runs"]
    assert len(result["stages"]) == 1
    assert launch("experiments.evaluate", f"--trained={copy}", f"--output={tmp_path / 'again'}").returncode == 0
    assert read(tmp_path / "again.json")["mean"] == result["scores"]


def test_scores_on_other_data_and_with_another_model(runs, launch, tmp_path):
    """One change at a time: each is in the record, and changes the score."""
    trained = f"--trained={runs / 'direct_seed0'}"
    same = read(runs / "direct_seed0" / RESULT)["runs"][0]["scores"]["ami_max_mean"]
    scores = {same}
    for flag, section, value in (
        ("num_objects", "data", 3),
        ("generator", "data", "static_mnist"),
        ("num_components", "protocol", 3),
    ):
        done = launch("experiments.evaluate", trained, f"--{flag}={value}", f"--output={tmp_path / flag}")
        assert done.returncode == 0, done.stderr
        record = read(tmp_path / f"{flag}.json")
        assert record[section][flag] == value
        scores.add(record["mean"]["ami_max_mean"])
    assert len(scores) == 4


def test_a_table_has_each_line_that_has_weights(runs, launch, tmp_path, assert_one_sentence):
    arguments = (f"--directory={runs}", f"--output={tmp_path / 'table'}", "--num_test=32")  # as many as the runs have
    done = launch("experiments.flying_shapes.table_1", *arguments)
    assert done.returncode == 0, done.stderr
    record = read(tmp_path / "table.json")
    same, other = (line for line in record["lines"] if line["name"] == "rnn_em_3_3")
    assert same["paper"] == [0.97, 0.005]
    scores = [run["scores"]["ami_max_mean"] for run in read(runs / "rnn_em_3_3" / RESULT)["runs"]]
    assert same["ours"]["per_run"] == pytest.approx(scores)
    assert same["ours"]["mean"] == pytest.approx(sum(scores) / 2)
    assert [run["seed"] for run in other["runs"]] == [0, 1]
    assert other["runs"][0]["protocol"]["num_components"] == 5
    assert other["runs"][0]["epochs"] == 2
    assert "config.model.num_steps is 20 there and 3 here" in same["runs"][0]["changes"]
    others = ("rnn_em_3_5", "rnn_em_5_3", "rnn_em_5_5")
    assert record["without_weights"] == [name for name in others if f"flying_shapes_{name}" not in pretrained_names()]
    (tmp_path / "table.png").unlink()
    redraw = ("experiments.flying_shapes.table_1", f"--output={tmp_path / 'table'}", "--redraw")
    assert_one_sentence(launch(*redraw, "--num_test=8"), "--num_test is given, but --redraw draws the numbers")
    assert launch(*redraw).returncode == 0
    assert (tmp_path / "table.png").exists()
    assert not (tmp_path / "table.unfinished.json").exists()


def test_a_table_draws_the_papers_number_beside_ours():
    runs = [{"scores": {"ami": 0.4, "last": 0.5}}, {"scores": {"ami": 0.8, "last": 0.9}, "changes": []}]
    ours = comparison.over_runs(runs, "ami")
    line = {"group": "3/3", "series": "AMI", "paper": [0.9, 0.01], "runs": runs, "ours": ours}
    single = {"ours": {"mean": 0.4, "std": None}, "runs": [{**runs[0], "changes": ["K"]}]}
    other = {**line, "group": "3/5", "paper": None, **single}
    assert to_bars([line, other], {"at last": "last"}) == (
        ["3/3", "3/5"],
        {
            "AMI, paper": [(0.9, 0.01), (None, None)],
            "AMI, ours": [(pytest.approx(0.6), pytest.approx(0.2)), (None, None)],
            "AMI, ours, at last": [(pytest.approx(0.7), pytest.approx(0.2)), (None, None)],
            "AMI, changed": [(None, None), (0.4, None)],
            "AMI, changed, at last": [(None, None), (0.5, None)],
        },
    )


def test_runs_that_are_compared_share_their_configuration(runs, tmp_path):
    for seed in (0, 1):
        result = read(runs / "direct_seed0" / RESULT)
        result["config"]["model"]["noise_prob"] = [0.2, 0.3][seed]
        result["runs"][0]["seed"] = seed
        (tmp_path / f"direct_seed{seed}").mkdir()
        (tmp_path / f"direct_seed{seed}" / RESULT).write_text(json.dumps(result))
        (tmp_path / f"direct_seed{seed}" / CONFIG).write_text(json.dumps(result["config"]))
    alike = r"runs of direct in .* must be of one configuration and begin alike, seeds apart: .*noise_prob is 0.2 there"
    with pytest.raises(ValueError, match=alike):
        find_weights("flying_mnist", "direct", tmp_path)
    result = read(tmp_path / "direct_seed1" / RESULT)
    began_with = {"source": "elsewhere", "weights_sha256": "a"}
    result["config"]["training"]["init_from"], result["runs"][0]["seed"] = "elsewhere", 2
    result["initial_weights"] = began_with
    shutil.copytree(tmp_path / "direct_seed0", tmp_path / "begun" / "direct")
    (tmp_path / "begun" / "direct" / RESULT).write_text(json.dumps(result))
    (found,) = find_weights("flying_mnist", "direct", tmp_path / "begun")
    assert (found.seed, found.began_with) == (2, began_with)
    assert not any("init_from" in change for change in found.changes)
    shutil.copytree(tmp_path / "direct_seed1", tmp_path / "begun" / "direct_seed1")
    with pytest.raises(ValueError, match=r"begin alike, seeds apart: .*, begun with elsewhere \(a\) / config\."):
        find_weights("flying_mnist", "direct", tmp_path / "begun")
    shutil.copyfile(tmp_path / "direct_seed1" / RESULT, tmp_path / "direct_seed0" / RESULT)
    with pytest.raises(ValueError, match=r"must hold different seeds, got \[1, 1\]"):
        find_weights("flying_mnist", "direct", tmp_path)


def test_three_and_static_digits_are_compared(runs, launch, tmp_path):
    copy = shutil.copytree(runs / "direct_seed0", tmp_path / "direct")
    trained = read(copy / CONFIG)
    trained["data"] |= {"digits": "mnist", "mnist_dir": "gone"}
    (copy / CONFIG).write_text(json.dumps(trained))
    arguments = (f"--directory={tmp_path}", f"--output={tmp_path / 'digits'}", "--num_test=8", "--digits=sklearn")
    done = launch("experiments.flying_mnist.section_4_3", *arguments)
    assert done.returncode == 0, done.stderr
    compared = read(tmp_path / "digits.json")["lines"]
    lines = {line["group"]: line for line in compared if line["name"] == "direct"}
    label = "direct, ours, changed, on scikit-learn's digits"
    assert to_bars(compared, {})[1][label][0] == (lines["2 digits"]["ours"]["mean"], None)
    assert [line["runs"][0]["data"]["num_objects"] for line in lines.values()] == [2, 3, 2]
    static = lines["2 static digits, step 50"]
    assert static["runs"][0]["data"]["generator"] == "static_mnist"
    assert static["runs"][0]["protocol"]["num_steps"] == 50
    assert static["runs"][0]["protocol"]["num_examples"] == 8
    assert static["runs"][0]["data"]["digits"] == "sklearn"
    assert static["ours"]["mean"] == static["runs"][0]["scores"]["ami_max_last"]


def test_other_data_take_their_own_fields(runs):
    direct = load_subject(str(runs / "direct_seed0"), {"data.generator": "flying_shapes", "data.image_size": 28})
    assert direct.data["digits"] is None
    assert direct.data["generator"] == "flying_shapes"
    with pytest.raises(ValueError, match=r"data\.mnist_dir is given, but used only if data\.generator is"):
        load_subject(str(runs / "direct_seed0"), {"data.generator": "static_shapes", "data.mnist_dir": "somewhere"})
    with pytest.raises(FileNotFoundError, match=r"data\.mnist_dir: there is no file train-images"):
        load_subject("static_shapes_n_em", {"data.generator": "static_mnist", "data.mnist_dir": "nowhere"})


def test_without_mnist_its_weights_are_scored_on_other_digits(runs, launch, tmp_path, assert_one_sentence):
    copy = shutil.copytree(runs / "direct_seed0", tmp_path / "trained")
    config = read(copy / CONFIG)
    config["data"] |= {"digits": "mnist", "mnist_dir": "gone", "digit_pool": 20}
    (copy / CONFIG).write_text(json.dumps(config))
    arguments = (f"--trained={copy}", f"--output={tmp_path / 'scores'}")
    assert_one_sentence(launch("experiments.evaluate", *arguments), "there is no file train-images-idx3-ubyte.gz")
    assert launch("experiments.evaluate", *arguments, "--digits=sklearn").returncode == 0
    again, result = read(tmp_path / "scores.json"), read(runs / "direct_seed0" / RESULT)
    assert again["data"]["digits"] == "sklearn"
    assert again["mean"] == pytest.approx(result["runs"][0]["scores"], rel=1e-4)


def test_each_seed_of_a_run_can_be_scored(runs, launch, tmp_path):
    scored = read(runs / "rnn_em_3_3" / RESULT)["runs"]
    worse = max(scored, key=lambda run: run["best_valid_loss"])
    arguments = (f"--trained={runs / 'rnn_em_3_3'}", f"--seed={worse['seed']}", f"--output={tmp_path / 'worse'}")
    done = launch("experiments.evaluate", *arguments)
    assert f"seed {worse['seed']} of" in done.stdout
    assert read(tmp_path / "worse.json")["mean"] == pytest.approx(worse["scores"], rel=1e-5)


def test_a_seed_of_a_run_on_several_devices_is_loaded_on_one(runs, tmp_path):
    copy = shutil.copytree(runs / "rnn_em_3_3", tmp_path / "run")
    config = read(copy / CONFIG)
    config["training"]["seed_devices"] = 2
    (copy / CONFIG).write_text(json.dumps(config))
    subject = load_subject(str(copy), seed=1)
    assert (list(subject.experiment.seeds), subject.experiment.training.seed_devices) == ([1], None)


def test_weights_that_cannot_be_loaded_are_told_of_before_any_is_scored(runs, tmp_path, monkeypatch):
    for seed in (0, 1):
        copy = shutil.copytree(runs / "direct_seed0", tmp_path / f"direct_seed{seed}")
        result = read(copy / RESULT)
        result["runs"][0]["seed"] = seed
        (copy / RESULT).write_text(json.dumps(result))
    shutil.rmtree(tmp_path / "direct_seed1" / "checkpoints")
    monkeypatch.setattr(comparison, "_DIRECTORY", SimpleNamespace(value=tmp_path, present=1))
    monkeypatch.setattr(comparison, "_TEST_DATA", dict)
    monkeypatch.setattr(comparison, "score_line", None)
    with pytest.raises(ValueError, match="direct_seed1 holds no run with a checkpoint"):
        line = comparison.Line("2 digits", "direct", "direct", {})
        comparison.measure("flying_mnist", [line], comparison.Scored(tmp_path / "scored.json"))


def test_weights_that_a_table_goes_without_are_named(runs, tmp_path, monkeypatch, capsys):
    """A mistyped directory would leave it those of the package, a run that is not finished likewise."""
    shutil.copytree(runs / "rnn_em_3_3", tmp_path / "rnn_em_3_3")
    (tmp_path / "rnn_em_3_3" / RESULT).unlink()
    monkeypatch.setattr(comparison, "_TEST_DATA", dict)
    monkeypatch.setattr(comparison, "load_line", lambda line, found: [])
    monkeypatch.setattr(comparison, "score_line", lambda line, subjects, found, scored: found[0].path)
    lines = [comparison.Line("", name, name, {}) for name in ("rnn_em_3_3", "rnn_em_5_5")]
    monkeypatch.setattr(comparison, "_DIRECTORY", SimpleNamespace(value=str(tmp_path), present=1))
    record, _ = comparison.measure("flying_shapes", lines, comparison.Scored(tmp_path / "scored.json"))
    assert record == {"lines": ["flying_shapes_rnn_em_3_3"], "without_weights": ["rnn_em_5_5"]}
    said = capsys.readouterr().out
    assert f"passed over, as it is not finished: {tmp_path / 'rnn_em_3_3'}" in said
    assert "left out, for want of trained weights: rnn_em_5_5" in said
    monkeypatch.setattr(comparison, "_DIRECTORY", SimpleNamespace(value=str(tmp_path / "rnus"), present=1))
    comparison.measure("flying_shapes", lines, comparison.Scored(tmp_path / "scored.json"))
    assert "rnus does not exist: the package's weights are scored" in capsys.readouterr().out


def test_a_table_that_was_cut_off_goes_on_where_it_was(runs, tmp_path, monkeypatch):
    evaluated, file = [], tmp_path / "unfinished.json"
    evaluation = load_subject(str(runs / "smoke_seed0")), load_subject(str(runs / "smoke_seed0"), {"data.num_test": 8})

    def evaluate(subject):
        if len(evaluated) == 1:
            raise KeyboardInterrupt
        evaluated.append(subject)
        return comparison_evaluate(subject)

    comparison_evaluate = comparison.evaluate_subject
    monkeypatch.setattr(comparison, "evaluate_subject", evaluate)
    monkeypatch.setattr(provenance, "git_revision", lambda: "some code")
    first = comparison.Scored(file).scores(evaluation[0])
    with pytest.raises(KeyboardInterrupt):
        comparison.Scored(file).scores(evaluation[1])  # another test: it is not the first's score
    assert comparison.Scored(file).scores(evaluation[0]) == first
    for revision in ("other code", "some code-dirty", "unknown"):
        monkeypatch.setattr(provenance, "git_revision", lambda revision=revision: revision)
        with pytest.raises(KeyboardInterrupt):
            comparison.Scored(file).scores(evaluation[0])
        if revision != "other code":  # which may be other code the next time
            file.write_text(file.read_text().replace("some code", revision))
            with pytest.raises(KeyboardInterrupt):
                comparison.Scored(file).scores(evaluation[0])
            file.write_text(file.read_text().replace(revision, "some code"))


def test_figure_5_scores_the_error_after_the_last_step(runs, launch, tmp_path):
    arguments = (f"--directory={runs}", f"--output={tmp_path / 'figure'}", "--num_test=32")  # as many as the runs have
    done = launch("experiments.flying_shapes.figure_5", *arguments)
    assert done.returncode == 0, done.stderr
    record = read(tmp_path / "figure.json")
    assert "rnn_ae_4" in record["without_weights"]
    line = next(line for line in record["lines"] if line["name"] == "rnn_ae_3")
    assert (line["group"], line["series"], line["paper"]) == ("next step, 3 objects", "RNN-AE", None)
    (scores,) = (run["scores"] for run in read(runs / "rnn_ae_3" / RESULT)["runs"])
    assert line["ours"]["mean"] == pytest.approx(scores["loss_upper_bound_last"], rel=1e-5)
    assert scores["loss_upper_bound_last"] != pytest.approx(scores["total"] / 3, rel=1e-3)
    assert (tmp_path / "figure.png").exists()


def test_weights_under_another_name_are_refused(runs, launch, tmp_path, assert_one_sentence):
    (tmp_path / "rnn_ae_3_seed0").symlink_to(runs / "rnn_em_3_3")
    done = launch("experiments.flying_shapes.figure_5", f"--directory={tmp_path}", f"--output={tmp_path / 'figure'}")
    assert_one_sentence(done, "holds weights of rnn_em_3_3, not of rnn_ae_3")


def test_a_figure_is_not_replaced_and_not_drawn_from_nothing(runs, launch, tmp_path, assert_one_sentence):
    arguments = ("experiments.sequence", f"--trained={runs / 'rnn_em_3_3'}", f"--output={tmp_path / 'figure'}")
    redrawn = ("experiments.sequence", f"--output={tmp_path / 'figure'}", "--redraw")  # for which no weights are needed
    assert_one_sentence(launch(*redrawn), "figure.json does not exist: there is nothing to redraw")
    (tmp_path / "figure.json").write_text("{}")
    assert_one_sentence(launch(*redrawn), "figure.npz does not exist: there is nothing to redraw")
    np.savez(tmp_path / "figure.npz", gamma=0.0)
    assert_one_sentence(launch(*redrawn), "figure.json holds no numbers of this figure: no command wrote it")
    (tmp_path / "figure.json").write_text('{"command": "python -m experiments.rollout --trained=weights"}')
    assert_one_sentence(launch(*redrawn), "of this figure: python -m experiments.rollout wrote it")
    (tmp_path / "figure.npz").unlink()
    assert_one_sentence(
        launch(*arguments),
        "figure.json exists already: remove it or give another --output (a figure is drawn again by --redraw)",
    )
    assert_one_sentence(
        launch(*redrawn, "--every=2", "--seed=1"), "--seed is given, but --redraw draws the numbers that are there"
    )
    assert_one_sentence(launch(*redrawn, "--trained=weights"), "--trained is given, but --redraw draws")  # see --output
    assert_one_sentence(
        launch("experiments.sequence", "--redraw", "--trained=weights", "--example=3"),
        "runs/figures/sequence_weights_3.json does not exist: there is nothing to redraw",
    )
    nowhere = ("experiments.sequence", "--trained=flying_shapes_rnn_em_3_3")
    assert_one_sentence(launch(*nowhere, "--output=/proc/figure"), "output /proc/figure cannot be written")
    assert_one_sentence(launch(*nowhere, "--output=/"), "is a directory: give the files' name in it, too")
    assert_one_sentence(launch(*nowhere, "--output=new/"), "is a directory: give the files' name in it, too")
    assert_one_sentence(launch(*nowhere, f"--output={tmp_path}"), "is a directory: give the files' name in it, too")


def test_a_sequence_is_drawn_and_animated(runs, launch, tmp_path):
    arguments = (f"--trained={runs / 'direct_seed0'}", f"--output={tmp_path / 'figure'}", "--example=5")
    done = launch("experiments.sequence", *arguments, "--num_steps=4", "--num_objects=3", "--num_components=3")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "figure.npz") as arrays:
        assert set(arrays) == {"x", "x_noisy", "gamma", "psi"}
        assert arrays["gamma"].shape == (4, 3, 16, 16, 1)
        np.testing.assert_array_equal(np.any(arrays["x"][1:] != arrays["x"][:-1]), True)
        fields = {"model.num_steps": 4, "data.num_objects": 3, "model.num_components": 3}
        subject = load_subject(str(runs / "direct_seed0"), fields)
        dataset = subject.dataset
        example = dataset.sample(dataset.splits["test"].source, jnp.int32(5))
        np.testing.assert_allclose(arrays["x"], example.x[1:], atol=1e-6)
        model, key = subject.experiment.model, draw_key(subject.trained_config.seed, draw=0)
        x_noisy, _ = draw_inputs(model, jax.random.fold_in(key, 5), example.x)
        np.testing.assert_allclose(arrays["x_noisy"], x_noisy, atol=1e-6)
        shown = examine(model, subject.params, key, dataset, "test", np.array([5]))
        np.testing.assert_allclose(arrays["gamma"], shown.gamma[0], atol=1e-3)
    with PIL.Image.open(tmp_path / "figure.gif") as gif:
        assert gif.n_frames == 4
    for what, suffix in {"numbers": ".json", "arrays": ".npz", "picture": ".png", "animation": ".gif"}.items():
        assert (tmp_path / f"figure{suffix}").exists()
        assert f"{what}: {tmp_path / f'figure{suffix}'}" in done.stdout


def test_ami_at_each_step_also_beyond_the_trained_ones(runs, launch, tmp_path):
    output = f"--output={tmp_path / 'figure'}"
    done = launch("experiments.time_steps", f"--trained={runs / 'rnn_em_3_3'}", "--num_steps=5", output)
    assert done.returncode == 0, done.stderr
    curve = read(tmp_path / "figure.json")["curves"]["rnn_em_3_3"]
    ami = curve["ami_max"]
    assert curve["trained_steps"] == 3
    assert all(len(values) == 5 for values in ami.values())
    assert np.all(np.array(ami["lower"]) <= ami["upper"])
    assert (tmp_path / "figure.png").exists()


def test_the_curve_is_of_the_ami_that_its_axis_names(monkeypatch):
    from experiments import time_steps

    scores = SimpleNamespace(ami_max=np.full((4, 2), 0.25), ami_arithmetic=np.full((4, 2), 0.75))
    subject, done = SimpleNamespace(trained_config=SimpleNamespace(model=SimpleNamespace(num_steps=1))), []
    for name, stub in {
        "names": lambda: {"a": "a", "b": "b"}, "describe_subject": lambda _: {},
        "load_flagged": lambda *_: done.append("loaded") or subject,
        "evaluate_subject": lambda _: done.append("scored") or SimpleNamespace(scores=scores),
    }.items():  # fmt: skip
        monkeypatch.setattr(time_steps, name, stub)
    ((record, _), expected) = time_steps.measure(), [0.25, 0.25]
    assert done == ["loaded", "loaded", "scored", "scored"]  # a mistyped name is told of at once
    assert record["curves"]["a"]["ami_max"] == {"mean": expected, "lower": expected, "upper": expected}


def test_ami_at_each_step_of_a_model_that_is_scored_on_its_last(launch, tmp_path):
    output = f"--output={tmp_path / 'figure'}"
    done = launch("experiments.time_steps", "--trained=static_shapes_n_em", "--num_test=8", "--num_steps=4", output)
    assert done.returncode == 0, done.stderr
    curve = read(tmp_path / "figure.json")["curves"]["static_shapes_n_em"]
    assert len(curve["ami_max"]["mean"]) == 4


def test_stages_do_not_fix_the_data_of_an_evaluation(runs):
    """Those of the flying MNIST's `smoke` set the pool of digits."""
    fields = {"data.digit_pool": 7, "model.num_steps": 7}
    subject = load_subject(str(runs / "smoke_seed0"), fields, num_ahead=3)
    assert subject.dataset.splits["training"].source.pictures.shape[0] == 7
    assert subject.experiment.model.num_steps == 7
    assert subject.dataset.sample(subject.dataset.splits["test"].source, jnp.int32(0)).x.shape[0] == 11


def test_another_experiments_run_of_the_same_name_is_passed_over(runs):
    assert [source.seed for source in find_weights("flying_shapes", "rnn_em_3_3", runs)] == [0, 1]
    assert find_weights("static_shapes", "rnn_em_3_3", runs) == []


def test_a_seed_that_a_run_of_several_does_not_have_is_refused(runs):
    with pytest.raises(ValueError, match=r"^seed must be from 0 to 1 of .*/rnn_em_3_3, got 2$"):
        load_subject(str(runs / "rnn_em_3_3"), seed=2)


def test_a_model_goes_on_by_itself(runs, launch, tmp_path):
    output = f"--output={tmp_path / 'figure'}"
    done = launch("experiments.rollout", f"--trained={runs / 'rnn_em_3_3'}", "--num_ahead=2", "--example=5", output)
    assert done.returncode == 0, done.stderr
    record = read(tmp_path / "figure.json")
    assert len(record["loss_upper_bound"]["mean"]) == record["num_observed"] + 2 == 5
    assert record["protocol"]["num_steps"] == 3
    best = min(read(runs / "rnn_em_3_3" / RESULT)["runs"], key=lambda run: run["best_valid_loss"])
    observed = best["scores"]["loss_upper_bound_last"]
    assert record["loss_upper_bound"]["mean"][2] == pytest.approx(observed, rel=1e-5)  # the last step with a frame
    subject = load_subject(str(runs / "rnn_em_3_3"), num_ahead=2)
    example = subject.dataset.sample(subject.dataset.splits["test"].source, jnp.int32(5))
    key = draw_key(subject.trained_config.seed, 0)
    shown = examine(subject.experiment.model, subject.params, key, subject.dataset, "test", np.array([5]))
    with np.load(tmp_path / "figure.npz") as arrays:
        np.testing.assert_array_equal(arrays["x"], example.x[1:])
        for name in ("gamma", "psi"):
            assert len(arrays[name]) == 5
            np.testing.assert_allclose(arrays[name][:3], getattr(shown, name)[0], atol=1e-4)
    with PIL.Image.open(tmp_path / "figure.gif") as gif:
        assert gif.n_frames == 5


def test_mnist_files_that_are_not_whole_are_refused(launch, tmp_path, assert_one_sentence):
    digits = ("--config.data.digits=mnist", f"--config.data.mnist_dir={tmp_path}")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    header = np.array([2051, 60_000, 28, 28], ">i4").tobytes()

    def refused(sentence):
        assert_one_sentence(train(launch, "flying_mnist", tmp_path / "run", *digits), sentence)
        assert not (tmp_path / "run").exists()

    refused("data.mnist_dir: there is no file train-images-idx3-ubyte.gz or train-images-idx3-ubyte")
    file.write_bytes(gzip.compress(header + b"0" * 100))
    refused("train-images-idx3-ubyte.gz is truncated")
    file.write_bytes(gzip.compress(np.array([1234, 60_000, 28, 28], ">i4").tobytes() + b"0" * 100))
    refused("is no IDX file of bytes: it must begin with 00 00 08, but begins with 00 00 04 d2")


def test_more_digits_than_fit_are_refused(launch, tmp_path, assert_one_sentence):
    done = train(launch, "flying_mnist", tmp_path / "run", "--config.data.num_objects=9")
    assert_one_sentence(done, "data.num_objects is 9, but only 8 digits of 8x8 fit into 16x16 pixels")
    assert not (tmp_path / "run").exists()
