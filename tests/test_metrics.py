"""AMI, ARI and confidence against scikit-learn, in float32 and float64, degenerate cases included."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from nem_jax import metrics, partitions

pytestmark = pytest.mark.strict_dtypes

NUM_CASES, HEIGHT, WIDTH, NUM_GROUPS, NUM_COMPONENTS = 1000, 16, 16, 5, 7
RANGES = {"num_groups": NUM_GROUPS, "num_components": NUM_COMPONENTS}
NUM_PIXELS = HEIGHT * WIDTH


def _random_case(rng, kind):
    """(groups, labels, mask), flat, of one of ten kinds; the scores of some are decided by special cases alone."""
    groups = rng.integers(0, NUM_GROUPS + 1, NUM_PIXELS)
    labels = rng.integers(0, NUM_COMPONENTS, NUM_PIXELS)
    mask = rng.random(NUM_PIXELS) < rng.random()
    few = rng.permutation(NUM_PIXELS)[: rng.integers(2, NUM_GROUPS + 1)]
    if kind == "noisy copy":
        labels = np.where(rng.random(NUM_PIXELS) < rng.random(), groups, labels)
    elif kind == "one group":
        groups[:] = rng.integers(0, NUM_GROUPS + 1)
    elif kind == "one label":
        labels[:] = rng.integers(NUM_COMPONENTS)
    elif kind == "one pixel":
        mask[:] = np.arange(NUM_PIXELS) == rng.integers(NUM_PIXELS)
    elif kind == "no pixel":
        mask[:] = False
    elif kind == "a cluster per pixel":  # in the groups, and in half of the cases in the labels too
        mask[:] = False
        mask[few], groups[few] = True, np.arange(few.size)
        if rng.random() < 0.5:
            labels[few] = np.arange(few.size)
    elif kind == "more components than objects":
        groups = groups % 2
        labels = groups + 2 * rng.integers(0, 3, NUM_PIXELS)
    elif kind == "fewer components than objects":
        labels = groups // rng.integers(2, 4)
    elif kind == "nearly one cluster":
        mask[:] = True
        groups[:], labels[:] = 0, 0
        groups[few[:1]], labels[few[: rng.integers(1, 3)]] = 1, 1
    return groups, labels, mask


KINDS = (
    "independent", "noisy copy", "one group", "one label", "one pixel", "no pixel", "a cluster per pixel",
    "more components than objects", "fewer components than objects", "nearly one cluster",
)  # fmt: skip


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(0)
    drawn = [_random_case(rng, KINDS[i % len(KINDS)]) for i in range(NUM_CASES)]
    groups, labels, mask = (np.stack(part).reshape(-1, HEIGHT, WIDTH) for part in zip(*drawn, strict=True))
    return groups.astype(np.int32), labels.astype(np.int32), mask


def _sklearn_scores(groups, labels, mask):
    true, predicted = groups[mask], labels[mask]
    return (
        adjusted_mutual_info_score(true, predicted, average_method="max"),
        adjusted_mutual_info_score(true, predicted, average_method="arithmetic"),
        adjusted_rand_score(true, predicted),
    )


@pytest.fixture(scope="module")
def expected(cases):
    return np.array([_sklearn_scores(*case) for case in zip(*cases, strict=True)])


def _our_scores(groups, labels, mask):
    return jnp.stack([
        metrics.ami(groups, labels, mask, normaliser="max", **RANGES),
        metrics.ami(groups, labels, mask, normaliser="arithmetic", **RANGES),
        metrics.ari(groups, labels, mask, **RANGES),
    ])  # fmt: skip


_single_scores = jax.jit(_our_scores)
_batched_scores = jax.jit(jax.vmap(_our_scores))


@functools.partial(jax.jit, static_argnames="num_groups")
def _segmentation_scores(groups, gamma, num_groups):
    return jax.vmap(functools.partial(metrics.segmentation_scores, num_groups=num_groups))(groups, gamma)


def _image(values, dtype=jnp.int32):
    return jnp.asarray(values, dtype)


def _scores(groups, labels):
    """Our three scores of two short lists, at the start of an image that is otherwise masked: one compilation."""
    flat = np.zeros((3, NUM_PIXELS), np.int32)
    flat[:, : len(groups)] = groups, labels, np.ones(len(groups))
    groups, labels, mask = flat.reshape(3, HEIGHT, WIDTH)
    return np.asarray(_single_scores(_image(groups), _image(labels), _image(mask, bool)))


def _groups_and_gamma(batch=4, num_components=4):
    """Groups 0..3, and random responsibilities that find them to a part."""
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 4, (batch, 12, 12, 1))
    hint = np.moveaxis(np.eye(num_components)[groups[..., 0]], -1, 1)[..., None]
    weights = np.exp(2 * hint + rng.standard_normal(hint.shape))
    return _image(groups), jnp.asarray(weights / weights.sum(axis=1, keepdims=True), jnp.float32)


def test_numpys_arrays_serve_whatever_their_integers(cases, expected):
    """As `write_hdf5` stores them, and with more groups than a byte counts."""
    groups, labels, mask = (part[5] for part in cases)
    for kind in (np.uint8, np.int64):
        given = groups.astype(kind), labels.astype(kind), mask
        found = metrics.ami(*given, num_groups=300, num_components=RANGES["num_components"])
        assert found == pytest.approx(expected[5, 0], abs=5e-6)


def test_labels_that_are_no_integers_are_refused(cases):
    groups, labels, mask = (part[5] for part in cases)
    with pytest.raises(ValueError, match=r"^groups and labels must be integers, got float32$"):
        inspect.unwrap(partitions.contingency)(groups, labels.astype(np.float32), mask, 3, 4)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_mask_that_is_not_boolean_is_refused(cases, kind):
    """Counted as it is, a picture's 255 would make the indices NaN."""
    groups, labels, mask = (part[5] for part in cases)
    with pytest.raises(ValueError, match=rf"^mask must be boolean, such as groups > 0, got {np.dtype(kind)}$"):
        inspect.unwrap(partitions.contingency)(groups, labels, 255 * mask.astype(kind), 3, 4)


