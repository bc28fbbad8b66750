"""The flags of commands that evaluate one model: which, over how many steps, on which examples."""

from typing import Any

from absl import flags

from experiments.figure import NUM_TEST
from experiments.places import MNIST_DIR
from experiments.trained import Subject

TRAINED = flags.DEFINE_string("trained", None, "a run's directory, or weights that come with the package")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "T, if not the trained one", lower_bound=1)
EXAMPLE = flags.DEFINE_integer("example", 0, "number of the test example that is drawn", lower_bound=0)


def trained_name() -> str:
    """What --trained says.

    Raises:
        ValueError: nothing.
    """
    if not TRAINED.value:
        raise ValueError("give the weights: --trained=DIRECTORY, or the name of some that come with nem_jax")
    return TRAINED.value


def flag_fields() -> dict[str, Any]:
    """The changes that the flags ask for, as `load_subject` takes them."""
    return {
        "data.mnist_dir": MNIST_DIR.value,
        "data.num_test": NUM_TEST.value,
        "model.num_steps": NUM_STEPS.value,
    }


def check_example(subject: Subject) -> int:
    """The number of the test example that --example names.

    Raises:
        ValueError: there are not so many.
    """
    size = subject.dataset.splits["test"].size
    if EXAMPLE.value >= size:
        raise ValueError(f"example must be from 0 to {size - 1}, got {EXAMPLE.value}")
    return EXAMPLE.value
