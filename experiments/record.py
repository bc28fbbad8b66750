"""A published record: what the result of a finished run says of each of its seeds, and several records as one."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.recipe import config_module
from nem_jax.config.compare import comparable, differences, portable, to_json
from nem_jax.evaluation import mean_std
from nem_jax.training.logs import read_records
from nem_jax.training.workdir import stage_paths

Record = dict[str, Any]

SCORES = {
    "ami_max": "ami_max_mean", "ami_max_last": "ami_max_last", "ami_arithmetic": "ami_arithmetic_mean",
    "ari": "ari_mean", "loss": "total",
}  # fmt: skip
"""Published metric and the run's score that it is: unless `last`, means over the scored steps (static: one)."""

ENDS = ("epochs", "best_epoch", "best_valid_loss", "stopped_early")
OF_SEEDS = ("seeds", *ENDS, "stages", "failed_at_step", "learning_curves")
OF_RUNS = ("git_revision", "command", "earlier_starts", "hardware", "versions")
"""What a record lists, an entry for each seed: of its own, and of its run, which other seeds may have shared."""


def of_result(result: dict[str, Any], curves: list[dict[str, list[float]]]) -> Record:
    """The record of one finished run, of one seed or several, and of their `learning_curves`; see `joined`."""
    runs, of_run = result["runs"], {"earlier_starts": [], **result}
    return {
        "experiment": result["config"]["experiment"],
        "config": without_seeds(result["config"]),
        "protocol": result["protocol"],
        "metrics": {name: {"per_seed": [run["scores"][score] for run in runs]} for name, score in SCORES.items()},
        "seeds": [run["seed"] for run in runs],
        **{name: [run[name] for run in runs] for name in ENDS},
        "stages": [run.get("stages", []) for run in runs],
        "failed_at_step": [run.get("failed_at_step") for run in runs],
        "learning_curves": curves,
        **{name: [of_run[name]] * len(runs) for name in OF_RUNS},
    }


def joined(records: list[Record]) -> Record:
    """One record of several that differ in their seeds, with mean and deviation of their metrics; what they do not
    list is the first's.

    Raises:
        ValueError: they differ in more than that, or have a seed in common.
    """
    first = records[0]
    for record in records:
        here, there = shared_by_seeds(record["config"]), shared_by_seeds(first["config"])
        if here != there:
            different = "; ".join(differences(there, here))
            raise ValueError(f"runs that are published as one must be of one configuration: {different}")
        if record["protocol"] != first["protocol"]:
            raise ValueError("runs that are published as one must be scored by one protocol")
    lists = {name: [each for record in records for each in record[name]] for name in (*OF_SEEDS, *OF_RUNS)}
    if len(set(lists["seeds"])) < len(lists["seeds"]):
        raise ValueError(
            f"runs that are published as one must be of different seeds, got {lists['seeds']}; "
            "if all are published already, experiments.table lists them"
        )
    values = {name: [each for record in records for each in record["metrics"][name]["per_seed"]] for name in SCORES}
    mean, std = mean_std([dict(zip(SCORES, of_seed, strict=True)) for of_seed in zip(*values.values(), strict=True)])
    metrics = {name: {"mean": mean[name], "std": std[name], "per_seed": values[name]} for name in SCORES}
    return {**first, **lists, "metrics": metrics}


def total_epochs(record: Record) -> dict[int, int]:
    """Of each seed, those before included: of a training with whose weights a later one began, up to these."""
    before = sum(training["best_epoch"][0] for training in record.get("earlier_training", []))
    return {seed: before + count for seed, count in zip(record["seeds"], record["epochs"], strict=True)}


def without_continued(record: Record, later: list[Record]) -> Record:
    """`record` without the seeds that `later` ones have trained for more epochs, and its `weights_sha256` None if those
    were such a seed's.
    """
    epochs = {seed: count for other in later for seed, count in zip(other["seeds"], other["epochs"], strict=True)}
    continued = [epochs.get(seed, 0) > count for seed, count in zip(record["seeds"], record["epochs"], strict=True)]
    if not any(continued):
        return record

    def left(values: list[Any]) -> list[Any]:
        return [value for value, leaves in zip(values, continued, strict=True) if not leaves]

    best_left = continued[record["seeds"].index(best_seed(record))]
    return {
        **record,
        **{name: left(record[name]) for name in (*OF_SEEDS, *OF_RUNS)},
        "metrics": {name: {"per_seed": left(metric["per_seed"])} for name, metric in record["metrics"].items()},
        "weights_sha256": None if best_left else record["weights_sha256"],
    }


def without_seeds(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a result of several runs is published with."""
    return {**portable(config), "seed": 0, "num_seeds": 1}


def shared_by_seeds(config: dict[str, Any]) -> dict[str, Any]:
    """What runs have in common that are published or compared as one."""
    return comparable(without_seeds(config))


def as_named(result: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A run's result as one of the configuration whose name it bears, and in what it differs from that, seeds apart.

    With whose weights the run began is not part of a name, unless the named configuration has some itself (a run's
    directory): then it must be those, of a run of that name anywhere or as they come with the package.
    """
    config = result["config"]
    experiment = config["experiment"]
    named = to_json(config_module(experiment).get_config(config["name"]))
    due, given = named["training"]["init_from"], config["training"]["init_from"]
    if due is None or (given and Path(given).name in (Path(due).name, weights_name(experiment, Path(due).name))):
        config = {**config, "training": {**config["training"], "init_from": due}}
    return {**result, "config": config}, differences(shared_by_seeds(named), shared_by_seeds(config))


def weights_name(experiment: str, name: str) -> str:
    """What `load_pretrained` calls the published weights of a configuration."""
    return f"{experiment}_{name}"


def best_seed(record: Record) -> int:
    """The seed with the lowest validation loss: the one whose weights are published."""
    return record["seeds"][int(np.argmin(record["best_valid_loss"]))]


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
