"""Reading labels by name."""

from collections.abc import Mapping

import numpy as np


def labels_named(name: str, y, task: str) -> np.ndarray:
    """The entry `name` of the labels.

    Args:
        name: The entry's name.
        y: Task name -> labels.
        task: The auxiliary task that asks, for the message.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(y, Mapping) or name not in y:
        known = sorted(y) if isinstance(y, Mapping) else type(y).__name__
        raise ValueError(
            f"The labels must hold {name!r}, for the auxiliary task {task!r}. Received: {known}"
        )
    return np.asarray(y[name])
