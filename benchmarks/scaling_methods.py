"""The ways to weigh tasks that `benchmarks.scaling` compares, and what each has to send."""

from benchmarks.weighting_step import PLAIN, make_rule

UNCERTAINTY = "uncertainty"
REPRESENTATION, PARAMETERS = "PCGrad, representation", "PCGrad, parameters"
METHODS = (PLAIN, UNCERTAINTY, REPRESENTATION, PARAMETERS)
TASKS = 10
BYTES_TASKS = (10, 40)
NUMBER = 4  # bytes of a float32


def make_weighting(method: str):
    """What `compile` takes as the weighting."""
    return UNCERTAINTY if method == UNCERTAINTY else make_rule(method)


def gradient_bytes(parameters: int) -> int:
    """Of each step, whatever the method: the gradients of all parameters."""
    return NUMBER * parameters


def other_bytes(method: str, num_tasks: int, shared: int) -> int:
    """What a step's formulas need from all replicas besides.

    ```
    plain sum        T + 1                    how many labels each task has; the loss to show
    others           + T                      the tasks' losses
    representation   + T * T                  products of their gradients
    parameters       + T * shared             the gradients themselves
    ```

    Args:
        method: One of `METHODS`.
        num_tasks: T.
        shared: Parameters of the trunk.
    """
    numbers = num_tasks + 1
    if method != PLAIN:
        numbers += num_tasks
    if method == REPRESENTATION:
        numbers += num_tasks**2
    if method == PARAMETERS:
        numbers += num_tasks * shared
    return NUMBER * numbers


def key(method: str, num_tasks: int) -> str:
    """Name of a method's step with a number of tasks."""
    return f"{method}, {num_tasks} tasks"
