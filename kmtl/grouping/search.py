"""The networks that serve all tasks at the least loss within a budget; exact."""

import numpy as np

# Time and memory grow with 3**tasks, the number of ways to pick a set and a part of it.
MOST_TASKS = 14


def check_number_of_tasks(tasks: list[str]):
    """Refuses more tasks than the search can take."""
    if len(tasks) > MOST_TASKS:
        raise ValueError(
            f"At most {MOST_TASKS} tasks can be searched. Let tasks that surely belong together "
            "count as one, or group parts of the tasks one after another. "
            f"Received: {len(tasks)} tasks, which form {2 ** len(tasks) - 1} groups"
        )


def check_budget(budget: int):
    """Requires a number of networks."""
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
        raise ValueError(f"`budget` must be an integer, at least 1. Received: budget={budget}")


def best_networks(losses: np.ndarray, costs: np.ndarray, budget: float) -> list[int] | None:
    """Chooses networks by branch and bound over the sets of tasks that they serve.

    A state is a set of tasks that are served, with a cost and a loss. It branches into all
    networks for the next set, which contains the first task that is not served. A state is
    dropped

    - if another serves the same tasks at no more cost and no more loss (dominance), or
    - if its loss plus the least that each other task has anywhere is above the best complete
      choice known (bound), or if its cost leaves nothing for the other tasks.

    Args:
        losses: `(networks, tasks)`; infinite where a network lacks the task.
        costs: `(networks,)`, positive.
        budget: What the costs may sum to.

    Returns:
        The rows of `losses` that were chosen, as few as the least loss allows, or None if the
        budget cannot serve all tasks.
    """
    limit = budget * (1 + 1e-9)  # sums of costs are rounded
    affordable = np.flatnonzero(costs <= limit)
    losses, costs = losses[affordable], costs[affordable]
    if not np.isfinite(losses).any(axis=0).all():
        return None
    full = (1 << losses.shape[1]) - 1
    bits = (np.arange(full + 1)[:, None] >> np.arange(losses.shape[1])) & 1
    least = bits @ losses.min(axis=0)
    slack = 1e-9 * np.abs(np.where(np.isfinite(losses), losses, 0.0)).sum(axis=1).max()

    moves = _Moves(losses, costs, bits)
    states = _States(full)
    best = np.inf
    # The last move serves the first task, so that no other set needs to contain it.
    for served in [*range(0, full, 2), full]:
        if served:
            states.start[served] = len(states.cost)
            part = served & -served | _subsets(served & (served - 1))
            move = _ranges(moves.start[part], moves.count[part])
            before = served ^ moves.tasks[move]
            state = _ranges(states.start[before], states.count[before])
            move = np.repeat(move, states.count[before])
            cost = states.cost[state] + moves.cost[move]
            loss = states.loss[state] + moves.loss[move]
            rest_cost = costs.min() if served < full else 0.0
            keep = (cost + rest_cost <= limit) & (loss + least[full ^ served] <= best + slack)
            keep = np.flatnonzero(keep)
            keep = keep[_frontier(cost[keep], loss[keep])]
            states.add(served, cost[keep], loss[keep], state[keep], move[keep])
        if served < full:
            here, last = states.at(served), moves.at(full ^ served)
            within = states.cost[here, None] + moves.cost[None, last] <= limit
            total = states.loss[here, None] + moves.loss[None, last]
            best = min(best, total[within].min(initial=np.inf))

    ends = states.at(full)
    if ends.start == ends.stop:
        return None
    # States are in order of their cost: the first that is as good, but for rounding, is cheapest.
    state = ends.start + int(np.argmax(states.loss[ends] <= states.loss[ends].min() + slack))
    chosen = set()
    while state:
        chosen.add(int(affordable[moves.network[states.move[state]]]))
        state = states.parent[state]
    return sorted(chosen)


class _Moves:
    """For each set of tasks, the networks worth serving it from, in order of their cost."""

    def __init__(self, losses, costs, bits):
        members = np.isfinite(losses) @ (1 << np.arange(losses.shape[1]))
        finite = np.where(np.isfinite(losses), losses, 0.0)
        networks, sums = [np.empty(0, int)], [np.empty(0)]
        for tasks in range(1, len(bits)):
            able = np.flatnonzero(members & tasks == tasks)
            total = finite[able] @ bits[tasks]
            keep = _frontier(costs[able], total)
            networks.append(able[keep])
            sums.append(total[keep])
        self.count = np.array([len(some) for some in networks])
        self.start = np.cumsum(self.count) - self.count
        self.network = np.concatenate(networks)
        self.loss = np.concatenate(sums)
        self.cost = costs[self.network]
        self.tasks = np.repeat(np.arange(len(bits)), self.count)

    def at(self, tasks: int) -> slice:
        return slice(self.start[tasks], self.start[tasks] + self.count[tasks])


class _States:
    """Choices for each set of served tasks; state 0 serves none."""

    def __init__(self, full):
        self.start = np.zeros(full + 1, int)
        self.count = np.zeros(full + 1, int)
        self.count[0] = 1
        self.cost, self.loss = np.zeros(1), np.zeros(1)
        self.parent, self.move = np.zeros(1, int), np.zeros(1, int)

    def add(self, served, cost, loss, parent, move):
        self.start[served], self.count[served] = len(self.cost), len(cost)
        self.cost = np.append(self.cost, cost)
        self.loss = np.append(self.loss, loss)
        self.parent = np.append(self.parent, parent)
        self.move = np.append(self.move, move)

    def at(self, served: int) -> slice:
        return slice(self.start[served], self.start[served] + self.count[served])


def _frontier(cost, loss) -> np.ndarray:
    """Indices of the pairs that no other beats or equals in both, in order of their cost."""
    order = np.lexsort((loss, cost))
    lowest_before = np.minimum.accumulate(np.append(np.inf, loss[order]))[:-1]
    return order[loss[order] < lowest_before]


def _subsets(tasks: int) -> np.ndarray:
    """All parts of a set of tasks, the empty one among them."""
    found = np.zeros(1, int)
    while tasks:
        bit = tasks & -tasks
        found = np.concatenate([found, found | bit])
        tasks ^= bit
    return found


def _ranges(starts, counts) -> np.ndarray:
    """`[start, ..., start + count - 1]` of each, one after another."""
    shifts = starts - (np.cumsum(counts) - counts)
    return np.arange(counts.sum()) + np.repeat(shifts, counts)
