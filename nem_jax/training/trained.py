"""Trained weights: those that a run left, or that come with the package, and with which the next may begin."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from nem_jax.config import Experiment, build_stages
from nem_jax.devices import fetch, make_mesh
from nem_jax.files import read_json
from nem_jax.hosts import together
from nem_jax.pretrained import Trained, load_pretrained, pretrained_names
from nem_jax.training.checkpoint import Checkpoints, has_checkpoint
from nem_jax.training.seeds import create_states, make_seed_keys, take_seed
from nem_jax.training.workdir import CONFIG, stage_paths
from nem_jax.types import Params


def load_trained(source: str, seed: int | None = None) -> Trained:
    """The weights of a name that `load_pretrained` knows, or the best of the run in a directory.

    Of a run in stages they are the last's that has any; of a run of several seeds, those of `seed`, or else of the best
    validation loss. The configuration is that of the seed alone.

    Raises:
        ValueError: see `find_run`; or the run has no such seed.
    """
    found = find_run(source)
    if found is None:
        trained = load_pretrained(source)
        _check_seed(seed, [trained.config.seed], source)
        return trained
    config, experiment, path = found
    _check_seed(seed, experiment.seeds, source)
    best_params, best_loss = restore_best(experiment, path)
    index = int(best_loss.argmin()) if seed is None else experiment.seeds.index(seed)
    config.seed, config.num_seeds, config.training.seed_devices = experiment.seeds[index], 1, None
    return Trained(experiment.model, take_seed(best_params, index), config)


def find_run(source: str) -> tuple[ConfigDict, Experiment, Path] | None:
    """Of a run's directory its configuration and its last stage that has weights, with where they are; None: `source`
    is a name that `load_pretrained` knows.

    Raises:
        ValueError: it is neither, or both, or the run has not finished an epoch.
    """
    workdir, names = Path(source), pretrained_names()
    is_run = (workdir / CONFIG).exists()
    if source in names:
        if is_run:
            raise ValueError(f"{source} is a run's directory and the name of weights of nem_jax: the run is ./{source}")
        return None
    if is_run:
        config = ConfigDict(read_json(workdir / CONFIG))
        stages = build_stages(config)
        for experiment, path in reversed(list(zip(stages, stage_paths(workdir, len(stages)), strict=True))):
            if has_checkpoint(path):
                return config, experiment, path
    listed = ", ".join(names)
    raise ValueError(f"{source} holds no run with a checkpoint, and is none of the trained weights {listed}")


def restore_best(experiment: Experiment, path: Path) -> tuple[Params, np.ndarray]:
    """The best weights of each seed, and their validation losses, in the newest checkpoint of one stage, in `path`."""
    fresh = functools.partial(create_states, experiment.model, experiment.training.optimiser)
    shapes = jax.eval_shape(fresh, jax.eval_shape(lambda: make_seed_keys(experiment.seeds)))
    everywhere = NamedSharding(make_mesh(), PartitionSpec())
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)
    with Checkpoints(path, read_only=True) as checkpoints:
        state = fetch(checkpoints.restore(like))
    return state.best_params, state.best_loss


def _check_seed(seed: int | None, seeds: Sequence[int], source: str) -> None:
    if seed is not None and seed not in seeds:
        allowed = f"from {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        raise ValueError(f"seed must be {allowed} of {source}, got {seed}")


def initial_params(experiment: Experiment) -> Params | None:
    """The weights that `training.init_from` names, for each seed, `[S]`; None: random ones.

    Raises:
        ValueError: it names neither pretrained weights nor a run with a checkpoint, or those of another network.
    """
    source = experiment.init_from
    if source is None:
        return None
    try:
        together(lambda: find_run(source))  # all see it, before the first of them waits for the others to load it
        params = load_trained(source).params
    except ValueError as error:
        raise ValueError(f"training.init_from: {error}") from error
    expected = jax.eval_shape(experiment.model.init, jax.random.key(0))
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, expected):
        raise ValueError(f"training.init_from: the weights in {source} are those of another network")
    return jax.tree.map(lambda leaf: np.stack([leaf] * len(experiment.seeds)), params)
