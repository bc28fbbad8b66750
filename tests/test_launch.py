"""The command lines, in processes of their own: end to end, and refusals."""

import json
import os
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from experiments import launcher
from experiments.command_line import _with_home
from experiments.static_shapes.config import get_config
from experiments.subject import load_subject
from nem_jax import hosts
from nem_jax.config import build_experiment
from nem_jax.data.hdf5_writer import write_hdf5
from nem_jax.data.shapes import static_shapes
from nem_jax.evaluation import evaluate, summarise
from nem_jax.training.logs import read_records
from nem_jax.training.state import draw_key
from nem_jax.training.trained import load_trained
from nem_jax.training.workdir import PROVENANCE, RESULT

CONFIG = "experiments/static_shapes/config.py:smoke"


def train(launch, workdir, *arguments, config=CONFIG):
    return launch("experiments.static_shapes.run", f"--config={config}", f"--workdir={workdir}", *arguments)


@pytest.fixture(scope="module")
def finished(launch, tmp_path_factory):
    path = tmp_path_factory.mktemp("launch") / "smoke"
    done = train(launch, path)
    assert done.returncode == 0, done.stderr
    return path, done


@pytest.mark.smoke
def test_one_command_trains_scores_and_says_where_everything_is(finished):
    path, done = finished
    assert "AMI" in done.stdout
    for file in ("result.json", "overview.png", "weights.safetensors"):
        assert str(path / file) in done.stdout
        assert (path / file).exists()
    result = json.loads((path / RESULT).read_text())
    assert result["command"].startswith("python -m experiments.static_shapes.run --config=")
    assert set(result["versions"]) >= {"python", "jax", "flax"}


def test_help_lists_the_flags_of_all_modules(launch):
    said = launch("experiments.evaluate", "--help").stdout
    assert all(f"--{flag}: " in said for flag in ("trained", "repeats", "mnist_dir", "compilation_cache", "output"))


def test_nothing_is_scored_before_the_first_epoch(launch, tmp_path, assert_one_sentence):
    assert_one_sentence(train(launch, tmp_path / "run", "--stop_now"), "no epoch is finished")
    assert not (tmp_path / "run").exists()


def test_a_start_from_weights_that_are_not_there_is_refused(launch, tmp_path, assert_one_sentence):
    done = train(launch, tmp_path / "run", f"--config.training.init_from={tmp_path / 'nowhere'}")
    assert_one_sentence(done, "nowhere holds no run with a checkpoint, and is none of the trained weights ")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    done = train(launch, tmp_path / "run", f"--config.training.init_from={tmp_path / 'broken'}")
    assert_one_sentence(done, f"training.init_from: {tmp_path / 'broken' / 'config.json'} holds no JSON that can be")
    done = train(launch, tmp_path / "run", "--config.training.init_from=static_shapes_rnn_em")
    assert_one_sentence(done, "training.init_from: the weights in static_shapes_rnn_em are those of another network")
    assert not (tmp_path / "run").exists()


def test_weights_whose_name_is_a_runs_too_are_ambiguous(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], "static_shapes_rnn_em")
    with pytest.raises(ValueError, match=r"the run is \./static_shapes_rnn_em$"):
        load_trained("static_shapes_rnn_em")
    assert load_trained("./static_shapes_rnn_em").config.name == "smoke"


def test_a_seed_that_weights_do_not_have_is_refused(finished):
    for source, present in (("static_shapes_rnn_em", 2), (str(finished[0]), 0)):
        with pytest.raises(ValueError, match=f"^seed must be {present} of {source}, got 7$"):
            load_trained(source, seed=7)
        assert load_trained(source, seed=present).config.seed == present


def test_compiled_programs_are_not_kept_in_a_runs_directory(launch, tmp_path, assert_one_sentence):
    done = train(launch, tmp_path / "run", f"--compilation_cache={tmp_path / 'run' / 'cache'}")
    assert_one_sentence(done, "--compilation_cache must not lie in --workdir")
    assert not (tmp_path / "run").exists()


