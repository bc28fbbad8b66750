"""Configurations: every name builds, every field is read, every bad value is one clear sentence."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.flying_mnist import config as flying_mnist
from experiments.flying_shapes import config as flying_shapes
from experiments.static_shapes import config as static_shapes
from experiments.static_shapes.config import get_config
from nem_jax.config import build_experiment, build_stages, checks
from nem_jax.config.compare import comparable, differences, portable, to_json
from nem_jax.config.fields import FIELDS
from nem_jax.config.model import _build_module
from nem_jax.corruption import masked_uniform
from nem_jax.data.flying_mnist import flying_mnist as digits_data
from nem_jax.data.hdf5_writer import write_hdf5
from nem_jax.data.mnist import load_sklearn_digits
from nem_jax.data.shapes import flying_shapes as flying_shapes_data
from nem_jax.data.shapes import static_shapes as static_shapes_data
from nem_jax.data.split import SPLITS
from nem_jax.distributions import Bernoulli, Gaussian
from nem_jax.em import MIN_EPSILON, e_step
from nem_jax.pretrained import DIRECTORY
from nem_jax.training.run import run

pytestmark = pytest.mark.compiled_quickly

CONV = {
    "model__cell": "conv_rnn_em", "model__features": (3, 4), "model__dense_size": 5, "model__normalise_input": False,
}  # fmt: skip


def changed(**fields):
    """The default configuration with `section__field=value` set."""
    config = get_config("rnn_em")
    with config.unlocked():
        for name, value in fields.items():
            section, field = name.split("__")
            config[section][field] = value
    return config


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("experiment", "name"),
    [(module, name) for module in (static_shapes, flying_shapes, flying_mnist) for name in module.NAMES],
    ids=lambda value: getattr(value, "__name__", value).removeprefix("experiments."),
)
def test_every_named_configuration_builds_and_its_cell_runs(experiment, name):
    config = experiment.get_config(name)
    model, size = build_experiment(config).model, config.data.image_size
    params = jax.eval_shape(model.init, jax.random.key(0))
    residual, theta = jnp.zeros((size, size, 1)), jnp.zeros(model.hidden_size)
    new_theta, psi = jax.eval_shape(model.cell, params, residual, theta)
    assert new_theta.shape == theta.shape
    assert psi.shape == residual.shape


def test_stages_set_their_fields_and_nothing_else():
    stages = build_stages(flying_mnist.get_config("smoke"))
    assert len(stages) == 2
    pools = [stage.load_data().splits["training"].source.pictures.shape[0] for stage in stages]
    assert pools == [5, 1250]
    assert stages[0].model == stages[1].model


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"data.digit_pol": 5}, "stages[0] sets data.digit_pol, which is no field of data or training"),
        ({"model.hidden_size": 5}, "stages[0] sets model.hidden_size, which is no field of data or training"),
        ({"data.image_size": 24}, "stages[0] sets data.image_size, which all stages share"),
        ({"training.init_from": "x"}, "stages[0] sets training.init_from, which all stages share"),
        ({"training.seed_devices": 1}, "stages[0] sets training.seed_devices, which all stages share"),
        (["data.digit_pool", 5], "stages[0] must be a dictionary of dotted fields, got ['data.digit_pool', 5]"),
        ({"training.learning_rate": 1.0}, "training.learning_rate is 0.0005, but stages[0] sets it to 1.0: give both"),
        ({5: 1}, "stages[0] sets 5, which is no field of data or training"),
        ({"training.batch_size": "many"}, "stages[0] sets training.batch_size to 'many', of the wrong type"),
    ],
)
def test_bad_stages_are_one_sentence(stage, sentence, tmp_path):
    config = flying_mnist.get_config("smoke")
    config.stages = (stage,)
    for begin in (build_experiment, lambda config: run(config, tmp_path / "run")):
        with pytest.raises(ValueError) as error:
            begin(config)
        assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "config",
    [get_config("rnn_em"), get_config("n_em"), flying_shapes.get_config(), flying_mnist.get_config("smoke")],
    ids=lambda config: config.experiment,
)
def test_every_field_is_read(config, monkeypatch):
    """A field that nothing reads is a setting without effect."""
    config.stages = ()
    read = set()
    original = ConfigDict.__getitem__

    def recording(self, key):
        read.add((id(self), key))
        return original(self, key)

    monkeypatch.setattr(ConfigDict, "__getitem__", recording)
    monkeypatch.setattr(ConfigDict, "to_dict", lambda self: id(self))  # reads them all, to compare models
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
        ({"model__cell": "lstm"}, "model.cell must be one of 'rnn_em', 'n_em', 'conv_rnn_em', got 'lstm'"),
        ({"model__pixel_dist": "poisson"}, "model.pixel_dist must be one of 'bernoulli', 'gaussian', got 'poisson'"),
        ({"model__step_weights": "first"}, "model.step_weights must be one of 'last', 'all', got 'first'"),
        ({"model__epsilon": -1.0}, "model.epsilon must be a number from 0.0 to 1.0, got -1.0"),
        ({"model__e_sigma": 0.5}, "model.e_sigma must be given exactly if model.pixel_dist is 'gaussian', got 0.5"),
        ({"model__pixel_dist": "gaussian"}, "model.e_sigma must be given exactly if"),
        (
            {"model__pixel_dist": "gaussian", "model__e_sigma": 0.0},
            "model.e_sigma must be a number from 0.001 to 1e+38, got 0.0",
        ),
        ({"model__step_size_init": "positive"}, "model.step_size_init must be given exactly if model.cell is 'n_em'"),
        ({"model__cell": "n_em"}, "model.step_size_init must be given exactly if model.cell is 'n_em', got None"),
        (
            {"model__cell": "n_em", "model__step_size_init": "down"},
            "model.step_size_init must be one of 'positive', 'original', got 'down'",
        ),
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
        ({"data__num_test": 0}, "data.num_test must be an integer from 1 to 2147483647, got 0"),
        ({"data__num_training": 2**31}, "data.num_training must be an integer from 1 to 2147483647, got 2147483648"),
        ({"data__generator": "movies"}, "data.generator must be one of 'static_shapes', 'flying_shapes', "),
        (
            {"data__generator": "published_shapes"},
            "data.image_size is 28, of one channel, but the images in the data are 20x20x1",
        ),
        (
            {"data__generator": "published_shapes", "data__num_objects": 5},
            "data.num_objects must be 3 if data.generator is 'published_shapes', got 5",
        ),
        ({"data__generator": "flying_mnist"}, "data.digits must be given exactly if data.generator is 'static_mnist'"),
        ({"data__digits": "mnist"}, "data.digits must be given exactly if data.generator is 'static_mnist' or"),
        ({"data__generator": "flying_mnist", "data__digits": "roman"}, "data.digits must be one of 'mnist', 'sklearn'"),
        ({"data__digit_pool": 20}, "data.digit_pool is given, but used only if data.generator is 'static_mnist' or"),
        ({"data__mnist_dir": "x"}, "data.mnist_dir is given, but used only if data.generator is 'static_mnist' or"),
        (
            {"data__generator": "flying_mnist", "data__digits": "sklearn", "data__mnist_dir": "x"},
            "data.mnist_dir is given, but data.digits is 'sklearn'",
        ),
        (
            {"data__generator": "flying_mnist", "data__digits": "mnist", "data__mnist_dir": "nowhere"},
            "data.mnist_dir: there is no file train-images-idx3-ubyte.gz or train-images-idx3-ubyte in nowhere",
        ),
        ({"model__lookahead": 2}, "model.lookahead must be an integer from 0 to 1, got 2"),
        ({"model__features": (3,)}, "model.features must be given exactly if model.cell is 'conv_rnn_em', got (3,)"),
        ({"model__cell": "conv_rnn_em"}, "model.features must be given exactly if model.cell is 'conv_rnn_em'"),
        ({**CONV, "model__features": (3, 0)}, "model.features must be one or more integers of at least 1, got (3, 0)"),
        ({**CONV, "model__dense_size": 0}, "model.dense_size must be an integer of at least 1, got 0"),
        ({**CONV, "model__features": (3, 3, 3)}, "data.image_size must be a multiple of 8 for the 3 convolutions"),
        ({"training__remat": "some"}, "training.remat must be one of 'none', 'elementwise', 'all', got 'some'"),
        ({"training__remat": "all"}, "training.remat 'all' needs training.scan_unroll below model.num_steps"),
        ({"training__remat": "all", "training__scan_unroll": 15}, "needs training.scan_unroll below model.num_steps"),
        ({"data__path": "nowhere.h5"}, "data.path: there is no file nowhere.h5"),
        ({"data__path": "nowhere.h5", "data__image_size": 1}, "data.path: there is no file nowhere.h5"),
        (
            {
                "data__path": "x.h5", "data__generator": "flying_mnist", "data__digits": "mnist",
                "data__digit_pool": 20,
            },
            "data.digit_pool is given, but used only if data.path is None",
        ),
        ({"training__batch_size": 50_001}, "training.batch_size must be an integer from 1 to 50000, got 50001"),
        ({"training__learning_rate": -1.0}, "training.learning_rate must be a number from 0.0 to 1e+38, got -1.0"),
        ({"training__learning_rate": 1e39}, "training.learning_rate must be a number from 0.0 to 1e+38, got 1e+39"),
        ({"training__decay": "cos"}, "training.decay must be one of 'none', 'cosine', got 'cos'"),
        (
            {"training__warmup_epochs": 500, "training__decay": "cosine"},
            "training.warmup_epochs must be an integer from 0 to 499, got 500",
        ),
        ({"training__warmup_epochs": 501}, "training.warmup_epochs must be an integer from 0 to 500, got 501"),
        ({"training__clip_norm": 0.0}, "training.clip_norm must be a number from 1e-06 to 1e+38, got 0.0"),
        ({"training__seed_mapping": "pmap"}, "training.seed_mapping must be one of 'vmap', 'sequence', got 'pmap'"),
        ({"training__seed_devices": 0}, "training.seed_devices must be an integer of at least 1, got 0"),
        ({"training__max_epochs": 0}, "training.max_epochs must be an integer of at least 1, got 0"),
        ({"training__log_interval": 0}, "training.log_interval must be an integer of at least 1, got 0"),
        ({"training__figure_interval": 0}, "training.figure_interval must be an integer of at least 1, got 0"),
        ({"training__num_microbatches": 65}, "training.num_microbatches must be an integer from 1 to 64, got 65"),
        ({"data__seed": 5, "data__path": "x.h5"}, "data.seed is 5, but nothing is drawn from it: leave it at 0"),
        ({"data__seed": 5, "data__generator": "published_shapes"}, "data.seed is 5, but nothing is drawn from it"),
        ({"model__num_draws": 0}, "model.num_draws must be an integer of at least 1, got 0"),
        ({"model__scored_steps": "first"}, "model.scored_steps must be one of 'last', 'all', got 'first'"),
        ({"model__inter_weight": -1.0}, "model.inter_weight must be a number from 0.0 to 1e+38, got -1.0"),
        ({"model__precision": "half"}, "model.precision must be one of 'highest', 'default', 'bfloat16', got 'half'"),
        ({"model__epsilon": 1e-39}, "model.epsilon must be 0 or at least 1e-18, got 1e-39"),
        ({"training__scan_unroll": 16}, "training.scan_unroll must be an integer from 1 to 15, got 16"),
        ({"training__patience": 0}, "training.patience must be an integer of at least 1, got 0"),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence_that_names_the_field(fields, sentence):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        build_experiment(changed(**fields)).load_data()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_the_fields_are_those_of_every_configuration():
    for config in (
        get_config("rnn_em").to_dict(),
        *(json.loads(file.read_text()) for file in DIRECTORY.glob("*.json")),
    ):
        names = {section: set(config.pop(section)) for section in FIELDS if section} | {"": set(config)}
        assert names == {section: set(fields) for section, fields in FIELDS.items()}


@pytest.mark.parametrize("section", FIELDS)
def test_a_configuration_of_another_version_is_one_sentence(section):
    config = get_config("rnn_em")
    part, prefix = (config[section], f"{section}.") if section else (config, "")
    with config.unlocked():
        for name in FIELDS[section]:
            kept = part[name]
            del part[name]
            with pytest.raises(ValueError, match=f"lacks a field, {prefix}{name}: it was written by another version"):
                build_experiment(config)
            part[name] = kept
        part["new"] = 1
        with pytest.raises(ValueError, match=f"has an unknown field, {prefix}new: it is misspelt, or was written by"):
            build_experiment(config)


def test_a_section_that_is_missing_is_one_sentence():
    config = get_config("rnn_em")
    with config.unlocked():
        del config["model"]
    with pytest.raises(ValueError, match=r"lacks a field, model\.cell"):
        build_experiment(config)


@pytest.mark.parametrize("content", [None, 3])
def test_a_section_that_is_no_section_is_one_sentence(content):
    config = ConfigDict({**to_json(get_config("rnn_em")), "data": content})
    with pytest.raises(ValueError, match=r"lacks a field, data\.\w+: it was written by another version"):
        build_experiment(config)


def test_what_is_left_out_of_a_comparison_is_left_out_of_its_stages():
    """How to compute, and the machine's own: the same run elsewhere, in less memory."""
    here = flying_mnist.get_config("smoke")
    there = flying_mnist.get_config("smoke")
    first, last = here.stages
    there.stages = ({**first, "training.num_microbatches": 2, "data.mnist_dir": "elsewhere"}, dict(last))
    assert comparable(to_json(here)) == comparable(to_json(there)) != to_json(there)
    assert portable(to_json(there))["stages"][0] == {**first, "training.num_microbatches": 2}
    there.stages = ({**first, "data.digit_pool": 6}, dict(last))
    assert differences(comparable(to_json(here)), comparable(to_json(there)))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("num_microbatches", 3, r"training.num_microbatches must divide training.batch_size \(64\), got 3"),
        ("seed_devices", 2, r"training.seed_devices must divide num_seeds \(1\), got 2"),
    ],
)
def test_what_no_device_could_divide_is_refused_by_the_configuration(field, value, sentence):
    config = get_config("smoke")
    config.training[field] = value
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        build_experiment(config)


