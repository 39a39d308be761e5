"""Networks for all tasks within a budget, from losses of networks that were trained."""

import itertools
from collections.abc import Mapping

import numpy as np

from kmtl.grouping.search import best_networks, check_number_of_tasks
from kmtl.grouping.task_groups import TaskGroups, group_name, task_groups

METHODS = ("optimal", "higher_order")


class TaskGrouper:
    """Chooses which networks to keep, so that all tasks have the least loss within a budget.

    Use it where networks for several groups of tasks have been trained, at least one for each
    task alone. It is the dearest way to find out which tasks belong together and the only one
    that looks at results; `kmtl.grouping.select_task_groups` needs a single training.

    ```
    total(C) = sum_j min_{g in C} L[g, j]
    select   = argmin_C total(C)  where  sum_{g in C} cost[g] <= budget

    L[g, j]  = loss_table[g][j]                                          "optimal"
    L[g, j]  = mean_{i in g, i != j} loss_table[i+j][j]  for |g| >= 3    "higher_order"
    ```

    The choice is exact (branch and bound) and takes seconds for 12 tasks. Which losses are
    compared is a choice of their own: losses of a validation set, on a scale on which their sum
    makes sense. The paper's early stopping approximation is the same choice on a table of
    networks that were trained for a fifth of the time.

    Args:
        loss_table: For each network, by any name, the loss of each of its tasks. Several
            networks may have the same tasks, such as a small and a large one.
        cost: Of each network, by name, or one number for all. It must be positive.
        budget: What the costs of the chosen networks may sum to.
        method: `"optimal"` takes the losses of all networks as they are. `"higher_order"` needs
            trainings of one and of two tasks only: it makes up a network for each larger group,
            named like `"a+b+c"`, with losses from the pairs. Networks with three and more tasks
            in `loss_table` are then not looked at. Defaults to `"optimal"`.

    Raises:
        ValueError: for an empty table, or a loss that is not finite; if a task has no network
            of its own, or a pair of tasks has not exactly one for `"higher_order"`; for a cost
            that is not positive or of an unknown network; for a negative budget; for too many
            tasks; and by `select` if `budget` cannot serve all tasks.

    Example:

    >>> import kmtl
    >>> losses = {
    ...     "a": {"a": 0.30},
    ...     "b": {"b": 0.20},
    ...     "c": {"c": 0.50},
    ...     "a+b": {"a": 0.25, "b": 0.24},
    ...     "b+c": {"b": 0.21, "c": 0.40},
    ...     "all": {"a": 0.35, "b": 0.30, "c": 0.45},
    ... }
    >>> print(kmtl.grouping.TaskGrouper(losses, cost=1.0, budget=2.0).select())
    2 networks at a cost of 2, total 0.86
      a+b: serves a (0.25); also trains b
      b+c: serves b (0.21), c (0.4)

    Differences from the paper: none known. The released code lists all groups of its five
    tasks, and half-sized networks for single tasks; here any table will do.

    Reference: T. Standley, A. Zamir, D. Chen, L. Guibas, J. Malik, S. Savarese (2020), "Which
    Tasks Should Be Learned Together in Multi-task Learning?", ICML, arXiv:1905.07553, section
    on network selection and its two approximations; `network_selection` of the released code.
    """

    def __init__(
        self,
        loss_table: Mapping[str, Mapping[str, float]],
        cost: float | Mapping[str, float],
        budget: float,
        method: str = "optimal",
    ):
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
        if not np.isfinite(budget) or budget < 0:
            raise ValueError(f"`budget` must be finite, at least 0. Received: budget={budget}")
        _check_table(loss_table)
        self.loss_table = loss_table
        self.cost = cost
        self.budget = budget
        self.method = method
        self._networks = _higher_order(loss_table) if method == "higher_order" else loss_table
        self._costs = _costs(cost, self._networks, loss_table)

    def select(self) -> TaskGroups:
        """Returns the best networks as a `kmtl.grouping.TaskGroups`; its `values` are losses."""
        names = sorted(self._networks)
        tasks = _tasks(self._networks)
        losses = np.array([[self._networks[n].get(t, np.inf) for t in tasks] for n in names])
        costs = np.array([self._costs[name] for name in names])
        chosen = best_networks(losses, costs, self.budget)
        if chosen is None:
            raise ValueError(
                "`budget` must pay for networks that serve all tasks. "
                f"Received: budget={self.budget}, costs from {costs.min()} to {costs.max()}"
            )
        networks = {names[g]: self._networks[names[g]] for g in chosen}
        return task_groups(networks, cost=costs[chosen].sum(), better=min)


def _tasks(networks) -> list[str]:
    return sorted({task for losses in networks.values() for task in losses})


def _check_table(loss_table):
    if not loss_table or not all(loss_table.values()):
        raise ValueError(
            "`loss_table` must have networks, each with a loss of a task. "
            f"Received: loss_table={loss_table}"
        )
    for network, losses in loss_table.items():
        if not np.isfinite(list(losses.values())).all():
            raise ValueError(
                f"`loss_table` must be finite. Received: loss_table[{network!r}]={dict(losses)}"
            )
    tasks = _tasks(loss_table)
    check_number_of_tasks(tasks)
    alone = {task for losses in loss_table.values() if len(losses) == 1 for task in losses}
    if alone != set(tasks):
        raise ValueError(
            "`loss_table` must have a network of its own for each task. "
            f"Received: none for {sorted(set(tasks) - alone)}"
        )


def _higher_order(loss_table) -> dict[str, dict[str, float]]:
    """Single tasks and pairs as they are, and larger groups from the pairs."""
    networks = {name: dict(losses) for name, losses in loss_table.items() if len(losses) <= 2}
    tasks = _tasks(loss_table)
    pairs = {}
    for pair in itertools.combinations(tasks, 2):
        found = [losses for losses in networks.values() if set(losses) == set(pair)]
        if len(found) != 1:
            raise ValueError(
                "`loss_table` must have one network for each pair of tasks if `method` is "
                f'"higher_order". Received: {len(found)} for {pair}'
            )
        pairs[frozenset(pair)] = found[0]
    for size in range(3, len(tasks) + 1):
        for group in itertools.combinations(tasks, size):
            networks[group_name(group)] = {
                j: float(np.mean([pairs[frozenset((i, j))][j] for i in group if i != j]))
                for j in group
            }
    return networks


def _costs(cost, networks, loss_table) -> dict[str, float]:
    if not isinstance(cost, Mapping):
        cost = dict.fromkeys(networks, cost)
    unknown = set(cost) - set(networks) - set(loss_table)
    missing = set(networks) - set(cost)
    if unknown or missing:
        raise ValueError(
            "`cost` must be a number or name the networks, also those that the method makes up. "
            f"Received: unknown {sorted(unknown)}, missing {sorted(missing)}"
        )
    costs = {name: float(cost[name]) for name in networks}
    if not all(np.isfinite(value) and value > 0 for value in costs.values()):
        raise ValueError(f"`cost` must be finite and positive. Received: cost={cost}")
    return costs
