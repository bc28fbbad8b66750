"""Static and flying shapes (N-EM sections 4.1 and 4.2, Tagger section 4.1): overlapping squares and triangles, binary.

Each of n shapes has a type (square, triangle, triangle upside down; with replacement) and a position at which it lies
fully inside the canvas, all uniform. The image is the OR of the shapes. Flying shapes start there and move as
`nem_jax.data.motion` says, through each other; a static image is a sequence of one frame. For flying shapes no script
is published; that all three types fly is our choice.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nem_jax.data.motion import bounce, draw_velocities
from nem_jax.data.scene import render
from nem_jax.data.split import Dataset, bound, generated_splits
from nem_jax.types import Example, PRNGKey, check_counts

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

_VELOCITY_STREAM = 2
"""Folded into the key of an example: apart from streams 0 and 1 of its `split`, which draw types and positions."""


def sample_shapes(
    split_key: PRNGKey, index: Int[Array, ""], num_objects: int, canvas: tuple[int, int], num_frames: int = 1
) -> Example:
    """Sequence number `index` of the split: a pure function of both, `x [F, H, W, 1]` in {0, 1}.

    Its first f frames are the same for every `num_frames` of at least f.
    """
    key = jax.random.fold_in(split_key, index)
    type_key, position_key = jax.random.split(key)
    types = jax.random.randint(type_key, (num_objects,), 0, len(TEMPLATES))
    room = jnp.asarray(canvas)[None] - jnp.asarray(_EXTENTS)[types]
    positions = jax.random.randint(position_key, (num_objects, 2), 0, room + 1)
    velocities = draw_velocities(jax.random.fold_in(key, _VELOCITY_STREAM), num_objects)
    pictures = jnp.asarray(_PADDED, jnp.float32)[types]
    return render(pictures, *bounce(positions, velocities, room, num_frames), canvas)


def flying_shapes(
    seed: int, sizes: tuple[int, int, int], *, num_frames: int, num_objects: int = 3, image_size: int = 28
) -> Dataset:
    """The data set of N-EM's section 4.2. Frame 0 of sequence i is image i of `static_shapes` with the same arguments.

    Args:
        seed: of the data alone.
        sizes: number of training, validation and test sequences.
        num_frames: F, EM steps + lookahead: 21 in the paper.
        num_objects: shapes per sequence.
        image_size: height and width of the canvas, at least 12 pixels.

    Raises:
        ValueError: `image_size` is smaller, or a count below 1.
    """
    check_counts(num_frames=num_frames, num_objects=num_objects)
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE}, the width of a triangle, got {image_size}")
    canvas = (image_size, image_size)
    sample = bound(sample_shapes, num_objects=num_objects, canvas=canvas, num_frames=num_frames)
    return Dataset(sample, generated_splits(seed, sizes), (*canvas, 1), num_frames, num_groups=num_objects)


def static_shapes(seed: int, sizes: tuple[int, int, int], *, num_objects: int = 3, image_size: int = 28) -> Dataset:
    """The data set of N-EM's section 4.1 (28x28, 3 shapes) and of Tagger's shapes experiment (20x20, 3 shapes).

    Args:
        seed: of the data alone.
        sizes: number of training, validation and test images.
        num_objects: shapes per image.
        image_size: height and width of the canvas, at least 12 pixels.

    Raises:
        ValueError: `image_size` is smaller, or a count below 1.
    """
    return flying_shapes(seed, sizes, num_frames=1, num_objects=num_objects, image_size=image_size)
