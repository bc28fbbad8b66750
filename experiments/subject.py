"""Trained weights on other data, with another K or T: what every evaluation command begins with."""

import dataclasses
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from nem_jax.config import Experiment, build_experiment
from nem_jax.config.checks import set_value
from nem_jax.config.data import change_digits, change_generator
from nem_jax.data.split import Dataset
from nem_jax.evaluation import Evaluation, describe_protocol, evaluate
from nem_jax.training.state import draw_key
from nem_jax.training.trained import load_trained
from nem_jax.types import Params, PRNGKey
from nem_jax.weights import weights_sha256


class Subject(NamedTuple):
    """What is evaluated: weights, and an experiment that may differ from theirs."""

    source: str
    trained_config: ConfigDict
    """The weights' own configuration."""
    params: Params
    data: dict[str, Any]
    """Where the examples come from, for the record."""
    experiment: Experiment
    dataset: Dataset

    def key(self, draw: int = 0) -> PRNGKey:
        """Of the test's draw number `draw`; draw 0 is the published one."""
        return draw_key(self.trained_config.seed, draw)


def load_subject(
    source: str, fields: dict[str, Any] | None = None, num_ahead: int = 0, seed: int | None = None
) -> Subject:
    """The weights `source` (a run's directory or a name), and their experiment with dotted `fields` changed.

    Of several seeds they are `seed`'s, or the best. Of a training in stages the experiment is the last one's. Fields
    that are None stay as they are. Sequences have `num_ahead` frames more than the model's steps need. Another
    generator takes the place of a stored data set; its digits are MNIST's unless the training had others. Other digits
    than the training's have no pool.

    Raises:
        ValueError: see `load_trained` and `build_experiment`; or another number of objects, or other digits, are asked
            of stored data, or a file of generated ones.
    """
    weights = load_trained(source, seed)
    trained = weights.config
    config = trained.copy_and_resolve_references()
    config.stages = ()
    changes = {field: new for field, new in (fields or {}).items() if new is not None}
    if "data.path" in changes and trained.data.path is None:
        raise ValueError("data_path is given, but the training's data were generated")
    if "data.path" in changes and "data.generator" in changes:
        raise ValueError("data_path is given, but generator asks for generated data")
    if "data.generator" in changes:
        change_generator(config, changes["data.generator"])
    if "data.digits" in changes:
        change_digits(config, changes["data.digits"])
    for field, new in changes.items():
        set_value(config, field, new)
    config.training.remat = "none"  # there is no backward pass
    if config.training.scan_unroll is not None:  # how training was computed; T may be less here
        config.training.scan_unroll = min(config.training.scan_unroll, config.model.num_steps)
    asked, present = config.data.num_objects, trained.data.num_objects
    if asked != present and config.data.path is not None:
        raise ValueError(f"num_objects is {asked}, but stored data keep their {present}")
    if config.data.path is not None and "data.digits" in changes:
        raise ValueError(f"digits is {config.data.digits!r}, but stored data keep theirs")
    experiment = build_experiment(config)
    config.model.num_steps += num_ahead
    dataset = build_experiment(config).load_data()
    names = ("path", "generator", "digits", "digit_pool", "num_objects", "seed")
    return Subject(source, trained, weights.params, {name: config.data[name] for name in names}, experiment, dataset)


def with_weights(subject: Subject, source: str, seed: int | None) -> Subject:
    """Other weights of the same configuration, seed apart, on the same test: nothing is compiled or loaded again."""
    weights = load_trained(source, seed)
    return subject._replace(source=source, trained_config=weights.config, params=weights.params)


def check_example(subject: Subject, number: int) -> None:
    """There is a test example of this number.

    Raises:
        ValueError: there are not so many.
    """
    size = subject.dataset.splits["test"].size
    if number >= size:
        raise ValueError(f"example must be from 0 to {size - 1}, got {number}")


def without_noise(subject: Subject) -> Subject:
    """The same on clean input."""
    model = dataclasses.replace(subject.experiment.model, corrupt=lambda key, x: x)
    return subject._replace(experiment=dataclasses.replace(subject.experiment, model=model, noise="none"))


def evaluate_subject(subject: Subject, split: str = "test", draw: int = 0) -> Evaluation:
    """Every example of a split, by the protocol that `describe_subject` describes; see `Subject.key`."""
    experiment = subject.experiment
    batch_size = experiment.training.batch_size
    return evaluate(experiment.model, subject.params, subject.key(draw), subject.dataset, split, batch_size)


def describe_subject(subject: Subject, split: str = "test", gamma_draws: int = 1) -> dict[str, Any]:
    """The record of an evaluation: weights, data and protocol."""
    experiment = subject.experiment
    return {
        "trained": subject.source,
        "seed": subject.trained_config.seed,
        "weights_sha256": weights_sha256(subject.params),
        "data": subject.data,
        "protocol": describe_protocol(experiment.model, subject.dataset, split, experiment.noise, gamma_draws),
    }
