"""Trained weights on other data, with another K or T: what every evaluation command begins with."""

import dataclasses
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from nem_jax.config import Experiment, build_experiment
from nem_jax.data.split import Dataset
from nem_jax.evaluation import Evaluation, describe_protocol, evaluate
from nem_jax.training.run import draw_key
from nem_jax.training.stages import load_trained
from nem_jax.types import Params
from nem_jax.weights import weights_sha256

_MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "holds MNIST's IDX files, if not where the training found them")
_NUM_TEST = flags.DEFINE_integer("num_test", None, "test examples, if not the trained number", lower_bound=1)


class Subject(NamedTuple):
    """What is evaluated: weights, and an experiment that differs from theirs in some fields."""

    source: str
    trained: ConfigDict
    """The weights' own configuration."""
    experiment: Experiment
    params: Params
    dataset: Dataset


def load_subject(source: str, fields: dict[str, Any] | None = None) -> Subject:
    """The weights `source` (a run's directory or a name), and its experiment with dotted `fields` changed.

    Fields that are None stay as they are; the flags --mnist_dir and --num_test are changes too.

    Raises:
        ValueError: see `load_trained` and `build_experiment`.
    """
    trained, params = load_trained(source)
    config = trained.copy_and_resolve_references()
    for field, new in {"data.mnist_dir": _MNIST_DIR.value, "data.num_test": _NUM_TEST.value, **(fields or {})}.items():
        if new is not None:
            section, name = field.split(".")
            config[section][name] = new
    experiment = build_experiment(config)
    return Subject(source, trained, experiment, params, experiment.load_data())


def evaluate_subject(subject: Subject, split: str = "test", draw: int = 0) -> Evaluation:
    """Every example of a split, by the protocol that `describe_subject` describes; draw 0 is the published one."""
    experiment, key = subject.experiment, draw_key(subject.experiment.seed, draw)
    batch_size = experiment.training.batch_size
    return evaluate(experiment.model, subject.params, key, subject.dataset, split, batch_size)


def describe_subject(subject: Subject, split: str = "test", gamma_draws: int = 1) -> dict[str, Any]:
    """The record of an evaluation: weights and protocol."""
    experiment = subject.experiment
    protocol = describe_protocol(experiment.model, subject.dataset, split, experiment.noise, gamma_draws)
    return {"trained": subject.source, "weights_sha256": weights_sha256(subject.params), "protocol": protocol}


def without_noise(subject: Subject) -> Subject:
    """The same on clean input."""
    model = dataclasses.replace(subject.experiment.model, corrupt=lambda key, x: x)
    return subject._replace(experiment=dataclasses.replace(subject.experiment, model=model, noise="none"))
