"""Writing the N-EM HDF5 layout, which `nem_jax.data.hdf5` describes and reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from nem_jax.data.hdf5 import AXES
from nem_jax.data.split import Dataset

STORED_CHUNK_BYTES = 2**16


def write_hdf5(path: str | Path, dataset: Dataset, batch_size: int = 1000) -> None:
    """Write every split of `dataset` to a new file in `nem_jax.data.hdf5`'s layout, with `overlaps`, gzip-compressed.

    The file appears under its name when it is complete; until then it is `<path>.partial`.

    Raises:
        FileExistsError: `path` exists; it is left as it is.
        FileNotFoundError: its directory does not.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no directory {path.parent}")

    def stored(source: Any, index: jax.Array) -> tuple[jax.Array, ...]:
        example = dataset.sample(source, index)
        return example.x, example.groups, example.overlaps

    sample = jax.jit(jax.vmap(stored, in_axes=(None, 0)))
    counts = np.uint8 if dataset.num_groups <= np.iinfo(np.uint8).max else np.int32
    partial = path.with_name(path.name + ".partial")
    file = h5py.File(partial, "w")
    try:
        with file:
            for name, split in dataset.splits.items():
                group = file.create_group(name)
                for start in range(0, split.size, batch_size):
                    # The last batch is filled up with its last example: one shape, compiled once.
                    index = np.minimum(np.arange(start, start + batch_size), split.size - 1)
                    batch = jax.device_get(sample(split.fetch(index), jnp.asarray(index)))
                    used = jax.tree.map(lambda a, n=split.size - start: a[:n], batch)
                    _write_rows(group, split.size, start, used, dtypes=(np.float32, counts, np.int32))
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_rows(group: h5py.Group, size: int, start: int, batch: Sequence[np.ndarray], dtypes: Sequence[type]) -> None:
    for key, rows, dtype in zip(AXES, batch, dtypes, strict=True):
        frames_first: np.ndarray = np.moveaxis(np.asarray(rows, dtype), 0, 1)
        if key not in group:
            shape = (frames_first.shape[0], size, *frames_first.shape[2:])
            # All frames of a few examples: a streamed row costs one small chunk.
            chunk_rows = min(size, max(1, STORED_CHUNK_BYTES * len(rows) // frames_first.nbytes))
            chunks = (shape[0], chunk_rows, *shape[2:])
            group.create_dataset(key, shape, dtype, chunks=chunks, compression="gzip", shuffle=True)
        group[key][:, start : start + len(rows)] = frames_first
