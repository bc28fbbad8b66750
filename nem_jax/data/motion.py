"""How objects fly (N-EM sections 4.2 and 4.3): whole pixels, constant speed, reflected at the border.

No script is published. The rule is the one that reproduces the frames of the published flying shapes: an axis velocity
in {-1, 0, 1} turns *before* a move that would leave the canvas, so that no frame is shown twice: 20, 21, 20.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from nem_jax.types import PRNGKey


def bounce(
    position: Int[Array, "N 2"], velocity: Int[Array, "N 2"], room: Int[Array, "N 2"], num_frames: int
) -> tuple[Int[Array, "F N 2"], Int[Array, "F N 2"]]:
    """(positions, velocities) of N objects in each of F frames; each frame a pure function of its number.

    A triangle wave: the position unfolded by reflection grows with time and is taken modulo there and back.

    Args:
        position: (y, x) in the first frame, in [0, room].
        velocity: -1, 0 or 1 per axis.
        room: the largest position per axis; an axis without room stays at 0 with a velocity of 0.
        num_frames: F.

    Returns:
        The velocity of frame f leads to frame f + 1; that of frame 0 is turned where `velocity` would lead outside.
    """
    speed = jnp.abs(velocity) * (room > 0)
    period = 2 * jnp.maximum(room, 1)
    start = jnp.where(velocity < 0, period - position, position)
    frame = jnp.arange(num_frames)[:, None, None]
    phase = (start[None] + frame * speed[None]) % period[None]
    positions = jnp.minimum(phase, period[None] - phase)
    return positions, jnp.where(phase < room[None], speed[None], -speed[None])


def draw_velocities(key: PRNGKey, num_objects: int) -> Int[Array, "N 2"]:
    """(vy, vx) of each object, uniform in {-1, 0, 1} per axis: our choice, the papers do not say."""
    return jax.random.randint(key, (num_objects, 2), -1, 2)
