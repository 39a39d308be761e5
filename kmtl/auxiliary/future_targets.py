"""Labels of later times as labels of now."""

from collections.abc import Sequence

import numpy as np


def future_targets(
    labels, horizons: Sequence[int], series=None, missing: float = float("nan"), axis: int = 0
) -> dict[int, np.ndarray]:
    """Shifts the labels of time series, so that each time has those of later times.

    Use it for `kmtl.auxiliary.FutureTasks`, or for tasks of your own on the future. Cut the data
    into training and validation before, by time or by series: a shift over the cut would show
    one the labels of the other.

    ```
    targets[k][t] = labels[t + k]       # within a series
                  = missing             # for its last k times
    ```

    Args:
        labels: Array whose `axis` is time; rows of one series are in the order of time.
        horizons: How many times ahead, each at least 1.
        series: The series that each row belongs to, as numbers or texts; only with `axis=0`.
            Series may lie between each other. Defaults to `None`, all rows are one.
        missing: Label for where there is no later one. Defaults to `nan`.
        axis: 0 for a row for each time, 1 for rows that are series. Defaults to `0`.

    Returns:
        Horizon -> array of the labels' shape and type.

    Raises:
        ValueError: for horizons below 1 or given twice, a series that is not longer than the
            largest horizon (the message names it), and integers with NaN for `missing`.

    Example:

    >>> import kmtl
    >>> later = kmtl.auxiliary.future_targets([1, 2, 3, 7, 8, 9], [1, 2], "aaabbb", missing=-1)
    >>> print(later[1], later[2])
    [ 2  3 -1  8  9 -1] [ 3 -1 -1  9 -1 -1]

    Differences from the paper: none; it names the idea and leaves the form open.

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, its use
    "using the future to predict the present".
    """
    horizons = check_horizons(horizons)
    labels = np.asarray(labels)
    check_axis(axis, labels.ndim)
    if series is not None and axis == 1:
        raise ValueError("`series` must be None where rows are series. Received: axis=1")
    if labels.dtype.kind not in "fc" and missing != missing:
        raise ValueError(
            "`missing` must be a whole number, such as -1, where labels are. "
            f"Received: missing={missing} for {labels.dtype}"
        )
    rows = labels if axis == 0 else np.swapaxes(labels, 0, 1)
    shifted = {k: np.full(rows.shape, missing, rows.dtype) for k in horizons}
    for name, places in _places(series, rows):
        if len(places) <= max(horizons):
            raise ValueError(
                f"Every series must be longer than the largest horizon, {max(horizons)}. "
                f"Received: {len(places)} times in series {name!r}"
            )
        for k in horizons:
            shifted[k][places[:-k]] = rows[places[k:]]
    return {k: x if axis == 0 else np.swapaxes(x, 0, 1) for k, x in shifted.items()}


def check_horizons(horizons: Sequence[int]) -> list[int]:
    """The horizons in order."""
    given = list(horizons) if np.iterable(horizons) else []
    whole = all(isinstance(k, (int, np.integer)) and k >= 1 for k in given)
    if not given or not whole or len(set(given)) < len(given):
        raise ValueError(
            "`horizons` must be a list of different whole numbers of at least 1. "
            f"Received: horizons={horizons}"
        )
    return sorted(given)


def check_axis(axis: int, rank: int = 2) -> None:
    """Requires an axis of time that labels of this many axes have."""
    if axis not in (0, 1) or rank <= axis:
        raise ValueError(f"`axis` must be 0 or 1, an axis of the labels. Received: axis={axis}")


def _places(series, rows):
    """Name and row numbers of each series."""
    if series is None:
        return [("all rows", np.arange(len(rows)))]
    series = np.asarray(list(series) if isinstance(series, str) else series).reshape(-1)
    if len(series) != len(rows):
        raise ValueError(
            f"`series` must have an entry for each of {len(rows)} rows. Received: {len(series)}"
        )
    names, numbers = np.unique(series, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers))[:-1]
    return list(zip(names.tolist(), np.split(order, ends), strict=True))
