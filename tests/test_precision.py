"""How exactly a cell computes: what it costs in numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.flying_shapes.config import get_config as flying_shapes
from experiments.static_shapes.config import get_config as static_shapes
from nem_jax.config import build_experiment
from nem_jax.model import example_loss
from nem_jax.training import loop
from nem_jax.training.loop import Training

NUM_STEPS = 200


def losses_of(precision):
    """The mean loss over each fifty of 200 steps of static shapes."""
    config = static_shapes("smoke")
    config.model.precision = precision
    config.training.update({"batch_size": 16, "log_interval": 50})
    training = Training.of(build_experiment(config))
    state = loop.create(training)
    batches = np.arange(NUM_STEPS * 16).reshape(4, 1, 50, 16) % 512
    losses = []
    for batch in batches:
        state, loss = loop.take_steps(training, state, batch, np.array([True]))
        losses.append(loss[0, 0] / 50)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    return np.array(losses)


def test_bfloat16_learns_as_float32_does():
    exact, rounded = losses_of("highest"), losses_of("bfloat16")
    assert exact[-1] < 0.7 * exact[0]
    np.testing.assert_allclose(rounded, exact, rtol=0.01)
    assert (rounded != exact).all()


@pytest.mark.parametrize("get_config", [static_shapes, flying_shapes])
@pytest.mark.parametrize(("precision", "operand"), [("highest", "HIGHEST"), ("default", "DEFAULT")])
def test_every_product_of_forward_and_backward_pass_has_the_precision(get_config, precision, operand):
    config = get_config("smoke")
    config.model.precision = precision
    experiment = build_experiment(config)
    params = jax.eval_shape(experiment.model.init, jax.random.key(0))
    x = jnp.zeros((experiment.model.num_frames, *experiment.load_data().image_shape))

    def loss(params):
        return example_loss(experiment.model, params, jax.random.key(0), x).total

    products = re.findall(
        r"stablehlo\.(?:dot_general|convolution).*?precision.*?([A-Z]+)>?, .*?([A-Z]+)>?\]",
        jax.jit(jax.grad(loss)).lower(params).as_text(),
    )
    assert products
    assert set(products) == {(operand, operand)}


@pytest.mark.parametrize("get_config", [static_shapes, flying_shapes])
def test_psi_of_bfloat16_does_not_saturate(get_config):
    """0.999 is no bfloat16: it would be 1, whose cost is clipped and has no gradient."""
    config = get_config("smoke")
    config.model.precision = "bfloat16"
    model = build_experiment(config).model
    params = model.init(jax.random.key(0))
    name = "output" if "output" in params else max(key for key in params if key.startswith("decoder_conv"))
    params[name]["bias"] = jnp.full_like(params[name]["bias"], 7.0)
    residual, theta = jnp.zeros((28, 28, 1)), jnp.zeros(config.model.hidden_size)

    def largest_psi(params):
        return model.cell(params, residual, theta)[1].max()

    psi, gradient = jax.jit(jax.value_and_grad(largest_psi))(params)
    assert 0.99 < psi < 1
    assert jnp.abs(gradient[name]["bias"]).max() > 0


def test_bfloat16_leaves_the_types_that_it_is_given():
    """Else no loop could carry theta and psi."""
    config = static_shapes("smoke")
    config.model.precision = "bfloat16"
    model = build_experiment(config).model
    params = jax.eval_shape(model.init, jax.random.key(0))
    with jax.enable_x64(True):
        given = jnp.zeros((28, 28, 1)), jnp.zeros(config.model.hidden_size)
        theta, psi = jax.eval_shape(model.cell, params, *given)
    assert (psi.dtype, theta.dtype) == tuple(leaf.dtype for leaf in given) == ("float64", "float64")


def test_bfloat16_is_refused_where_it_would_lose_the_steps():
    config = static_shapes("n_em")
    config.model.precision = "bfloat16"
    with pytest.raises(ValueError, match=r"cannot have model\.precision 'bfloat16'"):
        build_experiment(config)
