"""Score trained weights, as they were trained or with another K, T, data or input.

python -m experiments.evaluate --trained=static_shapes_rnn_em
python -m experiments.evaluate --trained=runs/rnn_em --num_components=5 --num_steps=30 --repeats=5
python -m experiments.evaluate --trained=runs/direct --generator=static_mnist --num_steps=50
"""

from pathlib import Path

from absl import flags

from experiments.command_line import launch
from experiments.output import OUTPUT, beside, make_room, tell
from experiments.shared_flags import define_num_test
from experiments.subject import describe_subject, evaluate_subject, without_noise
from experiments.subject_flags import load_flagged, trained_name
from nem_jax import provenance
from nem_jax.data.split import SPLITS
from nem_jax.evaluation import mean_std, summarise
from nem_jax.files import write_json
from nem_jax.training.logs import print_mean_std, print_scores

_NUM_TEST = define_num_test()
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "which examples")
_REPEATS = flags.DEFINE_integer("repeats", 1, "evaluations, each with an initial gamma and noise of its own", 1)
_NUM_DRAWS = flags.DEFINE_integer("num_draws", None, "initial gammas, of which the likeliest result is scored", 1)
_CLEAN = flags.DEFINE_boolean("clean", False, "no input noise (the default is the training's, as in the original)")


def main() -> None:
    """Print the scores of each draw and, of several, their mean and standard deviation."""
    source = trained_name()
    if _NUM_TEST.value is not None and _SPLIT.value != "test":
        raise ValueError(f"num_test is given, but split is {_SPLIT.value!r}")
    if OUTPUT.value:
        make_room(Path(OUTPUT.value))
    subject = load_flagged(source, {"model.num_draws": _NUM_DRAWS.value})
    subject = without_noise(subject) if _CLEAN.value else subject
    print(f"seed {subject.trained_config.seed} of {source}")
    draws = []
    for draw in range(_REPEATS.value):
        draws.append(summarise(evaluate_subject(subject, _SPLIT.value, draw)))
        print_scores(draws[-1])
    mean, std = mean_std(draws)
    if len(draws) > 1:
        print_mean_std(mean, std, f"{len(draws)} draws")
    if OUTPUT.value:
        described = describe_subject(subject, _SPLIT.value, _REPEATS.value)
        write_json(
            beside(Path(OUTPUT.value), ".json"),
            {**described, "mean": mean, "std": std, "draws": draws, **provenance.record()},
        )
        tell(Path(OUTPUT.value))


if __name__ == "__main__":
    launch(main)
