"""Make a result of finished runs: json, picture and package weights.

    python -m experiments.publish --workdirs=runs/rnn_em_seed0,runs/rnn_em_seed1

The runs must differ in their seeds alone; one may go on from the weights that are published under its own name
(`--config.training.init_from=static_shapes_rnn_em`), and their training is then on record too. Writes
experiments/<experiment>/results/<name>.json, .png and .npz (the picture's arrays), the weights of the seed with the
best validation loss as nem_jax/pretrained/<experiment>_<name>.safetensors, and the table in experiments/README.md.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import table
from experiments.command_line import launch
from experiments.lineage import as_named, earlier_training, weights_name
from experiments.recipe import config_module
from experiments.shared_flags import define_mnist_dir
from experiments.trained import evaluate_subject, load_subject
from nem_jax.evaluation import mean_std, summarise
from nem_jax.pretrained import DIRECTORY
from nem_jax.training.logs import read_records
from nem_jax.training.stages import stage_paths
from nem_jax.training.workdir import OVERVIEW, WEIGHTS, read_result, shared_by_seeds, to_json, without_seeds, write_json
from nem_jax.types import Params
from nem_jax.weights import read_weights, weights_sha256, write_weights

LARGE_WEIGHTS, MAX_AMI_CHANGE = 5_000_000, 0.001
"""Bytes, from which on weights are packaged in float16 unless that moves AMI so much."""

SCORES = {"ami_max": "ami_max_mean", "ami_arithmetic": "ami_arithmetic_mean", "ari": "ari_mean", "loss": "total"}
"""Published metric and the run's score that it is: means over the scored steps, of which a static image has one."""


def aggregate(results: list[dict[str, Any]], paper: dict[str, Any]) -> dict[str, Any]:
    """One record of results that differ in their seeds: metrics as mean, std (population) and per seed."""
    first = results[0]
    for result in results:
        if shared_by_seeds(result["config"]) != shared_by_seeds(first["config"]):
            raise ValueError("workdirs must hold runs of one configuration, seeds apart")
    runs = [run for result in results for run in result["runs"]]
    seeds = [run["seed"] for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"workdirs must hold different seeds, got {seeds}")
    scores = [run["scores"] for run in runs]
    mean, std = mean_std(scores)
    metrics = {
        name: {"mean": mean[score], "std": std[score], "per_seed": [one[score] for one in scores]}
        for name, score in SCORES.items()
    }
    return {
        "experiment": first["config"]["experiment"],
        "config": without_seeds(first["config"]),
        "protocol": first["protocol"],
        "metrics": metrics,
        "paper": paper,
        "seeds": seeds,
        **{name: [run[name] for run in runs] for name in ("epochs", "best_epoch", "stopped_early")},
        "stages": [run.get("stages", []) for run in runs],
        **({"failed_at_step": failed} if any(failed := [run.get("failed_at_step") for run in runs]) else {}),
        **{name: [result[name] for result in results] for name in ("git_revision", "command")},
        "earlier_starts": [result.get("earlier_starts", []) for result in results],
        "hardware": "; ".join(sorted({result["hardware"] for result in results})),
        "versions": first["versions"],
    }


def learning_curves(workdir: Path, num_stages: int) -> list[dict[str, list[float]]]:
    """Validation loss and AMI after each epoch of each seed, from the run's metrics.jsonl, all stages in order."""
    records = [record for path in stage_paths(workdir, num_stages) for record in read_records(path)]
    columns = {"valid_loss": "valid_total", "valid_ami_max": "valid_ami_max_mean"}
    epochs = [record.get("per_seed", {name: [value] for name, value in record.items()}) for record in records]

    def curve(column: str, index: int) -> list[float]:
        values = [epoch[column][index] for epoch in epochs]
        return [round(value, 4) for value in values if value is not None]  # None: it had ended

    num_seeds = len(epochs[0]["valid_total"])
    return [{name: curve(column, index) for name, column in columns.items()} for index in range(num_seeds)]


