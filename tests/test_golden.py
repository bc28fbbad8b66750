"""Equal to the original program: golden files of the two networks that it was run with, see golden/README.md.

The measure is max|difference| / max|reference| per tensor, at most 1e-5 in float32.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nem_jax import em, losses, metrics
from nem_jax.distributions import Bernoulli
from nem_jax.networks.cells import RNNEMCell
from nem_jax.networks.conv_cell import ConvRNNEMCell
from nem_jax.unrolling import unroll

pytestmark = pytest.mark.strict_dtypes  # not compiled quickly: the goldens hold for the program that users run

TOLERANCE = 1e-5
FOLDER = Path(__file__).parent / "golden"


class Program(NamedTuple):
    """One run of the original program, and how it is called here."""

    files: str
    module: Any
    num_steps: int
    num_components: int
    gradient_gamma: bool
    step_weights: str
    layers: dict[str, str]
    """Our layer: the original's scope."""


RNN = "multi_rnn_cell/cell_0/basic_rnn_cell"
STATIC_SHAPES = Program(
    files="static_rnnem_trained*.npz",
    module=RNNEMCell(250, Bernoulli().activation),
    num_steps=5,
    num_components=4,
    gradient_gamma=True,
    step_weights="last",
    layers={"rnn": RNN, "output": "OutputWrapper0/fully_connected"},
)
FLYING_SHAPES = Program(
    files="flying_shapes_trained.npz",
    module=ConvRNNEMCell(100, Bernoulli().activation, features=(32, 64)),
    num_steps=4,
    num_components=3,
    gradient_gamma=False,
    step_weights="all",
    layers={
        "encoder_conv_0": "InputWrapper1/Conv", "encoder_norm_0": "LayerNormI1/LayerNorm",
        "encoder_conv_1": "InputWrapper2/Conv", "encoder_norm_1": "LayerNormI2/LayerNorm",
        "encoder_dense": "InputWrapper4/fully_connected", "encoder_dense_norm": "LayerNormI4/LayerNorm",
        "rnn": RNN, "rnn_norm": "multi_rnn_cell/cell_0/LayerNormR0/LayerNorm",
        "decoder_dense_0": "OutputWrapper0/fully_connected", "decoder_dense_norm_0": "LayerNormO0/LayerNorm",
        "decoder_dense_1": "OutputWrapper1/fully_connected", "decoder_dense_norm_1": "LayerNormO1/LayerNorm",
        "decoder_conv_0": "OutputWrapper3/Conv", "decoder_norm_0": "LayerNormO3/LayerNorm",
        "output": "OutputWrapper4/Conv",
    },
)  # fmt: skip
PROGRAMS = {"static_shapes": STATIC_SHAPES, "flying_shapes": FLYING_SHAPES}


def _original_name(program, layer, leaf):
    """`bias` and `kernel` of a recurrent layer, `biases` and `weights` of others, `beta` and `gamma` of a norm."""
    if layer == "rnn":
        name = leaf
    else:
        name = {"kernel": "weights", "scale": "gamma", "bias": "beta" if "norm" in layer else "biases"}[leaf]
    return f"NEM/{program.layers[layer]}/{name}"


WEIGHTS = [
    (name, layer, leaf)
    for name, program in PROGRAMS.items()
    for layer in program.layers
    for leaf in (("scale", "bias") if "norm" in layer else ("kernel", "bias"))
]


class Compared(NamedTuple):
    """A program's arrays, and what this package makes of the same inputs and weights."""

    program: Program
    golden: dict[str, np.ndarray]
    params: Any
    loss: Any
    steps: Any
    """Losses of each step, `[B, T]`."""
    bounds: Any
    trajectory: Any
    grads: Any


@pytest.fixture(scope="module")
def compared_of(users_compiler):
    """`compared_of(name)`: as users run it."""
    return functools.cache(functools.partial(_compared, users_compiler))


