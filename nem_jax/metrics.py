"""How well argmax_k gamma recovers the true segmentation of one image: AMI, ARI and confidence (N-EM section 4).

The indices themselves, of contingency tables: `nem_jax.partitions`.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from nem_jax.partitions import adjusted, ami_from_table, ari_from_table, contingency, information
from nem_jax.types import at_least_float32


class Scores(NamedTuple):
    """What is reported of one segmented image (of many under `vmap`)."""

    ami_max: Float[Array, "*b"]
    """AMI normalised by the larger entropy: the papers' number."""
    ami_arithmetic: Float[Array, "*b"]
    """AMI normalised by the mean entropy: scikit-learn's default today, never nearer to 0."""
    ari: Float[Array, "*b"]
    """Adjusted Rand index."""
    confidence: Float[Array, "*b"]
    """Mean of max_k gamma."""


def ami(
    groups: Integer[Array | np.ndarray, "*p"],
    labels: Integer[Array | np.ndarray, "*p"],
    mask: Bool[Array | np.ndarray, "*p"],
    *,
    num_groups: int,
    num_components: int,
    normaliser: str = "max",
) -> Float[Array, ""]:
    """Adjusted mutual information of two segmentations of one image (Vinh et al., 2010): 1 the same, about 0 chance.

    NaN if a pixel that counts is of no group or has no label within the ranges below.

    Args:
        groups: the true segmentation, integers from 0 to `num_groups`, `[H, W]`, `[H, W, 1]` or `[P]`.
        labels: the found one, from 0 to `num_components - 1`, in the same shape.
        mask: the pixels that count, likewise; the papers': `groups > 0`, those of exactly one object.
        num_groups: static under jit, as what follows.
        num_components: K.
        normaliser: 'max' (the papers' scikit-learn) or 'arithmetic' (today's, whose value is never nearer to 0).

    Raises:
        ValueError: see `contingency`; or the normaliser is none of `partitions.NORMALISERS`.
    """
    table = contingency(groups, labels, mask, num_groups, num_components)
    return jnp.where(_is_complete(table, mask), ami_from_table(table, normaliser), jnp.nan)


def ari(
    groups: Integer[Array | np.ndarray, "*p"],
    labels: Integer[Array | np.ndarray, "*p"],
    mask: Bool[Array | np.ndarray, "*p"],
    *,
    num_groups: int,
    num_components: int,
) -> Float[Array, ""]:
    """Adjusted Rand index of two segmentations of one image (Hubert and Arabie, 1985): 1 the same, about 0 chance.

    Arguments (integer images `[H, W]`, `[H, W, 1]` or `[P]`, and a boolean mask), NaN and errors as for `ami`.
    """
    table = contingency(groups, labels, mask, num_groups, num_components)
    return jnp.where(_is_complete(table, mask), ari_from_table(table), jnp.nan)


def _is_complete(table: jax.Array, mask: jax.Array | np.ndarray) -> jax.Array:
    """Whether the table counts each pixel of the mask."""
    return jnp.sum(table) == jnp.sum(mask)


def _assert_gamma_of(groups: jax.Array, gamma: jax.Array) -> None:
    chex.assert_shape(groups, (None, None, 1))
    chex.assert_shape(gamma, (None, *groups.shape))


def confidence(groups: Int[Array, "H W 1"], gamma: Float[Array, "K H W 1"]) -> Float[Array, ""]:
    """Mean of max_k gamma over the pixels with groups > 0: the original program's `conf`. 1 if there are none."""
    _assert_gamma_of(groups, gamma)
    scored = groups[..., 0] > 0
    highest = jnp.max(gamma[..., 0], axis=0).astype(at_least_float32(gamma.dtype))
    count = jnp.sum(scored)
    mean = jnp.sum(jnp.where(scored, highest, 0.0)) / jnp.maximum(count, 1).astype(highest.dtype)
    return jnp.where(count > 0, mean, 1.0)


def segmentation_scores(groups: Int[Array, "H W 1"], gamma: Float[Array, "K H W 1"], *, num_groups: int) -> Scores:
    """All scores of the responsibilities of one image, over the pixels with exactly one object (groups > 0).

    Args:
        groups: true segmentation, 0 where ignored (`Example.groups`).
        gamma: responsibilities; each pixel is labelled argmax_k, the first of equals. NaN at a scored pixel makes all
            scores NaN.
        num_groups: the largest value of `groups`. A larger one in the data makes the indices NaN.

    Raises:
        ValueError: the image has more than `partitions.MAX_PIXELS` pixels.
    """
    _assert_gamma_of(groups, gamma)
    labels = jnp.argmax(gamma[..., 0], axis=0)
    scored = groups[..., 0] > 0
    table = contingency(groups[..., 0], labels, scored, num_groups, gamma.shape[0])
    info = information(table)
    is_known = _is_complete(table, scored) & ~jnp.any(jnp.isnan(gamma[..., 0]) & scored[None])
    return Scores(
        ami_max=jnp.where(is_known, adjusted(info, "max"), jnp.nan),
        ami_arithmetic=jnp.where(is_known, adjusted(info, "arithmetic"), jnp.nan),
        ari=jnp.where(is_known, ari_from_table(table), jnp.nan),
        confidence=confidence(groups, gamma),
    )