def test_a_second_start_compiles_nothing(launch, tmp_path):
    cache, kept = tmp_path / "cache", []
    small = ("--trained=static_shapes_n_em", "--num_test=4", "--num_steps=2", f"--compilation_cache={cache}")
    for _ in range(2):
        assert launch("experiments.evaluate", *small).returncode == 0
        kept.append({file.name for file in cache.glob("*-cache")})
    assert kept[0]
    assert kept[1] == kept[0]


@pytest.mark.smoke
def test_the_weights_are_scored_again_with_other_k_and_t(finished, launch, tmp_path, assert_one_sentence):
    path, _ = finished
    output = tmp_path / "scores"
    arguments = ("--num_components=5", "--num_steps=4", "--repeats=2", "--clean", f"--output={output}")
    done = launch("experiments.evaluate", f"--trained={path}", "--split=validation", "--num_test=8")
    assert_one_sentence(done, "num_test is given, but split is 'validation'")
    done = launch("experiments.evaluate", f"--trained={path}", *arguments)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["draws"]) == 2
    assert scores["draws"][0] != scores["draws"][1]
    assert scores["mean"]["total"] == pytest.approx(np.mean([draw["total"] for draw in scores["draws"]]))
    assert scores["protocol"]["gamma_draws"] == 2
    assert "mean of 2 draws: AMI" in done.stdout
    assert scores["protocol"]["num_components"] == 5
    assert scores["protocol"]["num_steps"] == 4
    assert scores["protocol"]["input_noise"] == "none"
    (trained,) = json.loads((path / RESULT).read_text())["runs"]
    assert scores["mean"]["confidence_last"] < trained["scores"]["confidence_last"]
    done = launch("experiments.evaluate", f"--trained={path}", "--split=validation", f"--output={tmp_path / 'valid'}")
    assert done.returncode == 0, done.stderr
    validation = json.loads((tmp_path / "valid.json").read_text())
    assert validation["protocol"]["split"] == "validation"
    experiment, params = build_experiment(get_config("smoke")), load_trained(str(path)).params
    key, dataset = draw_key(0, draw=0), experiment.load_data()
    expected = summarise(evaluate(experiment.model, params, key, dataset, "validation", batch_size=64))
    assert validation["mean"]["total"] == pytest.approx(expected["total"], rel=1e-4)
    assert validation["mean"]["total"] != pytest.approx(trained["scores"]["total"], rel=1e-4)
    arguments = ("--num_draws=3", "--num_test=32", f"--output={tmp_path / 'likeliest'}")
    assert launch("experiments.evaluate", f"--trained={path}", *arguments).returncode == 0
    likeliest = json.loads((tmp_path / "likeliest.json").read_text())
    assert likeliest["protocol"]["kept_draws"] == "the likeliest of 3"
    assert likeliest["protocol"]["num_examples"] == 32
    again = launch("experiments.evaluate", f"--trained={path}", f"--output={output}")
    assert_one_sentence(again, "exists already")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config.model.num_components=0"], "model.num_components must be an integer of at least 1, got 0"),
        (["--config.model.num_components=1.5"], "=1.5: model.num_components must be an integer"),
        (["--config.model.epsilon=none"], "=none: model.epsilon must be a number"),
        (["--config.model.gradient_gamma=maybe"], "=maybe: model.gradient_gamma must be true or false"),
        (["--config.data=x"], "--config.data=x: data must be set field by field, --config.data.FIELD=..."),
        (["--config.seed=x: y"], "--config.seed=x: y: seed must be an integer"),
        (["--config.seed[0]=3"], "--config.seed[0]=3: a field is named, and set as a whole"),
        (["--config.model.features[0]=3"], "features[0]=3: a field is named, and set as a whole"),
        (["--config.=1"], "--config.=1: a field is named, and set as a whole"),
        (["--noconfig.model.gradient_gamma=x"], "gradient_gamma=x: --noconfig.FIELD takes no value"),
        (["--config.model.nope=1"], "--config.model.nope=1: model has no field 'nope', only cell, "),
        (["--config.model.num_component=1"], "num_component=1: model has no field 'num_component', only cell, "),
        (["--config.modle.num_steps=1"], "num_steps=1: the configuration has no field 'modle', only data, "),
        (["--config.model.num_steps.x=1"], "--config.model.num_steps.x=1: num_steps has no fields"),
        (["--config.name.x=1"], "--config.name.x=1: name has no fields"),
        (["--noconfig.model.gradient_gama"], "gradient_gama: model has no field 'gradient_gama', only cell, "),
        (["--nope=1"], "Unknown command line flag 'nope'"),
        (["smoke"], "'smoke' is no flag"),
        (["--config.model.k=3"], "--config.model.k=3: model has no field 'k', only "),
        (["--process_id=1", "--timeout=9"], "--process_id: given, but used only with --coordinator"),
        (["--timeout=9"], "--timeout is given, but this process is alone: nothing waits"),
        (["--coordinator=10.0.0.1:1", "--process_id=1"], "--coordinator needs --num_processes and --process_id"),
        (["--config.stages=({},"], "--config.stages=({},: Error while parsing string"),
        (["--config.stages[0].max_epochs=3"], "--config.stages[0].max_epochs=3: stages are set as a whole"),
        (["--config.stages[0]={}"], "--config.stages[0]={}: stages are set as a whole"),
        (["--nodistributed", "--coordinator=10.0.0.1:1"], "--coordinator is given, but --nodistributed"),
        (["--distributed"], "give --coordinator, --num_processes and --process_id"),
        (["--workdir=/proc/run"], "cannot be written"),
    ],
)
def test_bad_flags_are_one_sentence_and_leave_nothing(launch, tmp_path, arguments, sentence, assert_one_sentence):
    done = train(launch, tmp_path / "run", *arguments)
    assert_one_sentence(done, sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("automatic", "given", "joins"),
    [(None, None, False), ("Slurm", None, True), ("Slurm", False, False), (None, True, True)],
)
def test_several_processes_are_joined_if_asked_or_known(monkeypatch, automatic, given, joins):
    joined = []
    monkeypatch.setattr(hosts, "find_launcher", lambda: automatic)
    monkeypatch.setattr(hosts, "connect_by_launcher", joined.append)
    for flag, value in {"_DISTRIBUTED": given, "_COORDINATOR": None}.items():
        monkeypatch.setattr(launcher, flag, SimpleNamespace(value=value))
    for flag in ("_NUM_PROCESSES", "_PROCESS_ID", "_TIMEOUT"):
        monkeypatch.setattr(launcher, flag, SimpleNamespace(present=0, value=300))
    assert launcher._connect() == joins
    assert joined == [300] * joins