def test_a_configuration_out_of_its_file_has_the_same_model():
    """What was compiled with it serves again, though tuples have become lists."""
    config = flying_mnist.get_config("smoke")
    again = ConfigDict(json.loads(config.to_json()))
    assert build_experiment(again).model is build_experiment(config).model


@pytest.mark.parametrize("pixel_dist", [Bernoulli(), Gaussian(e_sigma=0.05)])
def test_the_least_epsilon_has_a_gradient_where_no_component_explains_a_pixel(pixel_dist):
    x, psi = jnp.zeros((1, 1, 1)), jnp.ones((2, 1, 1, 1))
    assert jnp.all(pixel_dist.prob(x[None], psi) == 0)
    gradient = jax.grad(lambda psi: e_step(x, psi, pixel_dist, MIN_EPSILON)[0].sum())(psi)
    assert jnp.all(jnp.isfinite(gradient))


def test_each_field_reaches_the_model():
    """With values that are not NEM's own."""
    fields = {
        "hidden_size": 7, "num_components": 6, "num_steps": 5, "lookahead": 0, "gradient_gamma": False, "epsilon": 0.5,
        "step_weights": "all", "scored_steps": "all", "inter_weight": 0.25, "num_draws": 3,
    }  # fmt: skip
    training = {"scan_unroll": 2, "remat": "all"}
    changes = {f"model__{name}": new for name, new in fields.items()}
    changes |= {f"training__{name}": new for name, new in training.items()}
    model, plain = (build_experiment(config).model for config in (changed(**changes), get_config("rnn_em")))
    for name, expected in {**fields, **training}.items():
        assert getattr(model, name) == expected != getattr(plain, name)


