"""Pictures of results, without a background, to suit light and dark pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

_COLUMNS = 3


def ratios_over_tasks(
    panels: Mapping[str, Mapping[str, Mapping[int, float]]],
    lines: Mapping[str, Mapping],
    tasks: Sequence[int],
    path: Path,
) -> None:
    """A panel for each method: step time over the plain step, by the number of tasks.

    Args:
        panels: Method -> line -> number of tasks -> ratio.
        lines: Line -> keywords of `Axes.plot`, in the order of the legend.
        tasks: Numbers of tasks for the ticks.
        path: The PNG file.
    """
    # Not at the top: memory is measured in processes that import this module.
    from kmtl.export.reporting.figures import INK, STYLE

    rows = -(-len(panels) // _COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * _COLUMNS, 2.6 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
        handles = {}
        for axes, (method, ratios) in zip(grid.flat, panels.items(), strict=False):
            for line, keywords in lines.items():
                if line in ratios:
                    points = sorted(ratios[line].items())
                    (handles[line],) = axes.plot(*zip(*points, strict=True), **keywords)
            axes.set(title=method, xscale="log", yscale="log")
            axes.set_xticks(tasks, labels=[str(t) for t in tasks])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("tasks", color=INK, fontsize=10)
        figure.supylabel("step time over the plain step's", color=INK, fontsize=10)
        names = [line for line in lines if line in handles]
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="outside upper center",
            ncols=len(names),
            frameon=False,
        )
        figure.savefig(path, dpi=110, transparent=True)


def by_type(
    panels: Mapping[str, Sequence[Mapping]], tasks: Mapping[str, Mapping], path: Path
) -> None:
    """A row of panels for each network: size, latency and what each head loses, type by type.

    Args:
        panels: Network -> its files, each with `file`, `bytes`, `latency` (both over float32's)
            and `drop`: task -> points and their standard error.
        tasks: Task -> keywords of `Axes.errorbar`, in the order of the legend.
        path: The PNG file.
    """
    from kmtl.export.reporting.figures import STYLE

    heights = [len(files) for files in panels.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.5 + 0.25 * sum(heights)), layout="constrained")
        shape = {"height_ratios": heights, "width_ratios": (4, 4, 5)}
        grid = figure.subplots(len(panels), 3, sharex="col", sharey="row", squeeze=False, **shape)
        for (size, latency, lost), (network, files) in zip(grid, panels.items(), strict=True):
            _bars(size, [file["bytes"] for file in files], start=0)
            _bars(latency, [file["latency"] for file in files], start=1)
            for k, (task, keywords) in enumerate(tasks.items()):
                points, errors = zip(*(file["drop"][task] for file in files), strict=True)
                places = np.arange(len(files)) + 0.3 * k - 0.15 * (len(tasks) - 1)
                lost.errorbar(points, places, xerr=errors, label=task, **keywords)
            size.set_yticks(range(len(files)), [file["file"] for file in files])
            size.set_ylim(len(files) - 0.4, -0.6)
            size.set_title(network, loc="left", fontweight="bold")
        for axes in grid.flat:
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", which="minor", length=0, labelbottom=False)
        size, latency, lost = grid[-1]
        size.set(xlabel="bytes over float32's", xlim=(0, 1.15))
        latency.set(xlabel="latency over float32's", xscale="log")
        latency.margins(x=0.15)
        lost.set(xlabel="points lost, ± standard error")
        low, high = latency.get_xlim()
        latency.set_xticks([x for x in (0.1, 0.3, 1, 3, 10, 30, 100) if low <= x <= high])
        latency.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        legend = {"loc": "lower right", "bbox_to_anchor": (1, 1), "frameon": False}
        grid[0][-1].legend(ncols=len(tasks), **legend)
        figure.savefig(path, dpi=110, transparent=True)


def _bars(axes, values, start):
    places = range(len(values))
    lengths = [value - start for value in values]
    axes.barh(places, lengths, left=start, height=0.62, color="#3b82f6", alpha=0.85, lw=0)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.2f}" if value < 10 else f"{value:.0f}",
            (max(value, start), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
