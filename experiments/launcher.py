"""The flags of every experiment's run.py: a configuration, a directory, whether to end it now, other processes."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from experiments.command_line import launch
from experiments.cores import use_cores
from nem_jax import hosts
from nem_jax.config.fields import check_fields
from nem_jax.training.run import run

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    lock_config=True,
    help_string="experiments/EXPERIMENT/config.py:NAME; its fields, --config.FIELD=, are in nem_jax/config/fields.py",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "directory: new, or of the same run to resume", required=True)
_STOP_NOW = flags.DEFINE_boolean("stop_now", False, "train no further: score the best weights so far and end the run")
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", None, "one of several processes; default: if Slurm, Kubernetes or a TPU host started it as one"
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "where nobody starts them together: address:port of process 0")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "with --coordinator: how many there are", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "with --coordinator: which this is, from 0", lower_bound=0)
_TIMEOUT = flags.DEFINE_integer("timeout", 300, "of several processes: seconds to wait for the others", lower_bound=1)
flags.mark_flag_as_required("config")


def main(experiment: str) -> None:
    """Train and score the configuration of `experiment` that the flags name."""
    launch(lambda: _main(experiment))


def _main(experiment: str) -> None:
    config = _CONFIG.value
    check_fields(config)
    if config.experiment != experiment:
        raise ValueError(f"--config is one of {config.experiment}, and this is experiments.{experiment}.run")
    _check_cache_apart()
    if not _connect():
        use_cores([config])
    try:
        with hosts.ending_together():
            run(config, _WORKDIR.value, _STOP_NOW.value)
    except KeyboardInterrupt:
        print(
            "\nthe same command resumes the run; once an epoch is finished, --stop_now scores the best weights so far",
            file=sys.stderr,
        )
        raise


def _check_cache_apart() -> None:
    """The first program is compiled before the run takes its directory, which must be its alone.

    Raises:
        ValueError: --compilation_cache lies in it.
    """
    cache, workdir = flags.FLAGS.compilation_cache, Path(_WORKDIR.value).resolve()
    if cache is not None and Path(cache).resolve().is_relative_to(workdir):
        raise ValueError(f"--compilation_cache must not lie in --workdir, got {cache}")


def _connect() -> bool:
    """Join the other processes, if there are any: whether there are.

    Raises:
        ValueError: flags that do not go together; see `hosts`.
    """
    if _COORDINATOR.value is None:
        unused = [f"--{flag.name}" for flag in (_NUM_PROCESSES, _PROCESS_ID) if flag.present]
        if unused:
            raise ValueError(f"{', '.join(unused)}: given, but used only with --coordinator")
        if _DISTRIBUTED.value or (_DISTRIBUTED.value is None and hosts.find_launcher()):
            hosts.connect_by_launcher(_TIMEOUT.value)
            return True
        if _TIMEOUT.present:
            raise ValueError("--timeout is given, but this process is alone: nothing waits")
        return False
    if _DISTRIBUTED.value is False:
        raise ValueError("--coordinator is given, but --nodistributed makes this process one alone")
    if _NUM_PROCESSES.value is None or _PROCESS_ID.value is None:
        raise ValueError("--coordinator needs --num_processes and --process_id")
    hosts.connect(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _TIMEOUT.value)
    return True