@pytest.mark.parametrize("generator", ["static_shapes", "flying_shapes", "static_mnist", "flying_mnist"])
def test_each_field_reaches_the_data(generator):
    """With values that are nobody's defaults."""
    sizes, num_frames, of_mnist = (70, 3, 2), 4, generator.endswith("mnist")
    scene = {"num_objects": 2, "image_size": 24}
    fields = {"generator": generator, "seed": 5, **scene}
    fields |= dict(zip(("num_training", "num_validation", "num_test"), sizes, strict=True))
    fields |= {"digits": "sklearn", "digit_pool": 9} if of_mnist else {}
    changes = {f"data__{name}": new for name, new in fields.items()}
    found = build_experiment(changed(**changes, model__num_steps=3, model__lookahead=1)).load_data()
    if of_mnist:
        frames = 1 if generator == "static_mnist" else num_frames
        expected = digits_data(5, sizes, load_sklearn_digits(), num_frames=frames, digit_pool=9, **scene)
    elif generator == "static_shapes":
        expected = static_shapes_data(5, sizes, **scene)
    else:
        expected = flying_shapes_data(5, sizes, num_frames=num_frames, **scene)
    for field in ("image_shape", "num_frames", "num_groups"):
        assert getattr(found, field) == getattr(expected, field)
    for name, size in zip(SPLITS, sizes, strict=True):
        ours, theirs = (dataset.splits[name] for dataset in (found, expected))
        assert ours.size == theirs.size == size
        examples = [each.sample(split.source, jnp.int32(1)) for each, split in ((found, ours), (expected, theirs))]
        jax.tree.map(np.testing.assert_array_equal, *examples)


