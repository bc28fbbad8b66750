"""Generated static shapes: a pure function of (split, index), with the labels and statistics that are published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.data import shapes
from nem_jax.data.split import SPLITS

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
    return request.param, jax.tree.map(lambda a: np.asarray(a)[:, 0, :, :, 0], examples)


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
    for name, in_batch, elsewhere in zip(batch._fields, batch, other_batch, strict=True):
        np.testing.assert_array_equal(in_batch[4], elsewhere[1], err_msg=name)
        np.testing.assert_array_equal(in_batch[2], elsewhere[2], err_msg=name)
        np.testing.assert_array_equal(in_batch[4], getattr(alone, name), err_msg=name)
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
    assert [a.shape for a in example] == [(1, 24, 24, 1)] * 3
    assert [a.dtype for a in example] == [jnp.float32, jnp.int32, jnp.int32]
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
    _, (x, groups, overlaps) = images
    np.testing.assert_array_equal(x, overlaps > 0)
    np.testing.assert_array_equal(groups > 0, overlaps == 1)
    assert set(np.unique(groups)) == {0, 1, 2, 3}
    assert set(np.unique(overlaps)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(overlaps.sum(axis=(1, 2)) % 8, 0)  # each of the three shapes whole: 40 or 48 pixels
    for label in (1, 2, 3):
        assert (groups == label).sum(axis=(1, 2)).max() == 48


def test_compose_labels_in_draw_order():
    masks = jnp.array([[[1, 1, 0, 1]], [[0, 1, 0, 1]], [[0, 0, 0, 1]]])
    example = shapes.compose(masks)
    np.testing.assert_array_equal(example.x[0, 0, :, 0], [1, 1, 0, 1])
    np.testing.assert_array_equal(example.groups[0, 0, :, 0], [1, 0, 0, 0])
    np.testing.assert_array_equal(example.overlaps[0, 0, :, 0], [1, 2, 0, 3])
    np.testing.assert_array_equal(shapes.compose(masks[::-1]).groups[0, 0, :, 0], [3, 0, 0, 0])


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
    shapes.static_shapes(0, (1, 1, 1), image_size=12)
