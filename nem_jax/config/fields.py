"""Every field of a configuration, with what the experiments of N-EM share; a config.py sets what is its own."""

from collections.abc import Iterable

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def default_config() -> ConfigDict:
    """The configuration that all experiments start from; what has no value in common is None."""
    config = ConfigDict()
    config.experiment = placeholder(str)
    config.name = placeholder(str)
    config.seed = 0  # weights, shuffling, input noise and initial gamma
    config.num_seeds = 1  # independent runs in one program, with the seeds seed, seed + 1, ...
    config.data = _data()
    config.model = _model()
    config.stages = ()  # dictionaries of dotted fields (data, training): each starts from the last one's weights
    config.training = _training()
    return config


def _data() -> ConfigDict:
    data = ConfigDict()
    data.path = placeholder(str)  # an HDF5 file in N-EM's layout, read instead of generating; None: generate
    data.generator = placeholder(str)  # 'static_shapes', 'published_shapes', 'flying_shapes', '{static,flying}_mnist'
    data.seed = 0  # of generated data
    data.digits = placeholder(str)  # 'mnist', or 'sklearn': real 8x8 digits that come with scikit-learn
    data.mnist_dir = placeholder(str)  # holds MNIST's IDX files; None: scikit-learn downloads MNIST
    data.digit_pool = placeholder(int)  # every split draws from the first so many training digits; None: from its own
    data.image_size = 28  # pixels
    data.num_objects = 3
    data.num_training, data.num_validation, data.num_test = 50_000, 10_000, 10_000
    return data


def _model() -> ConfigDict:
    model = ConfigDict()
    model.cell = placeholder(str)  # 'rnn_em', 'n_em', 'conv_rnn_em'
    model.step_size_init = placeholder(str)  # of n_em: 'positive', or 'original' (half of the runs negative)
    model.hidden_size = 250  # M
    model.features = placeholder(tuple)  # of conv_rnn_em: channels of the encoder, which the decoder mirrors
    model.dense_size = placeholder(int)  # of conv_rnn_em
    model.normalise_input = placeholder(bool)  # of conv_rnn_em
    model.num_components = 3  # K
    model.num_steps = 20  # T
    model.lookahead = 1  # step t predicts frame t + 1; 0: frame t. Static images are the same either way
    model.pixel_dist = "bernoulli"  # or 'gaussian'
    model.e_sigma = placeholder(float)  # of pixel_dist 'gaussian': standard deviation in the E-step
    model.epsilon = 1e-6  # added to the likelihoods in the E-step
    model.noise = "bitflip"  # or 'masked_uniform'
    model.noise_prob = 0.2
    model.gradient_gamma = False
    model.step_weights = "all"  # a loss at each EM step, or at the 'last'
    model.scored_steps = "all"  # AMI and ARI after each EM step, or after the 'last'
    model.inter_weight = 1.0
    model.num_draws = 1  # initial gammas of an evaluation, of which the likeliest result is kept
    model.precision = "default"  # of the cell: 'highest' (float32), 'default' (TF32 on GPU), 'bfloat16'
    return model


def _training() -> ConfigDict:
    training = ConfigDict()
    training.init_from = placeholder(str)  # a run's directory or pretrained weights; None: random weights
    training.learning_rate = 1e-3
    training.warmup_epochs = 0  # over which the rate rises to it
    training.decay = "none"  # or 'cosine': to 0 at max_epochs
    training.clip_norm = placeholder(float)  # the largest norm of a gradient
    training.batch_size = 64
    training.num_microbatches = 1  # parts of a batch, one after the other, to save memory
    training.max_epochs = 500
    training.patience = 10  # epochs without a better validation loss
    training.log_interval = 11  # steps between two visits of the host, which move the progress bar; 781 steps an epoch
    training.scan_unroll = placeholder(int)  # EM steps per loop body; None: all
    training.seed_mapping = placeholder(str)  # several seeds 'vmap'ped or in 'sequence'; None: as is faster
    training.seed_devices = placeholder(int)  # along the mesh's axis of seeds; None: the greatest common divisor
    training.remat = "none"  # what the backward pass computes again: 'none', 'elementwise' or 'all', to save memory
    training.figure_interval = 1  # epochs between two overview figures in TensorBoard
    return training


def _fields() -> dict[str, tuple[str, ...]]:
    config = default_config()
    sections = {name: tuple(section) for name, section in config.items() if isinstance(section, ConfigDict)}
    return {"": tuple(name for name in config if name not in sections), **sections}


FIELDS = _fields()
"""The names in each section, and under "" those in none."""


def check_fields(config: ConfigDict) -> None:
    """`config` has these fields and no others, whose meaning would be lost.

    Raises:
        ValueError: it lacks one, or has another; the sentence names it.
    """
    for section, names in FIELDS.items():
        present = set(_entries(config, section)) if section else set(config) - set(FIELDS)
        for name in sorted(present ^ set(names)):
            unknown = name in present
            what, why = ("has an unknown field", "it is misspelt, or was") if unknown else ("lacks a field", "it was")
            field = f"{section}.{name}" if section else name
            raise ValueError(f"the configuration {what}, {field}: {why} written by another version")


def _entries(config: ConfigDict, section: str) -> Iterable[str]:
    entries = config.get(section)
    return entries if isinstance(entries, ConfigDict) else ()
