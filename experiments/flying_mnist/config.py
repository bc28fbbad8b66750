"""Flying MNIST (N-EM section 4.3): two digits that move through each other, 24x24 grey, next-step prediction.

    python -m experiments.flying_mnist.run --config=experiments/flying_mnist/config.py:staged --workdir=runs/mnist

Names: `direct` (all digits from the start), `staged` (20, then 500, then all digits), `smoke` (seconds, two stages, on
scikit-learn's digits). `--config.data.mnist_dir=DIRECTORY` holds MNIST's IDX files; else scikit-learn downloads it.
Expected test AMI: `PAPER`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

NAMES = ("direct", "staged", "smoke")

PAPER = {
    "direct": {"where": "N-EM section 4.3", "ami_max": {"mean": 0.819, "std": 0.022}},
    "staged": {"where": "N-EM section 4.3", "ami_max": {"mean": 0.917, "std": 0.005}},
}
"""What the paper reports, over five runs, as the mean over all time steps."""

STAGES = {
    "direct": (),
    "staged": (
        {"data.digit_pool": 20, "training.learning_rate": 1e-3},
        {"data.digit_pool": 500, "training.learning_rate": 5e-4},
        {"data.digit_pool": None, "training.learning_rate": 5e-4},
    ),
    "smoke": ({"data.digit_pool": 5, "training.learning_rate": 1e-3}, {"data.digit_pool": None}),
}
"""Each stage starts from the best weights of the one before."""


def get_config(name: str = "direct") -> ConfigDict:
    """The configuration called `name`, one of `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"config must be one of {', '.join(NAMES)}, got {name!r}")
    config = ConfigDict()
    config.experiment = "flying_mnist"
    config.name = name
    config.seed = 0  # weights, shuffling, input noise and initial gamma

    config.data = data = ConfigDict()
    data.path = placeholder(str)  # an HDF5 file in N-EM's layout, in the place of what follows; None: generate
    data.generator = "flying_mnist"  # or 'static_mnist': one frame, repeated
    data.seed = 0  # of generated data
    data.digits = "mnist"  # or 'sklearn': real 8x8 digits that come with scikit-learn
    data.mnist_dir = placeholder(str)  # holds MNIST's IDX files; None: scikit-learn downloads MNIST
    data.digit_pool = placeholder(int)  # every split draws from the first so many training digits; None: from its own
    data.image_size = 24  # pixels
    data.num_objects = 2
    data.num_training, data.num_validation, data.num_test = 50_000, 10_000, 10_000

    config.model = model = ConfigDict()
    model.cell = "conv_rnn_em"
    model.step_size_init = placeholder(str)  # of the n_em cell
    model.hidden_size = 250  # M
    model.features = (32, 64, 128)  # channels of the encoder's convolutions; the decoder mirrors them
    model.dense_size = 512
    model.normalise_input = True
    model.num_components = 2  # K
    model.num_steps = 20  # T
    model.lookahead = 1  # step t predicts frame t + 1; 0: frame t
    model.pixel_dist = "gaussian"
    model.e_sigma = 0.25  # standard deviation in the E-step; the paper's text says variance 0.25, which is 0.5
    model.epsilon = 1e-6  # added to the likelihoods in the E-step
    model.noise = "masked_uniform"
    model.noise_prob = 0.2
    model.gradient_gamma = False
    model.step_weights = "all"
    model.inter_weight = 0.2

    config.stages = STAGES[name]
    config.training = training = ConfigDict()
    training.init_from = placeholder(str)  # a run's directory or pretrained weights; None: random weights
    training.learning_rate = 5e-4
    training.batch_size = 64
    training.max_epochs = 500
    training.patience = 10  # epochs without a better validation loss
    training.log_interval = 11  # steps between two visits of the host; 781 steps an epoch
    training.scan_unroll = 1  # EM steps per loop body; None: all
    training.remat = "elementwise"  # what the backward pass computes again; 'all' takes the least memory
    training.figure_interval = 1  # epochs between two overview figures in TensorBoard

    if name == "smoke":
        data.digits, data.image_size, data.num_training, data.num_validation, data.num_test = "sklearn", 16, 96, 32, 32
        model.num_steps, model.hidden_size, model.features, model.dense_size = 3, 8, (4,), 16
        training.batch_size, training.max_epochs, training.log_interval = 16, 1, 3
    return config
