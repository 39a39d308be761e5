"""The picture of `GradientConflicts`."""

from collections.abc import Sequence

import numpy as np

from kmtl.ops.figures import new_figure


def plot_conflicts(history: Sequence[dict], tasks: Sequence[str]):
    """Last cosines; mean cosine and conflict rate by layer; weights, or the condition number.

    Args:
        history: `GradientConflicts.history`, not empty.
        tasks: Names of the tasks, in the order of the matrices.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    epochs = [entry["epoch"] + 1 for entry in history]
    last = history[-1]
    figure = new_figure(9.0, 7.0)
    (matrix, mean), (rate, other) = figure.subplots(2, 2)
    _draw_matrix(figure, matrix, next(iter(last["agreement"].values())).cosines, tasks)
    matrix.set_title(f"Cosines of gradients, epoch {epochs[-1]}")

    # All shared layers in black, then from dark (near the input) to light (near the heads).
    layers = list(last["agreement"])
    from matplotlib import colormaps  # there, as the figure was made

    shades = colormaps["viridis"](np.linspace(0.0, 0.9, max(len(layers) - 1, 1)))
    colors = dict(zip(layers, ["black", *shades], strict=False))
    for axes, title, value_of in (
        (mean, "Mean cosine of task pairs", lambda agreement: _mean_cosine(agreement.cosines)),
        (rate, "Share of task pairs in conflict", lambda agreement: agreement.conflict_rate),
    ):
        for layer, color in colors.items():
            values = [value_of(entry["agreement"][layer]) for entry in history]
            width = 2.5 if layer == layers[0] else 1.2
            axes.plot(epochs, values, marker=".", color=color, linewidth=width, label=layer)
        axes.set(title=title, xlabel="epoch")
    mean.axhline(0.0, color="grey", linewidth=0.8)
    rate.set_ylim(-0.03, 1.03)
    if len(layers) <= 12:
        mean.legend(fontsize="small")

    if last["weights"]:
        for task in last["weights"]:
            other.plot(epochs, [e["weights"][task] for e in history], marker=".", label=task)
        other.set(title="Weights of the tasks", xlabel="epoch")
        if len(last["weights"]) <= 12:
            other.legend(fontsize="small")
    else:
        values = [entry["agreement"][layers[0]].condition for entry in history]
        other.plot(epochs, values, marker=".", color="black")
        other.set(title="Condition number of the gradients", xlabel="epoch")
    return figure


def _draw_matrix(figure, axes, cosines, tasks):
    image = axes.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(image, ax=axes, shrink=0.8)
    if len(tasks) <= 8:
        for (row, column), value in np.ndenumerate(cosines):
            color = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(tasks)), tasks, rotation=90 if len(tasks) > 4 else 0)
    axes.set_yticks(range(len(tasks)), tasks)


def _mean_cosine(cosines) -> float:
    return float(np.mean(cosines[np.triu_indices(len(cosines), k=1)]))
