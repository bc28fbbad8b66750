"""What the config.py of several experiments share; all fields and their meaning: nem_jax/config/fields.py."""

import importlib
from types import ModuleType

from ml_collections import ConfigDict

from nem_jax.config.fields import default_config


def base_config(experiment: str, name: str, names: tuple[str, ...]) -> ConfigDict:
    """The configuration that all experiments start from; see `default_config`.

    Raises:
        ValueError: `name` is none of the experiment's `names`.
    """
    if name not in names:
        raise ValueError(f"config must be one of {', '.join(names)}, got {name!r}")
    config = default_config()
    config.experiment, config.name = experiment, name
    return config


def config_module(experiment: str) -> ModuleType:
    """An experiment's config.py, by its name."""
    return importlib.import_module(f"experiments.{experiment}.config")


def use_convolutions(config: ConfigDict) -> None:
    """What both experiments with the convolutional network share."""
    model, training = config.model, config.training
    model.cell = "conv_rnn_em"
    model.dense_size = 512
    training.scan_unroll = 1
    training.remat = "elementwise"  # 'all' takes the least memory


def shrink_sequences(config: ConfigDict) -> None:
    """A network and data of seconds."""
    data, model, training = config.data, config.model, config.training
    data.num_training, data.num_validation, data.num_test = 96, 32, 32
    model.num_steps, model.hidden_size, model.features, model.dense_size = 3, 8, (4,), 16
    training.batch_size, training.log_interval = 16, 3
