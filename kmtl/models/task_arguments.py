"""Arguments by task: one value for all tasks or a dict, with names that must exist."""

from collections.abc import Iterable, Mapping, Sequence


def by_task(tasks: Sequence[str], argument: str, value, complete: bool = False) -> dict:
    """`value` as a dict over tasks; a single value stands for all, None for none.

    Args:
        tasks: The model's task names.
        argument: The argument's name, for messages.
        value: What the user gave.
        complete: Whether a dict must name every task.

    Raises:
        ValueError: for unknown names, and for missing ones where all are required.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or "class_name" in value:  # a serialised object
        return dict.fromkeys(tasks, value)
    check_names(tasks, f"`{argument}`", value, complete)
    return dict(value)


def lists_by_task(tasks: Sequence[str], argument: str, value) -> dict[str, list]:
    """Task -> list of metrics."""
    if value is not None and len(tasks) > 1 and not isinstance(value, Mapping):
        raise ValueError(
            f"`{argument}` must be a dict of task name -> metrics, because metrics keep state "
            f"of their own. Received: {argument}={value}"
        )
    return {
        task: list(v) if isinstance(v, (list, tuple)) else [v]
        for task, v in by_task(tasks, argument, value).items()
        if v is not None
    }


def labels_by_task(tasks: Sequence[str], needed: Iterable[str], y) -> Mapping:
    """Task -> labels; a bare tensor serves a model with one task.

    Args:
        tasks: The model's task names.
        needed: Those that have a loss or a metric.
        y: What the data set gave.
    """
    if not isinstance(y, Mapping):
        if len(tasks) == 1 and y is not None and not isinstance(y, (list, tuple)):
            return {tasks[0]: y}
        raise ValueError(f"Labels must be a dict with the tasks {list(tasks)}. Received: {type(y)}")
    needed = sorted(needed)
    absent, unknown = sorted(set(needed) - set(y)), sorted(set(y) - set(tasks))
    if absent or unknown:
        raise ValueError(
            f"The labels must name the tasks that have a loss or a metric, {needed}. "
            f"Received: unknown {unknown}, missing {absent}"
        )
    return y


def weights_by_task(tasks: Sequence[str], sample_weight) -> Mapping:
    """Task -> sample weights; one tensor serves all tasks."""
    return by_task(tasks, "sample_weight", sample_weight)


def numbers_by_task(tasks: Sequence[str], argument: str, value) -> dict[str, float]:
    """`by_task` for numbers.

    Raises:
        ValueError: for what is no number, such as a schedule.
    """
    try:
        return {task: float(x) for task, x in by_task(tasks, argument, value).items()}
    except TypeError:
        raise ValueError(
            f"`{argument}` must be numbers; `weighting=kmtl.weighting.ScheduledWeights(...)` takes "
            f"schedules. Received: {argument}={value}"
        ) from None


def check_names(tasks: Sequence[str], what: str, names: Iterable[str], complete: bool) -> None:
    """Raises ValueError for names that are no tasks, or tasks that are not named."""
    unknown = sorted(set(names) - set(tasks))
    absent = sorted(set(tasks) - set(names)) if complete else []
    if unknown or absent:
        raise ValueError(
            f"{what} must name the model's tasks {list(tasks)}. "
            f"Received: unknown {unknown}, missing {absent}"
        )
