"""`jax.jit` for the programs of training and evaluation: where they run on CPU, with other options than XLA's."""

import functools
from collections.abc import Callable
from typing import Any

import jax

KEEP_CONVOLUTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}
"""XLA's own, which are twice as fast as YNNPACK's."""

COMPILE_QUICKLY = {"xla_backend_optimization_level": 1}
"""LLVM's: a fifth to a third less time to compile. Random numbers are drawn up to twice as slowly, but steps pass most
of their time in libraries, and were as fast."""


class Jit:
    """`jax.jit(function, **options)`, made at the first call.

    To ask earlier which backend there is would start it, before several processes are connected. On CPU JAX refuses
    calls from inside another `jax.jit`, whose options these would be.
    """

    def __init__(self, function: Callable[..., Any], **options: Any):
        functools.update_wrapper(self, function)
        self._of_backend = functools.cache(functools.partial(_made_for, function, options))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """What the function returns."""
        return self.jitted(*arguments, **named)

    @property
    def jitted(self) -> Any:
        """The function as `jax.jit` makes it for the current backend."""
        return self._of_backend(jax.default_backend(), jax.config.read("jax_disable_most_optimizations"))


def _made_for(function: Callable[..., Any], options: dict[str, Any], backend: str, unoptimised: bool) -> Any:
    on_cpu = {**KEEP_CONVOLUTIONS, **({} if unoptimised else COMPILE_QUICKLY)}
    return jax.jit(function, compiler_options=on_cpu if backend == "cpu" else None, **options)
