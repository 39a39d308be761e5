"""Weights from how fast each loss has been falling."""

import keras
from keras import ops

from kmtl.ops.logs import TINY, softmax
from kmtl.weighting.base import TaskWeighting
from kmtl.weighting.task_numbers import check_number


@keras.saving.register_keras_serializable(package="kmtl")
class DynamicWeightAverage(TaskWeighting):
    """Gives more weight to tasks whose loss fell least between the last two epochs.

    Choose it for a mild correction of equal weights at no cost: it needs no gradients and
    ignores the losses' units. It does not balance losses of very different size.

    ```
    ratio[t]   = mean[t] of the last window / mean[t] of the one before
    weights[t] = T * softmax(ratio / temperature)[t]       # 1 in the first two windows
    ```

    A window is an epoch of `fit`, or a number of training steps. A task whose mean was 0 in
    the window before, such as one without labels, has the ratio 1.

    Needs: losses.

    State: the means of the last two windows, and the sums of the one that runs.

    Scale: that of the plain sum: the weights add up to T.

    Args:
        temperature: The higher, the more alike the weights. Defaults to `2.0`.
        window: `"epoch"`, or a number of steps. Only `fit` tells of epochs: with
            `train_on_batch`, count steps. Defaults to `"epoch"`.

    Raises:
        ValueError: if `temperature` is not above 0, or `window` neither "epoch" nor at least 1.

    Example:

    >>> import numpy as np
    >>> from keras import ops
    >>> import kmtl
    >>> rule = kmtl.weighting.DynamicWeightAverage(window=1)
    >>> rule.bind_to(2)
    >>> for losses in ([4.0, 4.0], [4.0, 2.0]):
    ...     rule.update(ops.array(losses))
    >>> print(np.asarray(rule.weights(ops.array([1.0, 1.0]))).round(4))
    [1.1244 0.8756]

    Differences from the paper: windows of steps are ours. An epoch's mean is that of its
    steps, of which a smaller last one counts as much as the others; so it is in the authors'
    code.

    Reference: S. Liu, E. Johns, A. Davison (2019), "End-to-End Multi-Task Learning with
    Attention", CVPR, arXiv:1803.10704, equation 7.
    """

    def __init__(
        self, temperature: float = 2.0, window: str | int = "epoch", name: str | None = None
    ):
        super().__init__(name)
        check_number("temperature", temperature, "above 0")
        if window != "epoch" and not (isinstance(window, int) and window >= 1):
            raise ValueError(
                "`window` must be 'epoch' or a number of steps, at least 1. "
                f"Received: window={window!r}"
            )
        self.temperature = temperature
        self.window = window

    def create_state(self, losses):
        def add(name, shape):
            return self.state.add_weight(
                name=name,
                shape=shape,
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

        n = len(losses)
        self._total, self._steps = add("total", (n,)), add("steps", ())
        self._last, self._before = add("last", (n,)), add("before", (n,))
        self._windows = add("windows", ())

    def weights(self, losses):
        before = ops.convert_to_tensor(self._before)
        empty = ops.abs(before) <= TINY
        ratio = ops.where(empty, 1.0, self._last / ops.where(empty, 1.0, before))
        weights = len(self.task_names) * softmax(ratio / self.temperature)
        return ops.where(self._windows >= 2.0, weights, ops.ones_like(losses))

    def update(self, losses):
        self._total.assign(self._total + losses)
        self._steps.assign(self._steps + 1.0)
        if self.window != "epoch":
            self._close_window(self._steps >= self.window)

    def start_epoch(self):
        if self.window == "epoch":
            self._close_window(self._steps > 0.0)

    def _close_window(self, full):
        """Moves the means on by one window, if `full`."""
        before, last, total, steps = map(
            ops.convert_to_tensor, (self._before, self._last, self._total, self._steps)
        )
        mean = total / ops.maximum(steps, 1.0)
        self._before.assign(ops.where(full, last, before))
        self._last.assign(ops.where(full, mean, last))
        self._total.assign(ops.where(full, 0.0, total))
        self._steps.assign(ops.where(full, 0.0, steps))
        self._windows.assign(self._windows + ops.cast(full, "float32"))

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "window": self.window}
