"""Checks that penalties on stacked weights share."""

from numbers import Real


def check_strength(strength) -> None:
    """Requires a number that is not negative."""
    if not isinstance(strength, Real) or not strength >= 0:
        raise ValueError(f"`strength` must be at least 0. Received: strength={strength!r}")


def check_task_axis(shape, task_axis) -> None:
    """Requires weights that have the axis of tasks, and one besides."""
    rank = len(shape)
    if rank < 2 or not -rank <= task_axis < rank:
        raise ValueError(
            "The weights must have an axis of tasks, `task_axis`, and at least one other. "
            f"Received: weights of shape {tuple(shape)}, task_axis={task_axis}"
        )
