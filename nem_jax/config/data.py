"""`config.data` -> a function that loads the data set."""

import functools
import math
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from nem_jax.config.checks import choice, given_exactly_if, given_only_if, integer, value
from nem_jax.data import mnist, shapes
from nem_jax.data.flying_mnist import flying_mnist
from nem_jax.data.hdf5 import load_hdf5
from nem_jax.data.published_shapes import NUM_OBJECTS, published_shapes
from nem_jax.data.split import SPLITS, Dataset
from nem_jax.partitions import MAX_PIXELS

SHAPE_GENERATORS = ("static_shapes", "flying_shapes")
MNIST_GENERATORS = ("static_mnist", "flying_mnist")
GENERATORS = (*SHAPE_GENERATORS, "published_shapes", *MNIST_GENERATORS)
MNIST_OPTIONS = ("data.mnist_dir", "data.digit_pool")
DIGITS = ("mnist", "sklearn")
MAX_SEED = 2**32 - 1
MAX_EXAMPLES = 2**31 - 1
"""Of a split: their numbers are int32."""

Load = Callable[[], Dataset]


def build_data(config: ConfigDict) -> Load:
    """Check `config.data`; what it returns is the first thing that reads a file or touches a device."""
    data = config.data
    integer(config, "data.seed", 0, MAX_SEED)
    integer(config, "data.num_objects", 1)
    choice(config, "data.generator", GENERATORS)
    stored = value(config, "data.path") is not None
    smallest = shapes.MIN_IMAGE_SIZE if data.generator in SHAPE_GENERATORS and not stored else 1
    integer(config, "data.image_size", smallest, math.isqrt(MAX_PIXELS))
    for split in SPLITS:
        integer(config, f"data.num_{split}", 1, MAX_EXAMPLES)
    sizes = (data.num_training, data.num_validation, data.num_test)
    num_frames = config.model.num_steps + config.model.lookahead
    generate = _build_generator(config, sizes, num_frames)
    if (stored or data.generator == "published_shapes") and data.seed != 0:
        raise ValueError(f"data.seed is {data.seed}, but nothing is drawn from it: leave it at 0")
    if not stored:
        return generate
    load = functools.partial(load_hdf5, Path(data.path), sizes, num_frames=num_frames)
    return lambda: _checked(load(), data.image_size, data.num_objects)


def change_generator(config: ConfigDict, generator: str) -> None:
    """Generated data in the place of those that `config` has, with what else goes with the generator: MNIST's digits,
    if there were none; of the published shapes the only seed.
    """
    data = config.data
    data.path, data.generator = None, generator
    if generator == "published_shapes":
        data.seed = 0
    if generator not in MNIST_GENERATORS:
        data.digits = data.digit_pool = data.mnist_dir = None
    elif data.digits is None:
        data.digits = "mnist"


def change_digits(config: ConfigDict, digits: str) -> None:
    """Digits of `config`'s MNIST data; others than it had come without its pool and directory."""
    if digits != config.data.digits:
        config.data.mnist_dir = config.data.digit_pool = None
    config.data.digits = digits


def _build_generator(config: ConfigDict, sizes: tuple[int, int, int], num_frames: int) -> Load:
    data, generator = config.data, config.data.generator
    of_digits = "data.generator is 'static_mnist' or 'flying_mnist'"
    given_exactly_if(config, "data.digits", generator in MNIST_GENERATORS, of_digits)
    given_only_if(config, MNIST_OPTIONS, generator in MNIST_GENERATORS, of_digits)
    given_only_if(config, MNIST_OPTIONS, data.path is None, "data.path is None")
    if generator in MNIST_GENERATORS:
        frames = 1 if generator == "static_mnist" else num_frames
        return _build_mnist(config, sizes, frames)
    if generator == "published_shapes":
        if data.path is None and data.num_objects != NUM_OBJECTS:
            of_published = f"{NUM_OBJECTS} if data.generator is 'published_shapes'"
            raise ValueError(f"data.num_objects must be {of_published}, got {data.num_objects}")
        return lambda: _checked(published_shapes(sizes), data.image_size, data.num_objects)
    scene = {"num_objects": data.num_objects, "image_size": data.image_size}
    if generator == "flying_shapes":
        return functools.partial(shapes.flying_shapes, data.seed, sizes, num_frames=num_frames, **scene)
    return functools.partial(shapes.static_shapes, data.seed, sizes, **scene)


def _build_mnist(config: ConfigDict, sizes: tuple[int, int, int], num_frames: int) -> Load:
    data = config.data
    choice(config, "data.digits", DIGITS)
    if data.digit_pool is not None:
        integer(config, "data.digit_pool", 1)
    if data.mnist_dir is not None and data.digits != "mnist":
        raise ValueError(f"data.mnist_dir is given, but data.digits is {data.digits!r}")

    def load() -> Dataset:
        digits = mnist.load_mnist(data.mnist_dir) if data.digits == "mnist" else mnist.load_sklearn_digits()
        return flying_mnist(
            data.seed,
            sizes,
            digits,
            num_frames=num_frames,
            num_objects=data.num_objects,
            image_size=data.image_size,
            digit_pool=data.digit_pool,
        )

    return load


def _checked(dataset: Dataset, image_size: int, num_objects: int) -> Dataset:
    """Stored data must be what the configuration says of it, as networks and metrics are sized by that."""
    if dataset.image_shape != (image_size, image_size, 1):
        shape = "x".join(map(str, dataset.image_shape))
        raise ValueError(f"data.image_size is {image_size}, of one channel, but the images in the data are {shape}")
    if dataset.num_groups > num_objects:
        raise ValueError(f"data.num_objects is {num_objects}, but the stored groups go up to {dataset.num_groups}")
    return dataset
