"""How much each task gains from being trained with each other one."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from kmtl.ops.figures import new_figure


@dataclasses.dataclass(frozen=True)
class TransferMatrix:
    """Result of `kmtl.analysis.transfer_matrix`, as fractions: +0.1 is 10 % better.

    Attributes:
        values: `values[i][j]` is what `j` gains by `i`; 0 for `i == j`. It can be given to
            `kmtl.grouping.select_task_groups`.
    """

    values: dict[str, dict[str, float]]

    @property
    def gains(self) -> dict[tuple[str, str], float]:
        """By `(main, auxiliary)`, for `kmtl.analysis.TaskGainPredictor`."""
        return {(j, i): gain for i, row in self.values.items() for j, gain in row.items() if i != j}

    def __str__(self) -> str:
        tasks = list(self.values)
        width = max(8, *(len(task) for task in tasks))
        lines = [" ".join(task.rjust(width) for task in ("by / of", *tasks))]
        for i, row in self.values.items():
            cells = ["-" if i == j else f"{row[j]:+.3f}" for j in tasks]
            lines.append(" ".join(cell.rjust(width) for cell in (i, *cells)))
        return "\n".join(lines)

    def plot(self):
        """Heat map, from rows to columns: blue where a task gains, red where it loses.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        tasks = list(self.values)
        matrix = np.array([[self.values[i][j] for j in tasks] for i in tasks])
        largest = np.abs(matrix).max() or 1.0
        matrix[np.diag_indices(len(tasks))] = np.nan  # drawn blank
        size = 2.5 + 0.6 * len(tasks)
        figure = new_figure(size + 1.0, size)
        axes = figure.subplots()
        image = axes.imshow(matrix, vmin=-largest, vmax=largest, cmap="RdBu")
        figure.colorbar(image, ax=axes, shrink=0.8)
        for (row, column), value in np.ndenumerate(matrix):
            if row != column:
                color = "white" if abs(value) > 0.6 * largest else "black"
                axes.text(column, row, f"{value:+.1%}", ha="center", va="center", color=color)
        axes.set_xticks(range(len(tasks)), tasks, rotation=90 if len(tasks) > 4 else 0)
        axes.set_yticks(range(len(tasks)), tasks)
        axes.set(title="Relative gain", xlabel="of", ylabel="by")
        return figure


def transfer_matrix(
    single_task: Mapping[str, float],
    pairs: Mapping[str, Mapping[str, float]],
    higher_is_better: bool | Mapping[str, bool] = True,
) -> TransferMatrix:
    """Relative gains of tasks in trainings of two, over their trainings alone.

    Use it to see which tasks help which, before you choose groups, an auxiliary task, or what
    to share.

    ```
    values[i][j] = sign_j * (pairs[i][j] - single_task[j]) / |single_task[j]|
    sign_j       = 1 if higher_is_better[j] else -1
    ```

    Args:
        single_task: Score or loss of each task, trained alone; not 0.
        pairs: `pairs[i][j]` is that of `j` when trained together with `i`. So both
            `pairs[i][j]` and `pairs[j][i]` come from one training. Entries for `i == j` are not
            looked at.
        higher_is_better: Direction of the score, for all tasks or for each.
            Defaults to `True`.

    Returns:
        A `kmtl.analysis.TransferMatrix`; print it, or `plot` it.

    Raises:
        ValueError: for fewer than two tasks, for unknown or missing names, a single-task score
            of 0, scores that are not finite, and directions that are no booleans.

    Example:

    >>> import kmtl
    >>> matrix = kmtl.analysis.transfer_matrix(
    ...     single_task={"seg": 0.50, "depth": 0.20},
    ...     pairs={"seg": {"depth": 0.18}, "depth": {"seg": 0.49}},
    ...     higher_is_better={"seg": True, "depth": False},
    ... )
    >>> print(matrix)
     by / of    depth      seg
       depth        -   -0.020
         seg   +0.100        -

    Differences from the paper: the TC algorithm's matrix holds the accuracies of a task with
    the distance metric of another, as they are. Here scores of pairs are relative to those of
    single tasks, as in the heat map of Bingel and Soegaard (2017), EACL, arXiv:1702.08303, so
    that tasks with different scores can be compared. Its clustering is not part of this.

    Reference: S. Thrun, J. O'Sullivan (1996), "Discovering Structure in Multiple Learning
    Tasks: The TC Algorithm", ICML.
    """
    tasks = sorted(single_task)
    if len(tasks) < 2:
        raise ValueError(f"`single_task` must name at least two tasks. Received: {tasks}")
    _check_names("pairs", pairs, tasks)
    for task in tasks:
        others = [other for other in tasks if other != task]
        _check_names(f"pairs[{task!r}]", set(pairs[task]) - {task}, others)
    if isinstance(higher_is_better, Mapping):
        _check_names("higher_is_better", higher_is_better, tasks)
    else:
        higher_is_better = dict.fromkeys(tasks, higher_is_better)

    for task, direction in higher_is_better.items():
        if not isinstance(direction, (bool, np.bool_)):
            raise ValueError(
                f"`higher_is_better` must be True or False. Received: {direction!r} for {task!r}"
            )

    values = {i: dict.fromkeys(tasks, 0.0) for i in tasks}
    for j in tasks:
        alone = single_task[j]
        if not np.isfinite(alone) or alone == 0:
            raise ValueError(
                "`single_task` must be finite and not 0, to which no gain is relative. "
                f"Received: single_task[{j!r}]={alone}"
            )
        for i in tasks:
            if i == j:
                continue
            if not np.isfinite(pairs[i][j]):
                raise ValueError(
                    f"`pairs` must be finite. Received: pairs[{i!r}][{j!r}]={pairs[i][j]}"
                )
            gain = (pairs[i][j] - alone) / abs(alone)
            values[i][j] = float(gain if higher_is_better[j] else -gain)
    return TransferMatrix(values)


def _check_names(name, names, tasks):
    if set(names) != set(tasks):
        raise ValueError(f"`{name}` must name the tasks {tasks}. Received: {sorted(names)}")
