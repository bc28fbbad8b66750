"""From a ConfigDict to frozen typed records: the one place where names become objects and conflicts are refused.

Every check happens here, before anything is compiled, and names the field and what it may be.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optax
from ml_collections import ConfigDict

from nem_jax.config.checks import choice, integer, number, set_value, value
from nem_jax.config.data import MAX_SEED, build_data
from nem_jax.config.fields import check_fields
from nem_jax.config.model import build_model
from nem_jax.data.split import Dataset
from nem_jax.model import NEM

SEED_MAPPINGS = ("vmap", "sequence")
DECAYS = ("none", "cosine")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, `config.training` checked."""

    optimiser: optax.GradientTransformation
    batch_size: int
    num_microbatches: int
    """Parts of a batch whose gradients a device computes one after the other."""
    max_epochs: int
    patience: int
    log_interval: int
    figure_interval: int
    seed_mapping: str | None
    """How several seeds are one program, one of `SEED_MAPPINGS`; None: as is faster on the device."""
    seed_devices: int | None
    """Devices along the mesh's axis of seeds; None: the greatest common divisor of both numbers."""


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


_SHARED_BY_STAGES = ("data.image_size", "training.init_from")


def _build(config: ConfigDict, stage: int = 0) -> Experiment:
    integer(config, "num_seeds", 1)
    integer(config, "seed", 0, MAX_SEED + 1 - config.num_seeds)
    return Experiment(
        seeds=range(config.seed, config.seed + config.num_seeds),
        stage=stage,
        noise=f"{config.model.noise} {config.model.noise_prob}, as in training",
        model=build_model(config),
        load_data=build_data(config),
        training=_build_training(config),
        init_from=value(config, "training.init_from"),
    )


def _build_training(config: ConfigDict) -> TrainingOptions:
    training = config.training
    for name in ("max_epochs", "patience", "log_interval", "figure_interval"):
        integer(config, f"training.{name}", 1)
    integer(config, "training.batch_size", 1, config.data.num_training)
    integer(config, "training.num_microbatches", 1, config.training.batch_size)
    if value(config, "training.seed_devices") is not None:
        integer(config, "training.seed_devices", 1)
    return TrainingOptions(
        optimiser=_build_optimiser(config),
        batch_size=training.batch_size,
        num_microbatches=training.num_microbatches,
        max_epochs=training.max_epochs,
        patience=training.patience,
        log_interval=training.log_interval,
        figure_interval=training.figure_interval,
        seed_mapping=_seed_mapping(config),
        seed_devices=training.seed_devices,
    )


def _build_optimiser(config: ConfigDict) -> optax.GradientTransformation:
    """Adam; its rate rises linearly over the first epochs, then stays or falls along half a cosine to 0."""
    training = config.training
    number(config, "training.learning_rate", 0.0)
    choice(config, "training.decay", DECAYS)
    integer(config, "training.warmup_epochs", 0, training.max_epochs - (training.decay != "none"))
    if value(config, "training.clip_norm") is not None:
        number(config, "training.clip_norm", 1e-6)
    steps_per_epoch = config.data.num_training // training.batch_size
    warmup_steps = training.warmup_epochs * steps_per_epoch
    falling_steps = (training.max_epochs - training.warmup_epochs) * steps_per_epoch
    return _adam(
        float(training.learning_rate),
        warmup_steps,
        falling_steps if training.decay == "cosine" else None,
        training.clip_norm,
    )


@functools.cache
def _adam(
    rate: float, warmup_steps: int, falling_steps: int | None, clip_norm: float | None
) -> optax.GradientTransformation:
    """The same for the same numbers: what is compiled with it serves again. A rate that stays is no schedule."""
    schedule: optax.ScalarOrSchedule = rate
    if warmup_steps or falling_steps is not None:
        after = (
            optax.constant_schedule(rate) if falling_steps is None else optax.cosine_decay_schedule(rate, falling_steps)
        )
        rising = optax.linear_schedule(0.0, rate, warmup_steps)
        schedule = optax.join_schedules([rising, after], [warmup_steps])
    adam = optax.adam(schedule)
    return adam if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adam)


def _seed_mapping(config: ConfigDict) -> str | None:
    """XLA convolves with several kernels one after the other anyway: under `vmap` that would only cost memory."""
    if value(config, "training.seed_mapping") is not None:
        choice(config, "training.seed_mapping", SEED_MAPPINGS)
        return config.training.seed_mapping
    return "sequence" if config.model.cell == "conv_rnn_em" or config.num_seeds == 1 else None