def _compared(compiler_options, name):
    program, golden = PROGRAMS[name], {}
    for path in sorted(FOLDER.glob(program.files)):
        with np.load(path) as file:
            golden.update(file)
    params = {layer: {} for layer in program.layers}
    for owner, layer, leaf in WEIGHTS:
        if owner == name:
            params[layer][leaf] = jnp.asarray(golden["w/" + _original_name(program, layer, leaf)])
    return Compared(program, golden, params, *_ours(program, golden, params, compiler_options))


def _ours(program, golden, params, compiler_options):
    """(loss, losses of each step, upper bounds, trajectory, gradients), batch first."""
    x_noisy = jnp.asarray(golden["corrupted"][:-1, :, 0].swapaxes(0, 1))
    x = jnp.asarray(golden["target"][1:, :, 0].swapaxes(0, 1))

    def cell(params, residual, theta):
        return program.module.apply({"params": params}, residual, theta)

    def example(params, x_noisy, x, gamma):
        hidden_size, shape = program.module.hidden_size, x.shape[1:]
        state = em.init_state(
            jax.random.key(0), num_components=program.num_components, hidden_size=hidden_size, image_shape=shape
        )._replace(gamma=gamma)
        options = {"pixel_dist": Bernoulli(), "gradient_gamma": program.gradient_gamma}
        trajectory = unroll(functools.partial(em.em_step, cell, params, **options), state, x_noisy, x)
        weights = losses.step_weights(program.step_weights, program.num_steps)
        loss = losses.trajectory_loss(x, trajectory, Bernoulli(), weights)
        steps = jax.vmap(lambda *step: losses.total_loss(*step, Bernoulli()))(x, trajectory.psi, trajectory.gamma)
        bounds = jax.vmap(lambda *step: losses.loss_upper_bound(*step, Bernoulli()))(x, trajectory.psi)
        return loss.total, (steps, bounds, trajectory)

    def batch(params):
        total, rest = jax.vmap(example, (None, 0, 0, 0))(params, x_noisy, x, jnp.asarray(golden["gamma_init"]))
        return jnp.mean(total), rest

    step = jax.jit(jax.value_and_grad(batch, has_aux=True), compiler_options=compiler_options)
    (loss, rest), grads = step(params)
    return loss, *rest, grads


@pytest.fixture(name="compared", scope="module", params=PROGRAMS)
def _each_program(request, compared_of):
    return compared_of(request.param)


@pytest.mark.smoke
@pytest.mark.parametrize(("leaf", "original"), [("psi", "preds"), ("gamma", "gammas"), ("theta", "thetas")])
def test_forward_pass(compared, relative_error, leaf, original):
    reference = compared.golden[original]
    value = np.swapaxes(getattr(compared.trajectory, leaf), 0, 1)
    assert relative_error(value.reshape(reference.shape), reference) <= TOLERANCE


def test_losses_of_every_step(compared):
    """Term by term: total, intra, inter (without its weight), and the upper bound."""
    for t in range(compared.program.num_steps):
        found = [np.mean(term[:, t]) for term in compared.steps]
        np.testing.assert_allclose(found, compared.golden["step_losses"][t], rtol=TOLERANCE)
        bound = np.mean(compared.bounds[:, t])
        np.testing.assert_allclose(bound, compared.golden["upper_bound_losses"][t], rtol=TOLERANCE)


def test_training_loss(compared):
    np.testing.assert_allclose(compared.loss, compared.golden["loss"], rtol=TOLERANCE)


def _tolerance(name, layer, leaf):
    """Of one gradient; that of the last bias is further from the truth than ours, as the test after the next shows."""
    return 2e-5 if (name, layer, leaf) == ("flying_shapes", "output", "bias") else TOLERANCE


