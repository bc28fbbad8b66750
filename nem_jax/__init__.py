"""nem_jax: unsupervised perceptual grouping by Neural Expectation Maximization (Greff et al., 2017), in JAX.

An image of pixels x_i is explained by K components. Component k has a hidden state theta_k; one network turns it into
a mean psi_ik per pixel; gamma_ik is the probability that pixel i belongs to k. Each EM step (`em_step`) improves them:

    residual_k     = gamma_k (x_noisy - psi_k)                # what k has yet to explain of its pixels
    theta_k, psi_k = cell(params, residual_k, theta_k)        # M-step, or an RNN in its place; one network for all k
    gamma_ik       = P(x_i | psi_ik) / sum_j P(x_i | psi_ij)  # E-step

`unroll` repeats the step T times, and `trajectory_loss` makes the network learn from it, end to end: each component
shall predict its own pixels (`intra_loss`) and know nothing of the others (`inter_loss`). Objects emerge, unlabelled.

    step = functools.partial(nem_jax.em_step, cell, params, pixel_dist=nem_jax.Bernoulli())
    state = nem_jax.init_state(key, num_components=4, hidden_size=250, image_shape=(28, 28, 1))
    trajectory = nem_jax.unroll(step, state, x_noisy, x)         # gamma: [T, K, H, W, 1]

`cell` is any function `(params, residual [H, W, C], theta [M]) -> (theta, psi)`. All functions take one example and are
pure: compose them with `jax.jit`, `jax.vmap` and `jax.grad`. Trained ones: `load_pretrained("static_shapes_rnn_em")`.

Axes, always in this order: B batch, T EM steps (F = T + lookahead frames), K components, H height, W width, C channels;
M is the number of hidden units. To change K, noise or cell of an experiment, see its config.py and `nem_jax/config/`.
"""

from nem_jax.corruption import bitflip, masked_uniform
from nem_jax.data.flying_mnist import flying_mnist
from nem_jax.data.hdf5 import load_hdf5
from nem_jax.data.hdf5_writer import write_hdf5
from nem_jax.data.mnist import Digits, load_mnist, load_sklearn_digits
from nem_jax.data.published_shapes import published_shapes
from nem_jax.data.shapes import flying_shapes, static_shapes
from nem_jax.data.split import Dataset
from nem_jax.distributions import Bernoulli, Gaussian
from nem_jax.em import e_step, em_step, init_state, masked_residual, update_theta
from nem_jax.losses import (
    StepLoss,
    inter_loss,
    intra_loss,
    loss_upper_bound,
    step_weights,
    total_loss,
    trajectory_loss,
)
from nem_jax.metrics import Scores, ami, ari, confidence, segmentation_scores
from nem_jax.model import NEM, example_loss, infer, infer_likeliest
from nem_jax.networks.cells import NEMCell, RNNEMCell, flax_cell
from nem_jax.networks.conv_cell import ConvRNNEMCell
from nem_jax.pretrained import Trained, load_pretrained, pretrained_names
from nem_jax.rollouts import Rollout, rollout, rollout_losses
from nem_jax.types import Cell, EMState, Example, Objects, Trajectory
from nem_jax.unrolling import unroll

__all__ = [  # noqa: RUF022 - by subject
    # records
    "Cell", "EMState", "Example", "Objects", "Trajectory",
    # pixel distributions and input noise
    "Bernoulli", "Gaussian", "bitflip", "masked_uniform",
    # expectation maximisation
    "e_step", "em_step", "init_state", "masked_residual", "unroll", "update_theta",
    # training objective
    "StepLoss", "inter_loss", "intra_loss", "loss_upper_bound", "step_weights", "total_loss", "trajectory_loss",
    # scores
    "Scores", "ami", "ari", "confidence", "segmentation_scores",
    # data
    "Dataset", "Digits", "flying_mnist", "flying_shapes", "load_hdf5", "load_mnist", "load_sklearn_digits",
    "published_shapes", "static_shapes", "write_hdf5",
    # the papers' networks
    "ConvRNNEMCell", "NEMCell", "RNNEMCell", "flax_cell",
    # a whole model
    "NEM", "Rollout", "example_loss", "infer", "infer_likeliest", "rollout", "rollout_losses",
    # trained ones
    "Trained", "load_pretrained", "pretrained_names",
]  # fmt: skip
