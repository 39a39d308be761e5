"""Delta-m: how much better the tasks got by being learned together, in one number."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class DeltaM:
    """Result of `kmtl.metrics.delta_m`, as fractions: +0.1 is 10 % better, -0.1 is worse.

    Attributes:
        mean: Over tasks and seeds.
        std: Sample standard deviation (`ddof=1`) of `per_seed`; None for one seed, of which
            no spread can be told.
        per_seed: Mean over tasks, for each multi-task seed.
        per_task: Mean over seeds, for each task.
    """

    mean: float
    std: float | None
    per_seed: tuple[float, ...]
    per_task: dict[str, float]


def delta_m(
    multi_task: Mapping[str, float | Sequence[float]],
    single_task: Mapping[str, float | Sequence[float]],
    higher_is_better: bool | Mapping[str, bool] = True,
) -> DeltaM:
    """Mean relative improvement over single-task networks.

    Use it to compare ways of multi-task learning whose tasks have different metrics: each
    task counts by its change relative to its own single-task network.

    ```
    per_seed[n] = mean_t sign_t * (multi_task[t][n] - S_t) / |S_t|
    S_t         = mean_n single_task[t][n];  sign_t = 1 if higher_is_better[t] else -1
    ```

    Args:
        multi_task: Metric of each task, one number or one for each seed (equally many for all
            tasks, in the same order).
        single_task: The same of networks trained for one task. Seeds are averaged, so their
            number may differ from task to task and from `multi_task`.
        higher_is_better: Direction of the metric, for all tasks or for each.
            Defaults to `True`.

    Returns:
        A `DeltaM` of fractions; positive is better.

    Raises:
        ValueError: if task names differ, `multi_task` has unequal numbers of seeds, a baseline
            is 0, or a number is not finite.

    Example:

    >>> import kmtl
    >>> score = kmtl.metrics.delta_m(
    ...     multi_task={"seg": [0.55, 0.60], "depth": [0.18, 0.20]},
    ...     single_task={"seg": 0.50, "depth": 0.20},
    ...     higher_is_better={"seg": True, "depth": False},
    ... )
    >>> print(f"{score.mean:+.3f} +- {score.std:.3f}", [f"{s:+.2f}" for s in score.per_seed])
    +0.100 +- 0.000 ['+0.10', '+0.10']

    Differences from the paper: the change is relative to `|S_t|`, which keeps the sign right
    for metrics below 0. Some later papers report the opposite sign, in percent.

    Reference: K.-K. Maninis, I. Radosavovic, I. Kokkinos (2019), "Attentive Single-Tasking of
    Multiple Tasks", CVPR, arXiv:1904.08918, the average per-task drop in
    performance.
    """
    if not multi_task:
        raise ValueError(f"`multi_task` must name a task. Received: multi_task={multi_task}")
    _check_tasks("single_task", single_task, multi_task)
    if isinstance(higher_is_better, Mapping):
        _check_tasks("higher_is_better", higher_is_better, multi_task)
    else:
        higher_is_better = dict.fromkeys(multi_task, higher_is_better)

    seeds = {task: np.size(values) for task, values in multi_task.items()}
    if len(set(seeds.values())) > 1:
        raise ValueError(f"`multi_task` must have equally many seeds. Received: seeds={seeds}")
    gains = {}
    for task, values in multi_task.items():
        baseline = np.mean(_numbers("single_task", task, single_task[task]))
        if baseline == 0:
            raise ValueError(
                "`single_task` must not be 0, to which no change is relative. "
                f"Received: single_task[{task!r}]={single_task[task]}"
            )
        sign = 1.0 if higher_is_better[task] else -1.0
        values = _numbers("multi_task", task, values)
        gains[task] = sign * (values - baseline) / np.abs(baseline)
    per_seed = np.mean(list(gains.values()), axis=0)
    return DeltaM(
        mean=float(np.mean(per_seed)),
        std=float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None,
        per_seed=tuple(per_seed.tolist()),
        per_task={task: float(np.mean(gain)) for task, gain in gains.items()},
    )


def _check_tasks(name, mapping, multi_task):
    if set(mapping) != set(multi_task):
        raise ValueError(
            f"`{name}` must name the tasks of `multi_task`. "
            f"Received: {name} tasks {list(mapping)}, multi_task tasks {list(multi_task)}"
        )


def _numbers(name, task, values) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(values, "float64"))
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(
            f"`{name}` must have finite numbers, one or a list for each task. "
            f"Received: {name}[{task!r}]={values}"
        )
    return numbers
