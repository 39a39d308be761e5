"""What a file costs each head, in the unit of its budget."""

import math
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from kmtl.export.reporting.scores import check_labels, check_metrics, score

# Digits after the point of a loss. Metrics are sums in float32, which resolve no more.
DIGITS = 4


class Judge:
    """Scores and losses of a file's heads.

    Args:
        tasks: The model's heads.
        rows: Rows of the data.
        labels: Task -> labels, of every head.
        metrics: As in `kmtl.export.report`.
        higher_is_better: Task -> direction, for metrics that Keras knows none of, or None.
        budget: Task -> largest accepted loss, or one number for all.

    Attributes:
        metrics: Task -> metric object.
        higher_is_better: Task -> direction of its metric.
        budget: Task -> largest accepted loss.
    """

    def __init__(self, tasks: Sequence[str], rows, labels, metrics, higher_is_better, budget):
        self.budget = check_budget(budget, tasks)
        self._labels = check_labels(labels, tasks, rows)
        absent = sorted(set(tasks) - set(self._labels))
        if absent:
            raise ValueError(
                f"`labels` must be of every head, {sorted(tasks)}. Received: none for {absent}"
            )
        self.metrics = check_metrics(metrics, self._labels)
        self.higher_is_better = check_directions(higher_is_better, self.metrics)

    def scores(self, answers: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Task -> its metric over all rows."""
        return {task: self._score(task, answers[task]) for task in self.metrics}

    def _score(self, task, outputs) -> float:
        metric, labels = self.metrics[task], self._labels[task]
        try:
            return score(metric, labels, outputs)
        except Exception as error:  # those of the backend have no base class in common
            raise ValueError(
                "A metric must take the labels and the outputs of its head. Received: "
                f"{metric.name}, labels of shape {labels.shape}, outputs of shape "
                f"{outputs.shape} for {task!r} ({error})"
            ) from error

    def worse(self, one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
        """Task -> the worse of two scores; NaN if either is."""
        return {
            task: float((np.minimum if higher else np.maximum)(one[task], other[task]))
            for task, higher in self.higher_is_better.items()
        }

    def check_reference(self, scores: Mapping[str, float]) -> None:
        """Raises ValueError if the float32 file has no score that others could lose from."""
        bad = [
            f"{self.metrics[task].name} is {value:g} for {task!r}"
            for task, value in scores.items()
            if not math.isfinite(value) or (value == 0 and self.higher_is_better[task])
        ]
        if bad:
            raise ValueError(
                "Each metric of the float32 file must be finite, and above 0 where more is "
                f"better. Received: {', '.join(bad)}"
            )

    def losses(
        self, scores: Mapping[str, float], reference: Mapping[str, float]
    ) -> dict[str, float]:
        """Task -> what was lost against the scores `reference`."""
        return {
            task: loss(scores[task], reference[task], self.higher_is_better[task])
            for task in scores
        }

    def keeps(self, losses: Mapping[str, float]) -> bool:
        """Whether every head keeps its budget; one whose loss is NaN does not."""
        return all(losses[task] <= most for task, most in self.budget.items())

    def excess(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Task -> loss beyond the budget, for the heads that do not keep it."""
        return {
            task: math.inf if math.isnan(losses[task]) else losses[task] - most
            for task, most in self.budget.items()
            if not losses[task] <= most
        }


def share(losses: Mapping[str, float], budget: Mapping[str, float]) -> float:
    """The share of its budget that the worst head uses; infinity above a budget of 0."""
    shares = [0.0]
    for task, most in budget.items():
        if not losses[task] <= 0:
            none_left = math.isnan(losses[task]) or most == 0
            shares.append(math.inf if none_left else losses[task] / most)
    return max(shares)


def loss(score: float, reference: float, higher_is_better: bool) -> float:
    """Percentage points of a fraction, percent of the reference of any other metric."""
    worse = reference - score if higher_is_better else score - reference
    if higher_is_better and abs(reference) <= 1:
        return round(100 * worse, DIGITS)
    if reference == 0:
        return math.inf if worse > 0 else 0.0
    return round(100 * worse / abs(reference), DIGITS)


def unit_of(reference: float, higher_is_better: bool) -> str:
    """`"points"` or `"%"`, whichever `loss` counts in."""
    return "points" if higher_is_better and abs(reference) <= 1 else "%"


def check_budget(budget, tasks: Sequence[str]) -> dict[str, float]:
    """Task -> largest accepted loss; raises ValueError for other heads and impossible losses."""
    if not isinstance(budget, Mapping):
        budget = dict.fromkeys(tasks, budget)
    absent, unknown = sorted(set(tasks) - set(budget)), sorted(set(budget) - set(tasks))
    if absent or unknown:
        raise ValueError(
            f"`budget` must be a number, or give one to each head of the model, {sorted(tasks)} "
            f"(`math.inf` where any loss will do). Received: missing {absent}, unknown {unknown}"
        )
    for task, most in budget.items():
        if not isinstance(most, numbers.Real) or not most >= 0:
            raise ValueError(
                f"`budget` must be at least 0 for every head. Received: {most!r} for {task!r}"
            )
    return {task: float(budget[task]) for task in sorted(tasks)}


def check_directions(higher_is_better, metrics: Mapping) -> dict[str, bool]:
    """Task -> direction: as given, else as Keras says."""
    given = dict(higher_is_better or {})
    unknown = sorted(set(given) - set(metrics))
    if unknown or not all(isinstance(value, bool) for value in given.values()):
        raise ValueError(
            f"`higher_is_better` must give heads, {sorted(metrics)}, True or False. "
            f"Received: {higher_is_better}"
        )
    # Where Keras's own callbacks look for it, too.
    known = {task: getattr(metric, "_direction", None) for task, metric in metrics.items()}
    directions = {task: given.get(task, known[task] and known[task] == "up") for task in metrics}
    undecided = [f"{m.name} of {t!r}" for t, m in metrics.items() if directions[t] is None]
    if undecided:
        raise ValueError(
            "`higher_is_better` must give the direction of metrics that Keras has none of, as in "
            f"{{head: True}}. Received: nothing for {', '.join(undecided)}"
        )
    return directions
