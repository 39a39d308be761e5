"""TAG's choice of task groups: from the affinities of pairs to networks."""

from collections.abc import Mapping, Sequence

import numpy as np

from kmtl.grouping.search import best_networks, check_budget, check_number_of_tasks
from kmtl.grouping.task_groups import TaskGroups, group_name, task_groups

SINGLETONS = ("never", "zero", "self")


def select_task_groups(
    affinity: Mapping[str, Mapping[str, float]] | np.ndarray,
    budget: int,
    tasks: Sequence[str] | None = None,
    singletons: str = "never",
) -> TaskGroups:
    """Chooses at most `budget` groups of tasks so that each task has helpful company.

    Use it after one training of all tasks together has told how much a step for one task
    helps another: it needs no further training, where `kmtl.grouping.TaskGrouper` needs a
    table of trained networks.

    ```
    score[g, j] = mean_{i in g, i != j} affinity[i][j]
    total       = sum_j max_{g chosen, j in g} score[g, j]     (to be greatest)
    ```

    A task may train in several groups, to help the others there, but is served from the one
    where its own score is best. The choice is exact (branch and bound), takes seconds for 12
    tasks, and does not use more groups than its total needs.

    Args:
        affinity: `affinity[i][j]` is what `i` does for `j`, larger is better: a dict of dicts by
            names of tasks, or a `(T, T)` array, with `tasks`. `kmtl.analysis.transfer_matrix`
            has another measure of it in its `values`. No number may be NaN, which
            `kmtl.callbacks.TaskAffinity` gives to tasks that it found no labels of: measure on
            data that have some, or leave such tasks out.
        budget: Largest number of groups, that is, of networks to be trained and kept.
        tasks: Names of the rows and columns of an array; left out for a dict.
            Defaults to `None`.
        singletons: Score of a task in a group of its own, which has no partner: `"never"` rules
            such groups out, `"zero"` gives 0 (company must not hurt), `"self"` gives
            `affinity[j][j]`. Defaults to `"never"`.

    Returns:
        A `kmtl.grouping.TaskGroups`; its `values` are scores, its `cost` the number of groups.

    Raises:
        ValueError: for fewer than two or too many tasks; for an `affinity` that is not square
            or not finite; for unknown names of tasks; for a `budget` below 1.

    Example:

    >>> import kmtl
    >>> affinity = {
    ...     "depth": {"depth": 0.9, "edges": 0.1, "normals": 0.4},
    ...     "edges": {"depth": -0.2, "edges": 0.8, "normals": -0.1},
    ...     "normals": {"depth": 0.3, "edges": 0.2, "normals": 0.9},
    ... }
    >>> print(kmtl.grouping.select_task_groups(affinity, budget=2))
    2 networks at a cost of 2, total 0.9
      depth+normals: serves depth (0.3), normals (0.4)
      edges+normals: serves edges (0.2); also trains normals

    Differences from the paper: what a task on its own scores was not found in the text that
    could be read. The authors' released notebook sets it to -1e6, which `"never"` stands for.
    Affinities with oneself are far above all others, so that `"self"` mostly yields singletons
    where `budget` allows. The notebook reports the mean of the scores, here it is their sum,
    and it adds to the score of a row's task: its tables are `affinity` transposed.

    Reference: C. Fifty, E. Amid, Z. Zhao, T. Yu, R. Anil, C. Finn (2021), "Efficiently
    Identifying Task Groupings for Multi-Task Learning", NeurIPS, arXiv:2109.04617, section on
    network selection; `tag/network_selection` of the released code.
    """
    check_budget(budget)
    if singletons not in SINGLETONS:
        raise ValueError(
            f"`singletons` must be one of {SINGLETONS}. Received: singletons={singletons!r}"
        )
    tasks, affinity = _square(affinity, tasks)
    check_number_of_tasks(tasks)

    member = (np.arange(1, 1 << len(tasks))[:, None] >> np.arange(len(tasks))) & 1 == 1
    size = member.sum(axis=1, keepdims=True)
    others = affinity * (1 - np.eye(len(tasks)))
    scores = member @ others / np.maximum(size - 1, 1)
    if singletons == "self":
        scores = np.where(size == 1, np.diagonal(affinity), scores)
    allowed = member & (size > 1) if singletons == "never" else member
    chosen = best_networks(np.where(allowed, -scores, np.inf), np.ones(len(scores)), budget)
    groups = [{tasks[j]: scores[g, j] for j in np.flatnonzero(member[g])} for g in chosen]
    return task_groups({group_name(g): g for g in groups}, cost=len(groups), better=max)


def _square(affinity, tasks) -> tuple[list[str], np.ndarray]:
    """Names in sorted order, and the numbers in that order."""
    if isinstance(affinity, Mapping):
        if tasks is not None:
            raise ValueError(
                f"`tasks` must be left out where `affinity` has names. Received: tasks={tasks}"
            )
        tasks = sorted(affinity)
        for task in tasks:
            if set(affinity[task]) != set(tasks):
                raise ValueError(
                    "`affinity` must be square: each of its rows must name the tasks of its "
                    f"rows, {tasks}. Received: affinity[{task!r}] names {sorted(affinity[task])}"
                )
        numbers = np.array([[affinity[i][j] for j in tasks] for i in tasks], "float64")
    else:
        numbers = np.asarray(affinity, "float64")
        if numbers.ndim != 2 or len(numbers) != numbers.shape[1]:
            raise ValueError(
                f"`affinity` must be square. Received: affinity of shape {numbers.shape}"
            )
        names = [] if tasks is None or isinstance(tasks, str) else list(tasks)
        if not len(names) == len(set(names)) == len(numbers):
            raise ValueError(
                "`tasks` must be distinct names, one for each row of `affinity`. "
                f"Received: tasks={tasks}, affinity of shape {numbers.shape}"
            )
        order = np.argsort(names)
        tasks, numbers = sorted(names), numbers[np.ix_(order, order)]
    if len(tasks) < 2:
        raise ValueError(f"`affinity` must be of at least two tasks. Received: tasks={tasks}")
    if not np.isfinite(numbers).all():
        pairs = [(tasks[i], tasks[j]) for i, j in np.argwhere(~np.isfinite(numbers))]
        raise ValueError(
            "`affinity` must be finite: leave out tasks that were not measured. "
            f"Received: none for the pairs {pairs}"
        )
    return tasks, numbers
