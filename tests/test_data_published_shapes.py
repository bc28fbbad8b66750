"""The published 20x20 shapes: the stream is pinned, and equal to a plain loop over the published script's rule."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.data import published_shapes
from nem_jax.data.split import SPLITS


@pytest.fixture(scope="module")
def arrays():
    return published_shapes.published_arrays()


def plain_images(num_images, num_objects, randint):
    """One image at a time, one pixel at a time, with the templates spelt by their rows of (start, stop)."""
    square = [[(0, 7)]] * 2 + [[(0, 2), (5, 7)]] * 3 + [[(0, 7)]] * 2
    triangle = [[(5, 7)], [(4, 8)], [(3, 9)], [(2, 5), (7, 10)], [(1, 4), (8, 11)], [(0, 12)], [(0, 12)]]
    templates = [(square, 7), (triangle, 12), (triangle[::-1], 12)]
    covered = np.zeros((num_images, 20, 20), int)
    labels = np.zeros_like(covered)
    for image in range(num_images):
        for label in range(1, num_objects + 1):
            template, width = templates[randint(3)]
            left, top = randint(20 - width + 1), randint(20 - 7 + 1)
            for row, intervals in enumerate(template):
                for start, stop in intervals:
                    for column in range(start, stop):
                        pixel = (image, top + row, left + column)
                        covered[pixel] += 1
                        labels[pixel] = label if covered[pixel] == 1 else 0
    return covered, labels


def test_first_images_equal_a_plain_loop(arrays):
    np.random.seed(265076)  # the global legacy generator, as in the script
    covered, labels = plain_images(5, 3, np.random.randint)
    first = [array[:5, 0, :, :, 0] for array in arrays["training"][:3]]
    for ours, theirs in zip(first, (covered > 0, labels, covered), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("split", "size", "md5"),
    [
        ("training", 50_000, "4a0713a76c038ada8de2fa93d53de630"),
        ("validation", 10_000, "2f951e575f65a543d17ae744af868675"),
        ("test", 10_000, "4bb1d489a70ece4b85d63cace3a109a5"),
        ("single", 10_000, "30cda338ef66f28c6f385bf167915ef8"),
    ],
)
def test_the_stream_is_pinned(arrays, split, size, md5):
    x, groups, overlaps, _ = arrays[split]
    assert x.shape == groups.shape == overlaps.shape == (size, 1, 20, 20, 1)
    assert x.dtype == groups.dtype == overlaps.dtype == np.uint8
    assert hashlib.md5(x[:100].tobytes() + groups[:100].tobytes()).hexdigest() == md5


def test_statistics_are_the_published_ones(arrays):
    for split in SPLITS:
        x, _, overlaps, _ = arrays[split]
        for per_pixel, expected in ((x, 0.285), (overlaps > 1, 0.051)):
            per_image = per_pixel.mean(axis=(1, 2, 3, 4))
            assert abs(per_image.mean() - expected) < 4 * per_image.std() / np.sqrt(len(x)) + 0.0005


def test_labels_say_which_object_is_alone_on_a_pixel(arrays):
    for split, num_objects in (("test", 3), ("single", 1)):
        x, groups, overlaps, _ = arrays[split]
        np.testing.assert_array_equal(x, overlaps > 0)
        np.testing.assert_array_equal(groups > 0, overlaps == 1)
        assert set(np.unique(groups)) == set(range(num_objects + 1))
        assert overlaps.max() == num_objects
    assert set(np.unique(arrays["single"].x.sum(axis=(1, 2, 3, 4)))) == {40, 48}


def test_data_set_serves_the_arrays(arrays, monkeypatch):
    monkeypatch.setattr(published_shapes, "published_arrays", lambda: arrays)
    dataset = published_shapes.published_shapes()
    assert (dataset.image_shape, dataset.num_frames, dataset.num_groups) == ((20, 20, 1), 1, 3)
    assert {name: split.size for name, split in dataset.splits.items()} == dict(
        training=50_000, validation=10_000, test=10_000
    )
    example = dataset.sample(dataset.splits["test"].source, jnp.asarray(1234))
    assert [a.dtype for a in example[:3]] == [jnp.float32, jnp.int32, jnp.int32]
    for ours, stored in zip(example[:3], arrays["test"][:3], strict=True):
        np.testing.assert_array_equal(ours, stored[1234])
    smaller = published_shapes.published_shapes((30, 20, 10)).splits["validation"]
    assert smaller.size == 20
    np.testing.assert_array_equal(smaller.source.x, arrays["validation"].x[:20])


@pytest.mark.parametrize(("sizes", "name"), [((50_001, 1, 1), "training"), ((1, 0, 1), "validation")])
def test_sizes_beyond_the_published_are_refused(sizes, name):
    with pytest.raises(ValueError, match=rf"data\.num_{name} is \d+, but the published shapes have \d+ {name} images"):
        published_shapes.published_shapes(sizes)
