"""What every way of weighing tasks has in common."""

import re
import weakref
from collections.abc import Callable, Mapping

import keras
from keras import ops


class TaskWeighting:
    """Base of the rules that turn the tasks' losses into one.

    A rule never sees model, optimizer or replicas:

    ```
    loss = sum_t weights(losses)[t] * losses[t] + penalty()
    ```

    Its variables, learned or not, live in `state`, a Keras layer that the model tracks: they
    are trained, saved and loaded with the model. Write a rule by overriding `weights`, a
    function of the losses and the state, and where needed `create_state`, `update`, `penalty`,
    `objective` and `describe`. Vectors hold the tasks in the order of `task_names`, which is
    sorted.

    Args:
        name: Name of the rule's state in the model. Defaults to `None`, the class name in
            snake case.
    """

    looks_again = False

    def __init__(self, name: str | None = None):
        self.name = name or re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(self).__name__).lower()
        self.task_names = ()
        self._owner = None
        self._nameless = False
        self.state = self._new_state()

    def __getattr__(self, name):
        # Only where the usual ways have not found it.
        if name.startswith("_") and not self.__dict__.get("task_names", True):
            raise AttributeError(
                f"This `{type(self).__name__}` has no state yet: compile a model with it, or call "
                f"`bind_to(num_tasks)`. Received: a request for {name!r}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def bind(self, losses: Mapping[str, keras.losses.Loss]) -> None:
        """Creates the state for these tasks; `MultiTaskModel.compile` calls it.

        Args:
            losses: Task name -> the task's loss.

        Raises:
            ValueError: if the rule already belongs to other tasks.
        """
        names = tuple(sorted(losses))
        if self._nameless:
            self.task_names, self._nameless, self.state = (), False, self._new_state()
        if self.task_names and names != self.task_names:
            raise ValueError(
                f"A `{type(self).__name__}` keeps to its tasks {list(self.task_names)}; make a "
                f"new one for other tasks. Received: tasks {list(names)}"
            )
        if not self.task_names:
            self.task_names = names
            self.create_state(losses)
            self.state.built = True

    def bind_to(self, num_tasks: int) -> None:
        """Creates the state for tasks without names, for use outside of a model.

        Raises:
            ValueError: if the rule's state is that of another number of tasks.
        """
        if not self.task_names:
            digits = len(str(num_tasks))
            names = [f"task_{t:0{digits}}" for t in range(num_tasks)]
            self.bind(dict.fromkeys(names, keras.losses.MeanSquaredError()))
            self._nameless = True
        elif len(self.task_names) != num_tasks and self.state.variables:
            raise ValueError(
                f"This `{type(self).__name__}` has the state of {len(self.task_names)} tasks; "
                f"make a new one for others. Received: {num_tasks} tasks"
            )

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

    def update(self, losses) -> None:
        """Moves the state on after a training step's weights have been read.

        Args:
            losses: `(T,)`, as in `weights`.
        """

    def start_epoch(self) -> None:
        """Called by `fit` before each epoch, outside of the steps; may assign to the state."""

    def look_again(self, losses) -> None:
        """Called after each update if `looks_again`, with the same batch's new losses `(T,)`."""

    def penalty(self):
        """A scalar added to the weighted sum, for rules that learn their weights."""
        return ops.zeros(())

    def objective(self, losses):
        """What the weighted sum stands for, to be shown as the loss in its place; or None.

        For rules whose weights are the gradient of some function of the losses other than
        their sum.
        """

    def describe(self, weights) -> dict:
        """Scalars worth a line in the logs: name -> tensor, averaged over the epoch."""
        values = ops.unstack(weights, len(self.task_names))
        return {f"{t}_weight": w for t, w in zip(self.task_names, values, strict=True)}

    def move_on(self, update: Callable, valid=True) -> None:
        """Calls `update()`, and takes it back where `valid` is false."""
        variables = self.state.non_trainable_variables
        before = [ops.copy(v) for v in variables]
        update()
        for variable, old in zip(variables, before, strict=True):
            variable.assign(ops.where(valid, ops.convert_to_tensor(variable), old))

    def _new_state(self):
        return _State(name=self.name, dtype="float32")

    def get_config(self) -> dict:
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)


class _State(keras.layers.Layer):
    """A layer whose file holds its seed generators, too, so that random rules resume exactly."""

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for i, generator in enumerate(self._seed_generators):
            store[f"seed_generator_{i}"] = generator.state

    def load_own_variables(self, store):
        seeds = {f"seed_generator_{i}": g.state for i, g in enumerate(self._seed_generators)}
        super().load_own_variables({key: store[key] for key in store.keys() if key not in seeds})
        for key, state in seeds.items():
            state.assign(store[key])
