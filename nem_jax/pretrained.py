"""Trained weights that come with the package: `load_pretrained(name)`."""

from importlib import resources
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from nem_jax.config import build_experiment
from nem_jax.files import read_json
from nem_jax.model import NEM
from nem_jax.types import Params
from nem_jax.weights import read_weights

DIRECTORY = Path(str(resources.files("nem_jax"))) / "pretrained"
"""Holds `<name>.safetensors` and, beside each, its configuration `<name>.json`."""


class Trained(NamedTuple):
    """Trained weights and what they belong to. `model.cell` is the network, `model` its constants and functions."""

    model: NEM
    params: Params
    config: ConfigDict


def pretrained_names() -> list[str]:
    """The names that `load_pretrained` knows."""
    return sorted(file.stem for file in DIRECTORY.glob("*.safetensors"))


def load_pretrained(name: str) -> Trained:
    """The network, weights (float32) and configuration of a published result, such as `static_shapes_rnn_em`.

    Raises:
        ValueError: there is none of that name; the sentence lists them.
    """
    if name not in pretrained_names():
        raise ValueError(f"pretrained must be one of {', '.join(pretrained_names()) or '(none)'}, got {name!r}")
    config = ConfigDict(read_json(DIRECTORY / f"{name}.json"))
    return Trained(build_experiment(config).model, read_weights(DIRECTORY / f"{name}.safetensors"), config)
