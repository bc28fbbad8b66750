"""The flags of commands that evaluate one model: which, over how many steps, on what."""

from typing import Any

from absl import flags

from experiments.shared_flags import define_test_data
from experiments.subject import Subject, load_subject

_TRAINED = flags.DEFINE_string("trained", None, "a run's directory, or weights that come with the package")
_TEST_DATA = define_test_data()
_SEED = flags.DEFINE_integer("seed", None, "of a run of several seeds, which; default: the best validation loss's")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "T, if not the trained one", lower_bound=1)
_NUM_COMPONENTS = flags.DEFINE_integer("num_components", None, "K, if not the trained one", lower_bound=1)
_NUM_OBJECTS = flags.DEFINE_integer("num_objects", None, "objects per example, if not the trained", lower_bound=1)
_GENERATOR = flags.DEFINE_string("generator", None, "the data, if not the trained: see config.data.generator")


def trained_name() -> str:
    """What --trained says.

    Raises:
        ValueError: --trained is not given.
    """
    if not _TRAINED.value:
        raise ValueError("give the weights: --trained=DIRECTORY, or the name of some that come with nem_jax")
    return _TRAINED.value


def load_flagged(source: str, fields: dict[str, Any] | None = None, num_ahead: int = 0) -> Subject:
    """`load_subject` with the seed and the changes that the flags ask for, and further `fields`."""
    asked = {
        **_TEST_DATA(),
        "model.num_steps": _NUM_STEPS.value,
        "model.num_components": _NUM_COMPONENTS.value,
        "data.num_objects": _NUM_OBJECTS.value,
        "data.generator": _GENERATOR.value,
    }
    return load_subject(source, {**asked, **(fields or {})}, num_ahead, _SEED.value)
