"""The results table in experiments/README.md, generated from the results' json files.

python -m experiments.table           # write it
python -m experiments.table --check   # fail if it is not what the files say
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from absl import flags

from experiments.command_line import launch
from nem_jax.files import read_json, replace_text

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- results: begin (python -m experiments.table) -->", "<!-- results: end -->"
COLUMNS = (
    "experiment", "paper", "AMI (max), paper", "AMI (max), ours", "after the last step", "AMI (arithmetic)", "ARI",
    "seeds", "epochs", "hardware", "file",
)  # fmt: skip


def render(records: list[dict[str, Any]], files: list[str]) -> str:
    """The table of results' records, in Markdown."""
    return "\n".join([_line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_row, records, files)])


def generate() -> str:
    """README.md with the table that the json files make.

    Raises:
        ValueError: it lacks the lines around the table.
    """
    files = sorted(HERE.glob("*/results/*.json"))
    records = [read_json(file) for file in files]
    names = [file.relative_to(HERE).as_posix() for file in files]
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found or text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{README} must have {BEGIN} and then {END}, once each: the table goes between them")
    return f"{before}{BEGIN}\n{render(records, names)}\n{END}{after}"


def write() -> None:
    """Bring README.md up to date."""
    replace_text(README, generate())


def _row(record: dict[str, Any], file: str) -> str:
    paper, metrics = record["paper"], record["metrics"]
    planned = record["config"]["training"]["max_epochs"]
    runs = zip(*(record[name] for name in ("epochs", "stopped_early", "stages", "failed_at_step")), strict=True)
    earlier = record.get("earlier_training", [])
    last = ", ".join(f"{epochs}{_ending(epochs, planned, *others)}" for epochs, *others in runs)
    cells = [
        f"{record['experiment']} `{record['config']['name']}`",
        paper.get("where", "-"),
        _mean_std(paper["ami_max"]) if "ami_max" in paper else "-",
        _mean_std(metrics["ami_max"]),
        _mean_std(metrics["ami_max_last"]),
        _mean_std(metrics["ami_arithmetic"]),
        _mean_std(metrics["ari"]),
        str(len(record["seeds"])),
        " + ".join([*_epochs_before(earlier, record["config"]["name"]), last]),
        "; ".join(dict.fromkeys(machine for one in (*earlier, record) for machine in _machines(one))),
        f"[json]({file})",
    ]
    return _line(cells)


def _epochs_before(earlier: list[dict[str, Any]], name: str) -> list[str]:
    """Of each earlier training, up to the weights that the next began with; of another configuration, with its name."""
    epochs = []
    for of, trainings in groupby(earlier, lambda one: one["name"]):
        together = " + ".join(str(one["best_epoch"][0]) for one in trainings)
        epochs.append(together if of == name else f"{together} of `{of}`")
    return epochs


def _machines(record: dict[str, Any]) -> list[str]:
    """All that its runs were trained on, from the first start on."""
    starts = [start["hardware"] for of_run in record["earlier_starts"] for start in of_run]
    return [*starts, *record["hardware"]]


def _ending(
    epochs: int, planned: int, stopped_early: bool, stages: list[dict[str, Any]], failed_at_step: int | None
) -> str:
    """How training ended, unless as planned."""
    if failed_at_step:
        return " (failed)"
    return "" if stopped_early or (stages[-1]["epochs"] if stages else epochs) >= planned else " (cut)"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean_std(metric: dict[str, Any]) -> str:
    if "per_seed" in metric and len(metric["per_seed"]) == 1:
        return f"{metric['mean']:.3f}"
    return f"{metric['mean']:.3f} +- {metric['std']:.3f}"


def check() -> None:
    """README.md is up to date.

    Raises:
        ValueError: it is not.
    """
    if README.read_text() != generate():
        raise ValueError("experiments/README.md is not what the json files say: run python -m experiments.table")


if __name__ == "__main__":
    only_check = flags.DEFINE_boolean("check", False, "compare instead of writing")
    launch(lambda: check() if only_check.value else write())
