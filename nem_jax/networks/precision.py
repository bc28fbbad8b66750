"""How exactly a cell computes; its weights, and what it takes and returns, are float32 in any case."""

from typing import Any

import jax
import jax.numpy as jnp

from nem_jax.types import Cell

PRECISIONS = ("highest", "default", "bfloat16")


def with_precision(cell: Cell, precision: str) -> Cell:
    """`cell` with its matrix products and convolutions, forward and backward, in one of `PRECISIONS`.

    - `highest`: float32 everywhere.
    - `default`: the device's fast kind of float32: TF32 on NVIDIA GPUs from Ampere on, one bfloat16 pass on TPUs, plain
      float32 on CPUs.
    - `bfloat16`: weights, inputs and theta are rounded to it at every EM step, and so is all in between up to the
      output layer; the cell's own activation may be float32. Likelihoods, E-step and losses, outside, are float32.
    """
    matmul = "highest" if precision == "highest" else "default"
    if precision != "bfloat16":
        return lambda *arguments: _call(cell, matmul, *arguments)
    return lambda *arguments: _cast(_call(cell, matmul, *_cast(arguments, jnp.bfloat16)), jnp.float32)


def at_least_float32(dtype: Any) -> Any:
    """What sums and differences of numbers of `dtype` are computed in before they are rounded to it."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def _call(cell: Cell, matmul: str, *arguments: Any) -> Any:
    with jax.default_matmul_precision(matmul):
        return cell(*arguments)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
