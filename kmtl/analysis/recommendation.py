"""What `recommend` returns: a choice of networks and what speaks for it."""

import dataclasses

import numpy as np

from kmtl.callbacks.affinity_plot import draw_affinity, new_affinity_figure
from kmtl.grouping import TaskGroups


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Result of `kmtl.analysis.recommend`; `print` shows it in lines.

    Attributes:
        groups: The networks, a `kmtl.grouping.TaskGroups`: `groups.groups` are the tasks to
            train together.
        affinity: `affinity[i][j]` is what `i` does for `j`: with `method="affinity"` the mean
            share of its loss that j is spared by a step for i; with `"train"` the share by
            which the loss of j is lower when trained with i than alone.
        evidence: `"labels"`: task -> `kmtl.analysis.label_statistics`. With
            `method="affinity"` also `"cosines"`, of the tasks' gradients by the shared weights,
            `"conflict_rate"` of these, means over the epochs, and `"measurements"`, the number
            of those that `affinity` is the mean of. With `"train"` also `"losses"`, network ->
            task -> validation loss.
        method: How it was found.
    """

    groups: TaskGroups
    affinity: dict[str, dict[str, float]]
    evidence: dict
    method: str

    def __str__(self) -> str:
        lines = [str(self.groups), f"Why, by {self._what()}:"]
        for task in self.affinity:
            gains = {i: row[task] for i, row in self.affinity.items() if i != task}
            lines.append(f"  {task}: {_gains(gains)}; {_labels(self.evidence['labels'][task])}")
        if "conflict_rate" in self.evidence:
            lines.append(
                f"Pairs of tasks whose gradients point apart: {self.evidence['conflict_rate']:.0%}"
            )
        return "\n".join(lines)

    def plot(self):
        """Affinities as a heat map; a frame where i is in the network that serves j.

        With `method="affinity"` there is a second one, of the cosines of gradients.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        tasks = list(self.affinity)
        cosines = self.evidence.get("cosines")
        panels = 1 if cosines is None else 2
        figure = new_affinity_figure(panels, tasks)
        axes = np.atleast_1d(figure.subplots(1, panels))
        draw_affinity(figure, axes[0], _matrix(self.affinity), tasks)
        for column, task in enumerate(tasks):
            company = self.groups.groups[self.groups.served_from[task]]
            for row, other in enumerate(tasks):
                if other in company and other != task:
                    corner = (column - 0.48, row - 0.48)
                    axes[0].add_patch(_frame(corner))
        if cosines is not None:
            draw_affinity(figure, axes[1], _matrix(cosines), tasks)
            axes[1].set(title="Cosines of gradients", xlabel="", ylabel="")
        return figure

    def _what(self) -> str:
        if self.method == "train":
            return f"the validation losses of {len(self.evidence['losses'])} networks"
        return f"{self.evidence['measurements']} measurements in one training"


def _gains(gains) -> str:
    best, worst = max(gains, key=gains.get), min(gains, key=gains.get)
    if best == worst:
        return f"{best} does {gains[best]:+.2%} for it"
    return f"{best} does most for it ({gains[best]:+.2%}), {worst} least ({gains[worst]:+.2%})"


def _labels(statistics) -> str:
    if "num_labels" not in statistics:
        return f"{statistics['count']:.0f} labels of variance {statistics['variance']:.3g}"
    return (
        f"{statistics['count']:.0f} labels of {statistics['num_labels']:.0f} kinds, normalised "
        f"entropy {statistics['normalized_entropy']:.2f}"
    )


def _matrix(values) -> np.ndarray:
    return np.array([[values[i][j] for j in values] for i in values])


def _frame(corner):
    from matplotlib.patches import Rectangle  # there, as the figure was made

    return Rectangle(corner, 0.96, 0.96, fill=False, edgecolor="black", linewidth=2.0)
