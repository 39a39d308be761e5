"""The picture of learned correlations between tasks."""

from collections.abc import Sequence

import numpy as np

from kmtl.ops.figures import new_figure


def plot_correlation(correlation: np.ndarray, tasks: Sequence[str] | None):
    """A heat map.

    Args:
        correlation: `(T, T)`.
        tasks: Names of the rows, or None to number them.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    count = len(correlation)
    figure = new_figure(5.5, 4.8)
    axes = figure.subplots()
    image = axes.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(image, ax=axes, label="correlation")
    axes.set_title("Learned correlation of tasks")
    if count <= 30:
        names = [str(t) for t in range(count)] if tasks is None else list(tasks)
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    if count <= 12:
        for i, j in np.ndindex(count, count):
            color = "white" if abs(correlation[i, j]) > 0.6 else "black"
            text = f"{correlation[i, j]:.2f}"
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize="small")
    return figure
