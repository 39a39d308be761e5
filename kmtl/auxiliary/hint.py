"""A known property of the main task's function, as a helper task."""

from collections.abc import Callable

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.losses.hint_loss import HintLoss
from kmtl.models.graph import run


class Hint(AuxiliaryTask):
    """Asks the model for a second answer, on a changed example, and compares the two.

    Use it when you know how the answer behaves under a change of the input: mirror an image and
    it stays, raise the income and the credit does not fall. The virtual examples are made in
    the graph from each batch, and need no labels.

    ```
    x'   = transform(x)
    loss = weight * HintLoss(kind)(g(x), g(x'))      # g is the main output
    ```

    The second answer runs through all layers again, in training mode: dropout then draws anew,
    and batch normalisation sees the virtual examples as well. A weighting by gradients compares
    the tasks' gradients at the main output; what flows through the second answer it adds as it
    is.

    Args:
        name: The task's name, new to the model.
        kind: `"invariance"`, `"odd"`, `"monotone"` (the answer to `transform(x)` is at least
            that to `x`) or `"range"`.
        output: The main task whose answers are meant. Defaults to `None`, the model's only
            output.
        transform: From the model's inputs (a tensor, or the structure of the model's) to
            others of the same shapes, in `keras.ops` or layers. Defaults to `None`: `-x` with
            `"odd"`, and `x` itself with `"range"`; the other kinds need one.
        weight: Factor of the loss. Defaults to `1.0`.
        low: Lower end of a range. Defaults to `None`.
        high: Upper end of a range. Defaults to `None`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask` and `kmtl.losses.HintLoss`; for a kind
            without the transform that it needs, and on building for an output that the model
            lacks.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, {"price": keras.layers.Dense(1)(x)})
    >>> step = np.array([0, 0, 1, 0], "float32")
    >>> more = kmtl.auxiliary.Hint("more", "monotone", transform=lambda x: x + step)
    >>> helpers = kmtl.auxiliary.AuxiliaryTasks([more])
    >>> both = helpers.attach(model)
    >>> model.layers[-1].set_weights([np.array([[1.0], [1.0], [-2.0], [1.0]]), np.zeros(1)])
    >>> both.compile("sgd", **helpers.compile_arguments({"price": "mse"}))
    >>> data = helpers.add_targets((np.ones((3, 4)), {"price": np.ones((3, 1))}))
    >>> print(both.evaluate(*data, verbose=0, return_dict=True)["more_loss"])  # 2 too little
    4.0

    Differences from the paper: the examples of a hint are those of the batch, changed, not
    drawn on their own; the balance between hints is left to `weight` and `kmtl.weighting`.

    References:

    - Y. S. Abu-Mostafa (1990), "Learning from Hints in Neural Networks", Journal of Complexity 6.
    - Y. S. Abu-Mostafa (1992), "A Method for Learning from Hints", NIPS 5.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        output: str | None = None,
        transform: Callable | None = None,
        weight: float | LearningRateSchedule = 1.0,
        low: float | None = None,
        high: float | None = None,
    ):
        loss = HintLoss(kind, low, high)
        super().__init__(name, None, None, loss, None, weight)
        if transform is None and kind in ("invariance", "monotone"):
            raise ValueError(
                f"`transform` must be given with kind {kind!r}. Received: transform=None"
            )
        self.kind, self.output, self.transform = kind, output, transform
        self.low, self.high = low, high

    def build(self, model):
        outputs = model.output if isinstance(model.output, dict) else {None: model.outputs[0]}
        only = next(iter(outputs)) if len(outputs) == 1 else None
        chosen = only if self.output is None else self.output
        if chosen not in outputs:
            raise ValueError(
                f"`output` must be one of the model's tasks {sorted(map(str, outputs))}. "
                f"Received: output={self.output!r}"
            )
        answer = outputs[chosen]
        if self.transform is not None or self.kind != "range":
            answer = self._pair(model, answer)
        return {self.name: marked(self.name, answer)}

    def targets(self, x, y):
        return {self.name: np.zeros(len(keras.tree.flatten(x)[0]), "float32")}

    def check_targets(self, labels):
        """Nothing: a hint has no labels."""

    def _pair(self, model, answer):
        change = self.transform or (lambda x: keras.tree.map_structure(lambda a: -a, x))
        changed = keras.tree.flatten(change(model.input))
        # Operation by operation, so that the layers are those of the one graph and not, once
        # more, of a model inside of it.
        (second,) = run(
            model, changed, lambda operation, args, kwargs: operation(*args, **kwargs), [answer]
        )
        if self.kind == "range":
            return second
        return keras.ops.stack([answer, second], axis=-1)
