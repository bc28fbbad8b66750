"""`config.training` -> batches, epochs and the optimiser."""

import functools
from dataclasses import dataclass

import optax
from ml_collections import ConfigDict

from nem_jax.config.checks import choice, divides, integer, number, value

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


def build_training(config: ConfigDict) -> TrainingOptions:
    """Check `config.training`, but for what `build_model` reads, and make its record."""
    training = config.training
    for name in ("max_epochs", "patience", "log_interval", "figure_interval"):
        integer(config, f"training.{name}", 1)
    integer(config, "training.batch_size", 1, config.data.num_training)
    integer(config, "training.num_microbatches", 1, training.batch_size)
    divides(config, "training.num_microbatches", "training.batch_size")
    if value(config, "training.seed_devices") is not None:
        integer(config, "training.seed_devices", 1)
        divides(config, "training.seed_devices", "num_seeds")
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
        first = rate / (warmup_steps + 1)  # at a rate of 0 the first step would do nothing
        rising = optax.linear_schedule(first, rate, warmup_steps)
        schedule = optax.join_schedules([rising, after], [warmup_steps])
    adam = optax.adam(schedule)
    return adam if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adam)


def _seed_mapping(config: ConfigDict) -> str | None:
    """XLA convolves with several kernels one after the other anyway: under `vmap` that would only cost memory."""
    if value(config, "training.seed_mapping") is not None:
        choice(config, "training.seed_mapping", SEED_MAPPINGS)
        return config.training.seed_mapping
    return "sequence" if config.model.cell == "conv_rnn_em" or config.num_seeds == 1 else None
