"""Seeds as an axis: independent runs that train as one program, each as it would alone.

States, keys and batches have a leading axis S; what is written for one seed is mapped over it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nem_jax.model import NEM
from nem_jax.training.state import Keys, TrainState, create_state, make_keys
from nem_jax.types import Params


def in_sequence(function: Callable[..., Any]) -> Callable[..., Any]:
    """Like `jax.vmap`, but one after the other inside the program: in the memory of one, and no slower on CPU."""
    return lambda *arguments: jax.lax.map(lambda each: function(*each), arguments)


MAPPINGS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {"vmap": jax.vmap, "sequence": in_sequence}
"""How a function of one seed becomes one of several: `config.training.SEED_MAPPINGS`."""


def faster_mapping() -> str:
    """On CPU one seed keeps its cores busy. That an accelerator has room for more is assumed, not measured."""
    return "sequence" if jax.default_backend() == "cpu" else "vmap"


def make_seed_keys(seeds: range, stage: int = 0, given_sha256: str | None = None) -> Keys:
    """The random streams of each seed in one stage, `[S]`; see `make_keys`."""
    return jax.tree.map(lambda *keys: jnp.stack(keys), *(make_keys(seed, stage, given_sha256) for seed in seeds))


def create_states(model: NEM, optimiser: Any, keys: Keys, params: Params | None = None) -> TrainState:
    """A fresh state for each seed, `[S]`, with weights of its own or, if given, those of `params`, `[S]`."""
    return jax.vmap(lambda key, params: create_state(model, optimiser, key, params))(keys.init, params)


def take_seed(tree: Any, index: int) -> Any:
    """What belongs to seed number `index` (from 0) of arrays `[S, ...]`."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
