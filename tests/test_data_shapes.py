"""Generated shapes: a pure function of (split, index), with the labels and statistics that are published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.data import hdf5, shapes
from nem_jax.data.hdf5_writer import write_hdf5
from nem_jax.data.scene import compose
from nem_jax.data.split import SPLITS

pytestmark = pytest.mark.compiled_quickly

NUM_IMAGES = 4000


DATASET = shapes.static_shapes(0, (50, 50, 50))


def batched(dataset):
    return jax.jit(jax.vmap(dataset.sample, in_axes=(None, 0)))


@pytest.fixture(scope="module")
def draw():
    """(split, index) -> examples of three shapes at 28x28, compiled once per number of examples."""
    compiled = batched(DATASET)
    return lambda split, index: compiled(split.source, jnp.asarray(index))


@pytest.fixture(scope="module", params=[28, 20])
def images(request):
    """(image size, the first examples of the training split without the axes of frames and channels)."""
    dataset = shapes.static_shapes(0, (NUM_IMAGES, 10, 10), image_size=request.param)
    examples = batched(dataset)(dataset.splits["training"].source, jnp.arange(NUM_IMAGES))
    return request.param, jax.tree.map(lambda a: np.asarray(a)[:, 0, :, :, 0], examples._replace(objects=None))


def test_templates_have_the_published_pixels():
    assert [template.shape for template in shapes.TEMPLATES] == [(7, 7), (7, 12), (7, 12)]
    assert [template.sum() for template in shapes.TEMPLATES] == [40, 48, 48]
    np.testing.assert_array_equal(shapes.SQUARE[2:5, 2:5], 0)
    np.testing.assert_array_equal(shapes.TRIANGLE.sum(axis=1), [2, 4, 6, 6, 6, 12, 12])
    np.testing.assert_array_equal(shapes.TRIANGLE, shapes.TRIANGLE[:, ::-1])
    np.testing.assert_array_equal(shapes.TEMPLATES[2], shapes.TRIANGLE[::-1])


def test_an_example_depends_on_split_and_index_alone(draw):
    split = DATASET.splits["training"]
    batch = draw(split, np.arange(5))
    other_batch = draw(split, [41, 4, 2, 30, 0])
    alone = jax.jit(DATASET.sample)(split.source, jnp.asarray(4))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4], b[1]), batch, other_batch)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2], b[2]), batch, other_batch)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4], b), batch, alone)
    assert len({np.asarray(x).tobytes() for x in batch.x}) == 5


def test_splits_and_seeds_differ_and_seeds_repeat(draw):
    index = np.arange(5)
    drawn = {name: np.asarray(draw(DATASET.splits[name], index).x) for name in SPLITS}
    assert len({x.tobytes() for split in drawn.values() for x in split}) == 15
    again, other = (shapes.static_shapes(seed, (9, 9, 9)).splits["test"] for seed in (0, 1))
    np.testing.assert_array_equal(drawn["test"], draw(again, index).x)
    assert (drawn["test"] != draw(other, index).x).any(axis=(1, 2, 3, 4)).all()


def test_types_and_shapes_of_the_arrays():
    dataset = shapes.static_shapes(0, (5, 4, 3), num_objects=2, image_size=24)
    example = jax.eval_shape(dataset.sample, dataset.splits["validation"].source, jnp.asarray(0))
    assert [a.shape for a in example[:3]] == [(1, 24, 24, 1)] * 3
    assert [a.dtype for a in example[:3]] == [jnp.float32, jnp.int32, jnp.int32]
    assert [a.shape for a in example.objects] == [(1, 2, 24, 24, 1), (1, 2, 2), (1, 2, 2)]
    assert [a.dtype for a in example.objects] == [jnp.float32, jnp.int32, jnp.int32]
    assert (dataset.image_shape, dataset.num_frames, dataset.num_groups) == ((24, 24, 1), 1, 2)
    assert [dataset.splits[name].size for name in SPLITS] == [5, 4, 3]


def test_statistics_are_the_published_ones(images):
    size, examples = images
    mean_pixel, mean_overlap = {28: (0.160, 0.013), 20: (0.285, 0.051)}[size]
    for per_pixel, expected in ((examples.x, mean_pixel), (examples.overlaps > 1, mean_overlap)):
        per_image = per_pixel.mean(axis=(1, 2))
        # Four standard errors, and half a unit in the last digit that is published.
        tolerance = 4 * per_image.std() / np.sqrt(NUM_IMAGES) + 0.0005
        assert abs(per_image.mean() - expected) < tolerance < 0.15 * expected


def test_labels_say_which_object_is_alone_on_a_pixel(images):
    _, (x, groups, overlaps, _) = images
    np.testing.assert_array_equal(x, overlaps > 0)
    np.testing.assert_array_equal(groups > 0, overlaps == 1)
    assert set(np.unique(groups)) == {0, 1, 2, 3}
    assert set(np.unique(overlaps)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(overlaps.sum(axis=(1, 2)) % 8, 0)  # each of the three shapes whole: 40 or 48 pixels
    for label in (1, 2, 3):
        assert (groups == label).sum(axis=(1, 2)).max() == 48


def test_compose_labels_in_draw_order():
    masks = np.array([[[[1, 1, 0, 1]], [[0, 1, 0, 1]], [[0, 0, 0, 1]]]], np.float32)
    compiled = jax.jit(compose)
    example = compiled(jnp.asarray(masks))
    np.testing.assert_array_equal(example.x[0, 0, :, 0], [1, 1, 0, 1])
    np.testing.assert_array_equal(example.groups[0, 0, :, 0], [1, 0, 0, 0])
    np.testing.assert_array_equal(example.overlaps[0, 0, :, 0], [1, 2, 0, 3])
    np.testing.assert_array_equal(compiled(jnp.asarray(masks[:, ::-1])).groups[0, 0, :, 0], [3, 0, 0, 0])


@pytest.fixture(scope="module")
def single_shapes():
    dataset = shapes.static_shapes(0, (3000, 1, 1), num_objects=1, image_size=14)
    return batched(dataset)(dataset.splits["training"].source, jnp.arange(3000))


@pytest.mark.parametrize("shape_type", [0, 1, 2])
def test_every_type_occurs_at_every_position_and_only_inside(single_shapes, shape_type):
    num_images, size = single_shapes.x.shape[0], single_shapes.x.shape[2]
    template = shapes.TEMPLATES[shape_type]
    drawn = np.asarray(single_shapes.x, bool)[:, 0, :, :, 0]
    height, width = template.shape
    counts = []
    for y in range(size - height + 1):
        for x in range(size - width + 1):
            expected = np.zeros((size, size), bool)
            expected[y : y + height, x : x + width] = template
            counts.append((drawn == expected).all(axis=(1, 2)).sum())
    # Types and positions are uniform: each count is binomial.
    prob = 1 / 3 / len(counts)
    assert abs(sum(counts) - num_images / 3) < 4 * np.sqrt(num_images * 2 / 9)
    assert np.abs(np.array(counts) - num_images * prob).max() < 5 * np.sqrt(num_images * prob)


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="image_size must be at least 12, the width of a triangle, got 11"):
        shapes.static_shapes(0, (1, 1, 1), image_size=11)
    with pytest.raises(ValueError, match="image_size must be at least 12, the width of a triangle, got 11"):
        shapes.flying_shapes(0, (1, 1, 1), num_frames=21, image_size=11)
    shapes.static_shapes(0, (1, 1, 1), image_size=12)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_objects": 0}, "num_objects must be an integer of at least 1, got 0"),
        ({"num_objects": -1}, "num_objects must be an integer of at least 1, got -1"),
        ({"num_frames": 0}, "num_frames must be an integer of at least 1, got 0"),
        ({"sizes": (5, -5, 1)}, "the size of validation must be an integer of at least 1, got -5"),
    ],
)
def test_impossible_counts_are_refused(options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        shapes.flying_shapes(**{"seed": 0, "sizes": (1, 1, 1), "num_frames": 2, **options})


def test_static_shapes_are_the_ones_of_the_published_scores(draw):
    """The draws that weights and results in this repository rest on, written out once more."""
    source = DATASET.splits["test"].source
    example = draw(DATASET.splits["test"], np.arange(20))
    for i in range(20):
        type_key, position_key = jax.random.split(jax.random.fold_in(source, i))
        templates = [shapes.TEMPLATES[kind] for kind in jax.random.randint(type_key, (3,), 0, 3)]
        extents = np.array([template.shape for template in templates])
        positions = np.asarray(jax.random.randint(position_key, (3, 2), 0, 28 - extents + 1))
        overlaps = np.zeros((28, 28), int)
        for template, (height, width), (y, x) in zip(templates, extents, positions, strict=True):
            overlaps[y : y + height, x : x + width] += template
        np.testing.assert_array_equal(example.overlaps[i, 0, ..., 0], overlaps)
        np.testing.assert_array_equal(example.objects.positions[i, 0], positions)


@pytest.fixture(scope="module")
def flying():
    """300 sequences of 22 frames: whatever moves reaches a border within 21 moves, and turns."""
    dataset = shapes.flying_shapes(0, (300, 50, 50), num_frames=22)
    return jax.tree.map(np.asarray, batched(dataset)(dataset.splits["training"].source, jnp.arange(300)))


def test_flying_shapes_have_the_asked_frames():
    dataset = shapes.flying_shapes(0, (5, 4, 3), num_frames=21, num_objects=5, image_size=24)
    example = jax.eval_shape(dataset.sample, dataset.splits["validation"].source, jnp.asarray(0))
    assert [a.shape for a in example[:3]] == [(21, 24, 24, 1)] * 3
    assert [a.shape for a in example.objects] == [(21, 5, 24, 24, 1), (21, 5, 2), (21, 5, 2)]
    assert (dataset.image_shape, dataset.num_frames, dataset.num_groups) == ((24, 24, 1), 21, 5)


def test_frame_0_of_flying_shapes_is_the_static_image(draw, flying):
    static = draw(DATASET.splits["training"], np.arange(300))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, :1]), static, flying)


def test_each_shape_keeps_its_form_and_moves_by_its_velocity(flying):
    masks, positions, velocities = (array[:60] for array in flying.objects)
    np.testing.assert_array_equal(np.diff(positions, axis=1), velocities[:, :-1])
    ones = np.argwhere(masks[..., 0])  # (example, frame, object, y, x)
    assert set(np.unique(masks.sum(axis=(3, 4, 5)))) == {40, 48}
    corners = positions[tuple(ones[:, :3].T)]
    first = masks[ones[:, 0], 0, ones[:, 2]][..., 0]
    offsets = ones[:, 3:] - corners + positions[ones[:, 0], 0, ones[:, 2]]
    assert first[np.arange(len(ones)), offsets[:, 0], offsets[:, 1]].all()


def test_frames_are_the_or_of_the_masks_with_labels(flying):
    masks = flying.objects.masks
    np.testing.assert_array_equal(flying.x, masks.max(axis=2))
    np.testing.assert_array_equal(flying.overlaps, masks.sum(axis=2))
    for label in (1, 2, 3):
        alone = (flying.overlaps == 1) & (masks[:, :, label - 1] == 1)
        np.testing.assert_array_equal(flying.groups == label, alone)


def test_statistics_of_flying_shapes(flying):
    """Speeds are kept and all that moves turns; reflection keeps positions nearly uniform, and with them the pixels."""
    speeds = np.abs(flying.objects.velocities)
    assert (speeds == speeds[:, :1]).all()
    moving = speeds[:, 0].reshape(-1)
    assert abs(moving.mean() - 2 / 3) < 4 * np.sqrt(2 / 9 / moving.size)
    turned = (flying.objects.velocities != flying.objects.velocities[:, :1]).any(axis=1)
    assert turned[speeds[:, 0] == 1].all()
    for frame in (0, 21):
        per_image = flying.x[:, frame].mean(axis=(1, 2, 3))
        assert abs(per_image.mean() - 0.160) < 4 * per_image.std() / np.sqrt(300) + 0.0005 < 0.16 * 0.15


def test_velocities_are_drawn_apart_from_types_and_positions():
    """One key for both would show: y has 18 values at 24x24, and then its remainder by 3 would be the velocity."""
    dataset = shapes.flying_shapes(0, (1000, 1, 1), num_frames=1, image_size=24)
    objects = batched(dataset)(dataset.splits["training"].source, jnp.arange(1000)).objects
    y, vy = np.asarray(objects.positions)[:, 0, :, 0], np.asarray(objects.velocities)[:, 0, :, 0]
    square = np.asarray(objects.masks).sum(axis=(3, 4, 5))[:, 0] == 40
    inside = (y > 0) & (y < 17)  # not turned at once
    for kind in (inside & square, inside & ~square, *(inside & (y % 3 == remainder) for remainder in range(3))):
        for value in (-1, 0, 1):
            assert abs((vy[kind] == value).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / kind.sum()) < 0.1


def test_flying_shapes_come_back_from_their_file(tmp_path):
    generated = shapes.flying_shapes(3, (5, 4, 2), num_frames=4)
    write_hdf5(tmp_path / "flying.h5", generated, batch_size=3)
    stored = hdf5.load_hdf5(tmp_path / "flying.h5", (5, 4, 2), num_frames=4)
    assert (stored.image_shape, stored.num_frames, stored.num_groups) == ((28, 28, 1), 4, 3)
    sample_generated, sample_stored = batched(generated), batched(stored)
    for name in SPLITS:
        index = jnp.arange(2)
        back = sample_stored(stored.splits[name].source, index)
        assert back.objects is None
        drawn = sample_generated(generated.splits[name].source, index)
        jax.tree.map(np.testing.assert_array_equal, back[:3], drawn[:3])
