"""The very 20x20 images of Tagger's shapes experiment (Tagger section 4.1), redrawn from the published script's stream.

The authors' generator `data/shapes.py` seeds NumPy's legacy generator with 265076 and draws, one after the other,
50,000 training, 10,000 validation and 10,000 test images of three shapes and 10,000 images of a single one. Each shape
takes three scalar draws in this order: its type (square, triangle, triangle upside down), x in [0, W - width] and y in
[0, H - height] of its top-left corner. Labels are 1..n in draw order, 0 on the background and where shapes overlap.
Seed, order and bounds are read from the script. That the stream is still the one of the authors' NumPy is NumPy's
promise for `RandomState`; the images were not compared with the authors' own file.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from nem_jax.data.hdf5 import StoredArrays, sample_stored
from nem_jax.data.shapes import TEMPLATES
from nem_jax.data.split import SPLITS, Dataset, Split

SEED = 265076
NUM_OBJECTS = 3
IMAGE_SIZE = 20
SIZES = {"training": 50_000, "validation": 10_000, "test": 10_000, "single": 10_000}
"""In the order of the stream; "single" has one shape per image."""


def draw_placements(random_state: np.random.RandomState, num_images: int, num_objects: int) -> Int[np.ndarray, "N n 3"]:
    """(type, x, y) of each shape of each image.

    Drawn one by one: where x and y end depends on the type, and so does what the draws take from the stream.
    """
    randint = random_state.randint
    room = [(IMAGE_SIZE - width + 1, IMAGE_SIZE - height + 1) for height, width in (t.shape for t in TEMPLATES)]
    placements = []
    for _ in range(num_images * num_objects):
        shape_type = randint(0, len(TEMPLATES))
        max_x, max_y = room[shape_type]
        placements.append((shape_type, randint(0, max_x), randint(0, max_y)))
    return np.array(placements).reshape(num_images, num_objects, 3)


def draw_images(placements: Int[np.ndarray, "N n 3"]) -> StoredArrays:
    """The images of these (type, x, y), as uint8 arrays `[N, 1, H, W, 1]` on the host."""
    overlaps = np.zeros((len(placements), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    groups = np.zeros_like(overlaps)
    for label, (types, x, y) in enumerate(np.transpose(placements, (1, 2, 0)), start=1):
        for shape_type, template in enumerate(TEMPLATES):
            rows, columns = np.nonzero(template)
            images = np.flatnonzero(types == shape_type)[:, None]
            pixels = (images, y[images] + rows, x[images] + columns)
            overlaps[pixels] += 1
            groups[pixels] = label
    groups[overlaps > 1] = 0
    return StoredArrays(*(array[:, None, :, :, None] for array in (np.minimum(overlaps, 1), groups, overlaps)))


def published_arrays() -> dict[str, StoredArrays]:
    """All 80,000 images by the names in `SIZES`, on the host, 2 to 3 seconds of one core."""
    random_state = np.random.RandomState(SEED)
    objects = {name: 1 if name == "single" else NUM_OBJECTS for name in SIZES}
    return {name: draw_images(draw_placements(random_state, size, objects[name])) for name, size in SIZES.items()}


def published_shapes(sizes: tuple[int, int, int] = (50_000, 10_000, 10_000)) -> Dataset:
    """Tagger's shapes (20x20, three per image): the first images of each published split, without the single shapes.

    Args:
        sizes: number of training, validation and test images, at most those published.

    Raises:
        ValueError: there are not so many; the sentence names the field of a configuration.
    """
    for name, size in zip(SPLITS, sizes, strict=True):
        if not 1 <= size <= SIZES[name]:
            raise ValueError(f"data.num_{name} is {size}, but the published shapes have {SIZES[name]} {name} images")
    arrays, splits = published_arrays(), {}
    for name, size in zip(SPLITS, sizes, strict=True):
        first = jax.tree.map(lambda array, size=size: jnp.asarray(array[:size]), arrays[name])
        splits[name] = Split(first, size)
    return Dataset(sample_stored, splits, (IMAGE_SIZE, IMAGE_SIZE, 1), num_frames=1, num_groups=NUM_OBJECTS)