@pytest.mark.parametrize("score", [metrics.ami, metrics.ari])
def test_a_batch_without_vmap_is_refused(cases, score):
    """Labels of one image mean nothing in another."""
    with pytest.raises(ValueError, match=r"^groups must be of one image, .*: a batch needs jax\.vmap$"):
        score(*map(jnp.asarray, cases), **RANGES)
    one = [jnp.asarray(part[5]) for part in cases]
    assert score(*(part[..., None] for part in one), **RANGES) == score(*one, **RANGES)


@pytest.mark.parametrize(("x64", "tolerance"), [(False, 5e-6), (True, 1e-11)], ids=["float32", "float64"])
def test_scores_equal_sklearn(cases, expected, x64, tolerance):
    with jax.enable_x64(x64):
        scores = np.asarray(_batched_scores(*map(jnp.asarray, cases)))
    assert scores.dtype == (np.float64 if x64 else np.float32)
    for index, kind in enumerate(KINDS):
        rows = slice(index, None, len(KINDS))
        np.testing.assert_allclose(scores[rows], expected[rows], rtol=0, atol=tolerance, err_msg=kind)


def test_the_random_cases_are_not_all_alike(expected):
    for score in expected.T:
        assert np.sum(score == 1) >= 100
        assert np.sum(np.abs(score) < 1e-12) >= 100
        assert np.sum((score > 0.01) & (score < 0.99)) >= 200
        assert np.sum(score < -0.001) >= 20


@pytest.mark.parametrize(
    ("groups", "labels", "value"),
    [
        pytest.param([1], [3], 1, id="one pixel"),
        pytest.param([1, 1, 1], [2, 2, 2], 1, id="one cluster each"),
        pytest.param([1, 1, 1, 1], [0, 0, 1, 1], 0, id="one group"),
        pytest.param([1, 1, 2, 2], [0, 0, 0, 0], 0, id="one label"),
        pytest.param([0, 1, 2, 3], [3, 1, 0, 2], 1, id="a cluster per pixel in both"),
        pytest.param([0, 1, 2, 3], [0, 0, 1, 1], 0, id="a cluster per pixel in the groups"),
        pytest.param([1, 1, 2, 2], [0, 1, 2, 3], 0, id="a cluster per pixel in the labels"),
        pytest.param([1, 1, 2, 3, 3], [4, 4, 0, 1, 1], 1, id="the same partition"),
    ],
)
def test_degenerate_cases(groups, labels, value):
    np.testing.assert_array_equal(_scores(groups, labels), value)
    reference = _sklearn_scores(np.array(groups), np.array(labels), np.ones(len(groups), bool))
    np.testing.assert_allclose(reference, value, atol=1e-12)


