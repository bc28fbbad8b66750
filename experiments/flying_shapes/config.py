"""Flying shapes (N-EM section 4.2): 3, 4 or 5 shapes that move through each other, 28x28 binary, next-step prediction.

    python -m experiments.flying_shapes.run --config=experiments/flying_shapes/config.py:rnn_em_3_3 \
        --workdir=runs/rnn_em_3_3

Names: `rnn_em_3_3`, `rnn_em_3_5`, `rnn_em_5_3`, `rnn_em_5_5` (objects and K of the paper's table 1), `rnn_em_4_5`;
`rnn_ae_3`, `rnn_ae_4`, `rnn_ae_5` (K = 1: the recurrent autoencoder of figure 5); `smoke` (seconds). Each of
figure 5 (`rnn_em_*_5`, `rnn_ae_*`) is also there as `<name>_denoising`: trained to clean the frame that it reads (our
reading of it) instead of to predict the next.
The paper's test AMI: `PAPER`; what was reached: experiments/README.md. An epoch of `rnn_em_3_3` takes about 15
minutes on two cores of README's Performance. T, noise and all other fields that are not set here:
nem_jax/config/fields.py.
"""

from ml_collections import ConfigDict

from experiments.recipe import base_config, shrink_sequences, use_convolutions

NUM_OBJECTS_AND_K = {
    "rnn_em_3_3": (3, 3), "rnn_em_3_5": (3, 5), "rnn_em_5_3": (5, 3), "rnn_em_5_5": (5, 5), "rnn_em_4_5": (4, 5),
    "rnn_ae_3": (3, 1), "rnn_ae_4": (4, 1), "rnn_ae_5": (5, 1), "smoke": (2, 2),
}  # fmt: skip
FIGURE_5 = ("rnn_em_3_5", "rnn_em_4_5", "rnn_em_5_5", "rnn_ae_3", "rnn_ae_4", "rnn_ae_5")
DENOISING = tuple(f"{name}_denoising" for name in FIGURE_5)
NUM_OBJECTS_AND_K |= {f"{name}_denoising": NUM_OBJECTS_AND_K[name] for name in FIGURE_5}
NAMES = tuple(NUM_OBJECTS_AND_K)

TABLE_1 = {
    "rnn_em_3_3": (0.970, 0.005), "rnn_em_3_5": (0.997, 0.002), "rnn_em_5_3": (0.614, 0.003),
    "rnn_em_5_5": (0.878, 0.003),
}  # fmt: skip
SWEEP = tuple(TABLE_1)
"""What `experiments.sweep` trains by default."""

WITHOUT_WEIGHTS = tuple(name for name in NAMES if name not in ("rnn_em_3_3", "rnn_em_3_5", "smoke"))
"""Whose published weights do not come with the package: 7 MB each."""

PAPER = {
    name: {"where": "N-EM table 1", "ami_max": {"mean": mean, "std": std}} for name, (mean, std) in TABLE_1.items()
}
"""What the paper reports, over five runs; whether over all time steps or after the last, it does not say."""


def get_config(name: str = "rnn_em_3_3") -> ConfigDict:
    """The configuration called `name`, one of `NAMES`."""
    config = base_config("flying_shapes", name, NAMES)
    use_convolutions(config)
    config.data.generator = "flying_shapes"
    config.data.num_objects, config.model.num_components = NUM_OBJECTS_AND_K[name]
    config.model.lookahead = 0 if name in DENOISING else 1
    config.model.hidden_size = 100
    config.model.features = (32, 64)
    config.model.normalise_input = False
    if name == "smoke":
        shrink_sequences(config)
        config.training.max_epochs = 2
    return config
