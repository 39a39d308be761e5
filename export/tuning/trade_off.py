"""The table and the picture of what `autotune` measured."""

import io
import math
import os
from pathlib import Path

from kmtl.export.files import write_together
from kmtl.export.reporting.figures import INK, STYLE, check_packages, make_figure
from kmtl.export.reporting.plots import color
from kmtl.export.tuning.judge import share

FORMATS = (".png", ".svg", ".pdf")
CHOSEN = "#ef4444"


def table(found) -> str:
    """The types alone, the file, and the layers' sensitivity, in Markdown.

    Args:
        found: An `Autotuned`.
    """
    tasks = list(found.budget)
    heads = [
        f"{t}: {found.metric_names[t]}, {found.units[t]} lost (budget {found.budget[t]:g})"
        for t in tasks
    ]
    alone = [e for e in found.evaluations if not e.overrides and e is not found.chosen]
    with_latency = found.chosen.latency_ms is not None
    rows = [
        [_name(e), *_costs(e, with_latency), *(f"{e.losses[t]:.4g}" for t in tasks), _verdict(e)]
        for e in alone
        if not e.refused
    ]
    chosen = found.chosen
    losses = [f"**{chosen.losses[t]:.4g}**" for t in tasks]
    rows.append([f"**{_name(chosen)}**", *_costs(chosen, with_latency), *losses, "**written**"])
    header = ["file", "bytes", *["ms"] * with_latency, *heads, "budgets"]
    parts = [_markdown(header, rows)]
    refused = [f"- {e.quantization}: {e.refused}" for e in alone if e.refused]
    if refused:
        parts.append("No file of one type:\n\n" + "\n".join(refused))
    if found.sensitivity:
        lines = [
            [layer, kind, *(f"{lost[t]:.4g}" for t in tasks)]
            for layer, kinds in found.sensitivity.items()
            for kind, lost in kinds.items()
        ]
        parts.append(
            "What each head loses more when one layer alone has a smaller type:\n\n"
            + _markdown(["layer", "type", *tasks], lines)
        )
    cut = "" if found.complete else "; the search was cut short"
    parts.append(f"{len(found.evaluations)} files measured{cut}.")
    return "\n\n".join(parts) + "\n"


def _name(e) -> str:
    others = {name: kind for name, kind in e.overrides.items() if kind != e.quantization}
    return e.quantization + "".join(f", {name}={kind}" for name, kind in others.items())


def _costs(e, with_latency) -> list[str]:
    return [f"{e.bytes:,}", *([f"{e.latency_ms:.3g}"] if with_latency else [])]


def _verdict(e) -> str:
    return "kept" if e.within_budget else "exceeded"


def _markdown(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_plot(found, path: str | os.PathLike) -> None:
    """Draws what each file costs against the share of its budget the worst head uses.

    Large points are files of one type, small ones mixes; hollow ones exceed a budget, and
    triangles one of 0.

    Args:
        found: An `Autotuned`.
        path: Where to write; `.png`, `.svg` or `.pdf`.
    """
    path = Path(path)
    check_plot(path)
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        _draw(found).savefig(buffer, format=path.suffix[1:], dpi=160, metadata=_dateless(path))
    write_together({path: buffer.getvalue()})


def check_plot(path: str | os.PathLike) -> None:
    """Raises ValueError for an unknown format, ImportError where nothing can draw."""
    if Path(path).suffix not in FORMATS:
        raise ValueError(f"`path` must end in one of {FORMATS}. Received: path={str(path)!r}")
    check_packages("A plot", "report", ("matplotlib",))


def _dateless(path) -> dict | None:
    """The same numbers give the same file."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)


def _draw(found):
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    files = [e for e in found.evaluations if not e.refused]
    shares = [share(e.losses, found.budget) for e in files]
    highest = max([1.0, *(s for s in shares if math.isfinite(s))])
    top = 2 * highest  # where infinite shares are drawn
    figure, axes = make_figure(7.6, 4.4)
    axes.axhline(1, color=INK, lw=1, ls="--")
    types = 0
    for e, s in zip(files, shares, strict=True):
        alone = not e.overrides
        ink = color(types) if alone else INK
        axes.scatter(
            _cost(found, e),
            min(s, top),
            s=52 if alone else 14,
            marker="o" if math.isfinite(s) else "^",
            facecolors=ink if e.within_budget else "none",
            edgecolors=ink,
            label=e.quantization if alone else None,
            zorder=3,
        )
        types += alone
    place = (_cost(found, found.chosen), share(found.losses, found.budget))
    axes.scatter(*place, s=200, facecolors="none", edgecolors=CHOSEN, lw=2, zorder=4)
    axes.annotate(
        "written", place, xytext=(0, -17), textcoords="offset points", ha="center", color=CHOSEN
    )
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(-0.15, 1.3 * top)
    axes.margins(x=0.12)
    numbers = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=numbers)
    powers = [2.0**n for n in range(1, math.frexp(top)[1])]
    ticks = FixedLocator([0, 0.5, 1, *powers[:: -(-len(powers) // 6) or 1]])
    axes.yaxis.set(major_locator=ticks, major_formatter=numbers)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set(minor_locator=NullLocator())
    axes.set(
        xlabel="kB" if found.target == "bytes" else "ms of a call",
        ylabel="share of its budget that the worst head uses",
    )
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _cost(found, e) -> float:
    return e.bytes / 1000 if found.target == "bytes" else e.latency_ms
