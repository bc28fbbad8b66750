"""From a ConfigDict to frozen typed records: the one place where names become objects and conflicts are refused.

Every check happens here, before anything is compiled, and names the field and what it may be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from nem_jax.config.checks import integer, set_value, value
from nem_jax.config.data import MAX_SEED, build_data
from nem_jax.config.fields import check_fields
from nem_jax.config.model import build_model
from nem_jax.config.training import TrainingOptions, build_training
from nem_jax.data.split import Dataset
from nem_jax.model import NEM


@dataclass(frozen=True)
class Experiment:
    """A checked configuration as objects: all that training and evaluation need."""

    seeds: range
    """Of the independent runs that train as one program."""
    stage: int
    """Its number among the configuration's stages, from 0."""
    model: NEM
    training: TrainingOptions
    noise: str
    """The input noise in words."""
    load_data: Callable[[], Dataset]
    """Deferred: reading a file or drawing keys is the first thing that touches a device."""
    init_from: str | None
    """A run's directory, or the name of pretrained weights, to start from; None: from random weights."""


def build_experiment(config: ConfigDict) -> Experiment:
    """Check every field of `config` and make its records; of a configuration with stages, those of the last.

    Raises:
        ValueError: one sentence that names the field, what it may be and what it is.
    """
    return build_stages(config)[-1]


def build_stages(config: ConfigDict) -> list[Experiment]:
    """One experiment for each of `config.stages`, or the one that `config` is where there are none.

    A stage is a dictionary of the fields of `data` and `training` that it sets, by dotted names; each starts from the
    best weights of the one before it.

    Raises:
        ValueError: as `build_experiment`.
    """
    check_fields(config)
    stages = config.stages
    if not stages:
        return [_build(config)]
    changed = [_with(config, fields, f"stages[{number}]") for number, fields in enumerate(stages)]
    for field, new in dict(stages[-1]).items():
        if value(config, field) != new:
            last = f"stages[{len(stages) - 1}]"
            raise ValueError(
                f"{field} is {value(config, field)!r}, but {last} sets it to {new!r}: "
                "give both alike, the stages by --config.stages=..."
            )
    return [_build(stage, number) for number, stage in enumerate(changed)]


def _with(config: ConfigDict, fields: Any, stage: str) -> ConfigDict:
    if not isinstance(fields, Mapping):
        raise ValueError(f"{stage} must be a dictionary of dotted fields, got {fields!r}")
    changed = config.copy_and_resolve_references()
    for field, new in fields.items():
        section, _, name = str(field).partition(".")
        if section not in ("data", "training") or name not in changed[section]:
            raise ValueError(f"{stage} sets {field}, which is no field of data or training")
        if field in _SHARED_BY_STAGES:
            raise ValueError(f"{stage} sets {field}, which all stages share")
        try:
            set_value(changed, field, new)
        except TypeError as error:
            raise ValueError(f"{stage} sets {field} to {new!r}, of the wrong type") from error
    return changed


_SHARED_BY_STAGES = ("data.image_size", "training.init_from", "training.seed_devices")


def _build(config: ConfigDict, stage: int = 0) -> Experiment:
    integer(config, "num_seeds", 1, MAX_SEED + 1)
    integer(config, "seed", 0, MAX_SEED + 1 - config.num_seeds)
    return Experiment(
        seeds=range(config.seed, config.seed + config.num_seeds),
        stage=stage,
        noise=f"{config.model.noise} {config.model.noise_prob}, as in training",
        model=build_model(config),
        load_data=build_data(config),
        training=build_training(config),
        init_from=value(config, "training.init_from"),
    )
