"""Tables of trained models on several tests, the paper's numbers beside ours: N-EM's table 1, figure 5, section 4.3.

Each line names a configuration, what its test differs in, and what the paper reports. The weights are those of every
`<directory>/<configuration>_seed<number>` with a finished epoch, or else those that come with the package; lines that
have neither are left out, and named.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import figure
from experiments.trained import describe_subject, evaluate_subject, load_subject
from nem_jax import charts
from nem_jax.evaluation import summarise
from nem_jax.launch import launch
from nem_jax.pretrained import pretrained_names
from nem_jax.training.stages import is_run

_DIRECTORY = flags.DEFINE_string("directory", "runs", "holds the runs, <configuration>_seed<number>")


class Line(NamedTuple):
    """One entry of a table."""

    group: str
    """On the x axis."""
    series: str
    """In the legend."""
    name: str
    """The trained configuration."""
    fields: dict[str, Any]
    """What the test differs in from the training, by dotted names."""
    paper: tuple[float, float] | None = None
    """Mean and standard deviation, nan if not given."""
    score: str = "ami_max_mean"
    """What is compared, by its name in `evaluation.summarise`."""


def sources(experiment: str, name: str, directory: Path) -> list[str]:
    """The weights of a configuration: runs of it in `directory`, or else the package's."""
    runs = [str(path) for path in sorted(directory.glob(f"{name}_seed*")) if is_run(path)]
    packaged = f"{experiment}_{name}"
    return runs or [packaged] * (packaged in pretrained_names())


def measure(experiment: str, lines: list[Line]) -> figure.Measured:
    """The score of each line, over each of its weights.

    Raises:
        ValueError: no line has weights.
    """
    measured, missing = [], []
    for line in lines:
        found = sources(experiment, line.name, Path(_DIRECTORY.value))
        if not found:
            missing.append(line.name)
            continue
        runs = []
        for source in found:
            subject = load_subject(source, line.fields)
            scores = summarise(evaluate_subject(subject))
            runs.append({**describe_subject(subject), "scores": scores})
            print(f"{line.group}, {line.series}: {line.score} {scores[line.score]:.4f} ({source})")
        values = [run["scores"][line.score] for run in runs]
        ours = {"mean": float(np.mean(values)), "std": float(np.std(values)), "per_run": values}
        measured.append({**line._asdict(), "ours": ours, "runs": runs})
    if not measured:
        names = ", ".join(dict.fromkeys(missing))
        raise ValueError(f"directory {_DIRECTORY.value} holds no run <configuration>_seed<number> of {names}")
    return {"lines": measured, "without_weights": list(dict.fromkeys(missing))}, {}


def draw(record: dict[str, Any], path: Path, ylabel: str) -> None:
    """Bars: a group for each test, the paper's number beside ours."""
    lines, unknown = record["lines"], (np.nan, np.nan)
    groups = list(dict.fromkeys(line["group"] for line in lines))
    series: dict[str, dict[str, tuple[float, float]]] = {}
    for line in lines:
        if line["paper"]:
            series.setdefault(f"{line['series']}, paper", {})[line["group"]] = tuple(line["paper"])
        series.setdefault(line["series"], {})[line["group"]] = (line["ours"]["mean"], line["ours"]["std"])
    bars = {label: [found.get(group, unknown) for group in groups] for label, found in series.items()}
    charts.bars(groups, bars, ylabel).savefig(figure.picture(path))


def compare(experiment: str, name: str, lines: list[Line], ylabel: str) -> None:
    """The command: measure `lines` and draw them as the figure `name` of the experiment."""

    def main() -> None:
        figure.produce(
            figure.results(experiment, name),
            lambda: measure(experiment, lines),
            lambda record, _, path: draw(record, path, ylabel),
        )

    launch(main)
