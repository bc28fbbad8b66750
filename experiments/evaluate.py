"""Score trained weights, as they were trained or with another K, T or input.

python -m experiments.evaluate --pretrained=static_shapes_rnn_em
python -m experiments.evaluate --workdir=runs/rnn_em --num_components=5 --num_steps=30 --gamma_draws=5
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from nem_jax import provenance
from nem_jax.config import build_experiment
from nem_jax.evaluation import describe_protocol
from nem_jax.launch import launch
from nem_jax.pretrained import load_pretrained
from nem_jax.training.run import print_scores, score
from nem_jax.training.stages import restore_run
from nem_jax.training.workdir import write_json
from nem_jax.types import Params

_PRETRAINED = flags.DEFINE_string("pretrained", None, "name of weights that come with the package")
_WORKDIR = flags.DEFINE_string("workdir", None, "directory of a run: the best weights of its newest checkpoint")
_SPLIT = flags.DEFINE_enum("split", "test", ["training", "validation", "test"], "which examples")
_NUM_COMPONENTS = flags.DEFINE_integer("num_components", None, "K, if not the trained one", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "T, if not the trained one", lower_bound=1)
_GAMMA_DRAWS = flags.DEFINE_integer("gamma_draws", 1, "repeat with so many initial gammas and noises", lower_bound=1)
_CLEAN = flags.DEFINE_boolean("clean", False, "no input noise (the default is the training's, as in the original)")
_OUTPUT = flags.DEFINE_string("output", None, "a new JSON file for the scores")


def load() -> tuple[ConfigDict, Params]:
    """Configuration and weights that the flags name."""
    if _PRETRAINED.value is not None and _WORKDIR.value is None:
        pretrained = load_pretrained(_PRETRAINED.value)
        return pretrained.config, pretrained.params
    if _WORKDIR.value is None or _PRETRAINED.value is not None:
        raise ValueError("give either --pretrained or --workdir")
    return restore_run(Path(_WORKDIR.value))


def main() -> None:
    """Print the scores of each draw and their mean."""
    if _OUTPUT.value is not None and Path(_OUTPUT.value).exists():
        raise ValueError(f"output {_OUTPUT.value} exists already")
    if _OUTPUT.value is not None and not Path(_OUTPUT.value).absolute().parent.is_dir():
        raise ValueError(f"output {_OUTPUT.value} cannot be written: there is no such directory")
    config, params = load()
    config.model.num_components = _NUM_COMPONENTS.value or config.model.num_components
    config.model.num_steps = _NUM_STEPS.value or config.model.num_steps
    experiment = build_experiment(config)
    model, noise = experiment.model, experiment.noise
    if _CLEAN.value:
        model, noise = dataclasses.replace(model, corrupt=lambda key, x: x), "none"
    dataset = experiment.load_data()
    draws = score(experiment, model, params, dataset, _SPLIT.value, _GAMMA_DRAWS.value)
    for scores in draws:
        print_scores(scores)
    mean = {name: float(np.mean([scores[name] for scores in draws])) for name in draws[0]}
    std = {name: float(np.std([scores[name] for scores in draws])) for name in draws[0]}
    print(f"over {len(draws)} draws: AMI (max) {mean['ami_max_mean']:.4f} +- {std['ami_max_mean']:.4f}")
    if _OUTPUT.value is not None:
        protocol = describe_protocol(model, dataset, _SPLIT.value, noise, _GAMMA_DRAWS.value)
        record = {"protocol": protocol, "mean": mean, "std": std, "draws": draws, **provenance.record()}
        write_json(Path(_OUTPUT.value), record)


if __name__ == "__main__":
    launch(main)
