"""Weights as files: any pytree of arrays in safetensors, with the names of its branches, such as `rnn/kernel`."""

import hashlib
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nem_jax.files import replace_bytes
from nem_jax.types import Params


def write_weights(path: Path, params: Params) -> None:
    """Write weights, atomically.

    Raises:
        ValueError: two would have the same name.
    """
    replace_bytes(path, _serialise(params))


def read_weights(path: Path) -> Params:
    """The weights in a file, as float32 in nested dictionaries (where lists were, their keys are numbers).

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds no weights.
    """
    try:
        with safe_open(path, "numpy") as file:
            flat = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or holds no weights: {error}") from error
    return unflatten_dict(flat, sep="/")


def weights_sha256(params: Params) -> str:
    """SHA-256 of the file that `write_weights` makes of them in float32, as `read_weights` gives them."""
    return hashlib.sha256(_serialise(jax.tree.map(np.float32, params))).hexdigest()


def _serialise(params: Params) -> bytes:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(branches, simple=True, separator="/"): leaf for branches, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError("weights must have different names, but one with a / is that of a branch")
    # not ascontiguousarray, which makes a scalar a vector
    return save({name: np.asarray(leaf, order="C") for name, leaf in named.items()})
