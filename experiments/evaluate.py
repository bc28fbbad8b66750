"""Score trained weights, as they were trained or with another K, T, data or input.

python -m experiments.evaluate --trained=static_shapes_rnn_em
python -m experiments.evaluate --trained=runs/rnn_em --num_components=5 --num_steps=30 --gamma_draws=5
python -m experiments.evaluate --trained=runs/mnist --generator=static_mnist --num_steps=50
"""

from pathlib import Path

import numpy as np
from absl import flags

from experiments.trained import describe_subject, evaluate_subject, load_subject, without_noise
from nem_jax import provenance
from nem_jax.evaluation import summarise
from nem_jax.launch import launch
from nem_jax.training.run import print_scores
from nem_jax.training.workdir import write_json

_TRAINED = flags.DEFINE_string("trained", None, "a run's directory, or weights that come with the package")
_SPLIT = flags.DEFINE_enum("split", "test", ["training", "validation", "test"], "which examples")
_NUM_COMPONENTS = flags.DEFINE_integer("num_components", None, "K, if not the trained one", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "T, if not the trained one", lower_bound=1)
_NUM_OBJECTS = flags.DEFINE_integer("num_objects", None, "objects per example, if not the trained", lower_bound=1)
_GENERATOR = flags.DEFINE_string("generator", None, "the data, if not the trained: see config.data.generator")
_GAMMA_DRAWS = flags.DEFINE_integer("gamma_draws", 1, "repeat with so many initial gammas and noises", lower_bound=1)
_CLEAN = flags.DEFINE_boolean("clean", False, "no input noise (the default is the training's, as in the original)")
_OUTPUT = flags.DEFINE_string("output", None, "a new JSON file for the scores")


def check_output(file: Path) -> None:
    """Refuse, before anything is computed, what could not be written in the end."""
    if file.exists():
        raise ValueError(f"output {file} exists already")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"output {file} cannot be written: there is no such directory")


def main() -> None:
    """Print the scores of each draw and their mean."""
    if _TRAINED.value is None:
        raise ValueError("give the weights to score: --trained=DIRECTORY, or the name of some that come with nem_jax")
    if _OUTPUT.value is not None:
        check_output(Path(_OUTPUT.value))
    fields = {
        "model.num_components": _NUM_COMPONENTS.value,
        "model.num_steps": _NUM_STEPS.value,
        "data.num_objects": _NUM_OBJECTS.value,
        "data.generator": _GENERATOR.value,
    }
    subject = load_subject(_TRAINED.value, fields)
    subject = without_noise(subject) if _CLEAN.value else subject
    draws = []
    for draw in range(_GAMMA_DRAWS.value):
        draws.append(summarise(evaluate_subject(subject, _SPLIT.value, draw)))
        print_scores(draws[-1])
    mean = {name: float(np.mean([scores[name] for scores in draws])) for name in draws[0]}
    std = {name: float(np.std([scores[name] for scores in draws])) for name in draws[0]}
    print(f"over {len(draws)} draws: AMI (max) {mean['ami_max_mean']:.4f} +- {std['ami_max_mean']:.4f}")
    if _OUTPUT.value is not None:
        described = describe_subject(subject, _SPLIT.value, _GAMMA_DRAWS.value)
        write_json(Path(_OUTPUT.value), {**described, "mean": mean, "std": std, "draws": draws, **provenance.record()})


if __name__ == "__main__":
    launch(main)
