"""Where a number comes from: hardware, versions, revision, command."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from nem_jax.devices import num_cores

PACKAGES = ("nem-jax", "jax", "jaxlib", "flax", "optax", "numpy")


def hardware() -> str:
    """The device that computed, in words: `2 cores of AMD EPYC (x86_64)` or `1 x NVIDIA H200`."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    cores = num_cores()
    return f"{cores} core{'s' * (cores != 1)} of {_processor()} ({platform.machine()})"


def versions() -> dict[str, str]:
    """Python's and the numerical packages' versions."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_revision() -> str:
    """The commit of the code that runs, `-dirty` if files differ from it; `unknown` without git, or to git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command() -> str:
    """The command line that started this process, with `python -m` in front of a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = (
        f"python -m {spec.name.removesuffix('.__main__')}" if spec is not None else f"python {Path(sys.argv[0]).name}"
    )
    return f"{program} {shlex.join(sys.argv[1:])}"


def record() -> dict[str, Any]:
    """All of the above, and the number of devices: the last digits of sums over them depend on it."""
    return {
        "hardware": hardware(),
        "num_devices": jax.device_count(),
        "versions": versions(),
        "git_revision": git_revision(),
        "command": command(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "an unnamed processor"
