"""A run that goes on from published weights, and their training before it."""

from pathlib import Path
from typing import Any

from experiments.record import OF_RUNS, Record
from nem_jax.files import read_json

EARLIER = ("seeds", "epochs", "best_epoch", "learning_curves", *OF_RUNS, "weights_sha256")
"""What a result keeps of the published one with whose weights its run began, beside its configuration's name."""


def earlier_training(result: dict[str, Any], published: Path) -> list[dict[str, Any]]:
    """How the weights came about with which a run began, the oldest training first; empty: they were random.

    They may be of its own configuration or of another; by their hash they are found among the results in `published`.

    Raises:
        ValueError: no result tells of them, or it or the run is of several seeds, or the run is in stages.
    """
    config = result["config"]
    if config["training"]["init_from"] is None:
        return []
    if len(result["runs"]) > 1 or config["stages"]:
        raise ValueError("a run that goes on from published weights must be of one seed and one stage to be published")
    begun_with = result.get("initial_weights", {}).get("weights_sha256")
    for file in sorted(published.glob("*.json")):
        trained = _trainings(read_json(file))
        hashes = [one["weights_sha256"] for one in trained]
        if begun_with not in hashes:
            continue
        trained = trained[: hashes.index(begun_with) + 1]
        if len(trained[-1]["seeds"]) > 1:
            raise ValueError(f"{file} is of several seeds: a run from the best one's weights is none of its kind")
        return trained
    raise ValueError(
        f"the run began with weights that no result in {published} tells of (those of the package, maybe rounded, are "
        "meant by their name)"
    )


def _trainings(record: Record) -> list[dict[str, Any]]:
    """All that the weights of a published record went through."""
    last = {"name": record["config"]["name"], **{name: record[name] for name in EARLIER}}
    return [*record.get("earlier_training", []), last]
