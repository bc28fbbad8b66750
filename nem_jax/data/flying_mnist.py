"""Flying MNIST (N-EM section 4.3): grey handwritten digits that move through each other and bounce off the border.

The paper published no script. It says: 24x24 pixels, down-sampled digits, two or three, random positions, linear
motion; training in stages on the first 20, the first 500 and all digits. Our own choices:

- a digit is the mean of 2x2 pixels of MNIST's, 14x14 (`nem_jax.data.mnist`);
- digits are drawn uniformly with replacement, start uniformly where they lie fully inside, and move by whole pixels as
  flying shapes do (`nem_jax.data.motion`);
- a pixel shows the brightest of its digits, and a digit covers a pixel where it is at least 0.5: `groups` is its label
  where no other does, `overlaps` how many do (`nem_jax.data.scene`);
- validation takes the last sixth of the training digits, 10,000 of MNIST's, which training leaves out; a pool of the
  first 20 or 500 serves all three splits.

One frame makes static digits: the paper's static two-digit MNIST is such a frame, repeated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nem_jax.data.mnist import Digits
from nem_jax.data.motion import bounce, draw_velocities
from nem_jax.data.scene import render
from nem_jax.data.split import SPLITS, Dataset, Split, bound, generated_splits
from nem_jax.types import Example, PRNGKey, check_counts

MAX_COVER = 2
"""So often may the frames of all digits together cover the canvas: the paper's three of 14x14 exceed 24x24."""


class DigitSource(NamedTuple):
    """The source of one split: sequences are drawn with `key` from the pool `pictures`, both on the device."""

    key: PRNGKey
    pictures: Float[Array, "P h w"]


def sample_digits(
    source: DigitSource, index: Int[Array, ""], num_frames: int, num_objects: int, canvas: tuple[int, int]
) -> Example:
    """Sequence number `index` of the split: a pure function of both, `x [F, H, W, 1]` in [0, 1]."""
    keys = jax.random.split(jax.random.fold_in(source.key, index), 3)
    pool_size, *extent = source.pictures.shape
    pictures = source.pictures[jax.random.randint(keys[0], (num_objects,), 0, pool_size)]
    room = jnp.tile(jnp.asarray(canvas) - jnp.asarray(extent), (num_objects, 1))
    positions = jax.random.randint(keys[1], (num_objects, 2), 0, room + 1)
    velocities = draw_velocities(keys[2], num_objects)
    return render(pictures, *bounce(positions, velocities, room, num_frames), canvas)


def digit_pools(digits: Digits, digit_pool: int | None) -> dict[str, Float[Array, "_ h w"]]:
    """What each split draws from, by the names in `SPLITS`, on the device; arguments as for `flying_mnist`."""
    available = len(digits.training)
    if digit_pool is not None:
        if not 1 <= digit_pool <= available:
            raise ValueError(f"data.digit_pool must be from 1 to the {available} training digits, got {digit_pool}")
        return dict.fromkeys(SPLITS, jnp.asarray(digits.training[:digit_pool]))
    num_training = available - available // 6
    parts = (digits.training[:num_training], digits.training[num_training:], digits.test)
    return dict(zip(SPLITS, map(jnp.asarray, parts), strict=True))


def flying_mnist(
    seed: int,
    sizes: tuple[int, int, int],
    digits: Digits,
    *,
    num_frames: int,
    num_objects: int = 2,
    image_size: int = 24,
    digit_pool: int | None = None,
) -> Dataset:
    """The data set of N-EM's section 4.3. Frame 0 of a sequence does not depend on `num_frames`.

    Args:
        seed: of the data alone.
        sizes: number of training, validation and test sequences.
        digits: as loaded, pasted as they are.
        num_frames: F, EM steps + lookahead; 1: static digits.
        num_objects: digits per sequence.
        image_size: height and width of the canvas.
        digit_pool: every split draws from the first so many training digits; None: training from all but their last
            sixth, validation from that, test from the test digits.

    Raises:
        ValueError: one sentence that names the field of a configuration: a digit larger than the canvas, more digits
            than the pool has, a pool of more than there are, or so many digits that they would cover the canvas more
            than twice; or a count below 1.
    """
    check_counts(num_frames=num_frames, num_objects=num_objects)
    _, height, width = digits.training.shape
    least = max(height, width)
    if image_size < least:
        raise ValueError(f"data.image_size must be at least {least}, the size of a digit, got {image_size}")
    most = MAX_COVER * image_size**2 // (height * width)
    if num_objects > most:
        raise ValueError(
            f"data.num_objects is {num_objects}, but only {most} digits of {height}x{width} fit into "
            f"{image_size}x{image_size} pixels, which they may cover twice"
        )
    pools = digit_pools(digits, digit_pool)
    smallest = min(len(pool) for pool in pools.values())
    if num_objects > smallest:
        raise ValueError(f"data.num_objects is {num_objects}, but the pool of digits (data.digit_pool) has {smallest}")
    splits = {
        name: Split(DigitSource(split.source, pools[name]), split.size)
        for name, split in generated_splits(seed, sizes).items()
    }
    canvas = (image_size, image_size)
    sample = bound(sample_digits, num_frames=num_frames, num_objects=num_objects, canvas=canvas)
    return Dataset(sample, splits, (*canvas, 1), num_frames, num_groups=num_objects)
