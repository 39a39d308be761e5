"""Runs over seeds, and the page of a table that they make."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tqdm import tqdm


def measure(methods: Mapping[str, Callable[[int], dict]], seeds: int) -> dict:
    """Method -> score -> its value for each seed, and how long a run took.

    Args:
        methods: Method -> function of a seed that returns score -> value.
        seeds: The number of seeds. They come first, so that noise of the machine is shared.
    """
    rows = {name: {"minutes": []} for name in methods}
    for seed, name in (progress := tqdm([(s, n) for s in range(seeds) for n in methods])):
        progress.set_description(f"seed {seed + 1}, {name}")
        start = time.perf_counter()
        for score, value in methods[name](seed).items():
            rows[name].setdefault(score, []).append(float(value))
        rows[name]["minutes"].append((time.perf_counter() - start) / 60)
    return rows


def table(rows: Mapping[str, Mapping], columns: Mapping[str, tuple[str, float, int]]) -> str:
    """A markdown table of means and standard deviations over seeds.

    Args:
        rows: What `measure` returned.
        columns: Score -> its title, a factor (100 for percent), and digits behind the point.
    """
    titles = [title for title, _, _ in columns.values()]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for name, row in rows.items():
        cells = [
            mean_and_sd(factor * np.array(row[score]), digits) if score in row else ""
            for score, (_, factor, digits) in columns.items()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_and_sd(values: Sequence[float], digits: int) -> str:
    """`93.1 ± 0.4`; a single value stands alone."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def dots(axes, rows: Mapping[str, Mapping], score: str, factor: float = 1.0) -> None:
    """A row for each method: a dot for each seed, and a line for their mean.

    Args:
        axes: Of matplotlib; its label is left to the caller.
        rows: What `measure` returned; rows without the score are left out.
        score: Which of the scores.
        factor: 100 for percent. Defaults to `1.0`.
    """
    values = {name: factor * np.array(row[score]) for name, row in rows.items() if score in row}
    for place, of_seeds in enumerate(values.values()):
        axes.plot(of_seeds, np.full(len(of_seeds), place), "o", color="tab:blue", alpha=0.6)
        axes.plot(of_seeds.mean(), place, "|", color="black", markersize=16)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)  # the first on top
    axes.grid(axis="x", alpha=0.3)
