"""Make a result of finished runs: json, picture and package weights.

    python -m experiments.publish --workdirs=runs/rnn_em_seed0,runs/rnn_em_seed1

The runs must differ in `seed` alone. Writes experiments/<experiment>/results/<name>.json and .png, the weights of the
seed with the best validation loss as nem_jax/pretrained/<experiment>_<name>.safetensors, and the table in
experiments/README.md.
"""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import table
from nem_jax.launch import launch
from nem_jax.pretrained import DIRECTORY
from nem_jax.training.workdir import OVERVIEW, RESULT, WEIGHTS, write_json

_WORKDIRS = flags.DEFINE_list("workdirs", None, "directories of finished runs, one per seed", required=True)

SCORES = {"ami_max": "ami_max_last", "ami_arithmetic": "ami_arithmetic_last", "ari": "ari_last", "loss": "total"}
"""Published metric and the run's score that it is."""


def aggregate(results: list[dict[str, Any]], paper: dict[str, Any]) -> dict[str, Any]:
    """One record of runs that differ in their seed: metrics as mean, std (population) and per seed."""
    first = results[0]
    seeds = [result["config"]["seed"] for result in results]
    for result in results:
        if {**result["config"], "seed": 0} != {**first["config"], "seed": 0}:
            raise ValueError("workdirs must hold runs of one configuration, seeds apart")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"workdirs must hold different seeds, got {seeds}")
    metrics = {}
    for name, score in SCORES.items():
        values = [result["scores"][score] for result in results]
        metrics[name] = {"mean": float(np.mean(values)), "std": float(np.std(values)), "per_seed": values}
    per_run = ("epochs", "best_epoch", "stopped_early", "git_revision", "command")
    return {
        "experiment": first["config"]["experiment"],
        "config": first["config"],
        "protocol": first["protocol"],
        "metrics": metrics,
        "paper": paper,
        "seeds": seeds,
        **{name: [result[name] for result in results] for name in per_run},
        "hardware": first["hardware"],
        "versions": first["versions"],
        "weights_sha256": best_run(results)["weights_sha256"],
    }


def best_run(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The run with the lowest validation loss."""
    return min(results, key=lambda result: result["best_valid_loss"])


def main() -> None:
    """Publish the runs that the flags name."""
    paths = [Path(workdir) for workdir in _WORKDIRS.value]
    for path in paths:
        if not (path / RESULT).exists():
            raise ValueError(f"workdir {path} holds no finished run")
    results = [json.loads((path / RESULT).read_text()) for path in paths]
    experiment, name = results[0]["config"]["experiment"], results[0]["config"]["name"]
    paper = importlib.import_module(f"experiments.{experiment}.config").PAPER.get(name, {})
    record = aggregate(results, paper)
    best = paths[results.index(best_run(results))]
    target = Path(__file__).parent / experiment / "results"
    target.mkdir(exist_ok=True)
    DIRECTORY.mkdir(exist_ok=True)
    write_json(target / f"{name}.json", record)
    shutil.copyfile(best / OVERVIEW, target / f"{name}.png")
    shutil.copyfile(best / WEIGHTS, DIRECTORY / f"{experiment}_{name}.safetensors")
    write_json(DIRECTORY / f"{experiment}_{name}.json", best_run(results)["config"])
    table.write()
    print(f"published {target / f'{name}.json'} and {experiment}_{name}.safetensors")


if __name__ == "__main__":
    launch(main)
