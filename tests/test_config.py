"""Configurations: every name builds, every field is read, every bad value is one clear sentence."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from experiments.static_shapes.config import NAMES, get_config
from nem_jax.config import build_experiment


def changed(**fields):
    """The default configuration with `section__field=value` set."""
    config = get_config("rnn_em")
    with config.unlocked():
        for name, value in fields.items():
            section, field = name.split("__")
            config[section][field] = value
    return config


@pytest.mark.smoke
@pytest.mark.parametrize("name", NAMES)
def test_every_named_configuration_builds_and_its_cell_runs(name):
    experiment = build_experiment(get_config(name))
    model = experiment.model
    shape = experiment.load_data().image_shape
    params = model.init(jax.random.key(0))
    theta, psi = model.cell(params, jnp.zeros(shape), jnp.zeros(model.hidden_size))
    assert theta.shape == (model.hidden_size,)
    assert psi.shape == shape


@pytest.mark.parametrize("name", ["rnn_em", "n_em"])
def test_every_field_is_read(name, monkeypatch):
    """A field that nothing reads is a setting without effect."""
    config = get_config(name)
    read = set()
    original = ConfigDict.__getitem__

    def recording(self, key):
        read.add((id(self), key))
        return original(self, key)

    monkeypatch.setattr(ConfigDict, "__getitem__", recording)
    build_experiment(config).load_data()
    monkeypatch.undo()
    labels = {"experiment", "name"}  # read by the results, not by the run
    sections = {"": config, **{key: value for key, value in config.items() if isinstance(value, ConfigDict)}}
    unread = [
        f"{section}.{key}"
        for section, values in sections.items()
        for key, value in values.items()
        if not isinstance(value, ConfigDict) and key not in labels and (id(values), key) not in read
    ]
    assert unread == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model__num_components": 0}, "model.num_components must be an integer of at least 1, got 0"),
        ({"model__num_components": -1}, "model.num_components must be an integer of at least 1, got -1"),
        ({"model__num_steps": 0}, "model.num_steps must be an integer of at least 1, got 0"),
        ({"model__hidden_size": 0}, "model.hidden_size must be an integer of at least 1, got 0"),
        ({"model__noise_prob": 1.5}, "model.noise_prob must be a number from 0.0 to 1.0, got 1.5"),
        ({"model__noise_prob": -0.1}, "model.noise_prob must be a number from 0.0 to 1.0, got -0.1"),
        ({"model__noise_prob": float("nan")}, "model.noise_prob must be a number from 0.0 to 1.0, got nan"),
        ({"model__noise": "salt"}, "model.noise must be one of 'bitflip', 'masked_uniform', got 'salt'"),
        ({"model__cell": "lstm"}, "model.cell must be one of 'rnn_em', 'n_em', got 'lstm'"),
        ({"model__pixel_dist": "poisson"}, "model.pixel_dist must be one of 'bernoulli', 'gaussian', got 'poisson'"),
        ({"model__step_weights": "first"}, "model.step_weights must be one of 'last', 'all', got 'first'"),
        ({"model__epsilon": -1.0}, "model.epsilon must be a number from 0.0 to 1.0, got -1.0"),
        ({"model__e_sigma": 0.5}, "model.e_sigma must be given exactly if model.pixel_dist is 'gaussian', got 0.5"),
        ({"model__pixel_dist": "gaussian"}, "model.e_sigma must be given exactly if"),
        ({"model__step_size_init": "positive"}, "model.step_size_init must be given exactly if model.cell is 'n_em'"),
        ({"model__cell": "n_em"}, "model.step_size_init must be given exactly if model.cell is 'n_em', got None"),
        (
            {
                "model__cell": "n_em", "model__step_size_init": "positive",
                "model__pixel_dist": "gaussian", "model__e_sigma": 0.5,
            },
            "model.cell 'n_em' needs model.pixel_dist 'bernoulli'",
        ),
        ({"data__image_size": 11}, "data.image_size must be an integer from 12 to 256, got 11"),
        ({"data__image_size": 257}, "data.image_size must be an integer from 12 to 256, got 257"),
        ({"data__seed": 2**32}, "data.seed must be an integer from 0 to 4294967295, got 4294967296"),
        ({"data__num_objects": 0}, "data.num_objects must be an integer of at least 1, got 0"),
        ({"data__num_test": 0}, "data.num_test must be an integer of at least 1, got 0"),
        ({"data__published": True, "data__path": "x.h5"}, "data.published and data.path exclude each other"),
        ({"data__published": True}, "data.image_size is 28, but the stored images are 20x20x1"),
        ({"data__path": "nowhere.h5"}, "data.path: there is no file nowhere.h5"),
        ({"training__batch_size": 50_001}, "training.batch_size must be an integer from 1 to 50000, got 50001"),
        ({"training__learning_rate": -1.0}, "training.learning_rate must be a number of at least 0.0, got -1.0"),
        ({"training__scan_unroll": 16}, "training.scan_unroll must be an integer from 1 to 15, got 16"),
        ({"training__patience": 0}, "training.patience must be an integer of at least 1, got 0"),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence_that_names_the_field(fields, sentence):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        build_experiment(changed(**fields)).load_data()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_configuration_of_another_version_is_one_sentence():
    config = get_config("rnn_em")
    with config.unlocked():
        del config.data.published
    with pytest.raises(ValueError, match=r"lacks data\.published: it was written by another version"):
        build_experiment(config)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"config must be one of rnn_em, n_em, .*, got 'rnn'"):
        get_config("rnn")


def test_the_recipes_are_the_papers():
    """Paper's appendix A.1 and the original program: T, K, noise, optimiser, sizes."""
    for name, num_components in {"rnn_em": 4, "n_em": 4, "rnn_em_k3": 3, "n_em_k3": 3}.items():
        config = get_config(name)
        model, training, data = config.model, config.training, config.data
        assert (model.num_components, model.num_steps, model.noise_prob) == (num_components, 15, 0.1)
        assert (model.hidden_size, model.gradient_gamma, model.step_weights, model.inter_weight) == (
            250,
            True,
            "last",
            1,
        )
        assert (training.learning_rate, training.batch_size, training.patience, training.max_epochs) == (
            1e-3,
            64,
            10,
            500,
        )
        assert (data.num_training, data.num_validation, data.num_test) == (50_000, 10_000, 10_000)
