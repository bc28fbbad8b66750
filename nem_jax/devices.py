"""Devices as one mesh with the axes (seed, data), and arrays on it: for one device, eight, or those of many hosts.

Seeds share nothing, so that devices along `seed` never speak to each other; those along `data` hold the same weights,
each takes its part of the batch, and they average their gradients once per step. On several hosts every process runs
the same program on the same inputs (`nem_jax.hosts`).
"""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

SEED, DATA = "seed", "data"

MIN_EXAMPLES_PER_CORE = 16
"""With fewer a core's matrix products are too small to be worth a device of its own."""


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_cores_devices(num_examples: int) -> None:
    """Make the CPU as many devices as there are cores for equal parts of `num_examples`, which are taken at once.

    A core with its own examples waits for the others once a step, not at every operation. Called before JAX computes
    anything; what the user has set, by `JAX_NUM_CPU_DEVICES` or XLA's flag, stays. Accelerators are not concerned.
    """
    not_set = jax.config.values["jax_num_cpu_devices"] == -1
    if not_set and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", _num_parts(num_examples, num_cores()))


def _num_parts(num_examples: int, most: int) -> int:
    enough = range(min(most, num_examples // MIN_EXAMPLES_PER_CORE), 1, -1)
    return next((count for count in enough if num_examples % count == 0), 1)


def available() -> list[jax.Device]:
    """All devices of all processes."""
    return jax.devices()


def make_mesh(seed_devices: int = 1) -> Mesh:
    """`seed_devices` along `seed`, which must divide the number of devices, and the others along `data`."""
    devices = available()
    shape = (seed_devices, len(devices) // seed_devices)
    return jax.make_mesh(shape, (SEED, DATA), axis_types=(AxisType.Auto,) * 2, devices=devices)


def training_mesh(num_seeds: int, batch_size: int, num_microbatches: int, seed_devices: int | None = None) -> Mesh:
    """The mesh on which `num_seeds` train with batches of `batch_size` each, in `num_microbatches`.

    Without `seed_devices`, as many lie along `seed` as can: what divides both the seeds and the devices.

    Raises:
        ValueError: the seeds or the batch cannot be split evenly.
    """
    count = len(available())
    along_seed = math.gcd(num_seeds, count) if seed_devices is None else seed_devices
    if num_seeds % along_seed or count % along_seed:
        raise ValueError(
            f"training.seed_devices must divide both num_seeds ({num_seeds}) and the number of devices ({count}), "
            f"got {along_seed}"
        )
    along_data = count // along_seed
    if batch_size % (along_data * num_microbatches):
        raise ValueError(
            f"training.batch_size must be a multiple of {along_data * num_microbatches}, got {batch_size}: "
            f"{along_data} of {count} devices share it, each in training.num_microbatches = {num_microbatches} parts "
            "(JAX can be given fewer devices, by CUDA_VISIBLE_DEVICES or JAX_NUM_CPU_DEVICES for instance)"
        )
    return make_mesh(along_seed)


def place(tree: Any, mesh: Mesh, *axes: str | tuple[str, ...] | None) -> Any:
    """Arrays, the same on every process, laid on `mesh`: their first axes split along `axes`, the rest repeated."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def put(leaf: Any) -> Any:
        if jax.process_count() == 1 or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # JAX does not send these to other processes
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        here = np.asarray(leaf)
        return jax.make_array_from_callback(here.shape, sharding, lambda part: here[part])

    return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
    """Whole arrays in the memory of every process, as NumPy's. All processes must call it."""

    def get(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(get, tree)