@pytest.mark.parametrize(("field", "new"), [("remat", "all"), ("scan_unroll", 2)])
def test_models_that_differ_in_how_they_train_alone_are_two(field, new):
    plain = {"training__scan_unroll": 1}
    model = build_experiment(changed(**{**plain, f"training__{field}": new})).model
    assert getattr(model, field) == new != getattr(build_experiment(changed(**plain)).model, field)


def test_models_that_differ_in_the_image_size_alone_are_two():
    sizes = [
        jax.tree.leaves(jax.eval_shape(build_experiment(changed(data__image_size=size)).model.init, jax.random.key(0)))
        for size in (28, 20)
    ]
    assert [leaf.shape for leaf in sizes[0]] != [leaf.shape for leaf in sizes[1]]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"data__num_objects": 2}, "data.num_objects is 2, but the stored groups go up to 3"),
        ({"data__image_size": 20}, "data.image_size is 20, of one channel, but the images in the data are 28x28x1"),
    ],
)
def test_stored_data_must_be_what_the_configuration_says(tmp_path, fields, sentence):
    write_hdf5(tmp_path / "shapes.h5", static_shapes_data(0, (70, 2, 2)))
    sizes = {"data__num_training": 70, "data__num_validation": 2, "data__num_test": 2}
    config = changed(data__path=str(tmp_path / "shapes.h5"), **sizes)
    assert build_experiment(config).load_data().num_groups == 3
    with pytest.raises(ValueError, match=sentence):
        build_experiment(changed(data__path=str(tmp_path / "shapes.h5"), **sizes, **fields)).load_data()


