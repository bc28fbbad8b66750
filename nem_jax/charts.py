"""Numbers to figures: the papers' curves and tables. Imports matplotlib, NumPy and the colours of `nem_jax.plots`."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from nem_jax.plots import PALETTE


def curve(curves: Mapping[str, Mapping[str, ArrayLike]], ylabel: str, trained_steps: int | None = None) -> Figure:
    """N-EM's figure 6: a score at each time step, its mean as a line in the shade of its quartiles.

    Args:
        curves: for each label `mean`, `lower` and `upper` quartile, as of `evaluation.quartiles`; T may differ.
        ylabel: what is plotted.
        trained_steps: a dashed line at this time step, the last seen in training.
    """
    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axis = figure.subplots()
    for index, (label, values) in enumerate(curves.items()):
        steps, colour = np.arange(1, np.size(values["mean"]) + 1), PALETTE[index % len(PALETTE)]
        axis.plot(steps, values["mean"], color=colour, label=label)
        axis.fill_between(steps, values["lower"], values["upper"], color=colour, alpha=0.2, linewidth=0)
    if trained_steps is not None:
        axis.axvline(trained_steps, color="black", linestyle="--", linewidth=1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("time step")
    axis.set_ylabel(ylabel)
    axis.legend()
    return figure


def bars(groups: list[str], series: dict[str, list[tuple[float | None, float | None]]], ylabel: str) -> Figure:
    """Grouped bars with error bars: N-EM's table 1 or figure 5, the paper's numbers beside ours.

    Args:
        groups: labels on the x axis, which go on in a new line after a comma.
        series: for each label in the legend the (mean, standard deviation) in each group, None where unknown.
        ylabel: what is plotted.

    Raises:
        ValueError: if a series has not one entry for each group.
    """
    labels = [group.replace(", ", ",\n") for group in groups]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    inches = max(0.6 * len(series), 0.12 * longest)  # so that neighbours' labels do not touch
    figure = Figure(figsize=(1.5 + inches * len(groups), 4), dpi=100, layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(series)
    for index, (label, entries) in enumerate(series.items()):
        if len(entries) != len(groups):
            raise ValueError(f"{label!r} has {len(entries)} entries for {len(groups)} groups")
        means, deviations = np.array(entries, float).T
        left = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        axis.bar(left, means, width, yerr=deviations, capsize=3, color=PALETTE[index % len(PALETTE)], label=label)
    axis.set_xticks(np.arange(len(groups)), labels)
    axis.set_ylabel(ylabel)
    columns = int(figure.get_figwidth() / (0.6 + 0.085 * max(map(len, series))))  # of handle and label, in inches
    figure.legend(loc="outside upper center", ncols=min(len(series), max(1, columns)))
    return figure


def ranking(values: Mapping[str, float], reference: str, xlabel: str) -> Figure:
    """A dot for each of `values`, the largest on top, and a line through that of `reference`.

    Args:
        values: by label.
        reference: the label of one of them.
        xlabel: what is plotted.
    """
    labels = sorted(values, key=values.__getitem__)
    figure = Figure(figsize=(6, 1 + 0.25 * len(labels)), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.axvline(values[reference], color="black", linestyle="--", linewidth=1)
    axis.plot([values[label] for label in labels], labels, "o", color=PALETTE[0])
    axis.grid(axis="y", alpha=0.3)
    axis.set_xlabel(xlabel)
    return figure


def growth(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], xlabel: str, ylabel: str) -> Figure:
    """What grows with what, both relative to the first of each: (x, y) by label, beside the line y = x."""
    figure = Figure(figsize=(5, 4), dpi=100, layout="constrained")
    axis = figure.subplots()
    for index, (label, (x, y)) in enumerate(curves.items()):
        axis.plot(x, y, color=PALETTE[index % len(PALETTE)], marker="o", label=label)
    largest = max(float(np.max(x)) for x, _ in curves.values())
    axis.plot([1, largest], [1, largest], color="black", linestyle="--", linewidth=1, label="linear")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.legend()
    return figure
