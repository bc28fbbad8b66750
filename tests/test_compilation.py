"""Compilation: other options on CPU, and JAX's own wherever else and when it is told not to optimise."""

import jax
import jax.numpy as jnp
import pytest

from nem_jax.compilation import COMPILE_QUICKLY, KEEP_CONVOLUTIONS, Jit


@pytest.fixture
def options(monkeypatch):
    """`options()` are the compiler options of a program that is made now."""

    def made():
        given = {}
        monkeypatch.setattr(jax, "jit", lambda function, **options: given.update(options) or function)
        assert Jit(jnp.sin, static_argnums=1).jitted is jnp.sin
        assert given.pop("static_argnums") == 1
        return given.pop("compiler_options")

    return made


@pytest.mark.parametrize(
    ("backend", "unoptimised", "expected"),
    [
        ("cpu", False, {**KEEP_CONVOLUTIONS, **COMPILE_QUICKLY}),
        ("cpu", True, KEEP_CONVOLUTIONS),
        ("gpu", False, None),
        ("tpu", False, None),
    ],
)
def test_options_are_those_of_the_backend(options, monkeypatch, backend, unoptimised, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", unoptimised)
    try:
        assert options() == expected
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def test_what_is_made_is_compiled_once():
    traced = []

    def double(x):
        traced.append(x)
        return 2 * x

    program = Jit(double)
    assert program.__name__ == "double"
    assert [float(program(jnp.float32(x))) for x in (1, 2)] == [2, 4]
    assert len(traced) == 1


def test_nothing_is_compiled_where_a_program_is_defined(monkeypatch):
    """Several processes must be connected before JAX looks for its backends."""

    def look():
        raise AssertionError("asked for the backend")

    monkeypatch.setattr(jax, "default_backend", look)
    Jit(jnp.sin)
