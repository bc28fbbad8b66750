"""Several processes, on one host or many, that run as one program. Called before anything else touches a device."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

_GO, _ANSWER_SECONDS = b"go", 10
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


def launcher(environ: Mapping[str, str] = os.environ) -> str | None:
    """What started this process among others, if JAX can ask it for the others; None: nothing, or it is alone."""
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "Slurm"
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "Kubernetes"
    if "TPU_WORKER_HOSTNAMES" in environ or any(Path(device).exists() for device in _TPU_DEVICES):
        return "TPU"
    return None


def connect_by_launcher() -> None:
    """Join the other processes that `launcher` started.

    Raises:
        ValueError: there is none.
    """
    if launcher() is None:
        raise ValueError(
            "--distributed: neither Slurm, nor Kubernetes, nor a TPU host started this process: "
            "give --coordinator, --num_processes and --process_id"
        )
    jax.distributed.initialize()


def connect(coordinator: str, num_processes: int, process_id: int, timeout: int) -> None:
    """Join the program whose process 0 answers at `coordinator`, an address such as `10.0.0.1:8476`.

    Args:
        coordinator: the same for all; process 0 listens there.
        num_processes: of all hosts.
        process_id: from 0.
        timeout: seconds to wait for the others.

    Raises:
        ValueError: one sentence, where the arguments are wrong or nobody answers in time.
    """
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"--coordinator must be an address with a port, such as 10.0.0.1:8476, got {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise ValueError(f"--process_id must be from 0 to --num_processes - 1, got {process_id} of {num_processes}")
    if process_id == 0:
        _await_others(int(port), num_processes, timeout)
    else:
        _await_main((host, int(port)), process_id, timeout)
    jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)


@contextlib.contextmanager
def ending_with_the_others() -> Iterator[None]:
    """Where another process has ended, say so and end at once; JAX would wait minutes for it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        cause = str(error).splitlines()[0]
        print(f"error: another process ended, start all of them again to resume ({cause})", file=sys.stderr, flush=True)
        os._exit(1)


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
                connection.settimeout(_ANSWER_SECONDS)
                told = connection.recv(16)
            except TimeoutError as error:
                missing = sorted(set(range(1, num_processes)) - present.keys())
                raise ValueError(f"--num_processes: processes {missing} did not come within {timeout} s") from error
            if told.isdigit() and int(told) in present:
                raise ValueError(f"--process_id: two processes are number {int(told)}")
            if told.isdigit() and 0 < int(told) < num_processes:
                present[int(told)] = connection
        for connection in present.values():
            connection.sendall(_GO)


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
    raise ValueError(
        f"--coordinator: {address[0]}:{address[1]} does not answer within {timeout} s: is process 0 there?"
    )
