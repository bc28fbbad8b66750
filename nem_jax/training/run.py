"""One run from its configuration to its result.json: what every launcher calls."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from nem_jax import plots, provenance
from nem_jax.config import Experiment, build_stages
from nem_jax.config.compare import portable, to_json
from nem_jax.devices import fetch
from nem_jax.evaluation import Examined, describe_protocol, evaluate, examine, mean_std, summarise
from nem_jax.files import file_sha256, read_json, write_json
from nem_jax.hosts import check_alike, is_main, on_main, together
from nem_jax.training.checkpoint import has_checkpoint
from nem_jax.training.logs import print_mean_std, print_scores, say
from nem_jax.training.loop import Training, train
from nem_jax.training.seeds import take_seed
from nem_jax.training.state import TrainState, draw_key
from nem_jax.training.trained import initial_params
from nem_jax.training.workdir import (
    INITIAL_WEIGHTS,
    OVERVIEW,
    RESULT,
    WEIGHTS,
    check_free,
    check_same,
    check_trainable,
    check_usable,
    owned,
    read_provenance,
    read_result,
    stage_paths,
)
from nem_jax.types import Params
from nem_jax.weights import weights_sha256, write_weights


def run(config: ConfigDict, workdir: str | Path, stop_now: bool = False) -> dict[str, Any]:
    """Train (or resume) every stage in `workdir`, then score the best weights of the last on the test split.

    Writes result.json, weights.safetensors and the overview (png, and its arrays as npz) beside the run's logs, prints
    the scores and returns the result (on process 0; the others return {}). `stop_now` scores what there is, without
    another epoch.

    Raises:
        ValueError, OSError: bad input, before anything is written.
        FloatingPointError: see `train`.
    """
    path = Path(workdir)
    experiments = together(lambda: build_stages(config))
    record = provenance.record()
    asked = (portable(to_json(config)), config.training.seed_devices, str(workdir), stop_now)
    check_alike("configuration, workdir and code", str((asked, record["git_revision"], record["versions"])))
    on_main(lambda: check_trainable(path, config))  # before data are loaded, which may take minutes
    on_main(lambda: check_free(path))
    paths = stage_paths(path, len(experiments))
    begun = together(lambda: _begun(paths, stop_now))
    check_alike("checkpoints", str(begun))  # before they go separate ways
    params = None if begun[0] else initial_params(experiments[0])
    initial = together(lambda: _initial_weights(path)) if begun[0] else _describe_initial(experiments[0], params)
    given_sha256 = None if initial is None else initial["weights_sha256"]
    check_alike("initial weights", str(given_sha256))
    stages = [Training.of(experiment, given_sha256) for experiment in experiments]
    if config.data.path is not None:
        on_main(lambda: record.update(data_sha256=file_sha256(Path(config.data.path))))
    with contextlib.ExitStack() as held:
        on_main(lambda: held.enter_context(owned(path, config, record)))
        together(lambda: check_same(path, config))  # they all see the directory
        if params is not None:
            on_main(lambda: write_json(path / INITIAL_WEIGHTS, initial))
        states: list[TrainState] = []
        for number, (training, stage_path) in enumerate(zip(stages, paths, strict=True)):
            if stop_now and not begun[number]:
                break
            if len(stages) > 1 and is_main():
                say(f"stage {number + 1} of {len(stages)}")
            stage_path.mkdir(exist_ok=True)
            states.append(fetch(train(training, stage_path, params, stop_now)))
            params = states[-1].best_params
        runs = [_describe_run(stages, states, index) for index in range(len(stages[-1].experiment.seeds))]
        best = _examine_best(stages[-1], states[-1], runs)
        return on_main(lambda: _finish(stages[-1], *best, runs, config, path)) or {}


def _begun(paths: list[Path], stop_now: bool) -> list[bool]:
    """Which stages, trained in `paths`, have a checkpoint.

    Raises:
        ValueError: the first has none, and the run is to stop.
    """
    begun = [has_checkpoint(path) for path in paths]
    if stop_now and not begun[0]:
        raise ValueError(f"--stop_now: no epoch is finished in {paths[0]}, so that there is nothing to score")
    return begun


def _describe_initial(experiment: Experiment, params: Params | None) -> dict[str, str | None] | None:
    """What is recorded of the weights `[S]` that a run begins with, as what bears their name may change."""
    if params is None:
        return None
    return {"source": experiment.init_from, "weights_sha256": weights_sha256(take_seed(params, 0))}


def _initial_weights(path: Path) -> dict[str, str | None] | None:
    """What `_describe_initial` said of the run in `path`; None: it began with random weights."""
    file = path / INITIAL_WEIGHTS
    return read_json(file) if file.exists() else None


def check_startable(config: ConfigDict, workdir: Path) -> None:
    """`run_unless_finished` would begin, resume or read this run.

    Raises:
        ValueError: the configuration is bad, or `workdir` holds anything else, or a result that cannot be read.
    """
    build_stages(config)
    check_usable(workdir, config)
    if (workdir / RESULT).exists():
        read_result(workdir)


def run_unless_finished(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The result of the run in `workdir`, which is trained first if it has none."""
    return read_result(workdir) if (workdir / RESULT).exists() else run(config, workdir)


