"""`config.model` -> a `NEM`: the one place where the names of cells, noises and pixel distributions become objects."""

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from nem_jax import corruption, em
from nem_jax.config.checks import choice, given_exactly_if, integer, integers, number
from nem_jax.distributions import Bernoulli, Gaussian, PixelDist
from nem_jax.losses import WHICH_STEPS
from nem_jax.model import NEM
from nem_jax.networks import cells
from nem_jax.networks.conv_cell import ConvRNNEMCell
from nem_jax.networks.precision import PRECISIONS, with_precision
from nem_jax.types import Cell, Params, PRNGKey
from nem_jax.unrolling import REMAT

CELLS = ("rnn_em", "n_em", "conv_rnn_em")
PIXEL_DISTS = ("bernoulli", "gaussian")
NOISES = {"bitflip": corruption.bitflip, "masked_uniform": corruption.masked_uniform}
STEP_SIZE_INITS = {"positive": cells.positive_step_size, "original": cells.original_step_size}


_MODELS: dict[str, NEM] = {}


def build_model(config: ConfigDict) -> NEM:
    """Check `config.model` and make its record; equal fields give the same one, whose compiled programs serve again."""
    model, training = config.model, config.training
    for name in ("hidden_size", "num_components", "num_steps", "num_draws"):
        integer(config, f"model.{name}", 1)
    integer(config, "model.lookahead", 0, 1)
    choice(config, "model.step_weights", WHICH_STEPS)
    choice(config, "model.scored_steps", WHICH_STEPS)
    number(config, "model.epsilon", 0.0, 1.0)
    if 0 < model.epsilon < em.MIN_EPSILON:
        raise ValueError(f"model.epsilon must be 0 or at least {em.MIN_EPSILON}, got {model.epsilon}")
    number(config, "model.inter_weight", 0.0)
    choice(config, "model.precision", PRECISIONS)
    choice(config, "training.remat", REMAT)
    if training.scan_unroll is not None:
        integer(config, "training.scan_unroll", 1, model.num_steps)
    if training.remat != "none" and (training.scan_unroll or model.num_steps) == model.num_steps > 1:
        raise ValueError(
            f"training.remat {training.remat!r} needs training.scan_unroll below model.num_steps: where all EM steps "
            "are laid out, XLA keeps what the backward pass was to compute again"
        )
    pixel_dist = _build_pixel_dist(config)
    init, cell = _build_cell(config, pixel_dist)
    built = NEM(
        init=init,
        cell=with_precision(cell, model.precision),
        hidden_size=model.hidden_size,
        pixel_dist=pixel_dist,
        corrupt=_build_noise(config),
        num_components=model.num_components,
        num_steps=model.num_steps,
        gradient_gamma=model.gradient_gamma,
        step_weights=model.step_weights,
        scored_steps=model.scored_steps,
        lookahead=model.lookahead,
        epsilon=float(model.epsilon),
        inter_weight=float(model.inter_weight),
        num_draws=model.num_draws,
        scan_unroll=training.scan_unroll,
        remat=training.remat,
    )
    fields = (model.to_dict(), config.data.image_size, training.remat, training.scan_unroll)
    return _MODELS.setdefault(json.dumps(fields, sort_keys=True), built)  # tuples and a file's lists alike


def _build_pixel_dist(config: ConfigDict) -> PixelDist:
    choice(config, "model.pixel_dist", PIXEL_DISTS)
    gaussian = config.model.pixel_dist == "gaussian"
    given_exactly_if(config, "model.e_sigma", gaussian, "model.pixel_dist is 'gaussian'")
    if not gaussian:
        return Bernoulli()
    number(config, "model.e_sigma", 1e-3)
    return Gaussian(e_sigma=float(config.model.e_sigma))


def _build_noise(config: ConfigDict) -> Callable[[PRNGKey, jax.Array], jax.Array]:
    choice(config, "model.noise", NOISES)
    number(config, "model.noise_prob", 0.0, 1.0)
    return functools.partial(NOISES[config.model.noise], prob=float(config.model.noise_prob))


def _build_cell(config: ConfigDict, pixel_dist: PixelDist) -> tuple[Callable[[PRNGKey], Params], Cell]:
    size = config.data.image_size
    return cells.flax_cell(_build_module(config, pixel_dist), (size, size, 1))


def _build_module(config: ConfigDict, pixel_dist: PixelDist) -> Any:
    choice(config, "model.cell", CELLS)
    model = config.model
    given_exactly_if(config, "model.step_size_init", model.cell == "n_em", "model.cell is 'n_em'")
    for field in ("features", "dense_size", "normalise_input"):
        given_exactly_if(config, f"model.{field}", model.cell == "conv_rnn_em", "model.cell is 'conv_rnn_em'")
    if model.cell == "rnn_em":
        return cells.RNNEMCell(model.hidden_size, _activation(config, pixel_dist))
    if model.cell == "conv_rnn_em":
        return _build_conv_module(config, pixel_dist)
    if model.pixel_dist != "bernoulli":
        raise ValueError("model.cell 'n_em' needs model.pixel_dist 'bernoulli': its step is that likelihood's gradient")
    if model.precision == "bfloat16":
        raise ValueError("model.cell 'n_em' cannot have model.precision 'bfloat16', which would lose its steps")
    choice(config, "model.step_size_init", STEP_SIZE_INITS)
    return cells.NEMCell(model.hidden_size, STEP_SIZE_INITS[model.step_size_init])


def _activation(config: ConfigDict, pixel_dist: PixelDist) -> Callable[[jax.Array], jax.Array]:
    """From the last layer to psi; in float32, since a psi of bfloat16 is 1 from 0.998 on."""
    if config.model.precision != "bfloat16":
        return pixel_dist.activation
    return lambda output: pixel_dist.activation(output.astype(jnp.float32))


def _build_conv_module(config: ConfigDict, pixel_dist: PixelDist) -> ConvRNNEMCell:
    model, size = config.model, config.data.image_size
    integers(config, "model.features", 1)
    integer(config, "model.dense_size", 1)
    features = tuple(model.features)
    if size % 2 ** len(features):
        raise ValueError(
            f"data.image_size must be a multiple of {2 ** len(features)} for the {len(features)} convolutions of "
            f"stride 2 in model.features, got {size}"
        )
    return ConvRNNEMCell(
        model.hidden_size, _activation(config, pixel_dist), features, model.dense_size, model.normalise_input
    )
