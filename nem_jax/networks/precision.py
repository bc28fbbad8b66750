"""How exactly a cell computes; its weights, and what it takes and returns, are of the caller's type: float32."""

from typing import Any

import jax
import jax.numpy as jnp

from nem_jax.types import Cell, Params

PRECISIONS = ("highest", "default", "bfloat16")


def with_precision(cell: Cell, precision: str) -> Cell:
    """`cell` with its matrix products and convolutions, forward and backward, in one of `PRECISIONS`.

    - `highest`: float32 everywhere.
    - `default`: the device's fast kind of float32: TF32 on NVIDIA GPUs from Ampere on, one bfloat16 pass on TPUs, plain
      float32 on CPUs.
    - `bfloat16`: weights, inputs and theta are rounded to it at every EM step, and so is all in between up to the
      output layer; the cell's own activation may be float32. Likelihoods, E-step and losses are outside.
    """
    matmul = "highest" if precision == "highest" else "default"
    if precision != "bfloat16":
        return lambda *arguments: _call(cell, matmul, *arguments)

    def in_bfloat16(params: Params, residual: jax.Array, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        new_theta, psi = _call(cell, matmul, *_cast((params, residual, theta), jnp.bfloat16))
        return new_theta.astype(theta.dtype), psi.astype(residual.dtype)

    return in_bfloat16


def _call(cell: Cell, matmul: str, *arguments: Any) -> Any:
    with jax.default_matmul_precision(matmul):
        return cell(*arguments)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
