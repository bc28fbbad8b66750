"""Static shapes (N-EM section 4.1): three overlapping shapes in a binary 28x28 image.

    python -m experiments.static_shapes.run --config=experiments/static_shapes/config.py:rnn_em --workdir=runs/rnn_em

Names: `rnn_em`, `n_em` (the original program's K = 4), `rnn_em_k3`, `n_em_k3` (its text),
`rnn_em_best` (departs from the paper's recipe), `rnn_em_20x20` (Tagger's canvas), `demo` (minutes on two cores),
`smoke` (seconds).
An epoch of `rnn_em` or `n_em` takes half a minute on two cores of README's Performance. Test AMI to expect (the
paper's: `PAPER`): of `rnn_em` 0.83, after 150 to 200 epochs, where it stops early, of `n_em` 0.47, of `rnn_em_best`
0.907; all: experiments/README.md.
Every field can be set on the command line: `--config.model.num_components=5`. Those that are not set here, and what
each means: nem_jax/config/fields.py.
"""

from ml_collections import ConfigDict

from experiments.recipe import base_config

NAMES = ("rnn_em", "n_em", "rnn_em_k3", "n_em_k3", "rnn_em_best", "rnn_em_20x20", "demo", "smoke")

_RNN_EM = {"where": "N-EM section 4.1", "ami_max": {"mean": 0.826, "std": 0.005}}
_N_EM = {"where": "N-EM section 4.1", "ami_max": {"mean": 0.475, "std": 0.043}}
PAPER = {"rnn_em": _RNN_EM, "rnn_em_k3": _RNN_EM, "rnn_em_best": _RNN_EM, "n_em": _N_EM, "n_em_k3": _N_EM}
"""What the paper reports, over five runs."""

DEPARTURES = (
    "model.step_weights", "model.num_components", "model.num_steps", "model.hidden_size", "model.inter_weight",
    "training.learning_rate", "training.decay", "training.clip_norm", "model.num_draws",
)  # fmt: skip
"""How `rnn_em_best` departs from `rnn_em`, beside its ten epochs; `static_shapes.ablation` takes each back."""

FURTHER = {"training.batch_size": 512, "training.warmup_epochs": 1, "model.num_draws": 32}
"""Other values that the ablation tries in `rnn_em_best`, each alone."""

SWEEP = ("rnn_em", "n_em")
"""What section 4.1 compares, and `experiments.sweep` trains."""

WITHOUT_WEIGHTS: tuple[str, ...] = ()
"""Whose published weights do not come with the package."""


def get_config(name: str = "rnn_em") -> ConfigDict:
    """The configuration called `name`, one of `NAMES`."""
    config = base_config("static_shapes", name, NAMES)
    data, model, training = config.data, config.model, config.training
    data.generator = "static_shapes"  # or 'published_shapes': Tagger's 20x20 images (image_size 20)
    model.cell = "rnn_em"
    if name.startswith("n_em"):
        model.cell, model.step_size_init = "n_em", "positive"
    model.num_components = 3 if name.endswith("_k3") else 4
    model.num_steps = 15
    model.noise_prob = 0.1
    model.gradient_gamma = True
    model.step_weights = model.scored_steps = "last"
    training.log_interval = 71
    training.figure_interval = 10
    _vary(name, data, model, training)
    return config


def _vary(name: str, data: ConfigDict, model: ConfigDict, training: ConfigDict) -> None:
    """What sets another canvas and the small configurations apart from the papers' recipe."""
    if name == "rnn_em_20x20":
        data.image_size = 20
    if name == "rnn_em_best":
        model.num_components, model.num_steps, model.hidden_size = 3, 10, 500
        model.step_weights, model.inter_weight, model.num_draws = "all", 0.5, 8
        training.learning_rate, training.decay, training.max_epochs = 2e-3, "cosine", 10
        training.clip_norm = 300.0  # most gradients' norms are below; from step 200 to 500, one in ten has 600 and more
    if name == "demo":  # a loss at every EM step, not the paper's at the last, learns to separate within minutes
        model.num_steps, model.step_weights, training.learning_rate, training.batch_size = 8, "all", 2e-3, 32
        data.num_training, data.num_validation, data.num_test = 32_000, 1_000, 1_000
        training.max_epochs, training.log_interval, training.figure_interval = 3, 100, 1
    if name == "smoke":
        data.num_training, data.num_validation, data.num_test = 512, 128, 128
        model.num_steps, model.hidden_size = 3, 32
        training.max_epochs, training.log_interval, training.figure_interval = 2, 4, 1