def test_pixels_and_noise_reach_the_model():
    changes = {"pixel_dist": "gaussian", "e_sigma": 0.5, "noise": "masked_uniform", "noise_prob": 0.3}
    model = build_experiment(changed(**{f"model__{name}": new for name, new in changes.items()})).model
    assert model.pixel_dist == Gaussian(e_sigma=0.5, loss_sigma=1.0)
    assert Gaussian() == Gaussian(e_sigma=0.25, loss_sigma=1.0)
    assert (model.corrupt.func, model.corrupt.keywords) == (masked_uniform, {"prob": 0.3})


def test_the_first_step_of_n_em_may_be_a_descent_as_the_originals():
    signs = {}
    for name in ("positive", "original"):
        config = static_shapes.get_config("n_em")
        config.model.step_size_init = name
        init = jax.jit(jax.vmap(build_experiment(config).model.init))
        signs[name] = set((init(jax.random.split(jax.random.key(0), 8))["step_size"] > 0).tolist())
    assert signs == {"positive": {True}, "original": {True, False}}


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


def test_the_recipes_of_sequences_are_the_papers():
    """Paper's appendices A.2 and A.3 and the original program."""
    of_both = {
        "cell": "conv_rnn_em", "dense_size": 512, "num_steps": 20, "lookahead": 1, "noise_prob": 0.2,
        "gradient_gamma": False, "step_weights": "all", "scored_steps": "all", "epsilon": 1e-6, "num_draws": 1,
    }  # fmt: skip
    of_shapes = {
        "features": (32, 64), "hidden_size": 100, "normalise_input": False, "pixel_dist": "bernoulli",
        "noise": "bitflip", "inter_weight": 1.0, "e_sigma": None,
    }  # fmt: skip
    of_mnist = {
        "features": (32, 64, 128), "hidden_size": 250, "normalise_input": True, "pixel_dist": "gaussian",
        "noise": "masked_uniform", "inter_weight": 0.2, "e_sigma": 0.25, "num_components": 2,
    }  # fmt: skip
    sizes = {"rnn_em_3_3": (3, 3), "rnn_em_3_5": (3, 5), "rnn_em_5_3": (5, 3), "rnn_em_5_5": (5, 5),
             "rnn_em_4_5": (4, 5), "rnn_ae_3": (3, 1), "rnn_ae_4": (4, 1), "rnn_ae_5": (5, 1)}  # fmt: skip
    expected = [
        (flying_shapes.get_config(name), {**of_both, **of_shapes, "num_components": k}, (28, n), 1e-3)
        for name, (n, k) in sizes.items()
    ]
    expected += [
        (flying_mnist.get_config(name), {**of_both, **of_mnist}, (24, 2), 5e-4) for name in ("direct", "staged")
    ]
    for config, model, (image_size, num_objects), learning_rate in expected:
        assert {name: config.model[name] for name in model} == model
        assert (config.data.image_size, config.data.num_objects) == (image_size, num_objects)
        assert (config.data.num_training, config.data.num_validation, config.data.num_test) == (50_000, 10_000, 10_000)
        training = config.training
        assert (training.learning_rate, training.batch_size, training.patience, training.max_epochs) == (
            learning_rate, 64, 10, 500
        )  # fmt: skip
    assert flying_mnist.get_config("direct_text").model.e_sigma == 0.5
    assert flying_shapes.get_config("rnn_em_3_5_denoising").model.lookahead == 0
    assert [dict(stage) for stage in flying_mnist.get_config("staged").stages] == [
        {"data.digit_pool": 20, "training.learning_rate": 1e-3},
        {"data.digit_pool": 500, "training.learning_rate": 5e-4},
        {"data.digit_pool": None, "training.learning_rate": 5e-4},
    ]