def test_empty_mask_scores_one():
    np.testing.assert_array_equal(_scores([], []), 1)


def test_two_merged_objects():
    """Three equal objects, two of them under one label: the normaliser decides between 0.575 and 0.730."""
    groups, labels = np.repeat([1, 2, 3], 44), np.repeat([0, 1, 1], 44)
    np.testing.assert_allclose(_scores(groups, labels)[:2], [0.575, 0.730], atol=2e-3)


def test_anticorrelated_partitions_score_below_zero():
    ami_max, ami_arithmetic, ari = _scores([1, 1, 2, 2], [0, 1, 0, 1])
    assert ari == pytest.approx(-0.5, abs=1e-6)
    assert ami_max == pytest.approx(-0.5, abs=1e-6)
    assert ami_arithmetic == pytest.approx(-0.5, abs=1e-6)


def test_names_of_groups_and_labels_do_not_matter(cases):
    groups, labels, mask = cases
    rng = np.random.default_rng(1)
    renamed_groups, renamed_labels = rng.permutation(NUM_GROUPS + 1), rng.permutation(NUM_COMPONENTS)
    plain = _batched_scores(*map(jnp.asarray, cases))
    renamed = _batched_scores(_image(renamed_groups[groups]), _image(renamed_labels[labels]), jnp.asarray(mask))
    np.testing.assert_allclose(renamed, plain, rtol=0, atol=3e-6)


def test_scores_of_a_batch_equal_single_calls(cases):
    batched = _batched_scores(*map(jnp.asarray, cases))
    for index in range(30):
        single = _single_scores(*(jnp.asarray(part[index]) for part in cases))
        np.testing.assert_allclose(batched[index], single, rtol=0, atol=2e-6, err_msg=KINDS[index % len(KINDS)])


