"""Several processes, on one host or many, that run as one program. Called before anything else touches a device."""

import contextlib
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import jax

from nem_jax import errors

_GO, _ANSWER_SECONDS = b"go", 10
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


def launcher(environ: Mapping[str, str] = os.environ) -> str | None:
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
    """Join the other processes that `launcher` started, and wait for them for at most `timeout` seconds.

    Raises:
        ValueError: there is none, or JAX does not find the others. (Where it finds them, but one stays away, it aborts
            the process.)
    """
    name = launcher(environ)
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
        _await_others(int(port), num_processes, timeout)
    else:
        _await_main((host.strip("[]"), int(port)), process_id, timeout)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=timeout,
        cluster_detection_method="deactivate",
    )


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Of several processes, one that fails says why and ends at once: leaving JAX in order would wait for the others.

    They notice, and end too. One process alone is left to itself.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe
            sys.stdout.flush()
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


def _await_others(port: int, num_processes: int, timeout: int) -> None:
    """Let all go on once each has told its number: JAX itself would abort the process if one stayed away."""
    deadline, present = time.monotonic() + timeout, dict[int, socket.socket]()
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with contextlib.ExitStack() as opened:
        try:
            server = socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6)
        except OSError as error:
            raise ValueError(f"--coordinator: process 0 cannot listen on port {port}: {error.strerror}") from error
        opened.enter_context(server)
        while len(present) < num_processes - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection = opened.enter_context(server.accept()[0])
            except TimeoutError as error:
                missing = sorted(set(range(1, num_processes)) - _waiting(present).keys())
                raise ValueError(f"--num_processes: processes {missing} did not come within {timeout} s") from error
            told = _receive(connection)
            if told.isdigit() and 0 < int(told) < num_processes:
                present[int(told)] = connection  # one that was started again takes its own place
            else:
                connection.close()
            present = _waiting(present)
        for connection in present.values():
            with contextlib.suppress(OSError):
                connection.sendall(_GO)


def _waiting(present: dict[int, socket.socket]) -> dict[int, socket.socket]:
    """Those that have not hung up; they say nothing more."""
    return {number: connection for number, connection in present.items() if not _has_hung_up(connection)}


def _has_hung_up(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _receive(connection: socket.socket) -> bytes:
    """What a caller says, nothing if it is silent or gone."""
    connection.settimeout(_ANSWER_SECONDS)
    try:
        return connection.recv(16)
    except OSError:
        return b""


def _await_main(address: tuple[str, int], process_id: int, timeout: int) -> None:
    """Until process 0 lets all go on."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, timeout=1) as connection:
                connection.sendall(str(process_id).encode())
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                if connection.recv(len(_GO)) == _GO:
                    return
        except OSError:
            pass  # not yet
        time.sleep(0.2)
    host, port = address
    raise ValueError(f"--coordinator: {host}:{port} does not answer within {timeout} s: is process 0 running there?")
