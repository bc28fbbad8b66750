"""Several processes, on one host or many, as one program: how they find each other, agree, and end.

All run the same on the same inputs; process 0 alone writes files and speaks to the console.
"""

import contextlib
import hashlib
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from nem_jax import errors, rendezvous

_MAX_BYTES = 4096
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")

INTERRUPTED = 130
"""The status of one of several processes that Ctrl-C has ended, as shells have it."""

Result = TypeVar("Result")


def find_launcher(environ: Mapping[str, str] = os.environ) -> str | None:
    """What can tell JAX of the other processes: Slurm, Kubernetes or a TPU host; None: this one is alone.

    Raises:
        ValueError: it is one of a Kubernetes job's, and would train alone for want of a package.
    """
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "Slurm"
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        if not find_spec("kubernetes"):
            raise ValueError(
                "this is a process of an indexed Kubernetes job, and JAX needs Python's package kubernetes to find the "
                "others: install it, or give --nodistributed if there are none"
            )
        return "Kubernetes"
    if find_spec("libtpu") and any(Path(device).exists() for device in _TPU_DEVICES):
        return "TPU"
    return None


def connect_by_launcher(timeout: int, environ: Mapping[str, str] = os.environ) -> None:
    """Join the other processes that `find_launcher` finds, and wait for them for at most `timeout` seconds.

    Called before anything else touches a device, as `connect` is.

    Raises:
        ValueError: there is none, or JAX does not find the others. (Where it finds them, but one stays away, it aborts
            the process.)
    """
    name = find_launcher(environ)
    if name is None:
        raise ValueError(
            "--distributed: neither Slurm, nor Kubernetes, nor a TPU host started this process among others: give "
            "--coordinator, --num_processes and --process_id"
        )
    one_a_node = re.fullmatch(r"1\(x\d+\)", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    # Under Slurm JAX gives each process one device; [] gives one that is alone on its node all that are there.
    device_ids: list[int] | None = [] if one_a_node else None
    try:
        jax.distributed.initialize(local_device_ids=device_ids, initialization_timeout=timeout)
    except Exception as error:  # of the launcher's own libraries, too
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(
            f"JAX cannot find the other processes that {name} seems to have started ({reason}): give --nodistributed "
            "if there are none, else --coordinator, --num_processes and --process_id"
        ) from error


def connect(coordinator: str, num_processes: int, process_id: int, timeout: int) -> None:
    """Join the program whose process 0 answers at `coordinator`, an address such as `10.0.0.1:8476`.

    Args:
        coordinator: the same for all; process 0 listens there.
        num_processes: of all hosts; each takes the devices that it sees.
        process_id: from 0.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: one sentence, where the arguments are wrong or nobody answers in time.
    """
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"--coordinator must be an address with a port, such as 10.0.0.1:8476, got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"--process_id must be from 0 to --num_processes - 1, got {process_id} of {num_processes}")
    if process_id == 0:
        rendezvous.await_others(int(port), num_processes, timeout)
    else:
        rendezvous.await_main((host.strip("[]"), int(port)), process_id, timeout)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=timeout,
        cluster_detection_method="deactivate",
    )


def is_main() -> bool:
    """Whether this process writes files and speaks to the console."""
    return jax.process_index() == 0


def together(action: Callable[[], Result]) -> Result:
    """`action`, called on every process; if it fails on one, all raise.

    Raises:
        ValueError: it failed elsewhere; the sentence is that of the first such process. Here: its own error.
    """
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    if jax.process_count() > 1:
        sentence = f"{failure}" or repr(failure)
        told = _tell_all("" if failure is None else sentence)
        failed = next((index for index, text in enumerate(told) if text), None)
        if failed is not None and failure is None:
            failure = ValueError(told[failed] if failed == 0 else f"process {failed}: {told[failed]}")
    if failure is not None:
        raise failure
    return result


def on_main(action: Callable[[], Result]) -> Result | None:
    """`action`, called on process 0 alone; None elsewhere. If it fails, all raise, see `together`.

    It must not touch arrays of the mesh: JAX needs all processes for them.
    """
    return together(lambda: action() if is_main() else None)


def check_alike(what: str, description: str) -> None:
    """All processes were given the same.

    Raises:
        ValueError: on all of them, if one was not; `what` names it.
    """
    told = _tell_all(hashlib.sha256(description.encode()).hexdigest())
    different = [index for index, digest in enumerate(told) if digest != told[0]]
    if different:
        raise ValueError(f"all processes must have the same {what}, but {different} differ from process 0")


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Of several processes, one that fails says why and ends at once: leaving JAX in order would wait for the others.

    They notice, and end too. One process alone is left to itself.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if jax.process_count() == 1:
            raise
        with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe
            sys.stdout.flush()
        if isinstance(error, KeyboardInterrupt):
            print("interrupted: start all of the processes again, the run resumes", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)
        _report(error)
        if jax.process_index() == 0:
            time.sleep(2)  # those that know the error as well say it before they miss process 0
        os._exit(1)


def _report(error: Exception) -> None:
    """In one sentence, where the error has one; a lost connection looks like any failure of a device."""
    sentence = errors.sentence(error)
    if sentence is None:
        traceback.print_exc()
        first_line = (str(error) or repr(error)).splitlines()[0]
        sentence = f"{first_line}: if another process ended, start all of them again, the run resumes"
    print(f"error: {sentence}", file=sys.stderr, flush=True)


def _tell_all(text: str) -> list[str]:
    """What each process says, at most `_MAX_BYTES` of it."""
    if jax.process_count() == 1:
        return [text]
    said = np.zeros(_MAX_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode()[:_MAX_BYTES], np.uint8)
    said[: encoded.size] = encoded
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in multihost_utils.process_allgather(said)]
