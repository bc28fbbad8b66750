"""One run from its configuration to its result.json: what every launcher calls."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nem_jax import plots, provenance
from nem_jax.config import build_stages
from nem_jax.evaluation import describe_protocol, evaluate, examine, mean_std, summarise
from nem_jax.training.loop import Training, train
from nem_jax.training.seeds import take_seed
from nem_jax.training.stages import has_checkpoint, initial_params, stage_paths
from nem_jax.training.state import TrainState, make_keys
from nem_jax.training.workdir import (
    OVERVIEW,
    RESULT,
    WEIGHTS,
    locked,
    open_workdir,
    read_provenance,
    to_json,
    write_json,
)
from nem_jax.types import PRNGKey
from nem_jax.weights import weights_sha256, write_weights


def run(config: ConfigDict, workdir: str, stop_now: bool = False) -> dict[str, Any]:
    """Train (or resume) every stage in `workdir`, then score the best weights of the last on the test split.

    Writes result.json, weights.safetensors and the overview (png, and its arrays as npz) beside the run's logs, prints
    the scores and returns the result. `stop_now` scores what there is, without another epoch.

    Raises:
        ValueError, OSError: bad input, before anything is compiled or written.
        FloatingPointError: see `train`.
    """
    path = Path(workdir)
    stages = [Training.of(experiment) for experiment in build_stages(config)]
    paths = stage_paths(path, len(stages))
    if stop_now and not has_checkpoint(paths[0]):
        raise ValueError(f"--stop_now: no epoch is finished in {path}, so that there is nothing to score")
    params = initial_params(stages[0].experiment)
    open_workdir(path, config, provenance.record())
    with locked(path):
        states: list[TrainState] = []
        for training, stage_path in zip(stages, paths, strict=True):
            if stop_now and not has_checkpoint(stage_path):
                break
            stage_path.mkdir(exist_ok=True)
            states.append(train(training, stage_path, params, stop_now))
            params = states[-1].best_params
        return _finish(stages, states, config, path)


def draw_key(seed: int, draw: int) -> PRNGKey:
    """The key of the test's draw number `draw`; published scores and pictures are of draw 0."""
    return jax.random.fold_in(make_keys(seed).test, draw)


def _finish(stages: list[Training], states: list[TrainState], config: ConfigDict, path: Path) -> dict[str, Any]:
    """Score each seed's best weights of the last state on the last stage's data, also of a run ended before it."""
    experiment, dataset, _ = stages[-1]
    trained = list(zip(stages, states, strict=False))
    runs = [_describe_run(stages, trained, index) for index in range(len(experiment.seeds))]
    best = int(np.argmin([run["best_valid_loss"] for run in runs]))
    params = take_seed(states[-1].best_params, best)
    shown = examine(experiment.model, params, draw_key(experiment.seeds[best], 0), dataset, "test").last
    plots.overview(*shown).savefig(path / OVERVIEW)
    np.savez_compressed((path / OVERVIEW).with_suffix(".npz"), **shown._asdict())
    write_weights(path / WEIGHTS, jax.tree.map(np.asarray, params))
    mean, std = mean_std([run["scores"] for run in runs])
    result = {
        "config": to_json(config),
        "protocol": describe_protocol(experiment.model, dataset, "test", experiment.noise, gamma_draws=1),
        "scores": {name: {"mean": mean[name], "std": std[name]} for name in mean},
        "runs": runs,
        **read_provenance(path),
    }
    write_json(path / RESULT, result)
    for run in runs:
        print_scores(run["scores"], f"seed {run['seed']}: " if len(runs) > 1 else "")
    if len(runs) > 1:
        print_scores(mean, f"mean of {len(runs)} seeds: ")
        print_scores(std, "standard deviation: ")
    print(f"result: {path / RESULT}\npicture: {path / OVERVIEW}\nweights: {path / WEIGHTS}\nlogs: {path}")
    return result


def _describe_run(stages: list[Training], trained: list[tuple[Training, TrainState]], index: int) -> dict[str, Any]:
    """Scores of one seed, and how it was trained."""
    experiment, dataset, _ = stages[-1]
    seed, params = experiment.seeds[index], take_seed(trained[-1][1].best_params, index)
    key, batch_size = draw_key(seed, 0), experiment.training.batch_size
    described = [_describe_stage(training, state, index) for training, state in trained]
    return {
        "seed": seed,
        "scores": summarise(evaluate(experiment.model, params, key, dataset, "test", batch_size)),
        **described[-1],
        "epochs": sum(stage["epochs"] for stage in described),
        **({"stages": described} if len(stages) > 1 else {}),
        "weights_sha256": weights_sha256(params),
    }


def _describe_stage(training: Training, state: TrainState, index: int) -> dict[str, Any]:
    return {
        "epochs": int(training.epoch(state)[index]),
        "best_epoch": int(state.best_epoch[index]),
        "best_valid_loss": float(state.best_loss[index]),
        "stopped_early": bool(training.stopped_early(state)[index]),
    }


def print_scores(scores: dict[str, float], label: str = "") -> None:
    """The line that people look for: means over the scored steps."""
    print(
        f"{label}AMI {scores['ami_max_mean']:.4f} (max), {scores['ami_arithmetic_mean']:.4f} (arithmetic)   "
        f"ARI {scores['ari_mean']:.4f}   confidence {scores['confidence_mean']:.4f}   loss {scores['total']:.2f}"
    )
