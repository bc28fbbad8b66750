"""What each departure of `rnn_em_best` from the paper's recipe brings: each taken back alone, and other values tried.

    python -m experiments.static_shapes.ablation --directory=runs/ablation --epochs=2 --num_test=2000 \
        --output=runs/ablation/ami

Runs that are finished are kept, interrupted ones resume: call it again until it is through.
"""

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import figure
from experiments.command_line import launch
from experiments.cores import use_cores
from experiments.output import beside
from experiments.shared_flags import define_directory, define_num_test
from experiments.static_shapes.config import DEPARTURES, FURTHER, get_config
from nem_jax import charts
from nem_jax.config.checks import set_value, value
from nem_jax.config.compare import to_json
from nem_jax.training.run import check_startable, run_unless_finished

WHOLE = "rnn_em_best"

_DIRECTORY, _NUM_TEST = define_directory(), define_num_test()
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "epochs of each, if not those of rnn_em_best; warm-up takes one", lower_bound=2
)


def variants() -> dict[str, ConfigDict]:
    """`rnn_em_best`, with each of its departures taken back, and with each of `FURTHER`, by what differs."""
    table = {WHOLE: get_config(WHOLE)}
    papers = [(field, value(get_config("rnn_em"), field)) for field in DEPARTURES]
    for field, other in [*papers, *FURTHER.items()]:
        changed = get_config(WHOLE)
        set_value(changed, field, other)
        table[f"{field.partition('.')[2]} {other}"] = changed
    for config in table.values():
        config.training.max_epochs = _EPOCHS.value or config.training.max_epochs
        config.data.num_test = _NUM_TEST.value or config.data.num_test
    return table


def measure() -> figure.Measured:
    """Train what is missing, and read the scores of all."""
    directory = Path(_DIRECTORY.value)
    planned = {label: (directory / label.replace(" ", "_"), config) for label, config in variants().items()}
    for workdir, config in planned.values():
        check_startable(config, workdir)
    use_cores(config for _, config in planned.values())
    found: dict[str, Any] = {}
    for label, (workdir, config) in planned.items():
        result = run_unless_finished(config, workdir)
        found[label] = {
            "ami_max": result["scores"]["ami_max_mean"],
            "ami_arithmetic": result["scores"]["ami_arithmetic_mean"],
            "loss": result["scores"]["total"],
            "epochs": [seed["epochs"] for seed in result["runs"]],
            "seeds": [seed["seed"] for seed in result["runs"]],
            "hardware": result["hardware"],
        }
        print(f"{label}: AMI (max) {found[label]['ami_max']['mean']:.4f}")
    return {"scores": found, "config": to_json(variants()[WHOLE])}, {}


def draw(record: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """All, the best on top, beside the whole."""
    del arrays
    found = {label: scores["ami_max"]["mean"] for label, scores in record["scores"].items()}
    charts.ranking(found, WHOLE, "AMI (max)").savefig(beside(path))


if __name__ == "__main__":
    launch(lambda: figure.produce(lambda: figure.results("static_shapes", "ablation"), measure, draw))
