"""The training step of RNN-EM on static shapes (B = 64, K = 4, T = 15): ours against PyTorch, on the CPU.

Ours is what training runs: `train_steps`, several steps in one compiled call, each drawing its images, its noise and
its initial gamma. PyTorch's is `torch_rnn_em.RNNEM` with backward and Adam on ready-made images, eager and compiled.
First both must give the same loss and gradients."""

import functools
from typing import Any

import numpy as np

from experiments.benchmark.agreement import largest_difference, one_batch
from experiments.benchmark.contest import OURS, Contest, Run, build_ours, prepare_torch
from experiments.static_shapes.config import get_config
from nem_jax.config import Experiment, build_experiment

STEPS_PER_TURN = 10
MEAN_PIXEL = 0.16


def _experiment() -> Experiment:
    return build_experiment(get_config("rnn_em"))


def _torch_model(experiment: Experiment) -> Any:
    """The PyTorch model of the configuration that ours is built from, and PyTorch on all cores."""
    from experiments.benchmark.torch_rnn_em import RNNEM

    prepare_torch()
    config = get_config("rnn_em")
    model, num_pixels, noise_prob = experiment.model, config.data.image_size**2, config.model.noise_prob
    return RNNEM(num_pixels, model.hidden_size, model.num_components, model.num_steps, noise_prob, model.epsilon)


def _build_torch(compiled: bool) -> Run:
    import torch

    from experiments.benchmark.torch_rnn_em import make_train_step

    experiment = _experiment()
    model = _torch_model(experiment)
    train_step = make_train_step(model, get_config("rnn_em").training.learning_rate, compiled)
    shape = (STEPS_PER_TURN, experiment.training.batch_size, 1, model.output.out_features)
    images = torch.bernoulli(torch.full(shape, MEAN_PIXEL))

    def run() -> None:
        for x in images:
            train_step(x)

    return run


def contest() -> Contest:
    """Ours, and PyTorch eager and compiled."""
    return Contest(
        "static_shapes",
        {
            OURS: lambda: build_ours(_experiment(), STEPS_PER_TURN),
            "PyTorch, eager": functools.partial(_build_torch, compiled=False),
            "PyTorch, compiled": functools.partial(_build_torch, compiled=True),
        },
        _largest_difference,
        steps_per_turn=STEPS_PER_TURN,
        num_rounds=12,
        batch_size=get_config("rnn_em").training.batch_size,
    )


def _largest_difference() -> float:
    """See `Contest.difference`."""
    import torch

    experiment = _experiment()
    batch = one_batch(experiment, experiment.training.batch_size)
    torch_model = _torch_model(experiment)
    layers = {"rnn": torch_model.rnn, "output": torch_model.output}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(torch.from_numpy(np.array(batch.params[name]["kernel"]).T))
            layer.bias.copy_(torch.from_numpy(np.array(batch.params[name]["bias"])))
    x, x_noisy, gamma = (
        torch.from_numpy(np.array(array).reshape(*array.shape[:2], -1))
        for array in (batch.targets[:, :1], batch.x_noisy, batch.gamma)
    )
    loss = torch_model.loss(x, x_noisy.transpose(0, 1)[:, :, None], gamma)
    loss.backward()

    pairs = [(np.asarray(batch.loss), loss.detach().numpy())]
    for name, layer in layers.items():
        ours = batch.grads[name]
        pairs += [(ours["kernel"].T, layer.weight.grad.numpy()), (ours["bias"], layer.bias.grad.numpy())]
    return largest_difference(pairs)
