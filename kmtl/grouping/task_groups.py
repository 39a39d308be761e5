"""What a choice of networks looks like: who trains what, and who serves it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from kmtl.ops.figures import new_figure


@dataclasses.dataclass(frozen=True)
class TaskGroups:
    """Networks, the tasks that each trains, and the network that each task is served from.

    `print` shows it in lines.

    Attributes:
        groups: Tasks that each network trains. A task may be in several.
        served_from: The one network from which each task is taken in the end.
        values: Score or loss that each task is expected to have there.
        total: Sum of `values`.
        cost: Sum of the costs of the networks.
    """

    groups: dict[str, tuple[str, ...]]
    served_from: dict[str, str]
    values: dict[str, float]
    total: float
    cost: float

    def __str__(self) -> str:
        count = f"{len(self.groups)} network{'s' if len(self.groups) > 1 else ''}"
        lines = [f"{count} at a cost of {self.cost:.4g}, total {self.total:.4g}"]
        for network, tasks in self.groups.items():
            serves = [task for task in tasks if self.served_from[task] == network]
            helps = [task for task in tasks if task not in serves]
            line = ", ".join(f"{task} ({self.values[task]:.4g})" for task in serves)
            also = f"; also trains {', '.join(helps)}" if helps else ""
            lines.append(f"  {network}: serves {line or 'no task'}{also}")
        return "\n".join(lines)

    def plot(self):
        """Networks in rows and tasks in columns: dark where served, light where only trained.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        tasks = list(self.served_from)
        figure = new_figure(2.0 + 0.8 * len(tasks), 1.5 + 0.5 * len(self.groups))
        axes = figure.subplots()
        shades = [
            [1.0 if self.served_from[t] == network else 0.3 if t in group else 0.0 for t in tasks]
            for network, group in self.groups.items()
        ]
        axes.imshow(shades, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for column, task in enumerate(tasks):
            row = list(self.groups).index(self.served_from[task])
            axes.text(
                column, row, f"{self.values[task]:.3g}", ha="center", va="center", color="white"
            )
        axes.set_xticks(range(len(tasks)), tasks, rotation=90 if len(tasks) > 4 else 0)
        axes.set_yticks(range(len(self.groups)), list(self.groups))
        axes.set_title(f"Total {self.total:.4g}")
        return figure


def task_groups(
    networks: Mapping[str, Mapping[str, float]], cost: float, better: Callable
) -> TaskGroups:
    """Serves each task from the network where its value is best.

    Args:
        networks: The chosen networks, and the value of each of their tasks.
        cost: Sum of their costs.
        better: `max` for scores, `min` for losses.
    """
    networks = {name: networks[name] for name in sorted(networks)}
    served_from = {}
    for task in sorted({task for values in networks.values() for task in values}):
        able = [name for name, values in networks.items() if task in values]
        served_from[task] = better(able, key=lambda name, task=task: networks[name][task])
    values = {task: float(networks[name][task]) for task, name in served_from.items()}
    return TaskGroups(
        groups={name: tuple(sorted(values)) for name, values in networks.items()},
        served_from=served_from,
        values=values,
        total=sum(values.values()),
        cost=float(cost),
    )


def group_name(tasks: Iterable[str]) -> str:
    """`("b", "a")` -> `"a+b"`."""
    tasks = sorted(tasks)
    if any("+" in task for task in tasks):
        raise ValueError(
            'Names of tasks must not contain "+", which joins them to names of networks. '
            f"Received: tasks={tasks}"
        )
    return "+".join(tasks)
