"""What every way of weighing tasks has in common."""

import re
import weakref
from collections.abc import Mapping

import keras
from keras import ops


class TaskWeighting:
    """Base of the rules that turn the tasks' losses into one.

    A rule never sees model, optimizer or replicas:

    ```
    loss = sum_t weights(losses)[t] * losses[t] + penalty()
    ```

    Its variables, learned or not, live in `state`, a Keras layer that the model tracks: they
    are trained, saved and loaded with the model. Write a rule by overriding `weights`, and
    where needed `create_state`, `penalty` and `describe`. Vectors hold the tasks in the order
    of `task_names`, which is sorted.

    Args:
        name: Name of the rule's state in the model. Defaults to `None`, the class name in
            snake case.
    """

    def __init__(self, name: str | None = None):
        self.name = name or re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(self).__name__).lower()
        self.task_names = ()
        self._owner = None
        self.state = keras.layers.Layer(name=self.name, dtype="float32")

    def bind(self, losses: Mapping[str, keras.losses.Loss]) -> None:
        """Creates the state for these tasks; `MultiTaskModel.compile` calls it.

        Args:
            losses: Task name -> the task's loss.

        Raises:
            ValueError: if the rule already belongs to other tasks.
        """
        names = tuple(sorted(losses))
        if self.task_names and names != self.task_names:
            raise ValueError(
                f"A `{type(self).__name__}` keeps to its tasks {list(self.task_names)}; make a "
                f"new one for other tasks. Received: tasks {list(names)}"
            )
        if not self.task_names:
            self.task_names = names
            self.create_state(losses)
            self.state.built = True

    def belong_to(self, model: keras.Model) -> None:
        """Makes the rule the model's own, since its state is.

        Raises:
            ValueError: if it belongs to another model.
        """
        owner = self._owner() if self._owner else None
        if owner not in (None, model):
            raise ValueError(
                f"A `{type(self).__name__}` keeps the state of one model; make a new one for each. "
                f"Received: the rule of {owner.name!r} for {model.name!r}"
            )
        self._owner = weakref.ref(model)

    def create_state(self, losses: Mapping[str, keras.losses.Loss]) -> None:
        """Adds variables by `self.state.add_weight`; the base rule has none."""

    def weights(self, losses):
        """Weights `(T,)` from the global batch's losses `(T,)`, which carry no gradient."""
        raise NotImplementedError

    def penalty(self):
        """A scalar added to the weighted sum, for rules that learn their weights."""
        return ops.zeros(())

    def describe(self) -> dict:
        """Scalars worth a line in the logs: name -> tensor, averaged over the epoch."""
        return {}

    def get_config(self) -> dict:
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)
