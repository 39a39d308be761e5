"""Numbers that a user gives, for all tasks or by name."""

import math
from collections.abc import Mapping

_RULES = {
    "finite": math.isfinite,
    "at least 0": lambda x: math.isfinite(x) and x >= 0.0,
    "at least 0, or to schedules": lambda x: math.isfinite(x) and x >= 0.0,
    "above 0": lambda x: math.isfinite(x) and x > 0.0,
    "between 0 and 1": lambda x: 0.0 <= x <= 1.0,
    "at least 0 and below 1": lambda x: 0.0 <= x < 1.0,
    "above 0 and at most 1": lambda x: 0.0 < x <= 1.0,
}


def check_number(argument: str, value: float, rule: str) -> None:
    """Raises `ValueError` unless `value` is a finite number that keeps the rule.

    Args:
        argument: The argument's name, for the message.
        value: The number.
        rule: A key of `_RULES`.
    """
    if not isinstance(value, (int, float)) or not _RULES[rule](value):
        raise ValueError(f"`{argument}` must be {rule}. Received: {argument}={value!r}")


def check_whole(argument: str, value: int, least: int) -> None:
    """Raises `ValueError` unless `value` is a whole number, at least `least`."""
    if not isinstance(value, int) or value < least:
        raise ValueError(
            f"`{argument}` must be a whole number, at least {least}. Received: {argument}={value!r}"
        )


def check_numbers(argument: str, values: Mapping[str, float] | None, rule: str) -> dict | None:
    """A copy of `values`, for a constructor.

    Args:
        argument: The argument's name, for the message.
        values: Task name -> number, or None.
        rule: A key of `_RULES`.

    Raises:
        ValueError: if a number breaks the rule or `values` is no mapping.
    """
    if values is None:
        return None
    numbers = values.values() if isinstance(values, Mapping) else [None]
    if not all(isinstance(x, (int, float)) and _RULES[rule](x) for x in numbers):
        raise ValueError(
            f"`{argument}` must map task names to numbers that are {rule}. "
            f"Received: {argument}={values}"
        )
    return dict(values)


def numbers_by_task(
    argument: str, values: Mapping[str, float] | None, tasks, default: float
) -> list[float]:
    """The numbers in the order of the sorted task names, with `default` for those left out.

    Raises:
        ValueError: if there are numbers for other tasks.
    """
    values = values or {}
    if not set(values) <= set(tasks):
        raise ValueError(
            f"`{argument}` must name tasks among {sorted(tasks)}. Received: {argument}={values}"
        )
    return [float(values.get(task, default)) for task in sorted(tasks)]
