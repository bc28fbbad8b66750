"""Flags that several commands have: each calls the functions of those that it reads, and so accepts no others.

Cached: a process that imports several commands defines a flag once.
"""

import functools
from collections.abc import Callable
from typing import Any

from absl import flags

from nem_jax.config.data import DIGITS


@functools.cache
def define_directory() -> flags.FlagHolder[str]:
    """--directory."""
    return flags.DEFINE_string("directory", "runs", "holds the runs, each in a directory of its own name")


@functools.cache
def define_mnist_dir() -> flags.FlagHolder[str | None]:
    """--mnist_dir."""
    return flags.DEFINE_string("mnist_dir", None, "holds MNIST's IDX files, if not where the training found them")


@functools.cache
def define_example() -> flags.FlagHolder[int]:
    """--example."""
    return flags.DEFINE_integer("example", 0, "number of the test example that is drawn", lower_bound=0)


@functools.cache
def define_num_test() -> flags.FlagHolder[int | None]:
    """--num_test."""
    return flags.DEFINE_integer("num_test", None, "test examples, if not the trained number", lower_bound=1)


@functools.cache
def define_test_data() -> Callable[[], dict[str, Any]]:
    """--digits, --mnist_dir, --data_path and --num_test; returns what gives the fields of a configuration that they ask
    for.
    """
    digits = flags.DEFINE_enum(
        "digits", None, DIGITS, "whose handwriting, if not the training's; sklearn needs no files"
    )
    path = flags.DEFINE_string("data_path", None, "the HDF5 file, if not where the training found it")
    asked = {
        "data.digits": digits,
        "data.mnist_dir": define_mnist_dir(),
        "data.path": path,
        "data.num_test": define_num_test(),
    }
    return lambda: {field: flag.value for field, flag in asked.items()}
