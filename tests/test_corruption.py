"""Input noise: rates within their standard error, and exact ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nem_jax.corruption import bitflip, masked_uniform

pytestmark = [pytest.mark.strict_dtypes, pytest.mark.compiled_quickly]

SHAPE = (10, 60, 50, 1)
NUM_PIXELS = int(np.prod(SHAPE))
NOISES = [bitflip, masked_uniform]


def _binary(key=1):
    return jax.random.bernoulli(jax.random.key(key), 0.3, SHAPE).astype(jnp.float32)


def _standard_error(prob):
    return np.sqrt(prob * (1 - prob) / NUM_PIXELS)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("prob", [1.5, -0.5, float("nan")])
def test_an_impossible_probability_is_refused(noise, prob):
    with pytest.raises(ValueError, match=f"^prob must be from 0 to 1, got {prob}$"):
        noise(jax.random.key(0), _binary(), prob)


@pytest.mark.parametrize("prob", [0.1, 0.2, 0.7])
def test_bitflip_rate_is_the_same_for_zeros_and_ones(prob):
    x = np.asarray(_binary())
    noisy = np.asarray(bitflip(jax.random.key(0), jnp.asarray(x), prob))
    assert set(np.unique(noisy)) == {0, 1}
    for value in (0, 1):
        flipped = noisy[x == value] != value
        assert abs(flipped.mean() - prob) < 4 * np.sqrt(prob * (1 - prob) / flipped.size)


@pytest.mark.parametrize("prob", [0.2, 0.6])
def test_masked_uniform_replaces_by_a_uniform_sample(prob):
    """That the samples are uniform *given* the mask also shows that mask and samples have keys of their own."""
    x = jnp.full(SHAPE, 0.3)
    noisy = np.asarray(masked_uniform(jax.random.key(0), x, prob))
    replaced = noisy[noisy != np.float32(0.3)]
    assert abs(replaced.size / NUM_PIXELS - prob) < 4 * _standard_error(prob)
    assert replaced.min() >= 0
    assert replaced.max() <= 1
    histogram, _ = np.histogram(replaced, bins=10, range=(0, 1))
    np.testing.assert_allclose(histogram / replaced.size, 0.1, atol=5 * np.sqrt(0.09 / replaced.size))


@pytest.mark.parametrize("noise", NOISES)
def test_no_noise_is_exact(noise):
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    np.testing.assert_array_equal(noise(jax.random.key(0), x, 0.0), x)


def test_full_noise_is_exact():
    x = _binary()
    np.testing.assert_array_equal(bitflip(jax.random.key(0), x, 1.0), 1 - x)
    one, other = (masked_uniform(jax.random.key(0), image, 1.0) for image in (x, 1 - x))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("noise", NOISES)
def test_values_stay_in_range_and_keep_their_type(noise):
    x = jax.random.uniform(jax.random.key(1), SHAPE)
    noisy = noise(jax.random.key(0), x, 0.5)
    assert (noisy.shape, noisy.dtype) == (x.shape, x.dtype)
    assert jnp.min(noisy) >= 0
    assert jnp.max(noisy) <= 1


@pytest.mark.parametrize("noise", NOISES)
def test_every_frame_has_its_own_noise(noise):
    x = jnp.full(SHAPE, 0.25)
    hit = np.asarray(noise(jax.random.key(0), x, 0.2) != x).reshape(SHAPE[0], -1)
    agreement = np.mean(hit[:, None] & hit[None], axis=-1)[~np.eye(SHAPE[0], dtype=bool)]
    np.testing.assert_allclose(agreement, 0.04, atol=5 * np.sqrt(0.04 * 0.96 / hit.shape[1]))


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_a_function_of_the_key(noise):
    x = _binary()
    first, again, other = (np.asarray(noise(jax.random.key(seed), x, 0.3)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.1


@pytest.mark.parametrize("noise", NOISES)
def test_jit_and_a_vmapped_batch_equal_single_calls(noise):
    keys, x = jax.random.split(jax.random.key(0), 3), _binary()[:3]
    batch = jax.jit(jax.vmap(functools.partial(noise, prob=0.3)))(keys, x)
    for index in range(3):
        np.testing.assert_array_equal(batch[index], noise(keys[index], x[index], 0.3))


@pytest.mark.parametrize("noise", NOISES)
def test_gradient_is_one_where_the_pixel_is_kept(noise):
    x = jnp.full((30, 30), 0.25)
    key = jax.random.key(0)
    kept = np.asarray(noise(key, x, 0.4) == x)
    gradient = np.asarray(jax.grad(lambda x: jnp.sum(noise(key, x, 0.4)))(x))
    np.testing.assert_array_equal(gradient[kept], 1)
    assert np.all(gradient[~kept] == (-1 if noise is bitflip else 0))


def test_masked_uniform_draws_as_in_the_published_runs():
    x, key = jnp.full((6, 6), 0.5), jax.random.key(3)
    mask_key, value_key = jax.random.split(key)
    mask, value = jax.random.bernoulli(mask_key, 0.3, x.shape), jax.random.uniform(value_key, x.shape)
    np.testing.assert_array_equal(masked_uniform(key, x, 0.3), np.where(mask, value, x))
