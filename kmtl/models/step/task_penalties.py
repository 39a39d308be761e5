"""Penalties across the weights of tasks, as `compile` gets them."""

from collections.abc import Sequence

import keras

from kmtl.regularizers.across_tasks import AcrossTasks


class TaskPenalties:
    """The penalties of a model.

    Attributes:
        states: What they learn, Keras layers.
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
        self._penalties = list(penalties)
        for k, penalty in enumerate(penalties):
            penalty.bind(model, model.task_names, name=f"penalty_{k}")
        self.states = [p.state for p in penalties if p.state.weights]
        found = {id(v): v for p in penalties for v in p.variables if v.trainable}
        self.variables = list(found.values())

    def __call__(self) -> list:
        """The values of the penalties now, each a scalar."""
        return [penalty() for penalty in self._penalties]

    def update(self) -> None:
        """Moves on what they learn, once each training step."""
        for penalty in self._penalties:
            penalty.update()
