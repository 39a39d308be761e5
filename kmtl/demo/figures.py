"""The report's pictures, as data URIs."""

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np

from kmtl.demo.networks import PLAIN_SUM, SINGLE_TASK, TASKS
from kmtl.demo.train import Run
from kmtl.export.reporting.figures import STYLE, as_uri, data_uri, make_figure

COLORS = {
    SINGLE_TASK: "#8b929c",
    PLAIN_SUM: "#7dd3fc",
    "hard_sharing": "#3b82f6",
    "cross_stitch": "#f59e0b",
    "sluice": "#10b981",
    "factorized": "#d946a0",
}


def learning_curves(runs: Sequence[Run]) -> dict[str, str]:
    """Task -> validation accuracy by epoch: mean of the seeds, and their range."""
    return {
        task: _curves(runs, lambda run, task=task: run.history.get(task), "validation accuracy")
        for task in TASKS
    }


def variances(runs: Sequence[Run]) -> dict[str, str]:
    """Task -> learned variance by epoch: mean of the seeds, and their range."""
    return {
        task: _curves(runs, lambda run, task=task: run.variances.get(task), "variance")
        for task in TASKS
    }


def _curves(runs, values_of: Callable, label: str) -> str:
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(4.6, 3.0)
        for network, color in COLORS.items():
            curves = [values_of(run) for run in runs if run.network == network]
            curves = np.array([curve for curve in curves if curve])
            if not curves.size:
                continue
            epochs = np.arange(1, curves.shape[1] + 1)
            axes.fill_between(
                epochs, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.15, lw=0
            )
            axes.plot(epochs, curves.mean(axis=0), color=color, lw=2, marker="o", ms=3)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        return as_uri(figure)


def stitch_map(alphas: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Cross-stitch unit -> its learned matrix: a row for each pair, a column for each channel."""
    pairs = [(i, j) for i in range(len(TASKS)) for j in range(len(TASKS))]
    largest = max((np.abs(epochs[-1]).max() for epochs in alphas.values()), default=1.0)
    pictures = {}
    for unit, epochs in alphas.items():
        alpha = epochs[-1]
        rows = np.stack([alpha[pair] for pair in pairs])
        foreign = sum(alpha[i, j] for i, j in pairs if i != j)
        with matplotlib.rc_context({**STYLE, "axes.grid": False}):
            figure, axes = make_figure(4.6, 2.4)
            image = axes.imshow(
                rows[:, np.argsort(-foreign)],
                aspect="auto",
                cmap="RdBu_r",
                vmin=-largest,
                vmax=largest,
            )
            axes.set_yticks(range(len(pairs)), [f"{TASKS[i]} ← {TASKS[j]}" for i, j in pairs])
            axes.set(xticks=[], xlabel="channels, most borrowed first")
            figure.colorbar(image, ax=axes, fraction=0.05).outline.set_visible(False)
            pictures[unit] = as_uri(figure)
    return pictures


def stitch_curves(alphas: Mapping[str, np.ndarray], own: bool) -> str:
    """How much each unit keeps of a task's own features, or lets through, by epoch."""
    pairs = np.eye(len(TASKS), dtype=bool) == own
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(4.6, 2.4)
        for i, (unit, values) in enumerate(alphas.items()):
            shares = np.abs(values[:, pairs]).mean(axis=(1, 2))
            epochs = np.arange(1, len(shares) + 1)
            label = unit.replace("_", " ")
            axes.plot(epochs, shares, lw=2, marker="o", ms=3, label=label, color=f"C{i}")
        axes.set(xlabel="epoch", ylabel="mean |alpha|")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=8)
        return as_uri(figure)


def picture(image: np.ndarray) -> str:
    """One input image, pixel by pixel."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, image[..., 0], cmap="gray", vmin=0, vmax=1, format="png")
    return data_uri("image/png", buffer.getvalue())
