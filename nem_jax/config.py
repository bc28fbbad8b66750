"""From a ConfigDict to frozen typed records: the one place where names become objects and conflicts are refused.

Every check happens here, before anything is compiled, and names the field and what it may be.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from nem_jax import corruption
from nem_jax.data import shapes
from nem_jax.data.hdf5 import load_hdf5
from nem_jax.data.published_shapes import published_shapes
from nem_jax.data.split import SPLITS, Dataset
from nem_jax.distributions import Bernoulli, Gaussian, PixelDist
from nem_jax.metrics import MAX_PIXELS
from nem_jax.model import NEM
from nem_jax.networks import cells
from nem_jax.types import Cell, Params, PRNGKey

CELLS = ("rnn_em", "n_em")
PIXEL_DISTS = ("bernoulli", "gaussian")
NOISES = {"bitflip": corruption.bitflip, "masked_uniform": corruption.masked_uniform}
MAX_SEED = 2**32 - 1
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
    noise: str
    """The input noise in words."""
    load_data: Callable[[], Dataset]
    """Deferred: reading a file or drawing keys is the first thing that touches a device."""


def build_experiment(config: ConfigDict) -> Experiment:
    """Check every field of `config` and make its records.

    Raises:
        ValueError: one sentence that names the field, what it may be and what it is.
    """
    _integer(config, "seed", 0, MAX_SEED)
    return Experiment(
        seed=config.seed,
        noise=f"{config.model.noise} {config.model.noise_prob}, as in training",
        load_data=_build_data(config),
        model=_build_model(config),
        training=_build_training(config),
    )


def _build_model(config: ConfigDict) -> NEM:
    for name in ("hidden_size", "num_components", "num_steps"):
        _integer(config, f"model.{name}", 1)
    _choice(config, "model.step_weights", STEP_WEIGHTS)
    _number(config, "model.epsilon", 0.0, 1.0)
    _number(config, "model.inter_weight", 0.0)
    if config.training.scan_unroll is not None:
        _integer(config, "training.scan_unroll", 1, config.model.num_steps)
    pixel_dist = _build_pixel_dist(config)
    init, cell = _build_cell(config, pixel_dist)
    return NEM(
        init=init,
        cell=cell,
        hidden_size=config.model.hidden_size,
        pixel_dist=pixel_dist,
        corrupt=_build_noise(config),
        num_components=config.model.num_components,
        num_steps=config.model.num_steps,
        gradient_gamma=config.model.gradient_gamma,
        epsilon=float(config.model.epsilon),
        step_weights=config.model.step_weights,
        inter_weight=float(config.model.inter_weight),
        scan_unroll=config.training.scan_unroll,
        remat=config.training.remat,
    )


def _build_data(config: ConfigDict) -> Callable[[], Dataset]:
    data = config.data
    _integer(config, "data.seed", 0, MAX_SEED)
    _integer(config, "data.num_objects", 1)
    _integer(config, "data.image_size", shapes.MIN_IMAGE_SIZE, math.isqrt(MAX_PIXELS))
    for split in SPLITS:
        _integer(config, f"data.num_{split}", 1)
    sizes = (data.num_training, data.num_validation, data.num_test)
    if _value(config, "data.published") and data.path is not None:
        raise ValueError(f"data.published and data.path exclude each other, got True and {data.path!r}")
    if data.published:
        load = functools.partial(published_shapes, sizes)
    elif data.path is not None:
        load = functools.partial(load_hdf5, Path(data.path), sizes, num_frames=config.model.num_steps + 1)
    else:
        return functools.partial(shapes.static_shapes, data.seed, sizes, data.num_objects, data.image_size)
    return lambda: _checked(load(), data.image_size, data.num_objects)


def _checked(dataset: Dataset, image_size: int, num_objects: int) -> Dataset:
    """Stored data must be what the configuration says of it, as networks and metrics are sized by that."""
    if dataset.image_shape != (image_size, image_size, 1):
        shape = "x".join(map(str, dataset.image_shape))
        raise ValueError(f"data.image_size is {image_size}, but the stored images are {shape}")
    if dataset.num_groups > num_objects:
        raise ValueError(f"data.num_objects is {num_objects}, but the stored groups go up to {dataset.num_groups}")
    return dataset


def _build_pixel_dist(config: ConfigDict) -> PixelDist:
    _choice(config, "model.pixel_dist", PIXEL_DISTS)
    gaussian = config.model.pixel_dist == "gaussian"
    _given_only_if(config, "model.e_sigma", gaussian, "model.pixel_dist is 'gaussian'")
    if not gaussian:
        return Bernoulli()
    _number(config, "model.e_sigma", 1e-3)
    return Gaussian(e_sigma=float(config.model.e_sigma))


def _build_noise(config: ConfigDict) -> Callable[[PRNGKey, jax.Array], jax.Array]:
    _choice(config, "model.noise", NOISES)
    _number(config, "model.noise_prob", 0.0, 1.0)
    return functools.partial(NOISES[config.model.noise], prob=float(config.model.noise_prob))


def _build_cell(config: ConfigDict, pixel_dist: PixelDist) -> tuple[Callable[[PRNGKey], Params], Cell]:
    """(init, cell) of the network: all that the EM code sees of Flax."""
    _choice(config, "model.cell", CELLS)
    model, size = config.model, config.data.image_size
    _given_only_if(config, "model.step_size_init", model.cell == "n_em", "model.cell is 'n_em'")
    if model.cell == "rnn_em":
        module: Any = cells.RNNEMCell(model.hidden_size, pixel_dist.activation)
    elif model.pixel_dist == "bernoulli":
        _choice(config, "model.step_size_init", STEP_SIZE_INITS)
        module = cells.NEMCell(model.hidden_size, STEP_SIZE_INITS[model.step_size_init])
    else:
        raise ValueError("model.cell 'n_em' needs model.pixel_dist 'bernoulli': its step is that likelihood's gradient")

    def init(key: PRNGKey) -> Params:
        return module.init(key, jnp.zeros((size, size, 1)), jnp.zeros(module.hidden_size))["params"]

    def cell(params: Params, residual: jax.Array, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        return module.apply({"params": params}, residual, theta)

    return init, cell


def _build_training(config: ConfigDict) -> TrainingOptions:
    training = config.training
    for name in ("max_epochs", "patience", "log_interval", "figure_interval"):
        _integer(config, f"training.{name}", 1)
    _integer(config, "training.batch_size", 1, config.data.num_training)
    _number(config, "training.learning_rate", 0.0)
    return TrainingOptions(
        optimiser=optax.adam(training.learning_rate),
        batch_size=training.batch_size,
        max_epochs=training.max_epochs,
        patience=training.patience,
        log_interval=training.log_interval,
        figure_interval=training.figure_interval,
    )


def _value(config: ConfigDict, field: str) -> Any:
    try:
        return functools.reduce(lambda section, name: section[name], field.split("."), config)
    except KeyError as error:
        raise ValueError(f"the configuration lacks {field}: it was written by another version") from error


def _given_only_if(config: ConfigDict, field: str, used: bool, condition: str) -> None:
    """An option that nothing reads is an error, and so is one that is missing."""
    if used != (_value(config, field) is not None):
        raise ValueError(f"{field} must be given exactly if {condition}, got {_value(config, field)!r}")


def _choice(config: ConfigDict, field: str, allowed: Iterable[str]) -> None:
    value = _value(config, field)
    if value not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _integer(config: ConfigDict, field: str, low: int, high: int | None = None) -> None:
    value = _value(config, field)
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{field} must be an integer {bounds}, got {value!r}")


def _number(config: ConfigDict, field: str, low: float, high: float = math.inf) -> None:
    value = _value(config, field)
    if not (isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high):
        bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{field} must be a number {bounds}, got {value!r}")
