"""What a run tells: metrics.jsonl, TensorBoard events, the console. All cut back to the checkpoint on resuming."""

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter
from tqdm import tqdm

from nem_jax.files import replace_text

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"


def say(line: str) -> None:
    """A line on the console, above the progress bar; in a file at once: a run may be killed."""
    tqdm.write(line)
    sys.stdout.flush()


def print_scores(scores: dict[str, float], label: str = "") -> None:
    """The line that people look for: means over the scored steps, and AMI after the last where it differs."""
    differs = scores["ami_max_last"] != scores["ami_max_mean"]
    last = f", {scores['ami_max_last']:.4f} (max, last step)" if differs else ""
    print(
        f"{label}AMI {scores['ami_max_mean']:.4f} (max), {scores['ami_arithmetic_mean']:.4f} (arithmetic){last}   "
        f"ARI {scores['ari_mean']:.4f}   confidence {scores['confidence_mean']:.4f}   loss {scores['total']:.2f}"
    )


def print_mean_std(mean: dict[str, float], std: dict[str, float], of: str) -> None:
    """`print_scores` of what `mean_std` found `of` several."""
    print_scores(mean, f"mean of {of}: ")
    print_scores(std, "standard deviation: ")


def read_records(directory: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl in `directory` says of each epoch."""
    return [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]


class Logs:
    """The logs in `directory` from `step` on: what was written of later steps is cut off. A context manager."""

    def __init__(self, directory: Path, step: int, seeds: range) -> None:
        self._seeds = seeds
        self._file = directory / METRICS
        self.records = _cut(self._file, step)
        self._writer = SummaryWriter(str(directory / TENSORBOARD), purge_step=step + 1)

    def __enter__(self) -> "Logs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def epoch(self, step: int, epoch: int, values: dict[str, np.ndarray], active: np.ndarray) -> None:
        """One finished epoch: a line in metrics.jsonl, its numbers in TensorBoard, a line on the console.

        Of several seeds they are the means over those that trained, and `per_seed` has each of them (else None).
        """
        means = {name: float(value[active].mean()) for name, value in values.items()}
        record: dict[str, Any] = {"step": step, "epoch": epoch, **means}
        for name, value in record.items():
            self._writer.add_scalar(name.replace("_", "/", 1), value, step)
        if len(active) > 1:
            record["per_seed"] = {}
            for name, value in values.items():
                numbers = [float(number) if on else None for number, on in zip(value, active, strict=True)]
                record["per_seed"][name] = numbers
                for index in np.flatnonzero(active):
                    self._writer.add_scalar(f"seed_{self._seeds[index]}/{name}", numbers[index], step)
        with self._file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._writer.flush()
        self.records.append(record)
        say(
            f"epoch {record['epoch']:4d}   step {record['step']:7d}   loss {record['train_total']:8.2f}   "
            f"validation: loss {record['valid_total']:8.2f}   AMI {record['valid_ami_max_mean']:.4f}"
        )

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """A figure for TensorBoard."""
        self._writer.add_figure(name, figure, step)


def _cut(file: Path, step: int) -> list[dict[str, Any]]:
    """Drop from metrics.jsonl what is after `step`, or from a damaged line on (kills leave one); return the others."""
    records: list[dict[str, Any]] = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
            is_later = record["step"] > step
        except (ValueError, TypeError, KeyError):
            break
        if is_later:
            break
        records.append(record)
    replace_text(file, "".join(json.dumps(record) + "\n" for record in records))
    return records
