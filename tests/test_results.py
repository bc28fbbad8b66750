"""Published results: the table is what the files say, and the weights do what the files say."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from experiments import publish, sweep, table, time_steps
from experiments.flying_mnist import config as flying_mnist
from experiments.lineage import EARLIER, earlier_training
from experiments.recipe import config_module
from experiments.record import (
    OF_RUNS,
    OF_SEEDS,
    SCORES,
    as_named,
    best_seed,
    joined,
    learning_curves,
    of_result,
    shared_by_seeds,
    total_epochs,
    weights_name,
    without_continued,
    without_seeds,
)
from experiments.static_shapes.config import get_config
from experiments.static_shapes.demo import next_workdir
from nem_jax import plots
from nem_jax.config import build_experiment
from nem_jax.config.compare import to_json
from nem_jax.evaluation import describe_protocol, evaluate
from nem_jax.files import write_json
from nem_jax.pretrained import DIRECTORY, load_pretrained, pretrained_names
from nem_jax.training.logs import METRICS
from nem_jax.training.run import run
from nem_jax.training.workdir import OVERVIEW, RESULT, WEIGHTS, WorkdirError
from nem_jax.weights import read_weights, weights_sha256, write_weights

pytestmark = pytest.mark.compiled_quickly

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "experiments").glob("*/results/*.json"))
FIGURES = [
    file
    for file in sorted((ROOT / "experiments").glob("*/results/figures/*.png"))
    if file.with_suffix(".json").exists()  # else it is another's second picture
]
PACKAGED = [file for file in RESULTS if file.stem not in config_module(file.parts[-3]).WITHOUT_WEIGHTS]
FIELDS = {"experiment", "config", "protocol", "metrics", "paper", "seeds", "epochs", "hardware", "versions",
          "git_revision", "command", "earlier_starts", "stages", "weights_sha256", *OF_SEEDS, *OF_RUNS}  # fmt: skip


def test_the_table_is_what_the_files_say():
    assert table.README.read_text() == table.generate()


def test_no_committed_command_names_a_machines_paths():
    files = [*RESULTS, *(ROOT / "experiments").glob("*/results/figures/*.json")]
    assert len(files) > len(RESULTS) >= 9
    commands = [command for file in files for command in find_commands(json.loads(file.read_text()))]
    assert len(commands) > len(files)
    assert not [command for command in commands if re.search(r"[= ]['\"]?/", command)]


def find_commands(record):
    """Also those of earlier trainings and starts, and of each seed."""
    if isinstance(record, list):
        return [command for entry in record for command in find_commands(entry)]
    if not isinstance(record, dict):
        return []
    own = record.get("command", [])
    return [*([own] if isinstance(own, str) else own), *find_commands(list(record.values()))]


def test_the_tables_command_checks_it(launch, tmp_path, monkeypatch):
    assert launch("experiments.table", "--check").returncode == 0
    changed = tmp_path / "README.md"
    changed.write_text(table.README.read_text().replace("| static_shapes `rnn_em` |", "| static_shapes `rnn` |"))
    monkeypatch.setattr(table, "README", changed)
    with pytest.raises(ValueError, match=r"README.md is not what the json files say"):
        table.check()


def test_a_document_without_its_markers_is_left_alone(tmp_path, monkeypatch):
    document = tmp_path / "README.md"
    monkeypatch.setattr(table, "README", document)
    for text in (f"text\n{table.BEGIN}\n", f"{table.BEGIN}\n{table.END}\n" * 2, f"{table.END} {table.BEGIN} text"):
        document.write_text(text)
        with pytest.raises(ValueError, match=r"README.md must have .* and then .*, once each"):
            table.write()
        assert document.read_text() == text
    document.write_text(f"before {table.BEGIN} old {table.END} after")
    table.write()
    assert document.read_text().startswith(f"before {table.BEGIN}\n| experiment |")
    assert document.read_text().endswith(f"|\n{table.END} after")


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_result_is_complete(file):
    record = json.loads(file.read_text())
    assert record.keys() >= FIELDS
    assert {len(record[name]) for name in (*OF_SEEDS, *OF_RUNS)} == {len(record["seeds"])}
    for metric in SCORES:
        values = record["metrics"][metric]
        assert len(values["per_seed"]) == len(record["seeds"])
        assert values["mean"] == pytest.approx(np.mean(values["per_seed"]))
        assert values["std"] == pytest.approx(np.std(values["per_seed"]))
    module = config_module(record["experiment"])
    assert shared_by_seeds(record["config"]) == shared_by_seeds(to_json(module.get_config(file.stem)))
    assert record["paper"] == module.PAPER.get(file.stem, {})
    assert record["metrics"]["ami_max"]["mean"] <= record["metrics"]["ami_arithmetic"]["mean"]
    if record["protocol"]["scored_steps"] == "the last":
        assert record["metrics"]["ami_max"] == record["metrics"]["ami_max_last"]
    assert file.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.parametrize("file", PACKAGED, ids=lambda file: file.stem)
def test_the_packaged_weights_reach_the_published_score(file):
    """The first 128 to 512 test examples, whose mean AMI scatters around that of all 10,000.

    MNIST does not come with the package: weights of its digits are scored on scikit-learn's, on which they must group.
    """
    record = json.loads(file.read_text())
    model, params, config = load_pretrained(weights_name(record["experiment"], record["config"]["name"]))
    assert weights_sha256(params) == record["weights_sha256"]
    assert without_seeds(to_json(config)) == record["config"]
    config.data.num_test = 512 if model.step_weights == "last" else 128
    if config.data.digits == "mnist":
        config.data.digits = "sklearn"
    experiment = build_experiment(config)
    dataset = experiment.load_data()
    protocol = describe_protocol(model, dataset, "test", experiment.noise, gamma_draws=1)
    assert {**protocol, "num_examples": 10_000} == record["protocol"]
    evaluation = evaluate(model, params, jax.random.key(1), dataset, "test", batch_size=128)
    ami = evaluation.scores.ami_max.mean(axis=1)
    if config.data.digits == "sklearn":
        assert ami.mean() > 0.2
        return
    published = record["metrics"]["ami_max"]["per_seed"][record["seeds"].index(config.seed)]
    assert abs(ami.mean() - published) < 5 * ami.std() / np.sqrt(len(ami))


def test_every_pretrained_name_loads_and_no_other():
    assert set(pretrained_names()) == {weights_name(file.parts[-3], file.stem) for file in PACKAGED}
    with pytest.raises(ValueError, match=r"pretrained must be one of .*, got 'nope'"):
        load_pretrained("nope")
    assert all((DIRECTORY / f"{name}.json").exists() for name in pretrained_names())
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir() if path.is_file()) < 25_000_000


def matplotlib_of(file):
    with PIL.Image.open(file) as picture:
        return picture.info["Software"]


def assert_same_picture(path, kept):
    """Versions of matplotlib draw letters a little differently; one dot in another place makes 3e-4."""
    bound = 1e-5 if matplotlib_of(path) == matplotlib_of(kept) else 0.01
    again, kept = (plt.imread(file)[..., :3] for file in (path, kept))
    assert again.shape == kept.shape
    assert np.mean(np.abs(again - kept)) <= bound


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_picture_is_redrawn_from_its_arrays(file, tmp_path):
    with np.load(file.with_suffix(".npz")) as arrays:
        plots.overview(**arrays).savefig(tmp_path / "again.png")
    assert_same_picture(tmp_path / "again.png", file.with_suffix(".png"))


@pytest.mark.parametrize("file", FIGURES, ids=lambda file: file.stem)
def test_a_figure_is_redrawn_from_its_files(file, launch, tmp_path):
    """By the command that made it, which its json records."""
    for kept in file.parent.glob(f"{file.stem}.np?"):
        shutil.copy(kept, tmp_path)
    shutil.copy(file.with_suffix(".json"), tmp_path)
    command = json.loads(file.with_suffix(".json").read_text())["command"]
    done = launch(command.split()[2], "--redraw", f"--output={tmp_path / file.stem}")
    assert done.returncode == 0, done.stderr
    pictures = list(tmp_path.glob("*.png"))
    assert tmp_path / file.name in pictures
    for picture in pictures:
        assert_same_picture(picture, file.parent / picture.name)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    paths = []
    for seed in (0, 1):
        config = get_config("smoke")
        config.seed = seed
        paths.append(tmp_path_factory.mktemp("run") / "smoke")
        run(config, str(paths[-1]))
    return paths


def test_runs_are_published_and_fewer_seeds_do_not_replace_more(two_runs, tmp_path):
    publish.publish(two_runs, root=tmp_path, weights=tmp_path / "pretrained")
    file = tmp_path / "static_shapes" / "results" / "smoke.json"
    record = json.loads(file.read_text())
    assert record.keys() >= FIELDS
    assert record["seeds"] == [0, 1]
    assert [len(curve["valid_ami_max"]) for curve in record["learning_curves"]] == [2, 2]
    assert file.with_suffix(".png").exists() and file.with_suffix(".npz").exists()
    weights = (tmp_path / "pretrained" / "static_shapes_smoke.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["weights_sha256"]
    with pytest.raises(ValueError, match="has more seeds than the 1 given"):
        publish.publish(two_runs[:1], root=tmp_path, weights=tmp_path / "pretrained")
    assert json.loads(file.read_text()) == record


def test_a_seed_joins_those_that_are_published(two_runs, tmp_path):
    together, one_by_one = ({"root": tmp_path / name, "weights": tmp_path / name} for name in ("a", "b"))
    publish.publish(two_runs, **together)
    with pytest.raises(ValueError, match=r"^--join: there is no .*smoke\.json$"):
        publish.publish(two_runs[:1], join=True, **one_by_one)
    for number, workdir in enumerate(two_runs):
        publish.publish([workdir], join=number > 0, **one_by_one)
    for file in ("static_shapes/results/smoke.json", "static_shapes_smoke.json"):
        assert json.loads((tmp_path / "a" / file).read_text()) == json.loads((tmp_path / "b" / file).read_text())
    for file in ("static_shapes/results/smoke.png", "static_shapes_smoke.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with pytest.raises(ValueError, match=r"different seeds, got \[0, 1, 1\]"):
        publish.publish(two_runs[1:], join=True, **one_by_one)


def test_a_seed_that_was_trained_on_takes_its_own_place(two_runs, tmp_path):
    """Alone or among others, whichever is best."""
    cut = shutil.copytree(two_runs[0], tmp_path / "cut")
    result = json.loads((cut / RESULT).read_text())
    result["runs"][0]["epochs"] -= 1
    result["runs"][0]["best_valid_loss"] += 1000
    write_json(cut / RESULT, result)
    expected = {"root": tmp_path / "at_once", "weights": tmp_path / "at_once"}
    publish.publish(two_runs[::-1], **expected)
    for name, steps in {"after": ([cut], two_runs[1:], two_runs[:1]), "alone": ([cut], two_runs[:1])}.items():
        places = {"root": tmp_path / name, "weights": tmp_path / name}
        for number, workdirs in enumerate(steps):
            publish.publish(workdirs, join=number > 0, **places)
        record = json.loads((tmp_path / name / "static_shapes/results/smoke.json").read_text())
        assert record["seeds"] == ([1, 0] if name == "after" else [0])
        if name == "after":
            assert record == json.loads((tmp_path / "at_once" / "static_shapes/results/smoke.json").read_text())
    with pytest.raises(ValueError, match=r"smoke\.json has 2 epochs of seed 0, this run 1: to replace it, remove it"):
        publish.publish([cut], **places)
    left = without_continued(record, [{"seeds": [0], "epochs": [99]}])
    assert (left["seeds"], left["weights_sha256"]) == ([], None)  # its weights are nobody's now


def test_seeds_of_one_run_are_published_and_replaced_one_by_one():
    both = joined([record_of_run((0, 0.8, 5.0), (1, 0.6, 4.0))])
    assert both["hardware"] == ["machine 0"] * 2
    left = without_continued({**both, "weights_sha256": "sha1"}, [{"seeds": [0], "epochs": [99]}])
    assert all(len(left[name]) == 1 for name in (*OF_SEEDS, *OF_RUNS))
    three = joined([left, one_record(0, 0.9, 3.0)])
    assert (three["seeds"], three["epochs"], three["hardware"]) == ([1, 0], [3, 3], ["machine 0"] * 2)
    assert three["metrics"]["ami_max"]["per_seed"] == [0.6, 0.9]


def test_weights_that_the_record_does_not_tell_of_are_joined_by_no_seed(two_runs, tmp_path):
    """As after a kill between the two files."""
    places = {"root": tmp_path, "weights": tmp_path}
    losses = [json.loads((workdir / RESULT).read_text())["runs"][0]["best_valid_loss"] for workdir in two_runs]
    better, worse = (two_runs[index] for index in np.argsort(losses))
    publish.publish([better], **places)
    shutil.copyfile(worse / WEIGHTS, tmp_path / "static_shapes_smoke.safetensors")
    with pytest.raises(ValueError, match=r"^--join: .*smoke\.safetensors is not what .*smoke\.json tells of"):
        publish.publish([worse], join=True, **places)


def test_a_run_that_goes_on_from_its_published_weights_keeps_their_training_on_record(two_runs, tmp_path):
    places = {"root": tmp_path, "weights": tmp_path / "pretrained"}
    file = tmp_path / "static_shapes" / "results" / "smoke.json"
    further = shutil.copytree(two_runs[1], tmp_path / "further")
    result = json.loads((further / RESULT).read_text())
    result["config"]["training"]["init_from"] = "static_shapes_smoke"
    result["initial_weights"] = {"weights_sha256": weights_sha256(read_weights(two_runs[0] / WEIGHTS))}
    write_json(further / RESULT, result)
    with pytest.raises(ValueError, match=r"began with weights that no result in .*static_shapes/results tells of"):
        publish.publish([further], **places)
    publish.publish(two_runs[:1], **places)
    before = json.loads(file.read_text())
    for several, join in (([further, two_runs[1]], False), ([further], True)):
        with pytest.raises(ValueError, match="is published alone"):
            publish.publish(several, join=join, **places)
    for _ in range(2):  # again, after it trained on: nothing is counted twice
        publish.publish([further], **places)
        record = json.loads(file.read_text())
        (earlier,) = record["earlier_training"]
        assert earlier == {"name": "smoke", **{name: before[name] for name in EARLIER}}
        assert record["config"] == before["config"]
        assert record["weights_sha256"] == weights_sha256(read_weights(two_runs[1] / WEIGHTS))
    with pytest.raises(ValueError, match="went on from published weights: no other seed has its like"):
        publish.publish(two_runs[:1], join=True, **places)
    row = table.render([record], ["smoke.json"]).splitlines()[-1]
    assert f"| {before['best_epoch'][0]} + {record['epochs'][0]} | {record['hardware'][0]} |" in row
    elsewhere = {**record, "earlier_training": [{**earlier, "hardware": ["an abacus"]}]}
    assert f"| an abacus; {record['hardware'][0]} |" in table.render([elsewhere], ["smoke.json"])
    resumed = {**record, "earlier_training": [], "earlier_starts": [[{"hardware": "a GPU"}]]}
    assert f"| a GPU; {record['hardware'][0]} |" in table.render([resumed], ["smoke.json"])
    write_json(further / RESULT, {**result, "runs": result["runs"] * 2})
    with pytest.raises(ValueError, match="must be of one seed"):
        publish.publish([further], **places)
    write_json(further / RESULT, result)
    write_json(file, {**before, "seeds": [0, 1]})
    with pytest.raises(ValueError, match=r"smoke\.json is of several seeds"):
        publish.publish([further], **places)


def test_with_whose_weights_a_run_began_is_not_part_of_its_name():
    """Unless the name says so."""

    def begun(config, source):
        config.training.init_from = source
        return {"config": to_json(config)}

    for source in ("runs/a", "runs/direct_fast", None):
        assert as_named(begun(get_config("rnn_em"), source)) == (begun(get_config("rnn_em"), None), [])
    named = flying_mnist.get_config("direct_longer")
    for source in ("runs/direct_fast", "elsewhere/direct_fast", "flying_mnist_direct_fast"):
        longer = flying_mnist.get_config("direct_longer")
        assert as_named(begun(longer, source)) == ({"config": to_json(named)}, [])
    for source in ("runs/a", "runs/not_direct_fast", "runs/direct_fast_seed1", None):
        longer = flying_mnist.get_config("direct_longer")
        result, (different,) = as_named(begun(longer, source))
        assert result["config"]["training"]["init_from"] == source
        assert different == f"config.training.init_from is 'runs/direct_fast' there and {source!r} here"


def test_a_run_may_go_on_from_another_configurations_published_weights(two_runs, tmp_path):
    results = tmp_path / "static_shapes" / "results"
    publish.publish(two_runs[:1], root=tmp_path, weights=tmp_path)
    other = json.loads((results / "smoke.json").read_text())
    before = [{**other, "config": {"name": "other"}}, {**other, "config": {"name": "smoke"}, "weights_sha256": "a"}]
    (results / "smoke.json").unlink()
    further = json.loads((two_runs[1] / RESULT).read_text())
    further["config"]["training"]["init_from"] = "static_shapes_other"
    further["initial_weights"] = {"weights_sha256": "a"}
    write_json(results / "other.json", before[0])
    with pytest.raises(ValueError, match="no result in"):
        earlier_training(further, results)
    first = {"name": "other", **{name: other[name] for name in EARLIER}}
    write_json(results / "smoke.json", {**before[1], "earlier_training": [first]})
    assert earlier_training(further, results) == [first, {**first, "name": "smoke", "weights_sha256": "a"}]
    further["initial_weights"] = {"weights_sha256": other["weights_sha256"]}
    assert earlier_training(further, results) == [first]
    shutil.copytree(two_runs[1], tmp_path / "further")
    write_json(tmp_path / "further" / RESULT, further)
    publish.publish([tmp_path / "further"], root=tmp_path, weights=tmp_path)
    record = json.loads((results / "smoke.json").read_text())
    assert record["earlier_training"] == [first]
    assert record["config"] == other["config"]
    del further["initial_weights"]  # of before they were recorded
    with pytest.raises(ValueError, match="no result in"):
        earlier_training(further, results)
    record = {**other, "earlier_training": [first, first, {**first, "name": "smoke"}]}
    epoch = first["best_epoch"][0]
    assert f"| {epoch} + {epoch} of `other` + {epoch} + 2 |" in table.render([record], ["smoke.json"])


def test_weights_too_many_for_the_package_stay_with_their_run(two_runs, tmp_path, monkeypatch):
    publish.publish(two_runs[:1], root=tmp_path / "0", weights=tmp_path / "0" / "pretrained")
    monkeypatch.setattr(config_module("static_shapes"), "WITHOUT_WEIGHTS", ("smoke",))
    for number, (first, second) in enumerate((two_runs, two_runs[::-1])):  # the better one joins, or is joined
        root = tmp_path / str(number)
        places = {"root": root, "weights": root / "pretrained"}
        publish.publish([first], **places)
        publish.publish([second], join=True, **places)
        file = root / "static_shapes" / "results" / "smoke.json"
        record = json.loads(file.read_text())
        best = two_runs[best_seed(record)]
        assert sorted(record["seeds"]) == [0, 1]
        assert record["weights_sha256"] == weights_sha256(read_weights(best / WEIGHTS))
        assert record["ami_change_by_float16"] is None
        assert file.with_suffix(".png").read_bytes() == (best / OVERVIEW).read_bytes()
        assert not list((root / "pretrained").glob("*"))  # nor are those of before


def test_weights_beyond_the_packages_size_are_refused(two_runs, tmp_path, monkeypatch):
    places = {"root": tmp_path, "weights": tmp_path / "pretrained"}
    publish.publish(two_runs[:1], **places)
    size = sum(file.stat().st_size for file in places["weights"].iterdir())
    monkeypatch.setattr(publish, "MAX_PACKAGE_SIZE", size)
    publish.publish(two_runs[:1], **places)  # in the place of themselves
    (places["weights"] / "others.safetensors").write_bytes(bytes(5_000))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(
        ValueError, match=r"^with static_shapes_smoke the weights in .* would take 0\.\d MB, at most 0: "
    ):
        publish.publish(two_runs[:1], **places)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_large_weights_are_rounded_unless_that_moves_the_score(two_runs, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(two_runs[0], workdir)
    whole, change = publish.package(workdir)
    assert change is None
    monkeypatch.setattr(publish, "LARGE_WEIGHTS", 0)
    half, change = publish.package(workdir)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float16)}
    assert 0 <= abs(change) < 0.001
    write_weights(tmp_path / "half.safetensors", half)
    assert weights_sha256(read_weights(tmp_path / "half.safetensors")) == weights_sha256(half) != weights_sha256(whole)
    monkeypatch.setattr(publish, "MAX_AMI_CHANGE", 0)
    kept, _ = publish.package(workdir)
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {np.dtype(np.float32)}


def test_a_changed_configuration_is_not_published_under_its_name(two_runs, tmp_path):
    copy = shutil.copytree(two_runs[0], tmp_path / "run")
    result = json.loads((copy / RESULT).read_text())
    result["config"]["model"]["num_components"] = 5
    write_json(copy / RESULT, result)
    with pytest.raises(ValueError, match=r"from the configuration 'smoke' .*num_components is 4 there and 5 here"):
        publish.publish([copy], root=tmp_path, weights=tmp_path / "pretrained")
    result = json.loads((two_runs[0] / RESULT).read_text())
    result["config"]["stages"] = [{}, {}]
    result["runs"][0]["stages"] = [{"epochs": 1}]
    write_json(copy / RESULT, result)
    with pytest.raises(ValueError, match="was ended before its last stage"):
        publish.publish([copy], root=tmp_path, weights=tmp_path / "pretrained")
    with pytest.raises(ValueError, match="holds no finished run"):
        publish.publish([tmp_path], root=tmp_path, weights=tmp_path / "pretrained")


def test_the_demo_finds_a_directory(two_runs, tmp_path):
    config = get_config("smoke")
    assert next_workdir(tmp_path, config) == tmp_path / "demo-1"
    shutil.copytree(two_runs[0], tmp_path / "demo-1")  # finished
    shutil.copytree(two_runs[1], tmp_path / "demo-2")  # of another configuration
    (tmp_path / "demo-2" / RESULT).unlink()
    assert next_workdir(tmp_path, config) == tmp_path / "demo-3"
    (tmp_path / "demo-1" / RESULT).unlink()  # interrupted
    assert next_workdir(tmp_path, config) == tmp_path / "demo-1"
    with pytest.raises(WorkdirError, match="workdir must be a directory of this machine"):
        next_workdir(Path("gs://bucket"), config)  # and does not count for ever


def one_record(seed, ami, valid_loss, num_components=4):
    """Of a run of one seed, without its learning curve."""
    return record_of_run((seed, ami, valid_loss), num_components=num_components)


def record_of_run(*seeds, num_components=4):
    """Of seeds with their AMI and validation loss."""
    seed = seeds[0][0]
    config = {
        "experiment": "e",
        "name": "n",
        "seed": seed,
        "num_seeds": len(seeds),
        "model": {"num_components": num_components},
        "training": {"max_epochs": 9},
        "data": {"mnist_dir": f"machine {seed}"},
        "stages": [],
    }
    rest = {name: name for name in ("protocol", "git_revision", "command", "versions")}
    runs = [described(*of_seed) for of_seed in seeds]
    return of_result({"config": config, "runs": runs, "hardware": f"machine {seed}", **rest}, [{}] * len(seeds))


def described(seed, ami, valid_loss):
    scores = {"ami_max_mean": ami, "ami_arithmetic_mean": ami + 0.1, "ari_mean": ami + 0.2, "total": 9.0 + seed}
    scores |= {"ami_max_last": ami - 0.1, "ami_arithmetic_last": 0.0, "ari_last": 0.0, "intra": 5.0, "inter": 4.0}
    return {"seed": seed, "scores": scores, "epochs": 3, "best_epoch": 2, "stopped_early": seed > 0,
            "best_valid_loss": valid_loss, "weights_sha256": f"sha{seed}"}  # fmt: skip


def test_seeds_are_joined_and_the_best_validation_loss_gives_the_weights():
    both = joined([one_record(0, 0.8, 5.0), one_record(1, 0.6, 4.0)])
    assert both["metrics"]["ami_max"] == {
        "mean": pytest.approx(0.7), "std": pytest.approx(0.1), "per_seed": [0.8, 0.6]
    }  # fmt: skip
    assert {name: metric["mean"] for name, metric in both["metrics"].items()} == pytest.approx(
        {"ami_max": 0.7, "ami_max_last": 0.6, "ami_arithmetic": 0.8, "ari": 0.9, "loss": 9.5}
    )
    assert both["metrics"].keys() == SCORES.keys()
    assert (both["seeds"], both["best_valid_loss"], best_seed(both)) == ([0, 1], [5.0, 4.0], 1)
    assert both["config"]["data"] == {"mnist_dir": None}
    assert both["hardware"] == ["machine 0", "machine 1"]
    three = joined([both, one_record(2, 0.1, 4.5)])
    assert three == joined([one_record(0, 0.8, 5.0), one_record(1, 0.6, 4.0), one_record(2, 0.1, 4.5)])
    paper = {"where": "section 9", "ami_max": {"mean": 0.826, "std": 0.005}}
    row = table.render([{**both, "paper": paper}], ["e/results/n.json"]).splitlines()[-1]
    assert "| section 9 | 0.826 +- 0.005 | 0.700 +- 0.100 | 0.600 +- 0.100 | 0.800 +- 0.100 |" in row
    assert "3 (cut), 3 |" in row
    for last_stage, epochs in ((9, "12, 3"), (3, "12 (cut), 3")):
        staged = {"epochs": [12, 3], "stages": [[{"epochs": 12 - last_stage}, {"epochs": last_stage}], []]}
        assert f"| {epochs} |" in table.render([{**both, **staged, "paper": paper}], ["e/results/n.json"])
    failed = {**both, "failed_at_step": [7, None], "paper": paper}
    assert "| 3 (failed), 3 |" in table.render([failed], ["e/results/n.json"])


def test_a_learning_curve_ends_where_its_seed_did(tmp_path):
    """Two stages of two seeds, of which the second stopped after the first epoch of the second stage."""
    epochs = [
        {"valid_total": [5.0, 6.0], "valid_ami_max_mean": [0.1, 0.2], "valid_ami_max_last": [0.9, 0.9]},
        {"valid_total": [4.0, 5.5], "valid_ami_max_mean": [0.3, 0.4], "valid_ami_max_last": [0.9, 0.9]},
        {"valid_total": [3.0, None], "valid_ami_max_mean": [0.5, None], "valid_ami_max_last": [0.9, None]},
    ]
    for number, of_stage in ((1, epochs[:1]), (2, epochs[1:])):
        (tmp_path / f"stage_{number}").mkdir()
        lines = [json.dumps({"step": 1, "valid_total": 9.0, "per_seed": each}) + "\n" for each in of_stage]
        (tmp_path / f"stage_{number}" / METRICS).write_text("".join(lines))
    assert learning_curves(tmp_path, num_stages=2) == [
        {"valid_loss": [5.0, 4.0, 3.0], "valid_ami_max": [0.1, 0.3, 0.5]},
        {"valid_loss": [6.0, 5.5], "valid_ami_max": [0.2, 0.4]},
    ]


def test_runs_that_do_not_belong_together_are_refused():
    one = one_record(0, 0.8, 5.0)
    with pytest.raises(ValueError, match=r"of one configuration: config\.model\.num_components is \d there and 5 here"):
        joined([one, one_record(1, 0.8, 5.0, num_components=5)])
    with pytest.raises(ValueError, match=r"different seeds, got \[0, 0\]"):
        joined([one, one])
    with pytest.raises(ValueError, match="by one protocol"):
        joined([one, {**one_record(1, 0.8, 5.0), "protocol": "another"}])


def test_weights_survive_their_file(tmp_path):
    params = {"rnn": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "step_size": np.float32(0.5)}
    write_weights(tmp_path / "w.safetensors", params)
    again = read_weights(tmp_path / "w.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert jax.tree.map(np.shape, again) == jax.tree.map(np.shape, params)
    assert weights_sha256(again) == weights_sha256(params)
    changed = {**params, "step_size": np.float32(0.25)}
    assert weights_sha256(changed) != weights_sha256(params)
    write_weights(tmp_path / "list.safetensors", [np.float32([1, 2]), {"bias": np.float32(3)}, None])
    assert read_weights(tmp_path / "list.safetensors")["1"] == {"bias": 3}
    with pytest.raises(ValueError, match=r"^weights must have different names"):
        weights_sha256({"a/b": np.float32(1), "a": {"b": np.float32(2)}})
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"w\.safetensors is damaged or holds no weights"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(("ami", "dtype"), [(0.7995, np.float16), (0.7, np.float32), (0.9, np.float32)])
def test_weights_are_rounded_if_the_rounded_ones_score_the_same(two_runs, monkeypatch, ami, dtype):
    whole = weights_sha256(read_weights(two_runs[0] / WEIGHTS))
    monkeypatch.setattr(publish, "LARGE_WEIGHTS", 0)
    monkeypatch.setattr(publish, "evaluate_subject", lambda subject: weights_sha256(subject.params))
    monkeypatch.setattr(publish, "summarise", lambda digest: {"ami_max_mean": 0.8 if digest == whole else ami})
    params, change = publish.package(two_runs[0])
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    assert change == pytest.approx(ami - 0.8)


def test_packaged_weights_bear_their_seed_and_results_the_papers(two_runs, tmp_path, monkeypatch):
    monkeypatch.setitem(config_module("static_shapes").PAPER, "smoke", {"ami_max": {"mean": 0.5}})
    publish.publish(two_runs[1:], root=tmp_path, weights=tmp_path / "pretrained")
    assert json.loads((tmp_path / "pretrained" / "static_shapes_smoke.json").read_text())["seed"] == 1
    record = json.loads((tmp_path / "static_shapes" / "results" / "smoke.json").read_text())
    assert record["paper"] == {"ami_max": {"mean": 0.5}}


def test_earlier_training_counts_where_a_shorter_run_would_replace_a_result(tmp_path):
    record = {"seeds": [3], "epochs": [2], "earlier_training": [{"best_epoch": [5]}, {"best_epoch": [3]}]}
    assert total_epochs(record) == {3: 10}
    file = tmp_path / "result.json"
    write_json(file, record)
    shorter = {"seeds": [3], "epochs": [9], "stopped_early": [False]}
    with pytest.raises(ValueError, match="has 10 epochs of seed 3, this run 9: to replace it, remove it"):
        publish.check_epochs(file, shorter)
    publish.check_epochs(file, {**shorter, "stopped_early": [True]})  # trained to its end
    publish.check_epochs(file, {**shorter, "epochs": [10]})


def test_curves_of_two_weights_need_two_names(monkeypatch):
    monkeypatch.setattr(time_steps, "trained_name", lambda: "a/x,b/x")
    with pytest.raises(ValueError, match="weights whose last names differ, got a/x, b/x"):
        time_steps.names()


@pytest.mark.parametrize("asked", [False, True])
def test_a_sweep_publishes_if_that_is_asked_for(tmp_path, monkeypatch, asked):
    flags = {"_EXPERIMENT": "static_shapes", "_NAMES": ["smoke"], "_DIRECTORY": str(tmp_path), "_SEEDS": 1}
    for flag, value in {**flags, "_MNIST_DIR": None, "_PUBLISH": asked}.items():
        monkeypatch.setattr(sweep, flag, SimpleNamespace(value=value))
    trained, published = [], []
    monkeypatch.setattr(sweep, "run_unless_finished", lambda config, workdir: trained.append(workdir))
    monkeypatch.setattr(publish, "publish_in_table", lambda workdirs, mnist_dir: published.extend(workdirs))
    sweep.main()
    assert trained == [tmp_path / "smoke"]
    assert published == trained * asked
