"""A convolution's gradients inside a scan, against its forward pass there, over paddings and channels."""

import functools
import time

import jax
import jax.numpy as jnp
import pytest

from nem_jax.networks.convolution import conv

NUM_IMAGES, SIZE, NUM_STEPS, NUM_TURNS = 64, 8, 5, 5
MAX_RATIO = 8.0
"""Two gradients take two forward passes' arithmetic, and the forward pass is in both."""


def _seconds(function, *arguments):
    """The least of some turns."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(NUM_TURNS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def measure(taps: int, stride: int, padding: tuple[int, int], channels: tuple[int, int]) -> float:
    """How many times as long value and gradients of a scan of convolutions take as the value alone."""
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (NUM_STEPS, NUM_IMAGES, SIZE, SIZE, channels[0]))
    kernel = jax.random.normal(kernel_key, (taps, taps, *channels))
    convolve = functools.partial(conv, stride=stride, padding=padding)

    @jax.jit
    def loss(x, kernel):
        def step(carry, frames):
            return carry + jnp.mean(jnp.sin(convolve(frames + carry, kernel))), None

        return jax.lax.scan(step, jnp.zeros(()), x)[0]

    return _seconds(jax.jit(jax.value_and_grad(loss, (0, 1))), x, kernel) / _seconds(loss, x, kernel)


@pytest.mark.benchmark
@pytest.mark.parametrize("channels", [(64, 32), (32, 64), (32, 4), (1, 32)])
@pytest.mark.parametrize(
    ("taps", "stride", "padding"), [(3, 1, (1, 1)), (3, 1, (0, 0)), (3, 1, (2, 2)), (2, 1, (0, 0)), (4, 2, (1, 1))]
)
def test_gradients_inside_a_scan_are_not_slower_than_their_arithmetic(taps, stride, padding, channels):
    ratio = measure(taps, stride, padding, channels)
    print(f"\n{taps}x{taps}, stride {stride}, padding {padding}, channels {channels}: {ratio:.1f} times the value")
    assert ratio <= MAX_RATIO
