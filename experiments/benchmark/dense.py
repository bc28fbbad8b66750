"""The training step of RNN-EM on static shapes (B = 64, K = 4, T = 15): ours against PyTorch, on the CPU.

Ours is what training runs: `train_steps`, several steps in one compiled call, each drawing its images, its noise and
its initial gamma. PyTorch's is `torch_rnn_em.RNNEM` with backward and Adam on ready-made images, eager and compiled.
First both must give the same loss and gradients."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.contest import OURS, Contest, Run, build_ours, prepare_torch
from experiments.static_shapes.config import get_config
from nem_jax.config import Experiment, build_experiment
from nem_jax.em import init_state
from nem_jax.model import to_frames
from nem_jax.training.state import make_keys
from nem_jax.training.step import batch_loss

STEPS_PER_TURN = 10
LEARNING_RATE, MEAN_PIXEL = 1e-3, 0.16


def _experiment() -> Experiment:
    return build_experiment(get_config("rnn_em"))


def _torch_model(experiment: Experiment) -> Any:
    """The PyTorch model of the configuration that ours is built from, and PyTorch on all cores."""
    from experiments.benchmark.torch_rnn_em import RNNEM

    prepare_torch()
    model, num_pixels = experiment.model, math.prod(experiment.load_data().image_shape)
    noise_prob = get_config("rnn_em").model.noise_prob
    return RNNEM(num_pixels, model.hidden_size, model.num_components, model.num_steps, noise_prob, model.epsilon)


def _build_torch(compiled: bool) -> Run:
    import torch

    from experiments.benchmark.torch_rnn_em import make_train_step

    experiment = _experiment()
    model = _torch_model(experiment)
    train_step = make_train_step(model, LEARNING_RATE, compiled)
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
    model, dataset, keys = experiment.model, experiment.load_data(), make_keys(0)
    params = model.init(keys.init)
    index = jnp.arange(experiment.training.batch_size)
    examples = jax.jit(jax.vmap(dataset.sample, in_axes=(None, 0)))(dataset.splits["training"].source, index)

    def drawn(key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:  # as `nem_jax.model.infer` draws them
        noise_key, state_key = jax.random.split(key)
        x_noisy = model.corrupt(noise_key, to_frames(x, model.num_steps))
        return x_noisy, init_state(state_key, model.num_components, model.hidden_size, x.shape[1:]).gamma

    x_noisy, gamma = jax.jit(jax.vmap(drawn))(jax.random.split(keys.train, index.size), examples.x)
    loss_and_grads = jax.jit(jax.value_and_grad(batch_loss, argnums=1, has_aux=True), static_argnums=0)
    (loss, _), grads = loss_and_grads(model, params, jax.random.split(keys.train, index.size), examples.x)

    torch_model = _torch_model(experiment)
    layers = {"rnn": torch_model.rnn, "output": torch_model.output}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(torch.from_numpy(np.array(params[name]["kernel"]).T))
            layer.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
    flat_x, flat_noisy, flat_gamma = (
        torch.from_numpy(np.array(array).reshape(*array.shape[:2], -1)) for array in (examples.x, x_noisy, gamma)
    )
    torch_loss = torch_model.loss(flat_x, flat_noisy.transpose(0, 1)[:, :, None], flat_gamma)
    torch_loss.backward()

    pairs = [(loss, torch_loss.detach())]
    for name, layer in layers.items():
        pairs += [(grads[name]["kernel"].T, layer.weight.grad), (grads[name]["bias"], layer.bias.grad)]
    return max(np.max(np.abs(np.array(a) - b.numpy())) / np.max(np.abs(b.numpy())) for a, b in pairs)
