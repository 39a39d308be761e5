"""Weights with which each task's actives weigh as much as its inactives."""

import numpy as np

from kmtl.ops.binary_labels import check_missing, count_classes


def class_balance_weights(y, missing: float = float("nan")) -> np.ndarray:
    """Weights for the labels 1 of each task, measured once on the training labels.

    Give them to `kmtl.losses.MaskedMultiLabelLoss` where actives are rare, so that no task
    learns to answer "inactive" to everything.

    ```
    weights[t] = (number of labels 0 of task t) / (number of labels 1 of task t)
    ```

    Args:
        y: Training labels of shape `(rows, tasks)`, 0, 1 or `missing`.
        missing: The value that marks a missing label. Defaults to `nan`.

    Returns:
        `(tasks,)`.

    Raises:
        ValueError: if a task lacks labels of a class, which no weight can balance; for labels
            that are neither 0, 1 nor `missing`; and for another shape.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> y = np.array([[1, 0], [0, 1], [0, np.nan], [0, np.nan]])
    >>> kmtl.losses.class_balance_weights(y)
    array([3., 1.])

    Reference: B. Ramsundar et al. (2015), "Massively Multitask Networks for Drug Discovery",
    arXiv:1502.02072.
    """
    check_missing(missing)
    inactive, active = count_classes(y, missing)
    if not active.all() or not inactive.all():
        raise ValueError(
            "Each task must have labels 0 and 1 in `y`; leave out a task without. Received: no 1 "
            f"for tasks {np.flatnonzero(active == 0).tolist()}, no 0 for tasks "
            f"{np.flatnonzero(inactive == 0).tolist()}"
        )
    return inactive / active
