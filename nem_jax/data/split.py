"""What a data set is: a pure function from (source, index) to one example, and its three splits."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nem_jax.types import Example, check_counts

SPLITS = ("training", "validation", "test")

bound = functools.cache(functools.partial)
"""`functools.partial`, and the same one for the same arguments: what is compiled with it serves again."""


class Split(NamedTuple):
    """One split. `source` is a pytree that lives on the device: a PRNG key for generated data, arrays for stored."""

    source: Any
    size: int

    def fetch(self, index: Any) -> Any:
        """The source with which `sample` serves all of `index`; a split that stays in a file reads them here."""
        del index
        return self.source

    def moved(self, place: Callable[[Any], Any]) -> "Split":
        """The split with its source where `place` puts it; one that stays in a file stays there."""
        return self._replace(source=place(self.source))


@dataclass(frozen=True)
class Dataset:
    """A data set: how an example is made, and of what.

    Attributes:
        sample: `(source, index []) -> Example`, pure: the same for the same index, on any device, in any batch.
        splits: by the names in `SPLITS`.
        image_shape: (H, W, C).
        num_frames: F, 1 for static images.
        num_groups: the largest value of `Example.groups`.
    """

    sample: Callable[[Any, jax.Array], Example]
    splits: dict[str, Split]
    image_shape: tuple[int, int, int]
    num_frames: int
    num_groups: int

    def example(self, split: str, index: int) -> Example:
        """Example number `index` of a split. (Of many, `sample` under `jax.vmap` makes a batch at once.)

        Raises:
            IndexError: the split has no such example.
        """
        chosen = self.splits[split]
        if not 0 <= index < chosen.size:
            raise IndexError(f"{split} has examples 0 to {chosen.size - 1}, got {index}")
        return self.sample(chosen.fetch([index]), jnp.int32(index))


def generated_splits(seed: int, sizes: tuple[int, int, int]) -> dict[str, Split]:
    """Splits of a generated data set: one PRNG key each, all drawn from `seed`.

    Raises:
        ValueError: a size is below 1.
    """
    check_counts(**{f"the size of {name}": size for name, size in zip(SPLITS, sizes, strict=True)})
    keys = jax.random.split(jax.random.key(seed), len(SPLITS))
    return {name: Split(key, size) for name, key, size in zip(SPLITS, keys, sizes, strict=True)}
