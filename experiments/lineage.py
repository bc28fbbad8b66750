"""A run that goes on from the weights published under its own configuration's name, and their training before it."""

import json
from pathlib import Path
from typing import Any

from experiments.record import OF_RUNS

EARLIER = ("seeds", "epochs", "best_epoch", "learning_curves", *OF_RUNS, "weights_sha256")
"""What a result keeps of the published one with whose weights its run began."""


def weights_name(experiment: str, name: str) -> str:
    """What `load_pretrained` calls the published weights of a configuration."""
    return f"{experiment}_{name}"


def earlier_training(result: dict[str, Any], file: Path) -> list[dict[str, Any]]:
    """How the weights came about with which a run began, if they were published under its own name, in `file`.

    Raises:
        ValueError: `file` does not tell of those that the run began with, or either is of several seeds, or in stages.
    """
    if not _goes_on(result["config"]):
        return []
    if len(result["runs"]) > 1 or result["config"]["stages"]:
        raise ValueError("a run that goes on from published weights must be of one seed and one stage to be published")
    trained: list[dict[str, Any]] = []
    if file.exists():
        published = json.loads(file.read_text())
        if len(published["seeds"]) > 1:
            raise ValueError(
                f"{file} is of several seeds: a run that goes on from the best of them is none of its kind"
            )
        trained = [*published.get("earlier_training", []), {name: published[name] for name in EARLIER}]
    hashes = [one["weights_sha256"] for one in trained]
    begun_with = result.get("initial_weights", {}).get("weights_sha256")
    if begun_with not in hashes:
        raise ValueError(f"the run began with other weights than {file} tells of")
    return trained[: hashes.index(begun_with) + 1]


def as_named(result: dict[str, Any]) -> dict[str, Any]:
    """The result of a run that goes on, as one of the named configuration."""
    config = result["config"]
    if not _goes_on(config):
        return result
    return {**result, "config": {**config, "training": {**config["training"], "init_from": None}}}


def _goes_on(config: dict[str, Any]) -> bool:
    return config["training"]["init_from"] == weights_name(config["experiment"], config["name"])
