"""Several domains as one data set, with a label that tells them apart."""

from collections.abc import Mapping

import keras
import numpy as np


def domain_data(
    source, *targets, missing: Mapping | None = None, name: str = "domain", seed: int = 0
) -> tuple:
    """Puts a labelled domain and others together, with the domain as one more label.

    Use it for `kmtl.auxiliary.AdversarialTask`. Rows of the domains alternate, so that each batch
    has equally many of each if you train with `shuffle=False` and a batch size that the number
    of domains divides; a shuffling `fit` has so on average. Where a domain has fewer rows, they
    come again, in another order.

    ```
    row i = row order_d[i // D] of domain d = i mod D          # of D domains
    y[task] of a domain without this task = missing[task]
    ```

    Args:
        source: `(x, y)` of arrays; `y` is a dict of task name -> labels.
        *targets: The other domains, each `(x, y)`, or only `x` where there are no labels.
        missing: Task -> label that means "no label", of tasks that a domain lacks; the same as in
            `compile`. Defaults to `None`.
        name: Name of the domain's label. Defaults to `"domain"`.
        seed: Of the orders. Defaults to `0`.

    Returns:
        `(x, y)`, where `y[name]` is 0 for the source, 1 for the first target and so on.

    Raises:
        ValueError: without a target, for inputs that differ in names or shapes, for a task that
            a domain lacks and that `missing` does not name, or whose labels cannot be that value.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> source = np.zeros((2, 3)), {"digit": np.array([7, 7])}
    >>> x, y = kmtl.auxiliary.domain_data(source, np.ones((4, 3)), missing={"digit": -1})
    >>> print(x[:, 0], y["domain"], y["digit"])
    [0. 1. 0. 1. 0. 1. 0. 1.] [0 1 0 1 0 1 0 1] [ 7 -1  7 -1  7 -1  7 -1]

    Differences from the paper: none; its batches are half source, half target, too.

    Reference: Y. Ganin, V. Lempitsky (2015), "Unsupervised Domain Adaptation by
    Backpropagation", ICML, arXiv:1409.7495, section 4.
    """
    if not targets:
        raise ValueError("`targets` must hold at least one other domain. Received: none")
    domains = [d if isinstance(d, tuple) else (d, None) for d in (source, *targets)]
    xs = [keras.tree.map_structure(np.asarray, x) for x, _ in domains]
    ys = [{task: np.asarray(v) for task, v in (y or {}).items()} for _, y in domains]
    _check_inputs(xs)
    sizes = [len(keras.tree.flatten(x)[0]) for x in xs]
    rng = np.random.default_rng(seed)
    orders = [_order(size, max(sizes), rng) for size in sizes]
    tasks = sorted({task for y in ys for task in y})
    labels = {}
    for task in tasks:
        given = next(y[task] for y in ys if task in y)
        columns = [
            y[task][order] if task in y else _absent(task, given, len(order), missing)
            for y, order in zip(ys, orders, strict=True)
        ]
        labels[task] = _alternating(columns)
    labels[name] = np.tile(np.arange(len(domains), dtype="int32"), max(sizes))
    rows = [
        keras.tree.map_structure(lambda a, order=order: a[order], x)
        for x, order in zip(xs, orders, strict=True)
    ]
    return keras.tree.map_structure(lambda *arrays: _alternating(arrays), *rows), labels


def _order(size, length, rng):
    """`length` row numbers: all rows in random orders, one after another."""
    rounds = -(-length // size)
    return np.concatenate([rng.permutation(size) for _ in range(rounds)])[:length]


def _alternating(arrays):
    stacked = np.stack(arrays, axis=1)
    return stacked.reshape(-1, *stacked.shape[2:])


def _absent(task, given, rows, missing):
    if missing is None or task not in missing:
        raise ValueError(
            "`missing` must name all tasks that a domain has no labels of. "
            f"Received: missing={missing}, without {task!r}"
        )
    value = missing[task]
    if given.dtype.kind in "iub" and value != value:
        raise ValueError(
            "`missing` must be a whole number where labels are. "
            f"Received: {value} for {task!r}, of {given.dtype}"
        )
    if given.dtype.kind in "iu" and not np.iinfo(given.dtype).min <= value:
        raise ValueError(
            "`missing` must be a value that the labels' type can hold. "
            f"Received: {value} for {task!r}, of {given.dtype}"
        )
    return np.full((rows, *given.shape[1:]), value, given.dtype)


def _check_inputs(xs):
    def shapes(x):
        return keras.tree.map_structure(lambda a: str(a.shape[1:]), x)

    for number, x in enumerate(xs):
        if shapes(x) != shapes(xs[0]):
            raise ValueError(
                "All domains must have the same inputs, with equal shapes. Received: "
                f"{shapes(xs[0])} in the source, {shapes(x)} in domain {number}"
            )
