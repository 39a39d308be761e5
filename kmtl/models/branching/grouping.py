"""The cheapest grouping of branches, for `BranchingModel`."""

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

EXHAUSTIVE = 8  # branches have 4140 groupings then
_ROUNDS = 100  # of k-means, at most


def check_affinity(affinity: np.ndarray, size: int) -> np.ndarray:
    """Affinities of tasks as float64, checked.

    Raises:
        ValueError: if they are no symmetric `(size, size)` matrix of numbers in [0, 1].
    """
    affinity = np.asarray(affinity, "float64")
    if affinity.shape != (size, size):
        raise ValueError(
            f"`affinity` must have the shape {(size, size)}, a row for each task. "
            f"Received: affinity of shape {affinity.shape}"
        )
    if not ((affinity >= 0) & (affinity <= 1)).all():
        raise ValueError(
            "`affinity` must lie in [0, 1]. "
            f"Received: values from {affinity.min()} to {affinity.max()}"
        )
    gap = np.abs(affinity - affinity.T).max()
    if gap > 1e-6:
        raise ValueError(f"`affinity` must be symmetric. Received: a difference of {gap}")
    return affinity


def grouping_cost(
    affinity: np.ndarray,
    groups: Sequence[Sequence[int]],
    unit_cost: float,
    separation_weight: float,
    pools: int,
) -> float:
    """What a grouping of branches costs: of new branches, and of unlike ones kept together.

    ```
    cost = (d - 1) * unit_cost * 2**pools + separation_weight * L_s,  d = len(groups)
    L_s  = mean over groups g of (1 - mean_{k in g} min_{l in g} affinity[k, l])
    ```
    """
    separation = np.mean([_unlikeness(affinity, g) for g in groups])
    return (len(groups) - 1) * unit_cost * 2.0**pools + separation_weight * float(separation)


def _unlikeness(affinity, group):
    return 1.0 - affinity[np.ix_(group, group)].min(axis=1).mean()


def best_grouping(
    affinity: np.ndarray, unit_cost: float, separation_weight: float, pools: int = 0
) -> list[list[int]]:
    """The cheapest grouping of c branches.

    Of all groupings for up to 8 branches, which is exact; above, of two for each number of
    groups, by spectral clustering as in the paper and by merging, which finds the odd one out where
    no clear clusters are. Of equally cheap ones it is that of fewest groups, then the first.

    Args:
        affinity: `(c, c)`, of branches.
        unit_cost: See `grouping_cost`.
        separation_weight: See `grouping_cost`.
        pools: See `grouping_cost`. Defaults to `0`.

    Returns:
        Groups of indices, sorted by their first ones.
    """
    count = len(affinity)
    if count <= EXHAUSTIVE:
        candidates = partitions(list(range(count)))
    else:
        clusters = (spectral_groups(affinity, d) for d in range(1, count + 1))
        candidates = itertools.chain(clusters, merged_groups(affinity))

    def key(groups):
        cost = grouping_cost(affinity, groups, unit_cost, separation_weight, pools)
        return round(cost, 12), len(groups), groups  # equal but for rounding is equal

    return min((sorted(map(sorted, groups)) for groups in candidates), key=key)


def partitions(items: list) -> Iterator[list[list]]:
    """All ways to put items into groups."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for groups in partitions(rest):
        yield [[first], *groups]
        for i in range(len(groups)):
            yield [*groups[:i], [first, *groups[i]], *groups[i + 1 :]]


def merged_groups(affinity: np.ndarray) -> Iterator[list[list[int]]]:
    """From each branch alone to all together: the two are merged that raise the cost least."""

    @functools.cache
    def rise(a, b):
        together, *apart = (_unlikeness(affinity, g) for g in (a + b, a, b))
        return round(together - sum(apart), 12)  # equal but for rounding is equal

    groups = [(k,) for k in range(len(affinity))]
    yield groups
    while len(groups) > 1:
        a, b = min(itertools.combinations(groups, 2), key=lambda pair: rise(*pair))
        groups = [g for g in groups if g not in (a, b)] + [a + b]
        yield groups


def spectral_groups(affinity: np.ndarray, count: int) -> list[list[int]]:
    """Spectral clustering into `count` groups, the same for the same numbers.

    The rows of the `count` largest eigenvectors of the normalised affinities, at length 1, by
    k-means from centres that are each the row farthest from those before.

    Reference: A. Ng, M. Jordan, Y. Weiss (2001), "On Spectral Clustering: Analysis and an
    Algorithm", NeurIPS, section 2.
    """
    scale = 1.0 / np.sqrt(np.maximum(affinity.sum(axis=1), 1e-12))
    _, vectors = np.linalg.eigh(scale[:, None] * affinity * scale[None, :])
    rows = vectors[:, -count:]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    chosen = [0]
    while len(chosen) < count:
        distances = np.linalg.norm(rows[:, None] - rows[chosen], axis=2).min(axis=1)
        distances[chosen] = -1.0
        chosen.append(int(np.argmax(np.round(distances, 9))))
    centres = rows[chosen]
    labels = None
    for _ in range(_ROUNDS):
        distances = np.round(np.linalg.norm(rows[:, None] - centres, axis=2), 9)
        before, labels = labels, distances.argmin(axis=1)
        if before is not None and (labels == before).all():
            break
        centres = np.array(
            [
                rows[labels == g].mean(axis=0) if (labels == g).any() else centres[g]
                for g in range(count)
            ]
        )
    groups = [np.flatnonzero(labels == g).tolist() for g in range(count)]
    return [group for group in groups if group]