def _examine_best(training: Training, state: TrainState, runs: list[dict[str, Any]]) -> tuple[Params, Examined]:
    """Weights of the seed with the best validation loss, and what they make of the first test images."""
    best = int(np.argmin([run["best_valid_loss"] for run in runs]))
    params, key = take_seed(state.best_params, best), draw_key(runs[best]["seed"], 0)
    return params, examine(training.experiment.model, params, key, training.dataset, "test").last


def _finish(
    training: Training,
    params: Params,
    shown: Examined,
    runs: list[dict[str, Any]],
    config: ConfigDict,
    path: Path,
) -> dict[str, Any]:
    """Write and print what the runs of all seeds came to, with the picture and the weights of the best."""
    experiment, dataset = training.experiment, training.dataset
    plots.overview(*shown).savefig(path / OVERVIEW)
    np.savez_compressed((path / OVERVIEW).with_suffix(".npz"), **shown._asdict())
    write_weights(path / WEIGHTS, params)
    initial = _initial_weights(path)
    mean, std = mean_std([run["scores"] for run in runs])
    result = {
        "config": to_json(config),
        "protocol": describe_protocol(experiment.model, dataset, "test", experiment.noise, gamma_draws=1),
        "scores": {name: {"mean": mean[name], "std": std[name]} for name in mean},
        "runs": runs,
        **({"initial_weights": initial} if initial else {}),
        **read_provenance(path),
    }
    write_json(path / RESULT, result)
    for run in runs:
        print_scores(run["scores"], f"seed {run['seed']}: " if len(runs) > 1 else "")
    if len(runs) > 1:
        print_mean_std(mean, std, f"{len(runs)} seeds")
    print(f"result: {path / RESULT}\npicture: {path / OVERVIEW}\nweights: {path / WEIGHTS}\nlogs: {path}")
    return result


def _describe_run(stages: list[Training], states: list[TrainState], index: int) -> dict[str, Any]:
    """How one seed was trained, and the scores of its last best weights on the last stage's data, even if the run ended
    before that stage.
    """
    experiment, dataset, _, mesh = stages[-1]
    seed, params = experiment.seeds[index], take_seed(states[-1].best_params, index)
    evaluation = evaluate(
        experiment.model, params, draw_key(seed, 0), dataset, "test", experiment.training.batch_size, mesh
    )
    described = [_describe_stage(training, state, index) for training, state in zip(stages, states, strict=False)]
    *earlier, last = described
    epochs_before = sum(stage["epochs"] for stage in earlier)
    return {
        "seed": seed,
        "scores": summarise(evaluation),
        **last,
        "epochs": epochs_before + last["epochs"],
        "best_epoch": epochs_before + last["best_epoch"],
        **({"stages": described} if len(stages) > 1 else {}),
        "weights_sha256": weights_sha256(params),
    }


def _describe_stage(training: Training, state: TrainState, index: int) -> dict[str, Any]:
    standing = training.standing(state)
    return {
        "epochs": int(standing.epoch[index]),
        "best_epoch": int(state.best_epoch[index]),
        "best_valid_loss": float(state.best_loss[index]),
        "stopped_early": bool(standing.stopped_early[index]),
        **({"failed_at_step": int(state.failed_at[index])} if standing.failed[index] else {}),
    }
