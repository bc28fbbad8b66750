"""`python -m module` without the seconds that the imports take: in a fork of a process that has made them."""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import jax

LIBRARIES = (
    "absl.app", "flax.linen", "h5py", "matplotlib.pyplot", "nem_jax", "optax", "orbax.checkpoint", "PIL.Image",
    "sklearn.datasets",
)  # fmt: skip
"""What the commands import, but for their own modules: those define flags, once a process."""


def collect_rarely() -> None:
    """Tracing makes millions of objects that live on: looking for garbage among them takes a third of its time."""
    gc.freeze()
    gc.set_threshold(100_000)


def free_port() -> int:
    """For commands that are to talk to each other."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


_context = multiprocessing.get_context("forkserver")


def prepare(environment: dict[str, str]) -> None:
    """Start the process that all others are forks of, with these variables: JAX reads its own when it is imported."""
    _context.set_forkserver_preload(list(LIBRARIES))
    before = dict(os.environ)
    os.environ.update(environment)
    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)


class Command:
    """`python -m module *arguments`, begun. What it says goes into `directory`."""

    def __init__(self, directory: Path, module: str, *arguments: object, num_devices: int | None = None):
        self._said = [directory / name for name in ("stdout", "stderr")]
        for file in self._said:
            file.touch()
        self._argv = [module, *map(str, arguments)]
        self._process = _context.Process(target=_run, args=(self._argv, self._said, num_devices), daemon=True)
        self._process.start()

    def kill(self) -> None:
        """With -9."""
        self._process.kill()
        self._process.join()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        os.kill(self._process.pid, signal.SIGINT)

    def end(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end, so many seconds; then kill it, and say so."""
        self._process.join(timeout)
        late = self._process.is_alive()
        if late:
            self.kill()
        stdout, stderr = (file.read_text() for file in self._said)
        if late:
            raise subprocess.TimeoutExpired(self._argv, timeout, stdout, stderr)
        return subprocess.CompletedProcess(self._argv, self._process.exitcode, stdout, stderr)


def _run(argv: list[str], said: list[Path], num_devices: int | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background is born deaf to Ctrl-C
    collect_rarely()
    for descriptor, file in enumerate(said, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    if num_devices is not None:
        jax.config.update("jax_num_cpu_devices", num_devices)
    sys.argv = argv
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # JAX leaves a distributed program there; multiprocessing would pass it over