def test_contingency_counts_the_masked_pixels_of_both_ranges():
    groups, labels = _image([[0, 1, 1], [2, 2, 9]]), _image([[0, 1, 1], [0, 3, 0]])
    mask = jnp.asarray([[True, True, True], [True, False, True]])
    table = partitions.contingency(groups, labels, mask, num_groups=2, num_components=3)
    np.testing.assert_array_equal(table, [[1, 0, 0], [0, 2, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    "table",
    [
        pytest.param([[40000, 5000], [0, 20536]], id="products of two counts overflow int32"),
        pytest.param([[60173, 1], [0, 2]], id="large: almost all pixels in one cluster"),
        pytest.param(np.eye(24, dtype=int)[[0, *range(23)]], id="a cluster per pixel, but for one pair of labels"),
    ],
)
def test_ill_conditioned_tables(table):
    """Exact up to the largest image, and where I, E[I] and the entropies nearly agree."""
    table = np.asarray(table)
    rows, columns = np.indices(table.shape)
    true, predicted = (np.repeat(index.ravel(), table.ravel()) for index in (rows, columns))
    ami_reference = adjusted_mutual_info_score(true, predicted, average_method="max")
    ari_reference = adjusted_rand_score(true, predicted)
    table = _image(table)
    assert jax.jit(partitions.ami_from_table)(table) == pytest.approx(ami_reference, abs=2e-6)
    assert jax.jit(partitions.ari_from_table)(table) == pytest.approx(ari_reference, abs=2e-6)


def test_too_large_an_image_is_refused():
    assert np.isnan(partitions.ari_from_table(jnp.array([[60_000, 10], [20, 60_000]])))
    image = _image(np.zeros(partitions.MAX_PIXELS + 1))
    with pytest.raises(ValueError, match="at most 65536 pixels per image, got 65537"):
        partitions.contingency(image, image, image == 0, num_groups=1, num_components=1)


@pytest.mark.parametrize("normaliser", ["min", "geometric", "Max", ""])
def test_unknown_normaliser_is_refused(normaliser):
    with pytest.raises(ValueError, match=f"^normaliser must be 'max' or 'arithmetic', got '{normaliser}'$"):
        partitions.ami_from_table(jnp.eye(2, dtype=jnp.int32), normaliser)


def test_segmentation_scores_are_its_parts_where_there_are_groups():
    groups, gamma = _groups_and_gamma()
    scores = _segmentation_scores(groups, gamma, num_groups=3)
    for index in range(len(gamma)):
        mask = np.asarray(groups[index, ..., 0] > 0)
        labels = np.argmax(np.asarray(gamma[index, ..., 0]), axis=0)
        reference = _sklearn_scores(np.asarray(groups[index, ..., 0]), labels, mask)
        found = (scores.ami_max[index], scores.ami_arithmetic[index], scores.ari[index])
        np.testing.assert_allclose(found, reference, rtol=0, atol=2e-6)
        highest = np.asarray(gamma[index, ..., 0]).max(axis=0)[mask]
        assert scores.confidence[index] == pytest.approx(highest.mean(), abs=1e-6)
    assert np.all((np.asarray(scores.ami_max) > 0.05) & (np.asarray(scores.ami_max) < 0.95))


def test_confidence_ignores_the_background_and_is_one_without_objects():
    gamma = jnp.asarray([[[0.9, 0.2, 0.5]], [[0.1, 0.8, 0.5]]])[..., None]
    assert metrics.confidence(_image([[[1], [2], [0]]]), gamma) == pytest.approx(0.85, abs=1e-6)
    assert metrics.confidence(_image([[[0], [0], [0]]]), gamma) == 1


@pytest.mark.parametrize("kind", [bool, jnp.uint8, jnp.bfloat16])
def test_confidence_of_hard_labels_is_one_whatever_their_type(kind):
    """Of more pixels than a byte counts."""
    labels = np.arange(300).reshape(20, 15, 1) % 3
    gamma = jnp.asarray(labels == np.arange(3)[:, None, None, None], kind)
    assert inspect.unwrap(metrics.confidence)(jnp.ones(labels.shape, int), gamma) == 1


def test_equal_responsibilities_go_to_the_first_component():
    groups, gamma = _groups_and_gamma()
    groups = groups.at[0].set(jnp.minimum(groups[0], 1))
    scores = _segmentation_scores(groups, gamma.at[0].set(0.25), num_groups=3)
    assert scores.ami_max[0] == 1
    assert scores.confidence[0] == 0.25


def test_unknown_responsibilities_have_no_score():
    groups, gamma = _groups_and_gamma()
    scored = np.argwhere(np.asarray(groups[1, ..., 0] > 0))[0]
    scores = _segmentation_scores(groups, gamma.at[1, 0, *scored].set(jnp.nan), num_groups=3)
    for score in scores:
        np.testing.assert_array_equal(np.isnan(score), [False, True, False, False])
    ignored = np.argwhere(np.asarray(groups[1, ..., 0] == 0))[0]
    scores = _segmentation_scores(groups, gamma.at[1, 0, *ignored].set(jnp.nan), num_groups=3)
    jax.tree.map(np.testing.assert_array_equal, scores, _segmentation_scores(groups, gamma, num_groups=3))


def test_pixels_that_cannot_be_counted_make_the_indices_nan():
    groups, labels = jnp.array([1, 1, 2, 3]), jnp.array([0, 0, 1, 1])
    for index in (metrics.ami, metrics.ari):
        score = jax.jit(functools.partial(index, groups, labels, num_groups=2, num_components=2))
        assert np.isnan(score(jnp.ones(4, bool)))
        assert score(groups < 3) == 1


def test_a_group_above_num_groups_makes_its_image_s_indices_nan():
    groups, gamma = _groups_and_gamma()
    scores = _segmentation_scores(groups.at[1, 0, 0].set(4), gamma, num_groups=3)
    for index in scores[:3]:
        np.testing.assert_array_equal(np.isnan(index), [False, True, False, False])
    assert np.all(np.isfinite(scores.confidence))
