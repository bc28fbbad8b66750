"""Flying MNIST (N-EM section 4.3): two digits that move through each other, 24x24 grey, next-step prediction.

    python -m experiments.flying_mnist.run --config=experiments/flying_mnist/config.py:staged --workdir=runs/staged

Names: `direct` (all digits from the start), `staged` (20, then 500, then all digits), `direct_text` (`direct`, but the
E-step's sigma is that of the paper's text, not of the original program), `direct_fast` and `staged_fast` (no
reproduction: what one core can train, `_make_fast`), `direct_longer` and `staged_longer` (these, trained on: they begin
with the weights of `runs/direct_fast` or `runs/staged_fast`, or others by `--config.training.init_from=DIRECTORY`),
`smoke` (seconds, two stages, on scikit-learn's digits).
`--config.data.mnist_dir=DIRECTORY` holds MNIST's IDX files; else scikit-learn downloads it. The paper's test AMI:
`PAPER`; what was reached: experiments/README.md. An epoch takes about 10 minutes on two cores of
README's Performance, of the fast and longer ones 6 on one. T and all other fields that are not set here:
nem_jax/config/fields.py.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.recipe import base_config, shrink_sequences, use_convolutions

NAMES = (
    "direct", "staged", "direct_text", "direct_fast", "staged_fast", "direct_longer", "staged_longer", "smoke",
)  # fmt: skip

_DIRECT = {"where": "N-EM section 4.3", "ami_max": {"mean": 0.819, "std": 0.022}}
_STAGED = {"where": "N-EM section 4.3", "ami_max": {"mean": 0.917, "std": 0.005}}
PAPER: dict[str, Any] = {
    "direct": _DIRECT, "direct_text": _DIRECT, "direct_fast": _DIRECT, "direct_longer": _DIRECT,
    "staged": _STAGED, "staged_fast": _STAGED, "staged_longer": _STAGED,
}  # fmt: skip
"""What the paper reports, over five runs; whether over all time steps or after the last, it does not say."""

SWEEP = ("direct", "staged")
"""What `experiments.sweep` trains by default."""

WITHOUT_WEIGHTS = ("direct", "direct_fast", "staged_fast")
"""Whose published weights do not come with the package: the longer ones' are better."""

STAGES = {
    "direct": (),
    "direct_text": (),
    "staged": (
        {"data.digit_pool": 20, "training.learning_rate": 1e-3},
        {"data.digit_pool": 500, "training.learning_rate": 5e-4},
        {"data.digit_pool": None, "training.learning_rate": 5e-4},
    ),
    "direct_fast": ({"training.max_epochs": 9}, {}),
    "staged_fast": (
        {"data.digit_pool": 20, "training.decay": "none", "training.max_epochs": 4},
        {"data.digit_pool": 500, "training.learning_rate": 1e-3, "training.decay": "none", "training.max_epochs": 2},
        {"data.digit_pool": None, "training.learning_rate": 1e-3, "training.max_epochs": 3},
        {"data.digit_pool": None},
    ),
    "direct_longer": (),
    "staged_longer": (),
    "smoke": ({"data.digit_pool": 5, "training.learning_rate": 1e-3}, {"data.digit_pool": None}),
}
"""Each stage starts from the best weights of the one before, with a new optimiser and a decay of its own. In the fast
ones the learning rate falls to 0, and then once more from 2e-3 over the last eight of 17 epochs."""


def get_config(name: str = "direct") -> ConfigDict:
    """The configuration called `name`, one of `NAMES`."""
    config = base_config("flying_mnist", name, NAMES)
    use_convolutions(config)
    data, model = config.data, config.model
    data.generator = "flying_mnist"  # or 'static_mnist': one frame, repeated
    data.digits = "mnist"
    data.image_size = 24
    data.num_objects = 2
    model.features = (32, 64, 128)
    model.normalise_input = True
    model.num_components = 2
    model.pixel_dist = "gaussian"
    model.e_sigma = 0.5 if name == "direct_text" else 0.25  # the text says variance 0.25
    model.noise = "masked_uniform"
    model.inter_weight = 0.2
    config.stages = STAGES[name]
    config.training.learning_rate = 5e-4
    if name.endswith(("_fast", "_longer")):
        _make_fast(config)
    if name.endswith("_longer"):
        config.training.max_epochs = 16
        config.training.init_from = f"runs/{name.removesuffix('longer')}fast"
    if name == "smoke":
        shrink_sequences(config)
        data.digits, data.image_size = "sklearn", 16
        config.training.max_epochs = 1
    return config


def _make_fast(config: ConfigDict) -> None:
    """Half the channels and dense units; small batches, clipped gradients, a high rate that falls."""
    model, training = config.model, config.training
    model.features, model.dense_size = (16, 32, 64), 256
    training.batch_size = 16
    # Most gradients' norms are above it; Adam would heed the first ones', of 1e5, for thousands of steps.
    training.clip_norm = 100.0
    training.decay = "cosine"
    training.learning_rate, training.max_epochs = 2e-3, 8  # of the last stage
