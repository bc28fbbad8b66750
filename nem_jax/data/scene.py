"""From pictures at their places to frames with labels: what a pixel under several objects shows, and whose it is.

The pixel is the maximum over the objects, which for binary shapes is their OR. An object covers a pixel where it is at
least `COVERED`; a pixel has the label of the object that covers it alone, and else 0.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nem_jax.types import Example, Objects

COVERED = 0.5


def paste(picture: Float[Array, "h w"], position: Int[Array, "2"], canvas: tuple[int, int]) -> Float[Array, "H W"]:
    """A black canvas with `picture`, its top-left corner at `position` = (y, x); what reaches beyond is cut off."""
    (height, width), (y, x) = picture.shape, (jnp.arange(n) - p for n, p in zip(canvas, position, strict=True))
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
    # Each pixel looks up its own: six times as fast on a CPU as writing the picture into the canvas.
    return jnp.where(inside, picture[jnp.clip(y, 0, height - 1)[:, None], jnp.clip(x, 0, width - 1)[None]], 0)


def compose(masks: Float[Array, "F N H W"]) -> Example:
    """F frames of N objects, labelled 1..N in the order of the masks; `overlaps` counts those on each pixel."""
    covers = masks >= COVERED
    overlaps = jnp.sum(covers, axis=1, dtype=jnp.int32)
    labels = jnp.arange(1, masks.shape[1] + 1)[None, :, None, None]
    groups = jnp.where(overlaps == 1, jnp.sum(covers * labels, axis=1), 0)
    return Example(jnp.max(masks, axis=1)[..., None], groups[..., None], overlaps[..., None])


def render(
    pictures: Float[Array, "N h w"],
    positions: Int[Array, "F N 2"],
    velocities: Int[Array, "F N 2"],
    canvas: tuple[int, int],
) -> Example:
    """The frames of N moving pictures, and the `Objects` themselves: XLA drops what a jitted caller leaves unused."""
    paste_all = jax.vmap(functools.partial(paste, canvas=canvas))
    masks = jax.vmap(paste_all, in_axes=(None, 0))(pictures, positions)
    return compose(masks)._replace(objects=Objects(masks[..., None], positions, velocities))
