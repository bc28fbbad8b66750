"""Arrays to figures. Imports matplotlib and NumPy only, so that every figure is redrawn from stored arrays."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

PALETTE = np.array(
    [(0.90, 0.22, 0.27), (0.18, 0.55, 0.87), (0.99, 0.75, 0.18), (0.25, 0.72, 0.45), (0.60, 0.35, 0.80),
     (0.98, 0.50, 0.18), (0.35, 0.80, 0.80), (0.85, 0.45, 0.70), (0.55, 0.55, 0.30), (0.50, 0.50, 0.50)]
)  # fmt: skip
"""Colour of each component, in order; repeated beyond ten."""


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


def overview(x: np.ndarray, x_noisy: np.ndarray, groups: np.ndarray, gamma: np.ndarray, psi: np.ndarray) -> Figure:
    """N-EM's figure 3, one column per example: clean and noisy input, truth, responsibilities, each component's psi.

    The responsibilities are shown twice: as they are, and on the object pixels alone, which is what AMI sees.

    Args:
        x, x_noisy: `[N, H, W, C]`.
        groups: `[N, H, W, 1]`.
        gamma: `[N, K, H, W, 1]` after the last EM step.
        psi: `[N, K, H, W, C]`, likewise.
    """
    rows: list[tuple[str, Any]] = [
        ("input", x),
        ("with noise", x_noisy),
        ("true groups", [colour_groups(g) for g in groups]),
        ("gamma", [colour_gamma(g) for g in gamma]),
        ("gamma, objects", [colour_gamma(g, i) for g, i in zip(gamma, x.mean(-1, keepdims=True), strict=True)]),
    ]
    rows += [(f"psi {k + 1}", psi[:, k]) for k in range(psi.shape[1])]
    return image_grid(rows)


def image_grid(rows: list[tuple[str, Any]]) -> Figure:
    """A grid of images `[H, W, 1 or 3]` in [0, 1]: a row for each (label, images)."""
    columns = len(rows[0][1])
    figure = Figure(figsize=(1.1 * columns + 1.2, 1.1 * len(rows)), dpi=100, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, images) in zip(axes, rows, strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(np.asarray(image).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure
