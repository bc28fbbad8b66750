"""Which errors are one sentence, and what it says."""

import jax
import pytest

from nem_jax import errors, hosts

OUT_OF_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 20000000000 bytes.")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (FileNotFoundError(2, "No such file", "x"), "[Errno 2] No such file: 'x'"),
        (FloatingPointError("step 3"), "step 3"),
        (RuntimeError("Unable to initialize backend 'cuda': none"), "Unable to initialize backend 'cuda': none"),
        (RuntimeError("connection lost"), None),
        (KeyError("x"), None),
        (MemoryError(), None),
    ],
)
def test_the_users_errors_are_one_sentence(error, sentence):
    assert errors.sentence(error) == sentence


def test_too_little_memory_says_what_takes_less(capsys):
    told = errors.sentence(OUT_OF_MEMORY)
    assert told is not None
    assert "a device has too little memory, RESOURCE_EXHAUSTED: Out of memory allocating 2" in told
    assert "training.num_microbatches and training.remat" in told
    hosts._report(OUT_OF_MEMORY)  # by one of several processes: to start them again would not help
    assert capsys.readouterr().err == f"error: {told}\n"


def test_memory_that_jax_cannot_get_is_such_an_error():
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        jax.numpy.zeros((2**40, 2**10), "int8").block_until_ready()
    assert errors.sentence(raised.value) is not None