@pytest.mark.smoke
@pytest.mark.parametrize(("name", "layer", "leaf"), WEIGHTS)
def test_gradient(compared_of, relative_error, name, layer, leaf):
    """Whole; or of the largest tensors some entries, the sums of all rows and columns, and the norm."""
    golden, original = compared_of(name).golden, _original_name(PROGRAMS[name], layer, leaf)
    grad = np.asarray(compared_of(name).grads[layer][leaf], np.float64)  # a norm of 1.6 million float32 is off by 1e-5
    if "grad/" + original in golden:
        assert relative_error(grad, golden["grad/" + original]) <= _tolerance(name, layer, leaf)
        return
    assert relative_error(grad.ravel()[golden["grad_idx/" + original]], golden["grad_val/" + original]) <= TOLERANCE
    assert relative_error(np.linalg.norm(grad), golden["grad_norm/" + original]) <= TOLERANCE
    assert relative_error(np.sum(grad, axis=0), golden["grad_colsum/" + original]) <= TOLERANCE
    scale = np.max(np.sum(np.abs(grad), axis=1))  # before a layer norm, rows sum to 0
    assert np.max(np.abs(np.sum(grad, axis=1) - golden["grad_rowsum/" + original])) <= TOLERANCE * scale


def test_the_gradient_that_differs_more_is_nearer_to_float64s(compared_of, relative_error):
    """A sum of 19,000 terms that nearly cancel: an exact one would be 1.05e-5 away from the original's."""
    program, golden, params, *_, grads = compared_of("flying_shapes")
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        exact = {name: value.astype(np.float64) for name, value in golden.items() if value.dtype == np.float32}
        *_, exact_grads = _ours(program, exact, jax.tree.map(lambda w: np.asarray(w, np.float64), params), {})
    reference = exact_grads["output"]["bias"]
    ours = relative_error(grads["output"]["bias"], reference)
    assert reference.dtype == np.float64
    assert ours < TOLERANCE < relative_error(golden["grad/" + _original_name(program, "output", "bias")], reference)


@pytest.mark.parametrize(("name", "layer", "leaf"), WEIGHTS)
def test_adam_step(compared_of, relative_error, name, layer, leaf):
    """The original optimiser's first step from its own gradients, or ours where the file has but some of them.

    It adds 1e-8 to sqrt(v) before the bias correction, which for the first step is an epsilon of optax's of
    1e-8 / sqrt(1 - 0.999). It shows in weights with tiny gradients, whose step is not of full length.
    """
    golden, original = compared_of(name).golden, _original_name(PROGRAMS[name], layer, leaf)
    before = np.ravel(golden["w/" + original])
    grad = np.ravel(golden.get("grad/" + original, compared_of(name).grads[layer][leaf]))
    if "adam1/" + original in golden:
        after = np.ravel(golden["adam1/" + original])
    else:
        index, after = golden["adam1_idx/" + original], golden["adam1_val/" + original]
        before, grad = before[index], grad[index]
    optimiser = optax.adam(1e-3, eps=1e-8 / np.sqrt(1 - 0.999))
    with jax.numpy_dtype_promotion("standard"):  # see conftest.py
        updates, _ = optimiser.update(jnp.asarray(grad), optimiser.init(jnp.asarray(before)))
    assert relative_error(before + updates, after) <= TOLERANCE
    assert relative_error(before, after) >= 10 * TOLERANCE


def test_scores(compared):
    """AMI and confidence of every step and image; ARI and confidence over the scored steps and after the last."""
    golden = compared.golden
    groups = jnp.asarray(golden["groups"][1:, :, 0].astype(np.int32).swapaxes(0, 1))
    score = functools.partial(metrics.segmentation_scores, num_groups=3)
    scores = jax.jit(jax.vmap(jax.vmap(score)))(groups, compared.trajectory.gamma)
    np.testing.assert_allclose(scores.ami_max.T, golden["AMI_max"], rtol=TOLERANCE)
    np.testing.assert_allclose(scores.confidence.T, golden["AMI_conf"], rtol=TOLERANCE)
    scored = slice(None) if compared.program.step_weights == "all" else slice(-1, None)
    expected = [scores.ari[:, scored], scores.ari[:, -1], scores.confidence[:, scored], scores.confidence[:, -1]]
    np.testing.assert_allclose([np.mean(e) for e in expected], golden["ARI_seq_last_confseq_conflast"], rtol=TOLERANCE)
