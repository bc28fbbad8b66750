"""Flying shapes (N-EM section 4.2): 3, 4 or 5 shapes that move through each other, 28x28 binary, next-step prediction.

    python -m experiments.flying_shapes.run --config=experiments/flying_shapes/config.py:rnn_em_3_3 --workdir=runs/3_3

Names: `rnn_em_3_3`, `rnn_em_3_5`, `rnn_em_5_3`, `rnn_em_5_5` (objects and K of the paper's table 1), `rnn_em_4_5`;
`rnn_ae_3`, `rnn_ae_4`, `rnn_ae_5` (K = 1: the recurrent autoencoder of figure 5); `smoke` (seconds).
`--config.model.lookahead=0` trains to denoise instead of to predict. Expected test AMI: `PAPER`. An epoch takes half an
hour on two cores.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

NUM_OBJECTS_AND_K = {
    "rnn_em_3_3": (3, 3), "rnn_em_3_5": (3, 5), "rnn_em_5_3": (5, 3), "rnn_em_5_5": (5, 5), "rnn_em_4_5": (4, 5),
    "rnn_ae_3": (3, 1), "rnn_ae_4": (4, 1), "rnn_ae_5": (5, 1), "smoke": (2, 2),
}  # fmt: skip
NAMES = tuple(NUM_OBJECTS_AND_K)

_TABLE_1 = {
    "rnn_em_3_3": (0.970, 0.005), "rnn_em_3_5": (0.997, 0.002), "rnn_em_5_3": (0.614, 0.003),
    "rnn_em_5_5": (0.878, 0.003),
}  # fmt: skip
PAPER = {
    name: {"where": "N-EM table 1", "ami_max": {"mean": mean, "std": std}} for name, (mean, std) in _TABLE_1.items()
}
"""What the paper reports, over five runs, as the mean over all time steps."""


def get_config(name: str = "rnn_em_3_3") -> ConfigDict:
    """The configuration called `name`, one of `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"config must be one of {', '.join(NAMES)}, got {name!r}")
    config = ConfigDict()
    config.experiment = "flying_shapes"
    config.name = name
    config.seed = 0  # weights, shuffling, input noise and initial gamma

    config.data = data = ConfigDict()
    data.path = placeholder(str)  # an HDF5 file in N-EM's layout, in the place of what follows; None: generate
    data.generator = "flying_shapes"
    data.seed = 0  # of generated data
    data.digits, data.mnist_dir, data.digit_pool = placeholder(str), placeholder(str), placeholder(int)  # no digits
    data.image_size = 28  # pixels
    data.num_objects, num_components = NUM_OBJECTS_AND_K[name]
    data.num_training, data.num_validation, data.num_test = 50_000, 10_000, 10_000

    config.model = model = ConfigDict()
    model.cell = "conv_rnn_em"
    model.step_size_init = placeholder(str)  # of the n_em cell
    model.hidden_size = 100  # M
    model.features = (32, 64)  # channels of the encoder's convolutions; the decoder mirrors them
    model.dense_size = 512
    model.normalise_input = False
    model.num_components = num_components  # K
    model.num_steps = 20  # T
    model.lookahead = 1  # step t predicts frame t + 1; 0: frame t
    model.pixel_dist = "bernoulli"
    model.e_sigma = placeholder(float)  # of pixel_dist 'gaussian'
    model.epsilon = 1e-6  # added to the likelihoods in the E-step
    model.noise = "bitflip"
    model.noise_prob = 0.2
    model.gradient_gamma = False
    model.step_weights = "all"
    model.inter_weight = 1.0

    config.stages = ()
    config.training = training = ConfigDict()
    training.init_from = placeholder(str)  # a run's directory or pretrained weights; None: random weights
    training.learning_rate = 1e-3
    training.batch_size = 64
    training.max_epochs = 500
    training.patience = 10  # epochs without a better validation loss
    training.log_interval = 11  # steps between two visits of the host; 781 steps an epoch
    training.scan_unroll = 1  # EM steps per loop body; None: all
    training.remat = "elementwise"  # what the backward pass computes again; 'all' takes the least memory
    training.figure_interval = 1  # epochs between two overview figures in TensorBoard

    if name == "smoke":
        data.num_training, data.num_validation, data.num_test = 96, 32, 32
        model.num_steps, model.hidden_size, model.features, model.dense_size = 3, 8, (4,), 16
        training.batch_size, training.max_epochs, training.log_interval = 16, 2, 3
    return config
