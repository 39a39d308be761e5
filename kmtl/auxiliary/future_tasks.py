"""Later labels as helper tasks."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from kmtl.auxiliary.attaching import features_of, marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.future_targets import check_axis, check_horizons, future_targets
from kmtl.auxiliary.labels import labels_named


class FutureTasks(AuxiliaryTask):
    """Predicts now what will be measured later, in training, where later is known.

    Use it on time series and records: values at later times tell more about the present than
    its own label does, but are no input when the model serves. Each horizon is an output of its
    own; the inputs are not touched.

    ```
    loss = L(y[t]) + sum_k weight * discount ** (k - 1) * L(y[t + k])      # k in horizons
    ```

    Times without a later label get `missing`. Cut the data into training and validation before
    the labels are shifted, and so that no window reaches over the cut.

    Args:
        name: Start of the tasks' names, `<name>_<horizon>`.
        targets: Name of the entry of `y` to look ahead in, such as a main task; or
            `(x, y) -> labels`.
        head: `horizon -> layer`: a head for each.
        loss: As `compile` takes it.
        features: Name of the layer of your model whose output the heads read, or that tensor.
        horizons: How many times ahead. Defaults to `(1, 2, 5)`.
        discount: Factor of the weight for each further time, above 0 and at most 1.
            Defaults to `0.9`.
        weight: Factor of the loss of horizon 1, a number. Defaults to `1.0`.
        missing: Label that means "no label". Integers need another than the default, such as
            -1. Defaults to `nan`.
        metrics: A metric or a list of them, for each horizon. Defaults to `None`.
        series: `(x, y) -> series of each row`, or the name of the entry of `y` that holds them
            and is for this task alone. Defaults to `None`, all rows are one series.
        axis: 0 where each row is a time; then the labels need arrays, not batches. 1 where
            rows are series and the outputs are sequences, too. Defaults to `0`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask` and `kmtl.auxiliary.future_targets`, for
            another discount, a weight that is no number, and a head that is a layer.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> later = kmtl.auxiliary.FutureTasks(
    ...     "rain", "rain", lambda k: keras.layers.Dense(1), "mse", "trunk", horizons=(1, 2)
    ... )
    >>> print(later.weights)
    {'rain_1': 1.0, 'rain_2': 0.9}
    >>> print(later.targets(None, {"rain": np.array([3.0, 5.0, 4.0])}))
    {'rain_1': array([ 5.,  4., nan]), 'rain_2': array([ 4., nan, nan])}

    Differences from the paper: it has no weights; the discount is ours.

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, its use
    "using the future to predict the present".
    """

    def __init__(
        self,
        name: str,
        targets: Callable | str,
        head: Callable,
        loss,
        features: str | keras.KerasTensor,
        horizons: Sequence[int] = (1, 2, 5),
        discount: float = 0.9,
        weight: float = 1.0,
        missing: float = float("nan"),
        metrics=None,
        series: Callable | str | None = None,
        axis: int = 0,
    ):
        super().__init__(name, targets, head, loss, features, weight)
        if not isinstance(weight, (int, float)):
            raise ValueError(f"`weight` must be a number. Received: weight={weight!r}")
        if isinstance(head, keras.layers.Layer):
            raise ValueError(
                "`head` must be a function of the horizon that returns a layer, as each has its "
                f"own. Received: head={head}"
            )
        check_axis(axis)
        if not 0 < discount <= 1:
            raise ValueError(
                f"`discount` must be above 0 and at most 1. Received: discount={discount}"
            )
        if isinstance(metrics, keras.metrics.Metric):
            raise ValueError(
                "`metrics` must be names or functions, as each horizon has its own. "
                f"Received: {metrics!r}"
            )
        self.horizons = check_horizons(horizons)
        self.discount, self.series, self.axis = discount, series, axis
        self.by_batch = axis == 1
        self.own_labels = {series} if isinstance(series, str) else set()
        outputs = {k: f"{name}_{k}" for k in self.horizons}
        self.losses = dict.fromkeys(outputs.values(), loss)
        self.weights = {outputs[k]: weight * discount ** (k - 1) for k in self.horizons}
        self.missing = dict.fromkeys(outputs.values(), missing)
        self.metrics = {} if metrics is None else dict.fromkeys(outputs.values(), metrics)
        self._missing, self._outputs = missing, outputs

    def build(self, model):
        features = features_of(model, self.features)
        return {
            output: marked(output, self.head(k)(features)) for k, output in self._outputs.items()
        }

    def targets(self, x, y):
        named = isinstance(self._targets, str)
        labels = labels_named(self._targets, y, self.name) if named else self._targets(x, y)
        shifted = future_targets(
            labels, self.horizons, self._series_of(x, y), self._missing, self.axis
        )
        return {self._outputs[k]: values for k, values in shifted.items()}

    def _series_of(self, x, y: Mapping) -> np.ndarray | None:
        if isinstance(self.series, str):
            return labels_named(self.series, y, self.name)
        return None if self.series is None else self.series(x, y)
