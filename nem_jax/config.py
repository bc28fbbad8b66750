"""From a ConfigDict to frozen typed records: the one place where names become objects and conflicts are refused.

Every check happens here, before anything is compiled, and names the field and what it may be.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from nem_jax import corruption
from nem_jax.data.shapes import static_shapes
from nem_jax.data.split import Dataset
from nem_jax.distributions import Bernoulli, Gaussian, PixelDist
from nem_jax.model import NEM
from nem_jax.networks import cells
from nem_jax.types import Cell, Params, PRNGKey

CELLS = ("rnn_em", "n_em")
PIXEL_DISTS = ("bernoulli", "gaussian")
NOISES = {"none": None, "bitflip": corruption.bitflip, "masked_uniform": corruption.masked_uniform}
STEP_WEIGHTS = ("last", "all")
STEP_SIZE_INITS = {"positive": cells.positive_step_size, "original": cells.original_step_size}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train, `config.training` checked."""

    optimiser: optax.GradientTransformation
    batch_size: int
    max_epochs: int
    patience: int
    log_interval: int
    figure_interval: int


@dataclass(frozen=True)
class Experiment:
    """A checked configuration as objects: all that training and evaluation need."""

    seed: int
    model: NEM
    training: TrainingOptions
    load_data: Callable[[], Dataset]
    """Deferred: reading a file or drawing keys is the first thing that touches a device."""


def build_experiment(config: ConfigDict) -> Experiment:
    """Check every field of `config` and make its records.

    Raises:
        ValueError: one sentence that names the field, what it may be and what it is.
    """
    _integer(config, "seed", 0)
    load_data = _build_data(config.data)
    size = config.data.image_size
    return Experiment(
        seed=config.seed,
        model=build_model(config.model, config.training, (size, size, 1)),
        training=_build_training(config.training, config.data.num_training),
        load_data=load_data,
    )


def build_model(config: ConfigDict, training: ConfigDict, image_shape: tuple[int, int, int]) -> NEM:
    """The `model` section, with the two fields of `training` that concern its unrolled loop."""
    for name in ("hidden_size", "num_components", "num_steps"):
        _integer(config, name, 1)
    _choice(config, "cell", CELLS)
    _choice(config, "step_weights", STEP_WEIGHTS)
    _choice(config, "step_size_init", STEP_SIZE_INITS)
    _number(config, "epsilon", 0, 1)
    _number(config, "inter_weight", 0)
    pixel_dist = _build_pixel_dist(config)
    if training.scan_unroll is not None:
        _integer(training, "scan_unroll", 1, config.num_steps)
    init, cell = _build_cell(config, pixel_dist, image_shape)
    return NEM(
        init=init,
        cell=cell,
        hidden_size=config.hidden_size,
        pixel_dist=pixel_dist,
        corrupt=_build_noise(config),
        num_components=config.num_components,
        num_steps=config.num_steps,
        gradient_gamma=config.gradient_gamma,
        epsilon=float(config.epsilon),
        step_weights=config.step_weights,
        inter_weight=float(config.inter_weight),
        scan_unroll=training.scan_unroll,
        remat=training.remat,
    )


def _build_data(config: ConfigDict) -> Callable[[], Dataset]:
    _integer(config, "seed", 0)
    for name in ("num_training", "num_validation", "num_test"):
        _integer(config, name, 1)
    _integer(config, "num_objects", 1)
    _integer(config, "image_size", 12)
    sizes = (config.num_training, config.num_validation, config.num_test)
    return functools.partial(static_shapes, config.seed, sizes, config.num_objects, config.image_size)


def _build_pixel_dist(config: ConfigDict) -> PixelDist:
    _choice(config, "pixel_dist", PIXEL_DISTS)
    _number(config, "e_sigma", 1e-3)
    return Bernoulli() if config.pixel_dist == "bernoulli" else Gaussian(e_sigma=float(config.e_sigma))


def _build_noise(config: ConfigDict) -> Callable[[PRNGKey, jax.Array], jax.Array]:
    _choice(config, "noise", NOISES)
    _number(config, "noise_prob", 0, 1)
    corrupt = NOISES[config.noise]
    if corrupt is None:
        return lambda key, x: x
    return functools.partial(corrupt, prob=float(config.noise_prob))


def _build_cell(
    config: ConfigDict, pixel_dist: PixelDist, image_shape: tuple[int, int, int]
) -> tuple[Callable[[PRNGKey], Params], Cell]:
    """(init, cell) of the network: all that the EM code sees of Flax."""
    if config.cell == "n_em":
        if config.pixel_dist != "bernoulli":
            raise ValueError("model.cell 'n_em' needs model.pixel_dist 'bernoulli': its step is that likelihood's gradient")
        module: Any = cells.NEMCell(config.hidden_size, STEP_SIZE_INITS[config.step_size_init])
    else:
        module = cells.RNNEMCell(config.hidden_size, pixel_dist.activation)

    def init(key: PRNGKey) -> Params:
        return module.init(key, jnp.zeros(image_shape), jnp.zeros(config.hidden_size))["params"]

    def cell(params: Params, residual: jax.Array, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        return module.apply({"params": params}, residual, theta)

    return init, cell


def _build_training(config: ConfigDict, num_training: int) -> TrainingOptions:
    for name in ("max_epochs", "patience", "log_interval", "figure_interval"):
        _integer(config, name, 1)
    _integer(config, "batch_size", 1, num_training)
    _number(config, "learning_rate", 0)
    return TrainingOptions(
        optimiser=optax.adam(config.learning_rate),
        batch_size=config.batch_size,
        max_epochs=config.max_epochs,
        patience=config.patience,
        log_interval=config.log_interval,
        figure_interval=config.figure_interval,
    )


def _choice(config: ConfigDict, field: str, allowed: Any) -> None:
    if config[field] not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, allowed))}, got {config[field]!r}")


def _integer(config: ConfigDict, field: str, low: int, high: int | None = None) -> None:
    value = config[field]
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{field} must be an integer {bounds}, got {value!r}")


def _number(config: ConfigDict, field: str, low: float, high: float = math.inf) -> None:
    value = config[field]
    if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{field} must be a number {bounds}, got {value!r}")
