"""What trains on the CPU trains on its cores as devices of JAX's, as many as share a batch evenly."""

import math
from collections.abc import Iterable

from ml_collections import ConfigDict

from nem_jax import devices
from nem_jax.config import build_stages


def use_cores(configs: Iterable[ConfigDict]) -> None:
    """Of a process that trains alone: see `make_cores_devices`. Every stage's batches can then be split evenly.

    Raises:
        ValueError: a configuration is bad.
    """
    options = [stage.training for config in configs for stage in build_stages(config)]
    devices.make_cores_devices(math.gcd(*(option.batch_size // option.num_microbatches for option in options)))