def test_processes_that_were_started_by_hand_are_joined(monkeypatch):
    joined = []
    monkeypatch.setattr(hosts, "connect", lambda *arguments: joined.append(arguments))
    given = {"_DISTRIBUTED": None, "_COORDINATOR": "10.0.0.1:1", "_NUM_PROCESSES": 2, "_PROCESS_ID": 0, "_TIMEOUT": 300}
    for flag, value in given.items():
        monkeypatch.setattr(launcher, flag, SimpleNamespace(value=value))
    assert launcher._connect()
    assert joined == [("10.0.0.1:1", 2, 0, 300)]


@pytest.mark.parametrize("several", [False, True])
def test_a_run_that_is_alone_has_all_cores_before_it_begins(monkeypatch, several):
    """Several processes of one host would each take them all."""
    begun = []
    monkeypatch.setattr(launcher, "_CONFIG", SimpleNamespace(value=get_config("smoke")))
    for flag in ("_WORKDIR", "_STOP_NOW"):
        monkeypatch.setattr(launcher, flag, SimpleNamespace(value=None))
    for name, result in {"_check_cache_apart": None, "_connect": several}.items():
        monkeypatch.setattr(launcher, name, lambda result=result: result)
    monkeypatch.setattr(launcher, "use_cores", lambda configs: begun.extend(config.name for config in configs))
    monkeypatch.setattr(launcher, "run", lambda *arguments: begun.append("run"))
    launcher._main("static_shapes")
    assert begun == (["run"] if several else ["smoke", "run"])


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("publish", "--join", "give the runs to publish: --workdirs="),
        ("publish", "--mnist_dir=x", "give the runs to publish: --workdirs="),
        ("static_shapes.demo", "--directory=x --nope", "Unknown command line flag 'nope'"),
        ("static_shapes.ablation", "--directory=x --epochs=2 --num_test=2 --nope", "Unknown command line flag 'nope'"),
        ("flying_mnist.section_4_3", "--directory=x --num_test=2 --nope", "Unknown command line flag 'nope'"),
        ("flying_shapes.figure_5", "--directory=x --digits=sklearn --nope", "Unknown command line flag 'nope'"),
        ("benchmark", "--parts=models --nope", "Unknown command line flag 'nope'"),
    ],
)
def test_commands_know_their_flags_and_no_others(launch, module, arguments, sentence, assert_one_sentence):
    assert_one_sentence(launch(f"experiments.{module}", *arguments.split()), sentence)


