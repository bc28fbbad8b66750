"""Images to figures. Imports matplotlib and NumPy only, so that every figure is redrawn from stored arrays."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

PALETTE = np.array(
    [(0.90, 0.22, 0.27), (0.18, 0.55, 0.87), (0.99, 0.75, 0.18), (0.25, 0.72, 0.45), (0.60, 0.35, 0.80),
     (0.98, 0.50, 0.18), (0.35, 0.80, 0.80), (0.85, 0.45, 0.70), (0.55, 0.55, 0.30), (0.50, 0.50, 0.50)]
)  # fmt: skip
"""Colour of each component, in order; repeated beyond ten."""

GAP = 2
"""White pixels between two images of a grid."""


def colour_gamma(gamma: np.ndarray, brightness: np.ndarray | None = None) -> np.ndarray:
    """Responsibilities as an RGB image: each pixel is the gamma-weighted mix of the components' colours.

    Args:
        gamma: `[K, H, W, 1]`.
        brightness: `[H, W, 1]` in [0, 1] darkens each pixel, for instance to hide the background.

    Returns:
        `[H, W, 3]` in [0, 1].
    """
    colours = PALETTE[np.arange(gamma.shape[0]) % len(PALETTE)]
    image = np.einsum("khw,kc->hwc", gamma[..., 0], colours)
    return np.clip(image if brightness is None else image * brightness, 0, 1)


def colour_groups(groups: np.ndarray) -> np.ndarray:
    """True segmentation `[H, W, 1]` as RGB `[H, W, 3]`: a colour per group, 0 black."""
    colours = np.concatenate([np.zeros((1, 3)), PALETTE])
    return colours[np.where(groups[..., 0] > 0, (groups[..., 0] - 1) % len(PALETTE) + 1, 0)]


def overview(x: ArrayLike, x_noisy: ArrayLike, groups: ArrayLike, gamma: ArrayLike, psi: ArrayLike) -> Figure:
    """N-EM's figure 3, one column per example: clean and noisy input, truth, responsibilities, each component's psi.

    The responsibilities are shown twice: as they are, and as bright as the input, which shows the objects alone.

    Args:
        x, x_noisy: `[N, H, W, C]`.
        groups: `[N, H, W, 1]`.
        gamma: `[N, K, H, W, 1]` after the last EM step.
        psi: `[N, K, H, W, C]`, likewise.
    """
    x, x_noisy, groups, gamma, psi = map(np.asarray, (x, x_noisy, groups, gamma, psi))
    rows: list[tuple[str, Any]] = [
        ("input", x),
        ("with noise", x_noisy),
        ("true groups", [colour_groups(g) for g in groups]),
        ("gamma", [colour_gamma(g) for g in gamma]),
        ("on objects", [colour_gamma(g, i) for g, i in zip(gamma, x.mean(-1, keepdims=True), strict=True)]),
    ]
    rows += [(f"psi {k + 1}", psi[:, k]) for k in range(psi.shape[1])]
    return image_grid(rows)


def sequence_panels(
    x: ArrayLike, gamma: ArrayLike, psi: ArrayLike, x_noisy: ArrayLike | None = None
) -> list[tuple[str, Any]]:
    """(label, images) of one sequence in the order of N-EM's figures 4 and 7: gamma, each psi, input, target.

    They are the rows of `sequence`, and of use to `write_animation` as they are. Shapes as for `sequence`.
    """
    x, gamma, psi = map(np.asarray, (x, gamma, psi))
    panels: list[tuple[str, Any]] = [("gamma", [colour_gamma(g) for g in gamma])]
    panels += [(f"psi {k + 1}", psi[:, k]) for k in range(psi.shape[1])]
    panels += [] if x_noisy is None else [("with noise", x_noisy)]
    return [*panels, ("target", x)]


def sequence(
    x: ArrayLike, gamma: ArrayLike, psi: ArrayLike, x_noisy: ArrayLike | None = None, every: int = 1
) -> Figure:
    """N-EM's figures 4 and 7, one column per EM step, headed by its number from 1; rows as in `sequence_panels`.

    Args:
        x: the steps' targets, `[T, H, W, C]`.
        gamma: `[T, K, H, W, 1]` after each step.
        psi: `[T, K, H, W, C]`, likewise.
        x_noisy: the steps' inputs, `[T, H, W, C]`; a row if given.
        every: one step in `every` is shown, counted back from the last, which always is.

    Raises:
        ValueError: if the arrays differ in T.
    """
    panels = sequence_panels(x, gamma, psi, x_noisy)
    num_steps = _common_length(panels)
    shown = slice((num_steps - 1) % every, None, every)
    return image_grid(
        [(label, images[shown]) for label, images in panels], [str(t + 1) for t in range(num_steps)][shown]
    )


def image_grid(rows: list[tuple[str, Any]], titles: list[str] | None = None) -> Figure:
    """A grid of images `[H, W, 1 or 3]` in [0, 1]: a row for each (label, images), a title for each column.

    Raises:
        ValueError: if the rows and titles differ in length.
    """
    columns = _common_length(rows)
    if titles is not None and len(titles) != columns:
        raise ValueError(f"there are {len(titles)} titles for {columns} columns")
    figure = Figure(figsize=(1.1 * columns + 1.5, 1.1 * len(rows)), dpi=100, layout="constrained")
    _show(figure.subplots(), _mosaic(rows), [label for label, _ in rows], titles or [""] * columns)
    return figure


def write_animation(path: Path, panels: list[tuple[str, Any]], fps: int = 8) -> None:
    """An endless GIF of panels side by side, for instance `sequence_panels`: each a (label, images).

    Equal frames in a row are stored as one that is shown for longer.

    Args:
        path: the file, in a folder that exists.
        panels: labels, and images `[T, H, W, 1 or 3]` in [0, 1].
        fps: frames per second, to which GIF comes within 10 ms a frame.

    Raises:
        ValueError: if the panels differ in T.
    """
    frames = [_mosaic([("", [images[t] for _, images in panels])]) for t in range(_common_length(panels))]
    figure = Figure(figsize=(1.6 * len(panels), 1.9), layout="constrained")
    shown = _show(figure.subplots(), frames[0], [""], [label for label, _ in panels])
    writer = PillowWriter(fps=fps)
    with writer.saving(figure, path, dpi=100):
        for frame in frames:
            shown.set_data(frame)
            writer.grab_frame()


def _common_length(rows: list[tuple[str, Any]]) -> int:
    """How many images each row has."""
    lengths = [len(images) for _, images in rows]
    if len(set(lengths)) > 1:
        described = ", ".join(f"{label!r}: {length}" for (label, _), length in zip(rows, lengths, strict=True))
        raise ValueError(f"rows of images differ in length: {described}")
    return lengths[0]


def _mosaic(rows: list[tuple[str, Any]]) -> np.ndarray:
    """All images as one, in RGB, white between them: drawing an axis for each takes a hundred times as long."""
    images = np.array([[_rgb(image) for image in images] for _, images in rows])  # [R, N, H, W, 3]
    gap = (GAP, 0)
    padded = np.pad(images, ((0, 0), (0, 0), gap, gap, (0, 0)), constant_values=1.0)
    rows_, columns, height, width, channels = padded.shape
    return padded.swapaxes(1, 2).reshape(rows_ * height, columns * width, channels)[GAP:, GAP:]


def _rgb(image: Any) -> np.ndarray:
    """`[H, W, 1 or 3]` as `[H, W, 3]` in [0, 1], where Gaussian means may leave it."""
    return np.broadcast_to(np.clip(image, 0, 1), (*image.shape[:2], 3))


def _show(axis: Axes, mosaic: np.ndarray, labels: list[str], titles: list[str]) -> AxesImage:
    """Labels on the left of the rows, titles above the columns."""
    height, width, _ = mosaic.shape
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelleft=True, labeltop=True, labelbottom=False)
    axis.set_yticks((np.arange(len(labels)) + 0.5) * (height + GAP) / len(labels) - GAP / 2 - 0.5, labels)
    axis.set_xticks((np.arange(len(titles)) + 0.5) * (width + GAP) / len(titles) - GAP / 2 - 0.5, titles)
    return axis.imshow(mosaic, interpolation="nearest")
