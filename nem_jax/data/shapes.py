"""Static shapes (N-EM section 4.1, Tagger section 4.1): overlapping squares and triangles, binary.

Each of n shapes has a type (square, triangle, triangle upside down; with replacement) and a position at which it lies
fully inside the canvas, all uniform. The image is the OR of the shapes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nem_jax.data.split import Dataset, generated_splits
from nem_jax.types import Example, PRNGKey

_DRAWINGS = {
    "square": "#######  #######  ##...##  ##...##  ##...##  #######  #######",
    "triangle": ".....##..... ....####.... ...######... ..###..###.. .###....###. ############ ############",
}


def _template(drawing: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in drawing.split()], np.int32)


SQUARE, TRIANGLE = _template(_DRAWINGS["square"]), _template(_DRAWINGS["triangle"])
TEMPLATES = (SQUARE, TRIANGLE, TRIANGLE[::-1])
"""Binary pictures of the three shapes: 7x7 (40 pixels), 7x12 (48 pixels) and the latter upside down."""

_EXTENTS = np.array([template.shape for template in TEMPLATES])
_MAX_EXTENT = tuple(_EXTENTS.max(axis=0))
MIN_IMAGE_SIZE = int(max(_MAX_EXTENT))
"""Every shape fits in a canvas of this height and width."""

_PADDED = np.stack([np.pad(t, [(0, m - s) for s, m in zip(t.shape, _MAX_EXTENT, strict=True)]) for t in TEMPLATES])


def draw_shape(shape_type: Int[Array, ""], position: Int[Array, "2"], canvas: tuple[int, int]) -> Int[Array, "H W"]:
    """The binary mask of one shape with its top-left corner at `position` = (y, x)."""
    height, width = canvas
    padded = jnp.zeros((height + _MAX_EXTENT[0], width + _MAX_EXTENT[1]), jnp.int32)
    template = jnp.asarray(_PADDED)[shape_type]
    return jax.lax.dynamic_update_slice(padded, template, tuple(position))[:height, :width]


def compose(masks: Int[Array, "N H W"]) -> Example:
    """One static frame of n binary masks: x is their OR, groups 1..n in the order of the masks.

    Pixels under no or several masks have group 0; `overlaps` counts the masks on each pixel.
    """
    overlaps = jnp.sum(masks, axis=0)
    labels = jnp.arange(1, masks.shape[0] + 1)[:, None, None]
    groups = jnp.where(overlaps == 1, jnp.sum(masks * labels, axis=0), 0)
    x = (overlaps > 0).astype(jnp.float32)
    return Example(*(array[None, :, :, None] for array in (x, groups, overlaps)))


def sample_shapes(split_key: PRNGKey, index: Int[Array, ""], num_objects: int, canvas: tuple[int, int]) -> Example:
    """Image number `index` of the split: a pure function of both, `x [1, H, W, 1]` in {0, 1}."""
    type_key, position_key = jax.random.split(jax.random.fold_in(split_key, index))
    types = jax.random.randint(type_key, (num_objects,), 0, len(TEMPLATES))
    room = jnp.asarray(canvas)[None] - jnp.asarray(_EXTENTS)[types]
    positions = jax.random.randint(position_key, (num_objects, 2), 0, room + 1)
    return compose(jax.vmap(functools.partial(draw_shape, canvas=canvas))(types, positions))


def static_shapes(seed: int, sizes: tuple[int, int, int], num_objects: int = 3, image_size: int = 28) -> Dataset:
    """The data set of N-EM's section 4.1 (28x28, 3 shapes) and of Tagger's shapes experiment (20x20, 3 shapes).

    Args:
        seed: of the data alone.
        sizes: number of training, validation and test images.
        num_objects: shapes per image.
        image_size: height and width of the canvas, at least 12 pixels.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE}, the width of a triangle, got {image_size}")
    canvas = (image_size, image_size)
    sample = functools.partial(sample_shapes, num_objects=num_objects, canvas=canvas)
    return Dataset(sample, generated_splits(seed, sizes), (*canvas, 1), num_frames=1, num_groups=num_objects)
