"""One run from its configuration to its result.json: what every launcher calls."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from nem_jax import plots, provenance
from nem_jax.config import Experiment, build_experiment
from nem_jax.data.split import Dataset
from nem_jax.evaluation import NUM_SHOWN, describe_protocol, evaluate, examine, summarise
from nem_jax.model import NEM
from nem_jax.training.loop import train
from nem_jax.training.state import TrainState, make_keys
from nem_jax.training.workdir import OVERVIEW, RESULT, WEIGHTS, locked, open_workdir, to_json, write_json
from nem_jax.types import Params
from nem_jax.weights import weights_sha256, write_weights


def run(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """Train (or resume) in `workdir`, then score the best weights on the test split.

    Writes result.json, weights.safetensors and overview.png beside the run's logs, prints the scores and returns the
    result.

    Raises:
        ValueError, OSError: bad input, before anything is compiled or written.
        FloatingPointError: see `train`.
    """
    path = Path(workdir)
    experiment = build_experiment(config)
    dataset = experiment.load_data()
    open_workdir(path, config)
    with locked(path):
        state = train(experiment, dataset, path)
        return _finish(experiment, dataset, state, config, path)


def score(
    experiment: Experiment, model: NEM, params: Params, dataset: Dataset, split: str, gamma_draws: int
) -> list[dict[str, float]]:
    """`summarise` of every draw of input noise and initial gammas."""
    key, batch_size = make_keys(experiment.seed).test, experiment.training.batch_size
    keys = [jax.random.fold_in(key, draw) for draw in range(gamma_draws)]
    return [summarise(evaluate(model, params, key, dataset, split, batch_size)) for key in keys]


def _finish(
    experiment: Experiment, dataset: Dataset, state: TrainState, config: ConfigDict, path: Path
) -> dict[str, Any]:
    model, params = experiment.model, state.best_params
    (scores,) = score(experiment, model, params, dataset, "test", gamma_draws=1)
    shown = examine(model, params, make_keys(experiment.seed).test, dataset, "test", NUM_SHOWN)
    plots.overview(*shown).savefig(path / OVERVIEW)
    write_weights(path / WEIGHTS, jax.tree.map(np.asarray, params))
    epochs = int(state.step) // (dataset.splits["training"].size // experiment.training.batch_size)
    result = {
        "config": to_json(config),
        "protocol": describe_protocol(model, dataset, "test", experiment.noise, gamma_draws=1),
        "scores": scores,
        "epochs": epochs,
        "best_epoch": int(state.best_epoch),
        "best_valid_loss": float(state.best_loss),
        "stopped_early": epochs - int(state.best_epoch) >= experiment.training.patience,
        "weights_sha256": weights_sha256(params),
        **provenance.record(),
    }
    write_json(path / RESULT, result)
    print_scores(scores)
    print(f"result: {path / RESULT}\npicture: {path / OVERVIEW}\nweights: {path / WEIGHTS}\nlogs: {path}")
    return result


def print_scores(scores: dict[str, float]) -> None:
    """The line that people look for."""
    print(
        f"AMI {scores['ami_max_last']:.4f} (max), {scores['ami_arithmetic_last']:.4f} (arithmetic)   "
        f"ARI {scores['ari_last']:.4f}   confidence {scores['confidence_last']:.4f}   loss {scores['total']:.2f}"
    )