def package(workdir: Path, mnist_dir: str | None = None) -> tuple[Params, float | None]:
    """A run's weights as they come with the package, and by how much float16 moves its AMI, if that was measured.

    Large weights are rounded to float16 if that moves the AMI of the test set by less than `MAX_AMI_CHANGE`; MNIST is
    read where the training found it, or in `mnist_dir`.
    """
    params = read_weights(workdir / WEIGHTS)
    if sum(leaf.nbytes for leaf in jax.tree.leaves(params)) < LARGE_WEIGHTS:
        return params, None
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
    subject = load_subject(str(workdir), {"data.mnist_dir": mnist_dir})
    rounded = subject._replace(params=jax.tree.map(lambda leaf: leaf.astype(np.float32), half))
    before, after = (summarise(evaluate_subject(one))["ami_max_mean"] for one in (subject, rounded))
    return half if abs(after - before) < MAX_AMI_CHANGE else params, after - before


def best_run(result: dict[str, Any]) -> dict[str, Any]:
    """The seed of a result with the lowest validation loss: the one whose weights the result's directory holds."""
    return min(result["runs"], key=lambda run: run["best_valid_loss"])


def result_file(experiment: str, name: str, root: Path = Path(__file__).parent) -> Path:
    """Where the result of a configuration lies."""
    return root / experiment / "results" / f"{name}.json"


def check_seeds(file: Path, seeds: int) -> None:
    """A result is not replaced by one of fewer seeds.

    Raises:
        ValueError: it has more.
    """
    if file.exists() and len(json.loads(file.read_text())["seeds"]) > seeds:
        raise ValueError(f"{file} has more seeds than the {seeds} given: remove it first to replace it")


def gather(workdirs: list[Path], root: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The results of finished runs of one named configuration, and the record that they make under `root`.

    Raises:
        ValueError: a run is not finished, its configuration is not the one its name says, or a result of more seeds
            is there already.
    """
    read = [read_result(path) for path in workdirs]
    experiment, name = read[0]["config"]["experiment"], read[0]["config"]["name"]
    file = result_file(experiment, name, root)
    earlier = [earlier_training(result, file) for result in read]
    if any(earlier) and len(read) > 1:
        raise ValueError("a run that goes on from published weights is published alone: name one workdir")
    results = [as_named(result) for result in read]
    module = config_module(experiment)
    if shared_by_seeds(results[0]["config"]) != shared_by_seeds(to_json(module.get_config(name))):
        raise ValueError(f"workdir {workdirs[0]} differs from the configuration {name!r} whose name it bears")
    record = aggregate(results, module.PAPER.get(name, {}))
    check_seeds(file, len(record["seeds"]))
    num_stages = max(1, len(record["config"]["stages"]))
    record["learning_curves"] = [curve for path in workdirs for curve in learning_curves(path, num_stages)]
    return results, {**record, **({"earlier_training": earlier[0]} if earlier[0] else {})}


def publish(
    workdirs: list[Path],
    root: Path = Path(__file__).parent,
    weights: Path = DIRECTORY,
    mnist_dir: str | None = None,
) -> None:
    """Write what `gather` makes of the runs under `root`, and their best weights to `weights`; see `package`."""
    results, record = gather(workdirs, root)
    file = result_file(record["experiment"], record["config"]["name"], root)
    file.parent.mkdir(parents=True, exist_ok=True)
    weights.mkdir(exist_ok=True)
    best, result = min(zip(workdirs, results, strict=True), key=lambda pair: best_run(pair[1])["best_valid_loss"])
    packaged, change = package(best, mnist_dir)
    record["weights_sha256"], record["ami_change_by_float16"] = weights_sha256(packaged), change
    for suffix in (".npz", ".png"):
        shutil.copyfile((best / OVERVIEW).with_suffix(suffix), file.with_suffix(suffix))
    name = weights_name(record["experiment"], record["config"]["name"])
    write_weights(weights / f"{name}.safetensors", packaged)
    write_json(weights / f"{name}.json", {**without_seeds(result["config"]), "seed": best_run(result)["seed"]})
    write_json(file, record)
    print(f"published {file} and {name}.safetensors")


def publish_in_table(workdirs: list[Path], mnist_dir: str | None) -> None:
    """`publish`, and the table brought up to date."""
    if not workdirs:
        raise ValueError("give the runs to publish: --workdirs=runs/a,runs/b")
    publish(workdirs, mnist_dir=mnist_dir)
    table.write()


if __name__ == "__main__":
    named = flags.DEFINE_list("workdirs", [], "directories of finished runs, of different seeds")
    mnist = define_mnist_dir()
    launch(lambda: publish_in_table([Path(workdir) for workdir in named.value], mnist.value))
