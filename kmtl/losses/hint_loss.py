"""What is known of a function besides its values, as a loss."""

import keras
from keras import ops

_KINDS = ("invariance", "odd", "monotone", "range")


@keras.saving.register_keras_serializable(package="kmtl")
class HintLoss(keras.losses.Loss):
    """How far a model's answers are from a property that the right answer has.

    Use it through `kmtl.auxiliary.Hint`, which makes the examples and the second answer, when you
    know of the function more than its labels say: what it does not depend on, its symmetry, its
    direction, its range. The labels are not looked at. A hint that holds costs nothing and has
    no gradient; a constant meets an invariance, so keep the loss on labels beside it.

    ```
    "invariance"  (g(x) - g(x')) ** 2
    "odd"         (g(x) + g(x')) ** 2                                     # x' = -x
    "monotone"    max(0, g(x) - g(x')) ** 2                               # x <= x'
    "range"       max(0, low - g(x)) ** 2 + max(0, g(x) - high) ** 2
    ```

    Args:
        kind: One of these.
        low: Lower end, only with `"range"`. Defaults to `None`, none.
        high: Upper end, only with `"range"`. Defaults to `None`, none.
        reduction: As in Keras. Defaults to `"sum_over_batch_size"`.
        name: The loss's name. Defaults to `"hint_loss"`.
        dtype: As in Keras. Defaults to `None`.

    Input shape: predictions `(batch, ..., 2)`, the answers g(x) and g(x') side by side;
    `(batch, ...)` with `"range"`. The labels' shape does not matter.

    Raises:
        ValueError: for another kind; ends with another kind than `"range"`, none with it, or
            in the wrong order; and when called on predictions that are no pairs.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> loss = kmtl.losses.HintLoss("monotone")
    >>> answers = np.array([[[1.0, 3.0]], [[2.0, 0.0]]])  # the second pair falls
    >>> print(float(loss(np.zeros(2), answers)))
    2.0

    Differences from the paper: its balance between hints, adaptive minimisation, is left to
    `kmtl.weighting`. "Odd" and "range" are cases of its canonical form, an error on examples of
    the hint, as are the other two.

    References:

    - Y. S. Abu-Mostafa (1990), "Learning from Hints in Neural Networks", Journal of Complexity 6,
      pages 192 to 198: invariance.
    - Y. S. Abu-Mostafa (1992), "A Method for Learning from Hints", NIPS 5: the canonical
      representation of hints by examples.
    """

    def __init__(
        self,
        kind: str,
        low: float | None = None,
        high: float | None = None,
        reduction: str = "sum_over_batch_size",
        name: str = "hint_loss",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if kind not in _KINDS:
            raise ValueError(f"`kind` must be one of {_KINDS}. Received: kind={kind!r}")
        ends = [x for x in (low, high) if x is not None]
        if bool(ends) != (kind == "range") or ends != sorted(ends):
            raise ValueError(
                '`low` and `high` must be in this order, and are for kind "range", which needs '
                f"at least one. Received: kind={kind!r}, low={low}, high={high}"
            )
        self.kind, self.low, self.high = kind, low, high

    def call(self, y_true, y_pred):
        """`(batch,)`."""
        if self.kind == "range":
            low = 0.0 if self.low is None else ops.relu(self.low - y_pred)
            high = 0.0 if self.high is None else ops.relu(y_pred - self.high)
            values = ops.square(low) + ops.square(high)
        else:
            if len(y_pred.shape) < 2 or y_pred.shape[-1] != 2:
                raise ValueError(
                    "The predictions must be pairs of answers, in a last axis of 2. "
                    f"Received: shape {tuple(y_pred.shape)}"
                )
            first, second = y_pred[..., 0], y_pred[..., 1]
            difference = first + second if self.kind == "odd" else first - second
            if self.kind == "monotone":
                difference = ops.relu(difference)
            values = ops.square(difference)
        return ops.mean(values, axis=tuple(range(1, len(values.shape))))

    def get_config(self):
        own = {"kind": self.kind, "low": self.low, "high": self.high}
        return {**super().get_config(), **own, "dtype": self.dtype}
