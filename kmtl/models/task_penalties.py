"""Penalties across the weights of tasks, as `compile` gets them."""

from collections.abc import Sequence

import keras

from kmtl.regularizers.across_tasks import AcrossTasks, stacked


class TaskPenalties:
    """The penalties of a model.

    Attributes:
        variables: What they depend on and the optimizer trains.

    Args:
        model: A `kmtl.MultiTaskModel`.
        penalties: `kmtl.regularizers.AcrossTasks`, or None.

    Raises:
        ValueError: for another kind of penalty, and where layers are not found or not alike.
    """

    def __init__(self, model: keras.Model, penalties: Sequence[AcrossTasks] | None):
        penalties = [] if penalties is None else penalties
        if not isinstance(penalties, (list, tuple)) or not all(
            isinstance(p, AcrossTasks) for p in penalties
        ):
            raise ValueError(
                "`penalties` must be a list of `kmtl.regularizers.AcrossTasks`. "
                f"Received: penalties={penalties!r}"
            )
        self._terms = [
            (penalty.regularizer, variables)
            for penalty in penalties
            for variables in penalty.groups(model, model.task_names)
        ]
        found = {id(v): v for _, variables in self._terms for v in variables if v.trainable}
        self.variables = list(found.values())

    def __call__(self) -> list:
        """The values of the penalties now, each a scalar."""
        return [regularizer(stacked(variables)) for regularizer, variables in self._terms]
