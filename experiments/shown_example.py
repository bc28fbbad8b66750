"""The flag of commands that draw one test example."""

from absl import flags

from experiments.trained import Subject

EXAMPLE = flags.DEFINE_integer("example", 0, "number of the test example that is drawn", lower_bound=0)


def check_example(subject: Subject) -> int:
    """The number of the test example that --example names.

    Raises:
        ValueError: there are not so many.
    """
    size = subject.dataset.splits["test"].size
    if EXAMPLE.value >= size:
        raise ValueError(f"example must be from 0 to {size - 1}, got {EXAMPLE.value}")
    return EXAMPLE.value
