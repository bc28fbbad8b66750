"""Tables of trained models on several tests, the paper's numbers beside ours: N-EM's table 1, figure 5, section 4.3.

Each line names a configuration, what its test differs in, and what the paper reports. Its weights are those that
`named_weights.find_weights` finds; lines that have none are left out, and named.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from experiments import figure
from experiments.command_line import launch
from experiments.named_weights import TrainedWeights, find_weights
from experiments.output import beside
from experiments.shared_flags import define_directory, define_test_data
from experiments.subject import Subject, describe_subject, evaluate_subject, load_subject, with_weights
from nem_jax import charts, provenance
from nem_jax.evaluation import mean_std, summarise
from nem_jax.files import read_json, write_json

_DIRECTORY, _TEST_DATA = define_directory(), define_test_data()

Bar = tuple[float | None, float | None]
"""Mean and standard deviation, None where unknown."""


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
    """Mean and standard deviation."""
    score: str = "ami_max_mean"
    """What is compared, by its name in `evaluation.summarise`."""
    reproduces: str | None = None
    """The series of the paper that is compared with; None: `series`."""


def load_line(line: Line, found: list[TrainedWeights]) -> list[Subject]:
    """Each of the weights `found` on the line's test."""
    first = load_subject(found[0].path, {**_TEST_DATA(), **line.fields}, seed=found[0].seed)
    return [first, *(with_weights(first, weights.path, weights.seed) for weights in found[1:])]


class Scored:
    """Scores that a file keeps as they come: a table that was cut off goes on where it was."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries = read_json(file) if file.exists() else []
        self._code = {name: value for name, value in provenance.record().items() if name != "command"}

    def scores(self, subject: Subject) -> dict[str, float]:
        """Those of `summarise`: the file's, if they are of the same weights, test, (committed) code and machine."""
        described = json.loads(json.dumps({**describe_subject(subject), **self._code}))
        revision = self._code["git_revision"]
        is_known = revision != "unknown" and not revision.endswith("-dirty")
        for entry in self._entries if is_known else []:
            if entry["of"] == described:
                return entry["scores"]
        scores = summarise(evaluate_subject(subject))
        self._entries.append({"of": described, "scores": scores})
        write_json(self._file, self._entries)
        return scores


def score_line(line: Line, subjects: list[Subject], found: list[TrainedWeights], scored: Scored) -> dict[str, Any]:
    """Mean, standard deviation (if there are several) and record of the weights `found`, loaded as `subjects`."""
    runs = []
    for subject, weights in zip(subjects, found, strict=True):
        scores = scored.scores(subject)
        print(f"{line.group}, {line.series}: {line.score} {scores[line.score]:.4f} ({weights.path})")
        for change in weights.changes:
            print(f"  not as its name says: {change}")
        if weights.began_with:
            print(f"  began with the weights in {weights.began_with['source']}")
        described = {**describe_subject(subject), **weights.training}
        runs.append({**described, "changes": weights.changes, "began_with": weights.began_with, "scores": scores})
    return {**line._asdict(), "ours": over_runs(runs, line.score), "runs": runs}


def over_runs(runs: list[dict[str, Any]], score: str) -> dict[str, Any]:
    """Mean, standard deviation (None: there is but one) and values of a score of a line's `runs`."""
    mean, std = mean_std([{score: run["scores"][score]} for run in runs])
    per_run = [run["scores"][score] for run in runs]
    return {"mean": mean[score], "std": std[score] if len(runs) > 1 else None, "per_run": per_run}


def measure(experiment: str, lines: list[Line], scored: Scored) -> figure.Measured:
    """The score of each line, over each of its weights.

    Raises:
        ValueError: no line has weights.
    """
    if _DIRECTORY.present and not Path(_DIRECTORY.value).is_dir():
        print(f"directory {_DIRECTORY.value} does not exist: the package's weights are scored, no run's")
    names = dict.fromkeys(line.name for line in lines)
    found = {name: find_weights(experiment, name, Path(_DIRECTORY.value)) for name in names}
    missing = [name for name, weights in found.items() if not weights]
    # whatever is wrong with any of them is said before the first is scored
    loaded = [(line, load_line(line, found[line.name])) for line in lines if found[line.name]]
    if not loaded:
        raise ValueError(f"directory {_DIRECTORY.value} holds no finished run of {', '.join(missing)}")
    if missing:
        print(f"left out, for want of trained weights: {', '.join(missing)}")
    measured = [score_line(line, subjects, found[line.name], scored) for line, subjects in loaded]
    return {"lines": measured, "without_weights": missing}, {}


def to_bars(lines: list[dict[str, Any]], also: Mapping[str, str]) -> tuple[list[str], dict[str, list[Bar]]]:
    """Groups and series of `charts.bars`: for each line the paper's number, ours, and other scores of ours."""
    groups = list(dict.fromkeys(line["group"] for line in lines))
    series: dict[str, dict[str, Bar]] = {}
    for line in lines:
        ours = line["series"]
        if line["paper"]:
            series.setdefault(f"{line.get('reproduces') or ours}, paper", {})[line["group"]] = tuple(line["paper"])
            ours += ", ours"
        if any(run.get("changes") for run in line["runs"]):
            ours += ", changed"
        if any(run.get("data", {}).get("digits") == "sklearn" for run in line["runs"]):
            ours += ", on scikit-learn's digits"
        others = {
            f"{ours}, {what}": over_runs(line["runs"], score)
            for what, score in also.items()
            if score != line.get("score")
        }
        for label, scored in {ours: line["ours"], **others}.items():
            series.setdefault(label, {})[line["group"]] = (scored["mean"], scored["std"])
    return groups, {label: [found.get(group, (None, None)) for group in groups] for label, found in series.items()}


def compare(
    experiment: str, name: str, lines: list[Line], ylabel: str, also: Mapping[str, str] = MappingProxyType({})
) -> None:
    """The command: measure `lines` and draw them as the figure `name` of the experiment.

    `also`: by what is added to the legend, scores that are drawn beside each line's own.
    """

    def default() -> Path:
        return figure.results(experiment, name)

    def main() -> None:
        unfinished = beside(figure.output_path(default), ".unfinished.json")
        figure.produce(
            default,
            lambda: measure(experiment, lines, Scored(unfinished)),
            lambda record, _, path: charts.bars(*to_bars(record["lines"], also), ylabel).savefig(beside(path)),
        )
        unfinished.unlink(missing_ok=True)

    launch(main)