def test_the_fast_recipes_depart_from_the_papers_in_this():
    direct, fast, staged = (flying_mnist.get_config(name) for name in ("direct", "direct_fast", "staged_fast"))
    assert set(differences(to_json(direct), to_json(fast))) == {
        f"config.{name} is {before!r} there and {now!r} here"
        for name, before, now in (
            ("name", "direct", "direct_fast"),
            ("model.features", [32, 64, 128], [16, 32, 64]), ("model.dense_size", 512, 256),
            ("training.batch_size", 64, 16), ("training.clip_norm", None, 100.0), ("training.decay", "none", "cosine"),
            ("training.learning_rate", 5e-4, 2e-3), ("training.max_epochs", 500, 8),
            ("stages", [], [{"training.max_epochs": 9}, {}]),
        )
    }  # fmt: skip
    assert [stage.training.max_epochs for stage in build_stages(fast)] == [9, 8]
    assert staged.model == fast.model
    pools = [stage["data.digit_pool"] for stage in staged.stages]
    stages = [stage.training for stage in build_stages(staged)]
    assert pools == [20, 500, None, None]
    assert [stage.max_epochs for stage in stages] == [4, 2, 3, 8]
    assert [stage.get("training.decay", staged.training.decay) for stage in staged.stages] == [
        "none", "none", "cosine", "cosine"
    ]  # fmt: skip
    rates = [stage.get("training.learning_rate", staged.training.learning_rate) for stage in staged.stages]
    assert rates == [2e-3, 1e-3, 1e-3, 2e-3]
    assert (staged.training.clip_norm, staged.training.batch_size) == (100.0, 16)


@pytest.mark.parametrize("recipe", ["direct", "staged"])
def test_what_trains_the_fast_recipes_on_is_their_last_stage_for_longer(recipe):
    fast, longer = (to_json(flying_mnist.get_config(f"{recipe}_{name}")) for name in ("fast", "longer"))
    assert len(fast.pop("stages")) > len(longer.pop("stages")) == 0
    assert set(differences(fast, longer)) == {
        f"config.name is '{recipe}_fast' there and '{recipe}_longer' here",
        "config.training.max_epochs is 8 there and 16 here",
        f"config.training.init_from is None there and 'runs/{recipe}_fast' here",
    }
    assert flying_mnist.PAPER[f"{recipe}_longer"] == flying_mnist.PAPER[recipe]


def test_the_papers_comparisons_score_what_it_reports():
    from experiments.flying_mnist import section_4_3
    from experiments.flying_shapes import figure_5, table_1

    assert {line.score for line in table_1.lines()} == {"ami_max_mean"}
    assert [line.group for line in table_1.lines()] == [
        "3/3", "3/3, test 3/5", "3/5", "3/5, test 3/3", "5/3", "5/3, test 3/3", "5/5", "5/5, test 3/5"
    ]  # fmt: skip
    assert {line.score for line in figure_5.lines()} == {"loss_upper_bound_last"}
    assert {(line.group, line.score) for line in section_4_3.lines()} == {
        ("2 digits", "ami_max_mean"), ("3 digits", "ami_max_mean"), ("2 static digits, step 50", "ami_max_last")
    }  # fmt: skip
    assert table_1.TRANSFERS == {
        "rnn_em_3_3": (3, 5, 0.972, 0.007), "rnn_em_3_5": (3, 3, 0.914, 0.015),
        "rnn_em_5_3": (3, 3, 0.886, 0.010), "rnn_em_5_5": (3, 5, 0.981, 0.003),
    }  # fmt: skip
    for line in table_1.lines()[1::2]:
        num_objects, num_components, *paper = table_1.TRANSFERS[line.name]
        assert line.fields == {"data.num_objects": num_objects, "model.num_components": num_components}
        assert line.paper == tuple(paper)
    digits = {(line.group, line.name): line for line in section_4_3.lines()}
    of_paper = {
        ("2 digits", "direct"): (0.819, 0.022), ("2 digits", "staged"): (0.917, 0.005),
        ("3 digits", "direct"): (0.729, 0.019), ("3 digits", "staged"): (0.838, 0.008),
        ("2 static digits, step 50", "direct"): (0.619, 0.023), ("2 static digits, step 50", "staged"): (0.772, 0.008),
    }  # fmt: skip
    assert {line.reproduces for line in section_4_3.lines()} == {"direct", "staged"}
    assert {of: line.paper for of, line in digits.items()} == of_paper | {
        (group, f"{name}_{longer}"): paper for (group, name), paper in of_paper.items() for longer in ("fast", "longer")
    }
    for _, name in digits:
        assert digits["2 digits", name].fields == {}
        assert digits["3 digits", name].fields == {"data.num_objects": 3, "model.num_components": 3}
    for line in figure_5.lines():
        assert line.group.startswith("denoising" if line.name.endswith("_denoising") else "next step")
        assert line.series == ("RNN-AE" if line.name.startswith("rnn_ae") else "RNN-EM (K = 5)")


