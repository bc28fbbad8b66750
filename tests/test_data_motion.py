"""Flight by whole pixels: the closed form against a simulation that steps from frame to frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.data import motion, shapes
from nem_jax.data.scene import render

bounce = jax.jit(motion.bounce, static_argnames="num_frames")
draw_velocities = jax.jit(motion.draw_velocities, static_argnames="num_objects")

SIZE, NUM_FRAMES = 28, 20
PUBLISHED = ((0, 2, 19, 0, 0), (0, 13, 12, 1, 1), (1, 8, 10, 0, -1), (1, 15, 2, -1, 1), (1, 16, 12, 1, 0))
"""(type, y, x, vy, vx) at the start of the published sequence of five shapes."""


def simulate(position, velocity, room, num_frames):
    """One axis of one object: turn before a move that would leave [0, room]; stand still where there is no room."""
    positions, velocities = [], []
    for _ in range(num_frames):
        if not 0 <= position + velocity <= room:
            velocity = -velocity if room > 0 else 0
        positions.append(position)
        velocities.append(velocity)
        position += velocity
    return positions, velocities


def fly_published():
    start = np.array(PUBLISHED)
    room = SIZE - np.array([shapes.TEMPLATES[kind].shape for kind, *_ in PUBLISHED])
    return bounce(jnp.asarray(start[:, 1:3]), jnp.asarray(start[:, 3:]), jnp.asarray(room), NUM_FRAMES)


def test_every_start_flies_as_the_simulation():
    """On either axis; the other one has another start."""
    starts = np.array([(p, v, room) for room in range(6) for p in range(room + 1) for v in (-1, 0, 1)])
    expected = np.array([simulate(*start, 25) for start in starts])  # start, quantity, frame
    order = np.stack([np.arange(len(starts)), np.random.default_rng(0).permutation(len(starts))], axis=1)
    for quantity, flown in enumerate(bounce(*(jnp.asarray(starts[order, i]) for i in range(3)), num_frames=25)):
        assert flown.dtype == jnp.int32
        np.testing.assert_array_equal(flown, np.moveaxis(expected[order, quantity], -1, 0))


def test_velocities_lead_from_frame_to_frame():
    rng = np.random.default_rng(0)
    room = np.tile([7, 3], (50, 1))
    position, velocity = rng.integers(0, room + 1), rng.integers(-1, 2, (50, 2))
    positions, velocities = map(np.asarray, bounce(*map(jnp.asarray, (position, velocity, room)), num_frames=40))
    np.testing.assert_array_equal(positions[0], position)
    np.testing.assert_array_equal(np.diff(positions, axis=0), velocities[:-1])
    assert (positions >= 0).all() and (positions <= room).all()
    assert np.abs(np.diff(velocities, axis=0)).max() == 2  # some did turn


def test_velocities_are_a_stream_of_their_own():
    """As in the published numbers: types and positions are streams 0 and 1 of the example's key, these its stream 2."""
    dataset = shapes.flying_shapes(0, (4, 4, 4), num_frames=1)
    source = dataset.splits["training"].source
    for index in range(4):
        expected = draw_velocities(jax.random.fold_in(jax.random.fold_in(source, index), 2), num_objects=3)
        found = dataset.sample(source, jnp.int32(index)).objects.velocities[0]
        np.testing.assert_array_equal(np.abs(found), np.abs(expected))  # at the border they turn at once


def test_the_border_is_shown_once():
    """The published sequence: the last triangle comes down to 21 and turns, and so do the others."""
    positions, velocities = map(np.asarray, fly_published())
    np.testing.assert_array_equal(positions[:8, 4, 0], [16, 17, 18, 19, 20, 21, 20, 19])
    np.testing.assert_array_equal(velocities[:8, 4, 0], [1, 1, 1, 1, 1, -1, -1, -1])
    np.testing.assert_array_equal(positions[7:13, 1, 0], [20, 21, 20, 19, 18, 17])
    np.testing.assert_array_equal(positions[8:12, 2, 1], [2, 1, 0, 1])
    np.testing.assert_array_equal(positions[:, 0], np.tile([2, 19], (NUM_FRAMES, 1)))


def test_the_published_sequence_is_drawn_as_the_simulation_draws_it():
    overlaps = np.zeros((NUM_FRAMES, SIZE, SIZE), int)
    labels = np.zeros_like(overlaps)
    for label, (kind, y, x, vy, vx) in enumerate(PUBLISHED, start=1):
        template = shapes.TEMPLATES[kind]
        height, width = template.shape
        ys, xs = simulate(y, vy, SIZE - height, NUM_FRAMES)[0], simulate(x, vx, SIZE - width, NUM_FRAMES)[0]
        for frame, (top, left) in enumerate(zip(ys, xs, strict=True)):
            window = (frame, slice(top, top + height), slice(left, left + width))
            overlaps[window] += template
            labels[window] += label * template
    padded = [np.pad(template, ((0, 0), (0, 12 - template.shape[1]))) for template in shapes.TEMPLATES]
    pictures = np.array([padded[kind] for kind, *_ in PUBLISHED], np.float32)
    draw = jax.jit(render, static_argnames="canvas")
    example = jax.device_get(draw(jnp.asarray(pictures), *fly_published(), canvas=(SIZE, SIZE)))
    np.testing.assert_array_equal(example.x[..., 0], overlaps > 0)
    np.testing.assert_array_equal(example.overlaps[..., 0], overlaps)
    np.testing.assert_array_equal(example.groups[..., 0], np.where(overlaps == 1, labels, 0))
    assert overlaps.max() >= 2
    assert len({frame.tobytes() for frame in overlaps}) > NUM_FRAMES // 2


def test_later_frames_need_no_earlier_ones():
    start = [jnp.asarray(np.array([values])) for values in ((3, 0), (1, -1), (4, 9))]
    short, long = (np.asarray(bounce(*start, num_frames)[0]) for num_frames in (5, 500))
    np.testing.assert_array_equal(short, long[:5])
    np.testing.assert_array_equal(long[8 * 18 :], long[: 500 - 8 * 18])  # periods of 8 and 18


@pytest.mark.parametrize("axis", [0, 1])
def test_velocities_are_uniform(axis):
    velocities = np.asarray(draw_velocities(jax.random.key(1), 9000))
    assert velocities.shape == (9000, 2)
    for value in (-1, 0, 1):
        assert abs((velocities[:, axis] == value).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / 9000)
    assert set(np.unique(velocities)) == {-1, 0, 1}
    same = (velocities[:, 0] == velocities[:, 1]).mean()  # the axes are independent
    assert abs(same - 1 / 3) < 4 * np.sqrt(2 / 9 / 9000)
