"""The picture of `TaskAffinity`."""

from collections.abc import Sequence

import numpy as np

from kmtl.ops.figures import new_figure


def plot_affinity(matrix: np.ndarray, tasks: Sequence[str]):
    """A heat map in a figure of its own; see `draw_affinity`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure = new_affinity_figure(1, tasks)
    draw_affinity(figure, figure.subplots(), matrix, tasks)
    return figure


def new_affinity_figure(panels: int, tasks: Sequence[str]):
    """A figure with room for heat maps side by side and for the tasks' names."""
    size = 1.9 + 0.7 * len(tasks) + 0.1 * max(map(len, tasks))
    figure = new_figure(panels * (size + 1.0), size)
    figure.set_layout_engine("compressed")  # made for pictures, which keep their aspect
    return figure


def draw_affinity(figure, axes, matrix: np.ndarray, tasks: Sequence[str]) -> None:
    """What a step for the row's task does for the column's: blue helps, red hurts.

    The diagonal, which is far above the rest, is written in grey and has no part in the colours.
    """
    shown = np.array(matrix, "float64")
    own = np.eye(len(tasks), dtype=bool)
    largest = np.nanmax(np.abs(np.where(own, 0.0, shown))) or 1.0
    image = axes.imshow(np.where(own, np.nan, shown), vmin=-largest, vmax=largest, cmap="RdBu")
    figure.colorbar(image, ax=axes, shrink=0.8)
    for (row, column), value in np.ndenumerate(shown):
        strong = row != column and abs(value) > 0.6 * largest
        color = "grey" if row == column else "white" if strong else "black"
        axes.text(column, row, f"{value:.2g}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(tasks)), tasks, rotation=90 if len(tasks) > 4 else 0)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set(title="Affinity of tasks", xlabel="for", ylabel="a step by")
