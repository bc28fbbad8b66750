"""The training step of the convolutional RNN-EM (B = 64, T = 20), flying shapes and MNIST, against PyTorch on the CPU.

Ours is what training runs: `train_steps`, which draws its sequences, noise and initial gamma. PyTorch's is
`torch_conv_rnn_em.ConvRNNEM` with backward and Adam on ready-made sequences: eager, with channels last, with its cell
compiled. First both must give the same loss and gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.benchmark.agreement import largest_difference, one_batch
from experiments.benchmark.contest import OURS, Contest, Run, build_ours, prepare_torch
from experiments.recipe import config_module
from nem_jax.config import build_experiment

CONFIGS = {"flying_shapes": "rnn_em_3_3", "flying_mnist": "direct"}
STEPS_PER_TURN = 3
"""Training takes 11 in one compiled call: a call of one would pay alone for memory that is new to the process."""


def paper_config(name: str, num_steps: int = 20) -> ConfigDict:
    """The configuration of an experiment that is measured; MNIST by scikit-learn's digits, which are always there."""
    config = config_module(name).get_config(CONFIGS[name])
    if name == "flying_mnist":
        config.data.digits = "sklearn"  # a step takes as long with them
    config.model.num_steps = num_steps
    return config


def _torch_model(name: str) -> Any:
    """The PyTorch model of the configuration that ours is built from."""
    from experiments.benchmark.torch_conv_rnn_em import ConvRNNEM

    prepare_torch()
    model, size = paper_config(name).model, paper_config(name).data.image_size
    binary = model.pixel_dist == "bernoulli"
    return ConvRNNEM(size, tuple(model.features), model.dense_size, model.hidden_size, model.num_components, binary)


def _build_torch(name: str, channels_last: bool = False, compiled: bool = False) -> Run:
    import torch

    from experiments.benchmark.torch_conv_rnn_em import make_train_step

    config, model = paper_config(name), _torch_model(name)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    train_step = make_train_step(model, config.training.learning_rate, config.model.inter_weight, compiled)
    size = config.data.image_size
    shape = (config.model.num_steps, config.training.batch_size, 1, 1, size, size)
    x_noisy, x = torch.bernoulli(torch.full((2, *shape), 0.2))

    def run() -> None:
        for _ in range(STEPS_PER_TURN):
            train_step(x_noisy, x)

    return run


def contest(name: str) -> Contest:
    """Of the experiment `name`: ours, and PyTorch eager, with channels last, with its cell compiled."""
    build: dict[str, Callable[[], Run]] = {
        OURS: lambda: build_ours(build_experiment(paper_config(name)), STEPS_PER_TURN),
        "PyTorch, eager": functools.partial(_build_torch, name),
        "PyTorch, channels last": functools.partial(_build_torch, name, channels_last=True),
        "PyTorch, compiled cell": functools.partial(_build_torch, name, compiled=True),
    }
    difference = functools.partial(_largest_difference, name)
    batch_size = paper_config(name).training.batch_size
    return Contest(name, build, difference, steps_per_turn=STEPS_PER_TURN, num_rounds=4, batch_size=batch_size)


def as_torch(params: dict[str, Any], side: int) -> dict[str, np.ndarray]:
    """Our weights (or their gradients) by the names and in the layout of the PyTorch model."""
    num_layers = sum(name.startswith("encoder_conv") for name in params)
    names = {"rnn": "rnn", "rnn_norm": "rnn_norm"}
    for layer in range(num_layers):
        names[f"encoder_conv_{layer}"] = f"encoder.{3 * layer}"
        names[f"encoder_norm_{layer}"] = f"encoder.{3 * layer + 1}"
        names[f"decoder_conv_{layer}"] = f"decoder.{9 + 5 * layer}"
        names[f"decoder_norm_{layer}"] = f"decoder.{10 + 5 * layer}"
    names["output"] = names[f"decoder_conv_{num_layers - 1}"]
    names["encoder_dense"], names["encoder_dense_norm"] = (f"encoder.{3 * num_layers + i}" for i in (1, 2))
    for layer in (0, 1):
        names[f"decoder_dense_{layer}"] = f"decoder.{3 * layer}"
        names[f"decoder_dense_norm_{layer}"] = f"decoder.{3 * layer + 1}"
    flat = np.arange(params["encoder_dense"]["kernel"].shape[0])
    channels_first = flat.reshape(side, side, -1).transpose(2, 0, 1).ravel()
    converted = {}
    for ours, leaves in params.items():
        for leaf, value in leaves.items():
            array = np.asarray(value)
            if ours == "encoder_dense" and leaf == "kernel":
                array = array[channels_first]
            if ours in ("decoder_dense_1", "decoder_dense_norm_1"):
                array = array[..., channels_first]
            converted[f"{names[ours]}.{'bias' if leaf == 'bias' else 'weight'}"] = (
                array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            )
    return converted


def _largest_difference(name: str) -> float:
    """See `Contest.difference`.

    Over 4 EM steps alone: at each, an untrained model amplifies what rounding did.
    """
    import torch

    config = paper_config(name, num_steps=4)
    batch = one_batch(build_experiment(config), 16)
    torch_model = _torch_model(name)
    side = config.data.image_size // 2 ** len(config.model.features)
    weights = {key: torch.from_numpy(array.copy()) for key, array in as_torch(batch.params, side).items()}
    torch_model.load_state_dict(weights)
    x_noisy, targets = (
        torch.from_numpy(np.array(a).transpose(1, 0, 4, 2, 3))[:, :, None] for a in (batch.x_noisy, batch.targets)
    )
    gamma = torch.from_numpy(np.array(batch.gamma).transpose(0, 1, 4, 2, 3))
    loss = torch_model(x_noisy, targets, gamma, config.model.inter_weight)
    loss.backward()

    found = {key: parameter.grad.numpy() for key, parameter in torch_model.named_parameters()}
    pairs = [(array, found[key]) for key, array in as_torch(batch.grads, side).items()]
    return largest_difference([*pairs, (np.asarray(batch.loss), loss.detach().numpy())])