@pytest.mark.parametrize("config", [get_config("rnn_em"), flying_shapes.get_config("smoke")])
def test_psi_has_its_distributions_activation(config):
    for dist in (Bernoulli(), Gaussian()):
        module = _build_module(config, dist)
        np.testing.assert_array_equal(module.output_activation(jnp.array([-2.0])), dist.activation(jnp.array([-2.0])))


def test_the_convolutional_cell_is_built_as_configured():
    fields = {"hidden_size": 7, "features": (3, 4), "dense_size": 6}
    for normalise_input in (True, False):
        config = flying_shapes.get_config("smoke")
        config.model.update({**fields, "normalise_input": normalise_input})
        module = _build_module(config, Bernoulli())
        assert {name: getattr(module, name) for name in fields} == fields
        assert module.normalise_input == normalise_input


def test_the_optimiser_is_adam():
    """Its equations (Kingma and Ba, 2015, algorithm 1) with their constants, over gradients that differ."""
    optimiser = build_experiment(get_config("rnn_em")).training.optimiser
    weights, moment, square = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    state = optimiser.init(jnp.asarray(weights))
    for step, gradient in enumerate(np.array([[0.3, -4, 1e-7], [0.1, 0, 2e-7], [-0.7, 2, -5e-7]]), start=1):
        update, state = optimiser.update(jnp.asarray(gradient), state, jnp.asarray(weights))
        moment, square = 0.9 * moment + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected = -1e-3 * (moment / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(update, expected, rtol=1e-4)
        weights = weights + expected


def rates(**training):
    """Adam's first step is the learning rate: how far a constant gradient moves a weight at each of 12 steps."""
    config = get_config("smoke")
    config.data.num_training = 8 * config.training.batch_size + 9  # two steps an epoch at 4 times the batch, and a rest
    config.training.update({"batch_size": 4 * config.training.batch_size, "learning_rate": 0.1, **training})
    optimiser = build_experiment(config).training.optimiser
    state, moved = optimiser.init(jnp.zeros(1)), []
    for _ in range(12):
        update, state = optimiser.update(jnp.ones(1), state, jnp.zeros(1))
        moved.append(-float(update[0]))
    return np.array(moved)


def test_the_learning_rate_rises_and_falls_by_epochs():
    np.testing.assert_allclose(rates(max_epochs=6), 0.1, rtol=1e-4)
    warmed = rates(max_epochs=6, warmup_epochs=2)
    np.testing.assert_allclose(warmed, 0.1 * np.minimum((1 + np.arange(12)) / 5, 1), atol=1e-5)
    falling = rates(max_epochs=6, warmup_epochs=2, decay="cosine")
    np.testing.assert_allclose(falling[4:], 0.05 * (1 + np.cos(np.pi * np.arange(8) / 8)), atol=1e-5)
    np.testing.assert_allclose(falling[:4], warmed[:4], atol=1e-5)


def test_large_gradients_are_clipped_before_adam():
    config = get_config("smoke")
    config.training.clip_norm = 2.0
    optimiser = build_experiment(config).training.optimiser
    _, (_, (adam, *_)) = optimiser.update(jnp.array([30.0, 40.0]), optimiser.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_allclose(adam.mu, 0.1 * np.array([1.2, 1.6]), rtol=1e-5)


@pytest.mark.parametrize(
    ("seed", "num_seeds", "sentence"),
    [
        (0, 0, "num_seeds must be an integer from 1 to 4294967296, got 0"),
        (0, 2**32 + 1, "num_seeds must be an integer from 1 to 4294967296, got 4294967297"),
        (-1, 1, "seed must be an integer from 0 to 4294967295, got -1"),
        (2**32 - 1, 2, "seed must be an integer from 0 to 4294967294, got 4294967295"),
    ],
)
def test_seeds_that_are_none_or_would_repeat_others_are_refused(seed, num_seeds, sentence):
    """JAX keeps 32 bits of a seed."""
    config = get_config("rnn_em")
    config.seed, config.num_seeds = seed, num_seeds
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        build_experiment(config)


def test_the_largest_seed_is_allowed():
    config = get_config("rnn_em")
    config.seed, config.num_seeds = 2**32 - 2, 2
    assert build_experiment(config).seeds[-1] == 2**32 - 1


@pytest.mark.parametrize("lookahead", [0, 1])
def test_sequences_have_the_frames_that_the_steps_need(lookahead):
    config = changed(data__generator="flying_shapes", model__num_steps=3, model__lookahead=lookahead)
    assert build_experiment(config).load_data().num_frames == 3 + lookahead


def test_the_ablation_changes_one_departure_at_a_time(monkeypatch):
    """Run by name, not imported at the top: its flags are those of a command."""
    from absl import flags

    from experiments.static_shapes import ablation

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    changed = differences(to_json(get_config("rnn_em")), to_json(get_config("rnn_em_best")))
    fields = {*static_shapes.DEPARTURES, "name", "training.max_epochs"}
    assert {line.split()[0].removeprefix("config.") for line in changed} == fields
    best, *others = ablation.variants().values()
    assert best == get_config("rnn_em_best")
    papers = [(field, checks.value(get_config("rnn_em"), field)) for field in static_shapes.DEPARTURES]
    for (field, other), variant in zip([*papers, *static_shapes.FURTHER.items()], others, strict=True):
        section, name = field.split(".")
        assert variant[section][name] == other != best[section][name]
        variant[section][name] = best[section][name]
        assert variant == best
        build_experiment(variant)
    monkeypatch.setattr(ablation, "_EPOCHS", SimpleNamespace(value=2))
    monkeypatch.setattr(ablation, "_NUM_TEST", SimpleNamespace(value=9))
    shorter = ablation.variants().values()
    assert {(config.training.max_epochs, config.data.num_test) for config in shorter} == {(2, 9)}


def test_the_ablation_reports_the_ami_that_the_paper_has(monkeypatch):
    from experiments.static_shapes import ablation

    scores = {
        name: {"mean": mean} for name, mean in (("ami_max_mean", 0.25), ("ami_arithmetic_mean", 0.5), ("total", 9.0))
    }
    monkeypatch.setattr(ablation, "variants", lambda: {ablation.WHOLE: get_config("smoke")})
    monkeypatch.setattr(ablation, "_DIRECTORY", SimpleNamespace(value="nowhere"))
    monkeypatch.setattr(
        ablation, "run_unless_finished", lambda *_: {"scores": scores, "runs": [], "hardware": "an abacus"}
    )
    (found,) = ablation.measure()[0]["scores"].values()
    assert (found["ami_max"], found["ami_arithmetic"]) == ({"mean": 0.25}, {"mean": 0.5})
    assert found["loss"] == {"mean": 9.0}


@pytest.mark.parametrize(
    ("module", "name", "base", "fields"),
    [
        (static_shapes, "rnn_em_k3", "rnn_em", {"model.num_components"}),
        (static_shapes, "rnn_em_20x20", "rnn_em", {"data.image_size"}),
        (static_shapes, "n_em", "rnn_em", {"model.cell", "model.step_size_init"}),
        (static_shapes, "n_em_k3", "n_em", {"model.num_components"}),
        (flying_mnist, "direct_text", "direct", {"model.e_sigma"}),
        (flying_mnist, "staged", "direct", {"stages"}),
        *((flying_shapes, f"{name}_denoising", name, {"model.lookahead"}) for name in flying_shapes.FIGURE_5),
    ],
)
def test_a_variant_departs_in_this_alone(module, name, base, fields):
    found = differences(*(to_json(module.get_config(each)) for each in (base, name)))
    assert {line.split()[0].removeprefix("config.") for line in found} == {"name", *fields}


@pytest.mark.parametrize("module", [flying_shapes, flying_mnist])
def test_the_convolutional_networks_loop_in_little_memory(module):
    training = module.get_config().training
    assert (training.scan_unroll, training.remat) == (1, "elementwise")


def test_published_shapes_have_the_configured_sizes():
    config = get_config("rnn_em_20x20")
    config.data.generator = "published_shapes"
    config.data.num_training, config.data.num_validation, config.data.num_test = 70, 3, 2
    dataset = build_experiment(config).load_data()
    assert [dataset.splits[name].size for name in SPLITS] == [70, 3, 2]
