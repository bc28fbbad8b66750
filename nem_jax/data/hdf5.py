"""Reading the N-EM HDF5 layout: groups training / validation / test, each with

    features  (T, N, H, W, C)  in [0, 1]
    groups    (T, N, H, W, 1)  1..n, and 0 where no or several objects are
    overlaps  (T, N, H, W, 1)  number of objects per pixel; optional

T frames of N examples, T = 1 for static images. Files are checked when they are loaded, then lie on the device as
N rows; a split that is too large for that is streamed: `StreamedSplit.fetch` reads the rows that the next steps need.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Num

from nem_jax.data.split import SPLITS, Dataset, Split
from nem_jax.types import Example

MAX_RESIDENT_BYTES = 2**31
_BLOCK_BYTES = 2**26
AXES = {"features": "(T, N, H, W, C)", "groups": "(T, N, H, W, 1)", "overlaps": "(T, N, H, W, 1)"}
"""The arrays of a split."""


class StoredArrays(NamedTuple):
    """Rows of a stored split, on the device or the host; `sample_stored` turns one into an `Example`.

    Small integers are uint8 to save memory.
    """

    x: Num[Array | np.ndarray, "N F H W C"]
    """float32, or uint8 where all values are 0 or 1."""
    groups: Integer[Array | np.ndarray, "N F H W 1"]
    overlaps: Integer[Array | np.ndarray, "N F H W 1"] | None = None
    """None: not known, 1 where groups > 0 and else 0."""
    rows: Int[Array | np.ndarray, " N"] | None = None
    """Increasing: which examples these are; None: all, in order."""


def sample_stored(source: StoredArrays, index: Int[Array, ""]) -> Example:
    """Example number `index` of the split, which must be among `source.rows`."""
    row = index if source.rows is None else jnp.searchsorted(source.rows, index)
    groups = source.groups[row].astype(jnp.int32)
    overlaps = groups > 0 if source.overlaps is None else source.overlaps[row]
    return Example(source.x[row].astype(jnp.float32), groups, overlaps.astype(jnp.int32))


class StreamedSplit(Split):
    """A split that stays in its file: `source` is a reader on the host, no pytree of arrays; `fetch` makes one."""

    __slots__ = ()

    def fetch(self, index: Any) -> StoredArrays:
        """The source with which `sample` serves all of `index` (any shape): as many rows as `index` has entries."""
        return _to_device(self.source.read_rows(np.asarray(index).reshape(-1)))

    def moved(self, place: Callable[[Any], Any]) -> "StreamedSplit":
        """Unchanged: its rows stay in the file."""
        del place
        return self


@dataclass(frozen=True)
class _Reader:
    """The first `size` examples and `num_frames` frames of one split of an open file.

    `dtypes` are those on the device; `scan` fills them in.
    """

    name: str
    arrays: dict[str, h5py.Dataset]
    size: int
    num_frames: int
    dtypes: dict[str, np.dtype] = field(default_factory=dict)

    @property
    def layout(self) -> tuple[tuple[int, int, int], int]:
        """(image shape, number of frames)."""
        return self.arrays["features"].shape[2:], self.num_frames

    def scan(self, max_bytes: int) -> tuple[int, StoredArrays | None]:
        """Check all values in one pass, block by block.

        Returns the largest group, and all rows unless they take more than `max_bytes`.
        """
        blocks: dict[str, list[np.ndarray]] = {key: [] for key in self.arrays}
        num_values = dict.fromkeys(self.arrays, 0)
        num_bytes = num_groups = 0
        for key in self.arrays:
            for start, block in self._blocks(key):
                _check_block(f"{self._file}: {self.name}/{key}", key, start, block)
                num_groups = max(num_groups, int(block.max())) if key == "groups" else num_groups
                rows = _compact(key, np.moveaxis(block, 1, 0))
                self.dtypes[key] = np.result_type(rows.dtype, self.dtypes.get(key, rows.dtype))
                num_values[key] += rows.size
                num_bytes = sum(num_values[key] * dtype.itemsize for key, dtype in self.dtypes.items())
                if num_bytes <= max_bytes:
                    blocks[key].append(rows)
                else:
                    blocks = {key: [] for key in self.arrays}
        if num_bytes > max_bytes:
            return num_groups, None
        arrays = {key: np.concatenate(rows, dtype=self.dtypes[key]) for key, rows in blocks.items()}
        return num_groups, StoredArrays(arrays["features"], arrays["groups"], arrays.get("overlaps"))

    def read_rows(self, index: np.ndarray) -> StoredArrays:
        """The rows of `index`, each once and in order; the last is repeated, so that the shapes depend on none."""
        if index.min() < 0 or index.max() >= self.size:
            raise IndexError(f"{self.name} has examples 0 to {self.size - 1}, got {index.min()} to {index.max()}")
        rows = np.unique(index)
        rows = np.pad(rows, (0, index.size - rows.size), mode="edge")
        arrays = {key: np.empty(self._shape(key, rows.size), dtype) for key, dtype in self.dtypes.items()}
        for key, out in arrays.items():
            # Row by row: h5py's selection by a list takes four times as long on 6,400 random rows of 28x28.
            for position, row in enumerate(rows):
                repeated = position > 0 and row == rows[position - 1]
                out[position] = out[position - 1] if repeated else self.arrays[key][: self.num_frames, row]
        return StoredArrays(arrays["features"], arrays["groups"], arrays.get("overlaps"), rows.astype(np.int32))

    @property
    def _file(self) -> str:
        return self.arrays["features"].file.filename

    def _shape(self, key: str, num_rows: int) -> tuple[int, ...]:
        return (num_rows, self.num_frames, *self.arrays[key].shape[2:])

    def _blocks(self, key: str) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, `[F, rows, H, W, C]`) of consecutive rows that fit into `_BLOCK_BYTES`."""
        array = self.arrays[key]
        step = int(max(1, _BLOCK_BYTES // (np.prod(self._shape(key, 1)) * array.dtype.itemsize)))
        for start in range(0, self.size, step):
            try:
                block = array[: self.num_frames, start : min(start + step, self.size)]
            except OSError as error:
                raise ValueError(f"{self._file}: {self.name}/{key} cannot be read: {error}") from error
            yield start, block


def load_hdf5(
    path: str | Path,
    sizes: tuple[int, int, int] | None = None,
    *,
    num_frames: int | None = None,
    max_resident_bytes: int = MAX_RESIDENT_BYTES,
) -> Dataset:
    """The data set in a file of the N-EM layout, every value that will be used checked.

    Args:
        path: of the file.
        sizes: number of training, validation and test examples, the first ones of each split; None: all.
        num_frames: the first so many frames are used; None: all. A static file (T = 1) serves any number.
        max_resident_bytes: a split that would take more on the device stays in the file, from which its `fetch` reads.

    Raises:
        FileNotFoundError, ValueError: one sentence that names the file, the array and what is allowed.
    """
    file = _open_file(path)
    try:
        readers = _open_splits(file, sizes, num_frames)
        num_groups, splits = 0, {}
        for name, reader in readers.items():
            largest, rows = reader.scan(max_resident_bytes)
            num_groups = max(num_groups, largest)
            splits[name] = StreamedSplit(reader, reader.size) if rows is None else Split(_to_device(rows), reader.size)
    except ValueError:
        file.close()
        raise
    # From here on the file closes with its last reader.
    return Dataset(sample_stored, splits, *readers["training"].layout, num_groups)


def _to_device(arrays: StoredArrays) -> StoredArrays:
    return jax.tree.map(jnp.asarray, arrays)


def _open_file(path: str | Path) -> h5py.File:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"data.path: there is no file {path}")
    try:
        # The cache holds the chunks of neighbouring rows, so that rows read in order decompress each chunk once.
        return h5py.File(path, "r", rdcc_nbytes=_BLOCK_BYTES)
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error


def _open_splits(file: h5py.File, sizes: tuple[int, int, int] | None, num_frames: int | None) -> dict[str, _Reader]:
    """A reader for each split, all shapes checked."""
    asked = dict.fromkeys(SPLITS) if sizes is None else dict(zip(SPLITS, sizes, strict=True))
    readers = {name: _open_split(file, name, size, num_frames) for name, size in asked.items()}
    for name, reader in readers.items():
        if reader.layout != readers["training"].layout:
            raise ValueError(
                f"{file.filename}: all splits must have the same image shape and frames, but training has "
                f"{readers['training'].layout} and {name} {reader.layout}"
            )
    return readers


def _open_split(file: h5py.File, name: str, size: int | None, num_frames: int | None) -> _Reader:
    where = f"{file.filename}: {name}"
    if not isinstance(file.get(name), h5py.Group):
        raise ValueError(f"{where} is missing: the file must have the groups {', '.join(SPLITS)}, it has {list(file)}")
    arrays = {key: file[name].get(key) for key in AXES if key in file[name]}
    for key in ("features", "groups"):
        if key not in arrays:
            raise ValueError(f"{where}/{key} is missing: every split must have features and groups")
    expected = (*arrays["features"].shape[:4], 1) if isinstance(arrays["features"], h5py.Dataset) else ()
    for key, array in arrays.items():
        if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "fiub":
            raise ValueError(f"{where}/{key} must be an array of numbers")
        if array.ndim != 5 or 0 in array.shape:
            raise ValueError(f"{where}/{key} must have five axes {AXES[key]}, none of them empty, got {array.shape}")
        if key != "features" and array.shape != expected:
            raise ValueError(f"{where}/{key} must have features' shape with one channel, {expected}, got {array.shape}")
    frames, examples = arrays["features"].shape[:2]
    size = examples if size is None else size
    if not 1 <= size <= examples:
        raise ValueError(f"data.num_{name} is {size}, but {file.filename} has {examples} {name} examples")
    if frames > 1 and num_frames is not None and frames < num_frames:
        raise ValueError(f"{where}/features has {frames} frames, {num_frames} are needed (EM steps + lookahead)")
    return _Reader(name, arrays, size, frames if frames == 1 or num_frames is None else num_frames)


def _check_block(where: str, key: str, start: int, block: np.ndarray) -> None:
    """Refuse features outside [0, 1], and groups or overlaps that are no counts. NaN fails every comparison."""
    if key == "features":
        allowed, is_good = "numbers in [0, 1]", (block >= 0) & (block <= 1)
    else:
        allowed, is_good = "whole numbers from 0", (block >= 0) & (block < 2**31) & (block == np.floor(block))
    if not is_good.all():
        frame, row, *pixel = np.argwhere(~is_good)[0]
        raise ValueError(f"{where} must hold {allowed}, but example {start + row} has {block[frame, row, *pixel]}")


def _compact(key: str, rows: np.ndarray) -> np.ndarray:
    """In the smallest type of the device that holds these rows exactly; float64 features become float32."""
    if key == "features":
        return rows.astype(np.uint8 if np.all((rows == 0) | (rows == 1)) else np.float32)
    return rows.astype(np.uint8 if rows.max() <= np.iinfo(np.uint8).max else np.int32)
