"""Flying digits: pure functions of (split, index), labelled by the brightest rule, from the pool that was asked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.data import hdf5
from nem_jax.data.flying_mnist import digit_pools, flying_mnist
from nem_jax.data.hdf5_writer import write_hdf5
from nem_jax.data.mnist import Digits
from nem_jax.data.motion import draw_velocities
from nem_jax.data.scene import compose, paste
from nem_jax.data.split import SPLITS

pytestmark = pytest.mark.compiled_quickly

NUM_TRAINING, NUM_TEST, HEIGHT, WIDTH = 30, 7, 5, 3
SIZES, NUM_FRAMES, IMAGE_SIZE = (40, 9, 8), 6, 11


def numbered_digits():
    """Grey pictures, each recognisable by its brightest pixel, the upper left one: its number / 40."""
    pictures = np.random.default_rng(0).uniform(0, 0.25, (NUM_TRAINING + NUM_TEST, HEIGHT, WIDTH)).astype(np.float32)
    pictures[:, 1:3] += 0.5
    pictures[:, 0, 0] = (np.arange(NUM_TRAINING + NUM_TEST) + 1) / 40
    return Digits(pictures[:NUM_TRAINING], pictures[NUM_TRAINING:])


DIGITS = numbered_digits()
make = functools.partial(flying_mnist, 0, SIZES, DIGITS, num_frames=NUM_FRAMES, image_size=IMAGE_SIZE)


DATASET, POOLED = make(num_objects=3), make(digit_pool=20)


@functools.partial(jax.jit, static_argnums=0)
def sample_batch(sample, source, index):
    return jax.vmap(sample, in_axes=(None, 0))(source, index)


def draw(dataset, index, split="training"):
    return jax.device_get(sample_batch(dataset.sample, dataset.splits[split].source, np.asarray(index)))


@pytest.fixture(scope="module")
def examples():
    return draw(DATASET, range(SIZES[0]))


@pytest.fixture(scope="module")
def pairs():
    """Single frames of two digits out of all."""
    return draw(flying_mnist(0, (3000, 1, 1), DIGITS, num_frames=1, image_size=IMAGE_SIZE), range(3000))


def drawn_numbers(example):
    """Which pictures were drawn: the pixel at the corner of each object in the first frame."""
    masks, (y, x) = example.objects.masks[:, 0, ..., 0], np.moveaxis(example.objects.positions[:, 0], -1, 0)
    corners = masks[np.arange(len(masks))[:, None], np.arange(masks.shape[1])[None], y, x]
    return np.rint(corners * 40).astype(int) - 1


def test_types_and_shapes_of_the_arrays(examples):
    assert (DATASET.image_shape, DATASET.num_frames, DATASET.num_groups) == ((11, 11, 1), 6, 3)
    assert [DATASET.splits[name].size for name in SPLITS] == list(SIZES)
    assert [a.shape for a in examples[:3]] == [(40, 6, 11, 11, 1)] * 3
    assert [a.dtype for a in examples[:3]] == [np.float32, np.int32, np.int32]
    assert [a.shape for a in examples.objects] == [(40, 6, 3, 11, 11, 1), (40, 6, 3, 2), (40, 6, 3, 2)]
    assert [a.dtype for a in examples.objects] == [np.float32, np.int32, np.int32]


def test_sequences_are_the_ones_of_the_published_scores(examples):
    """How the key is split, written out; velocities but for their signs, which turn at a border."""
    numbers, room = drawn_numbers(examples), np.tile([IMAGE_SIZE - HEIGHT, IMAGE_SIZE - WIDTH], (3, 1))
    for i in range(5):
        keys = jax.random.split(jax.random.fold_in(DATASET.splits["training"].source.key, i), 3)
        np.testing.assert_array_equal(numbers[i], jax.random.randint(keys[0], (3,), 0, NUM_TRAINING * 5 // 6))
        positions, velocities = examples.objects.positions[i, 0], examples.objects.velocities[i, 0]
        np.testing.assert_array_equal(positions, jax.random.randint(keys[1], (3, 2), 0, room + 1))
        np.testing.assert_array_equal(np.abs(velocities), np.abs(draw_velocities(keys[2], 3)))


def test_frames_are_the_pictures_at_their_positions(examples):
    numbers = drawn_numbers(examples)
    for i in range(SIZES[0]):
        for frame in range(NUM_FRAMES):
            expected = np.zeros((3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
            for n, (y, x) in enumerate(examples.objects.positions[i, frame]):
                expected[n, y : y + HEIGHT, x : x + WIDTH] = DIGITS.training[numbers[i, n]]
            np.testing.assert_array_equal(examples.objects.masks[i, frame, ..., 0], expected)
            np.testing.assert_array_equal(examples.x[i, frame, ..., 0], expected.max(axis=0))
            covers = expected >= 0.5
            np.testing.assert_array_equal(examples.overlaps[i, frame, ..., 0], covers.sum(axis=0))
            labels = np.where(covers.sum(axis=0) == 1, covers.argmax(axis=0) + 1, 0)
            np.testing.assert_array_equal(examples.groups[i, frame, ..., 0], labels)
    assert set(np.unique(examples.groups)) == set(np.unique(examples.overlaps)) == {0, 1, 2, 3}
    assert ((examples.x > 0) & (examples.overlaps == 0)).any()


def test_digits_move_and_stay_inside(examples):
    positions, velocities = examples.objects.positions, examples.objects.velocities
    np.testing.assert_array_equal(np.diff(positions, axis=1), velocities[:, :-1])
    assert positions.min(axis=(0, 1, 2)).tolist() == [0, 0]
    assert positions.max(axis=(0, 1, 2)).tolist() == [IMAGE_SIZE - HEIGHT, IMAGE_SIZE - WIDTH]
    assert set(np.unique(velocities)) == {-1, 0, 1}


def test_half_covers_and_the_label_is_of_the_one_that_does():
    masks = np.array([[[[0.5, 0.49, 0.5, 0.9, 0.2]], [[0.0, 0.3, 0.5, 0.4, 0.3]]]], np.float32)
    compiled = jax.jit(compose)
    example = compiled(jnp.asarray(masks))
    np.testing.assert_array_equal(example.x[0, 0, :, 0], masks[0].max(axis=0)[0])
    np.testing.assert_array_equal(example.overlaps[0, 0, :, 0], [1, 0, 2, 1, 0])
    np.testing.assert_array_equal(example.groups[0, 0, :, 0], [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(compiled(jnp.asarray(masks[:, ::-1])).groups[0, 0, :, 0], [2, 0, 0, 2, 0])


def test_what_reaches_beyond_the_canvas_is_cut_off():
    picture, compiled = np.arange(1, 7, dtype=np.float32).reshape(2, 3), jax.jit(paste, static_argnums=2)
    expected = np.zeros((3, 4))
    expected[2, 2:] = [1, 2]
    np.testing.assert_array_equal(compiled(picture, np.array([2, 2]), (3, 4)), expected)
    expected = np.zeros((3, 4))
    expected[0, :2] = [5, 6]
    np.testing.assert_array_equal(compiled(picture, np.array([-1, -1]), (3, 4)), expected)


def test_an_example_depends_on_split_and_index_alone(examples):
    order = np.random.default_rng(0).permutation(SIZES[0])
    elsewhere = draw(DATASET, order)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), examples, elsewhere)
    assert len({x.tobytes() for x in examples.x}) == SIZES[0]


def test_the_first_frames_do_not_depend_on_their_number(examples):
    static = draw(flying_mnist(0, SIZES, DIGITS, num_frames=1, num_objects=3, image_size=IMAGE_SIZE), range(SIZES[0]))
    assert static.x.shape[1] == 1
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, :1]), static, examples)


def test_splits_and_seeds_differ_even_from_one_pool():
    index = np.arange(SIZES[1])
    drawn = {name: draw(POOLED, index, name).x for name in SPLITS}
    assert len({x.tobytes() for split in drawn.values() for x in split}) == 3 * SIZES[1]
    again, other = (
        flying_mnist(seed, SIZES, DIGITS, num_frames=6, image_size=11, digit_pool=20).splits for seed in (0, 1)
    )
    np.testing.assert_array_equal(sample_batch(POOLED.sample, again["test"].source, index).x, drawn["test"])
    assert (sample_batch(POOLED.sample, other["test"].source, index).x != drawn["test"]).any(axis=(1, 2, 3, 4)).all()


def test_pools():
    pools = digit_pools(DIGITS, None)
    np.testing.assert_array_equal(np.concatenate([pools["training"], pools["validation"]]), DIGITS.training)
    assert len(pools["validation"]) == NUM_TRAINING // 6
    np.testing.assert_array_equal(pools["test"], DIGITS.test)
    for pool in digit_pools(DIGITS, 20).values():
        np.testing.assert_array_equal(pool, DIGITS.training[:20])
    for name, source in ((name, split.source) for name, split in make().splits.items()):
        np.testing.assert_array_equal(source.pictures, pools[name])


def test_digits_are_drawn_uniformly_with_replacement(pairs):
    numbers, size = drawn_numbers(pairs), 25
    counts = np.bincount(numbers.reshape(-1))
    assert counts.shape == (size,)
    assert np.abs(counts - 6000 / size).max() < 4 * np.sqrt(6000 / size)
    twice = (numbers[:, 0] == numbers[:, 1]).mean()
    assert abs(twice - 1 / size) < 4 * np.sqrt(1 / size / 3000)


def test_positions_are_uniform(pairs):
    positions = pairs.objects.positions.reshape(-1, 2)
    for axis, extent in enumerate((HEIGHT, WIDTH)):
        counts = np.bincount(positions[:, axis])
        assert counts.shape == (IMAGE_SIZE - extent + 1,)
        assert np.abs(counts - 6000 / len(counts)).max() < 4 * np.sqrt(6000 / len(counts))


def test_velocities_are_drawn_apart_from_positions_and_digits(pairs):
    """One key for two of them would show: x has 9 values, and then its remainder by 3 would be the velocity."""
    x, vx = pairs.objects.positions[:, 0, :, 1], pairs.objects.velocities[:, 0, :, 1]
    inside = (x > 0) & (x < IMAGE_SIZE - WIDTH)  # not turned at once
    for remainder in range(3):
        for kind in (inside & (x % 3 == remainder), inside & (drawn_numbers(pairs) % 3 == remainder)):
            for value in (-1, 0, 1):
                assert abs((vx[kind] == value).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / kind.sum()) < 0.1


def test_sequences_come_back_from_their_file(tmp_path):
    write_hdf5(tmp_path / "digits.h5", POOLED, batch_size=7)
    for limit in (hdf5.MAX_RESIDENT_BYTES, 0):
        stored = hdf5.load_hdf5(tmp_path / "digits.h5", SIZES, num_frames=NUM_FRAMES, max_resident_bytes=limit)
        assert (stored.image_shape, stored.num_frames, stored.num_groups) == ((11, 11, 1), NUM_FRAMES, 2)
        for name in SPLITS:
            index = np.arange(SIZES[1]) % SIZES[2]
            back = sample_batch(hdf5.sample_stored, stored.splits[name].fetch(index), index)
            assert back.objects is None
            jax.tree.map(np.testing.assert_array_equal, back[:3], draw(POOLED, index, name)[:3])


REFUSED = {
    "canvas": ({"image_size": 4}, r"data\.image_size must be at least 5, the size of a digit, got 4"),
    "pool": ({"digit_pool": 31}, r"data\.digit_pool must be from 1 to the 30 training digits, got 31"),
    "no pool": ({"digit_pool": 0}, r"data\.digit_pool must be from 1 to the 30 training digits, got 0"),
    "more than fit": (
        {"num_objects": 17},
        r"data\.num_objects is 17, but only 16 digits of 5x3 fit into 11x11 pixels, which they may cover twice",
    ),
    "more than pooled": (
        {"num_objects": 3, "digit_pool": 2},
        r"data\.num_objects is 3, but the pool of digits \(data\.digit_pool\) has 2",
    ),
    "no digits": ({"num_objects": 0}, "^num_objects must be an integer of at least 1, got 0$"),
    "more than validate": ({"num_objects": 6}, r"data\.num_objects is 6, but the pool of digits .* has 5"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_drawn_is_refused(fault):
    options, message = REFUSED[fault]
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_the_least_and_the_most_are_served():
    assert make(image_size=5, num_objects=1).image_shape == (5, 5, 1)
    assert make(num_objects=16, digit_pool=30).num_groups == 16
    three = Digits(*(np.ones((6, 14, 14), np.float32) for _ in range(2)))
    assert flying_mnist(0, SIZES, three, num_frames=51, num_objects=3, image_size=24, digit_pool=6).num_frames == 51
