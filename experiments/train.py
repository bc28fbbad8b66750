"""The flags of every experiment's run.py: a configuration, a directory, and whether to end the run now."""

from absl import flags
from ml_collections import config_flags

from nem_jax.launch import launch
from nem_jax.training.run import run

_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "directory: new, or of the same run to resume", required=True)
_STOP_NOW = flags.DEFINE_boolean("stop_now", False, "train no further: score the best weights so far and end the run")
flags.mark_flag_as_required("config")


def main() -> None:
    """Train and score what the flags name."""
    launch(lambda: run(_CONFIG.value, _WORKDIR.value, _STOP_NOW.value))
