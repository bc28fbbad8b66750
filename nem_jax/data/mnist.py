"""Pictures of handwritten digits: MNIST from its IDX files or OpenML, and scikit-learn's small bundled set.

N-EM's section 4.3 down-samples the digits without saying how; ours are the means of 2x2 pixels, 14x14.
"""

import functools
import gzip
import math
import warnings
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

IMAGE_SIZE = 28
NUM_IMAGES = {"train": 60_000, "t10k": 10_000}
"""MNIST's training and test images, by the beginnings of their file names."""

NUM_SKLEARN_TRAINING = 1500
_GZIP_MAGIC = b"\x1f\x8b"
_BYTES_MAGIC = b"\0\0\x08"


class Digits(NamedTuple):
    """Pictures in [0, 1] as they are pasted, float32 on the host."""

    training: Float[np.ndarray, "P h w"]
    test: Float[np.ndarray, "Q h w"]


def load_mnist(directory: str | Path | None = None) -> Digits:
    """MNIST, 60,000 and 10,000 digits of 14x14: the 2x2 means of the published 28x28. Read once: callers share them.

    Args:
        directory: holds the IDX files `train-images-idx3-ubyte` and `t10k-images-idx3-ubyte`, with or without `.gz`;
            None: OpenML's copy by scikit-learn, which downloads it once and keeps it.

    Raises:
        FileNotFoundError, ValueError: one sentence that names the file or says what to do without a network.
    """
    if directory is None:
        return _fetch_openml()
    return Digits(*(_load_images(Path(directory), part) for part in NUM_IMAGES))


def load_sklearn_digits() -> Digits:
    """The real 8x8 digits that come with scikit-learn, without a download: the first 1,500, the others as test."""
    from sklearn.datasets import load_digits  # half a second that only digits cost

    pictures = (load_digits().images / 16).astype(np.float32)  # stored as 0 to 16
    return Digits(pictures[:NUM_SKLEARN_TRAINING], pictures[NUM_SKLEARN_TRAINING:])


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array of bytes in an IDX file, compressed or not, whatever its number of axes (images three, labels one).

    Raises:
        FileNotFoundError, ValueError: one sentence that names the file: missing, no IDX, or not of the size it states.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged or truncated: {error}") from error
    if len(content) < 4 or not content.startswith(_BYTES_MAGIC):
        magic = content[:4].hex(" ") or "nothing"
        raise ValueError(f"{path} is no IDX file of bytes: it must begin with 00 00 08, but begins with {magic}")
    header_size = 4 + 4 * content[3]
    if len(content) < header_size:
        raise ValueError(f"{path} is truncated: its header takes {header_size} bytes, but it has {len(content)}")
    shape = tuple(np.frombuffer(content[4:header_size], ">u4").tolist())
    stated, actual = math.prod(shape), len(content) - header_size
    if stated != actual:
        fault = "is truncated" if actual < stated else "is too long"
        raise ValueError(f"{path} {fault}: its header states {_by(shape)} = {stated} bytes, but {actual} follow")
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def _load_images(directory: Path, part: str) -> np.ndarray:
    name = f"{part}-images-idx3-ubyte"
    candidates = [directory / f"{name}.gz", directory / name]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"data.mnist_dir: there is no file {name}.gz or {name} in {directory}")
    return _read_images(path.resolve(), path.stat().st_mtime_ns, part)


@functools.lru_cache(maxsize=len(NUM_IMAGES))  # each stage of a run, and each line of a table, asks for them
def _read_images(path: Path, modified: int, part: str) -> np.ndarray:
    """The part's digits in `path`, last `modified` then."""
    images, shape = read_idx(path), (NUM_IMAGES[part], IMAGE_SIZE, IMAGE_SIZE)
    if images.shape != shape:
        raise ValueError(f"{path} must hold {_by(shape)} bytes, but holds {_by(images.shape)}")
    return _halve(images)


@functools.cache  # its text takes a minute to parse
def _fetch_openml() -> Digits:
    """The first 60,000 rows as training images: OpenML's order was not compared with the IDX files."""
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings(action="ignore"):  # of what it tries again: if that fails, the error says it all
            rows = fetch_openml("mnist_784", version=1, parser="liac-arff", as_frame=False).data
    except (OSError, EOFError, HTTPException) as error:
        raise ValueError(
            "MNIST cannot be downloaded from OpenML: give data.mnist_dir (--mnist_dir of an evaluation), a directory "
            f"with its IDX files, or data.digits='sklearn' (--digits=sklearn) ({type(error).__name__}: {error})"
        ) from error
    images, num_training = rows.astype(np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE), NUM_IMAGES["train"]
    return Digits(_halve(images[:num_training]), _halve(images[num_training:]))


def _halve(images: np.ndarray) -> np.ndarray:
    """Means of 2x2 bytes, as float32 in [0, 1]."""
    total = sum(images[:, y::2, x::2].astype(np.float32) for y in (0, 1) for x in (0, 1))
    means = np.asarray(total / np.float32(4 * 255))
    means.flags.writeable = False  # they are shared
    return means


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