def test_another_experiments_configuration_is_refused(launch, tmp_path, assert_one_sentence):
    done = train(launch, tmp_path / "run", config="experiments/flying_shapes/config.py:smoke")
    assert_one_sentence(done, "--config is one of flying_shapes, and this is experiments.static_shapes.run")
    assert not (tmp_path / "run").exists()


def test_a_missing_configuration_is_one_sentence(launch, tmp_path, assert_one_sentence):
    done = launch("experiments.static_shapes.run", f"--workdir={tmp_path / 'run'}")
    assert_one_sentence(done, "--config")
    for config in ("smoke", "README.md", "experiments/static_shapes:smoke"):
        done = train(launch, tmp_path / "run", config=config)
        assert_one_sentence(done, f"config.py:smoke, got --config={config}")
    done = train(launch, tmp_path / "run", config="nowhere.py:smoke")
    assert_one_sentence(
        done, f"--config=nowhere.py:smoke: there is no such file in {os.getcwd()} (the repository's lie"
    )
    done = train(launch, tmp_path / "run", config="experiments/static_shapes/run.py:smoke")
    assert_one_sentence(done, "has no attribute 'get_config'")


def test_a_tilde_that_the_shell_left_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    given = ["--workdir=~/run", "--workdirs=~/a,~/b", "--name=a~b", "~/x", "--config.data.path=~/x.h5", "--p=~"]
    assert [_with_home(arg) for arg in given] == [
        "--workdir=/home/someone/run", "--workdirs=/home/someone/a,/home/someone/b", "--name=a~b", "~/x",
        "--config.data.path=/home/someone/x.h5", "--p=~",
    ]  # fmt: skip


def test_an_unknown_configuration_is_one_sentence(launch, tmp_path, assert_one_sentence):
    done = train(launch, tmp_path / "run", config="experiments/static_shapes/config.py:rnn")
    assert_one_sentence(done, "config must be one of rnn_em, n_em")


def test_a_finished_run_and_another_configuration_are_refused(finished, launch, assert_one_sentence):
    path, _ = finished
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert_one_sentence(train(launch, path), "holds a finished run")
    assert_one_sentence(train(launch, path, "--config.seed=1"), "config.seed is 0 there and 1 here")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_what_is_no_run_cannot_be_evaluated(launch, tmp_path, assert_one_sentence):
    assert_one_sentence(launch("experiments.evaluate", f"--trained={tmp_path}"), "holds no run with a checkpoint")
    assert_one_sentence(launch("experiments.evaluate"), "give the weights: --trained=")


