"""The pictures of a report."""

from collections.abc import Mapping, Sequence

import numpy as np

from kmtl.export.reporting.figures import STYLE, as_uri, make_figure

COLORS = (
    "#3b82f6", "#f59e0b", "#10b981", "#d946a0", "#8b5cf6", "#ef4444",
    "#0891b2", "#84cc16", "#a16207", "#64748b", "#ec4899", "#14b8a6",
)  # fmt: skip
BINS = 48
SMALLEST = 1e-9  # of a relative error that a logarithmic axis shows
COLUMNS = 4
LABEL_SIZE = (34, 24)  # pixels of a label in a plot of points


def color(index: int) -> str:
    """The colour of a report's file by its place."""
    return COLORS[index % len(COLORS)]


def error_histograms(errors: Mapping[str, np.ndarray], size: float) -> str:
    """How the errors of one head are distributed in each file: a row for each.

    Args:
        errors: Number type -> |file - Keras model| of each value.
        size: Root mean square of the head's outputs, which errors are relative to.
    """
    import matplotlib

    logs = {n: np.log10(np.maximum(e / size, SMALLEST)) for n, e in errors.items()}
    low = np.floor(min(values.min() for values in logs.values()))
    high = max(np.ceil(max(values.max() for values in logs.values())), low + 1)
    edges = np.linspace(low, high, BINS + 1)
    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(4.6, 0.8 + 0.34 * len(errors))
        for i, values in enumerate(logs.values()):
            counts = np.histogram(values, edges)[0]
            heights = 0.85 * counts / max(counts.max(), 1)
            axes.stairs(heights - i, edges, baseline=-i, fill=True, color=color(i), lw=0)
        axes.set_yticks([-i for i in range(len(errors))], list(errors), va="bottom")
        axes.tick_params(axis="y", length=0)
        axes.spines.left.set_visible(False)
        axes.set(
            xlabel="|error| / size of the outputs", ylim=(0.1 - len(errors), 1), xlim=(low, high)
        )
        step = max(1, round((high - low) / 4))
        powers = np.arange(int(low), int(high) + 1, step)
        axes.set_xticks(powers, [f"$10^{{{p}}}$" for p in powers])
        return as_uri(figure)


def trade_off(points: Sequence[tuple[float, float]], label: str, is_error: bool) -> str:
    """Bytes against a head's metric or relative error; the points are numbered from 1."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, axes = make_figure(4.6, 3.4)
        shown = [(x / 1000, max(y, SMALLEST) if is_error else y) for x, y in points]
        for i, (x, y) in enumerate(shown):
            axes.scatter(x, y, s=46, color=color(i), alpha=0.85, lw=0, zorder=3)
        axes.set_xscale("log")
        if is_error:
            axes.set_yscale("log")
        axes.margins(0.15)
        axes.set(xlabel="kB", ylabel=label)
        ticks = _round_numbers([x for x, _ in shown])
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        figure.draw_without_rendering()  # the places below are those of the finished layout
        for members in _close_together(axes.transData.transform(shown)):
            numbers = ", ".join(str(i + 1) for i in members)
            place = np.max([shown[i] for i in members], axis=0)
            axes.annotate(
                numbers, place, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
            )
        return as_uri(figure)


def _round_numbers(values) -> list[float]:
    """Up to six round numbers that span positive values, for a logarithmic axis."""
    low, high = np.log10(min(values)), np.log10(max(values))
    exponents = range(int(np.floor(low)) - 1, int(np.ceil(high)) + 1)
    numbers = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
    inside = [x for x in numbers if low - 0.15 <= np.log10(x) <= high + 0.15]
    return inside[:: -(-len(inside) // 6) or 1]


def _close_together(places) -> list[list[int]]:
    """Points whose numbers would cover each other, in groups that share one label."""
    groups = []
    for i, place in enumerate(places):
        for group in groups:
            if any((np.abs(place - places[j]) < LABEL_SIZE).all() for j in group):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def weight_histograms(weights: Mapping[str, np.ndarray]) -> str:
    """Small multiples: the distribution of each layer's weights."""
    import matplotlib

    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        rows = -(-len(weights) // COLUMNS)
        figure, grid = make_figure(9.6, 1.7 * rows, nrows=rows, ncols=COLUMNS, squeeze=False)
        for axes in grid.ravel()[len(weights) :]:
            axes.set_axis_off()
        for axes, (name, values) in zip(grid.ravel(), weights.items(), strict=False):
            axes.hist(values.ravel(), bins=BINS, color=COLORS[0], alpha=0.85)
            axes.set_title(name if len(name) <= 26 else f"{name[:12]}…{name[-12:]}", fontsize=8)
            axes.set(yticks=[])
            axes.locator_params(axis="x", nbins=4)
            axes.spines.left.set_visible(False)
        return as_uri(figure)