def test_the_authors_file_layout_trains(launch, tmp_path, assert_one_sentence):
    file = tmp_path / "shapes.h5"
    write_hdf5(file, static_shapes(seed=1, sizes=(512, 128, 128)))
    done = train(launch, tmp_path / "run", f"--config.data.path={file}", "--config.training.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert read_records(tmp_path / "run")[0]["train_total"] > 0
    with pytest.raises(ValueError, match="digits is 'sklearn', but stored data keep theirs"):
        load_subject(str(tmp_path / "run"), {"data.digits": "sklearn"})
    with pytest.raises(ValueError, match="num_objects is 5, but stored data keep their 3"):
        load_subject(str(tmp_path / "run"), {"data.num_objects": 5})
    assert load_subject(str(tmp_path / "run"), {"data.num_objects": 5, "data.generator": "static_shapes"})
    moved = file.rename(tmp_path / "moved.h5")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*/shapes\.h5$"):
        load_subject(str(tmp_path / "run"))
    evaluation = ("experiments.evaluate", "--num_test=8", f"--data_path={moved}")
    done = launch(*evaluation, f"--trained={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    done = launch(*evaluation, "--trained=static_shapes_rnn_em")
    assert_one_sentence(done, "data_path is given, but the training's data were generated")
    with pytest.raises(ValueError, match=r"^data_path is given, but generator asks for generated data$"):
        load_subject(str(tmp_path / "run"), {"data.path": str(moved), "data.generator": "static_shapes"})
    moved.rename(file)
    (tmp_path / "run" / RESULT).unlink()  # interrupted, and resumed after the file was made anew
    file.unlink()
    write_hdf5(file, static_shapes(seed=2, sizes=(512, 128, 128)))
    before = (tmp_path / "run" / PROVENANCE).read_text()
    done = train(launch, tmp_path / "run", f"--config.data.path={file}", "--config.training.max_epochs=1")
    assert_one_sentence(done, f"belongs to a run on other data: the file {file} has changed since")
    assert (tmp_path / "run" / PROVENANCE).read_text() == before
    with h5py.File(file, "a") as handle:
        handle["training/features"][0, 7, 3, 4, 0] = np.nan
    done = train(launch, tmp_path / "other", f"--config.data.path={file}")
    assert_one_sentence(done, "training/features must hold numbers in [0, 1], but example 7 has nan")
    assert not (tmp_path / "other").exists()


def test_a_sequence_shorter_than_the_em_steps_is_refused(launch, tmp_path, assert_one_sentence):
    file = tmp_path / "short.h5"
    write_hdf5(file, static_shapes(seed=1, sizes=(512, 128, 128)))
    with h5py.File(file, "a") as handle:
        for split in handle.values():
            for name, array in list(split.items()):
                twice = np.concatenate([array[:], array[:]])
                del split[name]
                split[name] = twice
    done = train(launch, tmp_path / "run", f"--config.data.path={file}")
    assert_one_sentence(done, "has 2 frames, 4 are needed")
    assert not (tmp_path / "run").exists()


def test_the_whole_section_is_one_command(launch, tmp_path, assert_one_sentence):
    arguments = ("--experiment=static_shapes", "--names=smoke", "--seeds=2", f"--directory={tmp_path}")
    done = launch("experiments.sweep", *arguments)
    assert done.returncode == 0, done.stderr
    assert all(
        said in done.stdout for said in ("seed 0: AMI", "seed 1: AMI", "mean of 2 seeds: AMI", "standard deviation: ")
    )
    first, second = json.loads((tmp_path / "smoke" / RESULT).read_text())["runs"]
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["weights_sha256"] != second["weights_sha256"]
    assert launch("experiments.sweep", *arguments).returncode == 0  # nothing is left to do
    done = launch("experiments.sweep", *arguments, "--num_test=8")  # other commands have it
    assert_one_sentence(done, "Unknown command line flag 'num_test'")
    done = launch("experiments.sweep", *arguments, "--seeds=3")
    assert_one_sentence(done, "belongs to a run of another configuration: config.num_seeds is 2 there and 3 here")
    done = launch(
        "experiments.sweep", "--experiment=static_shapes", "--names=smoke,nope", f"--directory={tmp_path / 'new'}"
    )
    assert_one_sentence(done, "config must be one of rnn_em, ")
    assert not (tmp_path / "new").exists()
