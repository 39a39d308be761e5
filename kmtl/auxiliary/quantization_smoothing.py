"""The quantity behind a thresholded label, as a helper task."""

from collections.abc import Callable

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.checks import check_not_constant, is_missing


class QuantizationSmoothing(AuxiliaryTask):
    """Predicts the quantity that the main task's label is a step of.

    Use it when the main label is a quantity cut at a threshold or rounded to classes, and the
    quantity is known in training. It tells the trunk how far a case is from the step, which the
    label hides.

    ```
    target = (quantity - mean) / deviation
    loss   = weight * huber(target, head(features))
    ```

    `mean` and `deviation` are measured on the training data: by `fit`, or by the first arrays
    that `kmtl.auxiliary.AuxiliaryTasks.add_targets` gets for training. `get_config` has them, for
    validation data of a later session: `QuantizationSmoothing(..., **config)`.

    Args:
        name: The task's name, new to the model.
        quantity: `(x, y) -> values`, or the name of the entry of `y` that holds them and is for
            this task alone.
        head: A layer or model with an output of the quantity's shape.
        features: Name of the layer of your model whose output the head reads, or that tensor.
        loss: As `compile` takes it. Defaults to `"huber"`.
        weight: Factor of the loss. Defaults to `0.1`.
        missing: Value that means "not known", such as NaN. Defaults to `None`, all are.
        metrics: A metric or a list of them. Defaults to `None`.
        mean: What to subtract. Defaults to `None`, measured.
        deviation: What to divide by, positive. Defaults to `None`, measured.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; for one of `mean` and `deviation` without
            the other, for a constant quantity, and for labels before it was fitted.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> fever = kmtl.auxiliary.QuantizationSmoothing(
    ...     "degrees", "temperature", keras.layers.Dense(1), features="trunk"
    ... )
    >>> fever.fit(None, {"temperature": np.array([[36.0], [40.0]])})
    >>> print(fever.get_config())
    {'mean': 38.0, 'deviation': 2.0}
    >>> fever.targets(None, {"temperature": np.array([[39.0]])})
    {'degrees': array([[0.5]], dtype=float32)}

    Differences from the paper: it asks for a regression of the quantity; to standardise it, and
    the Huber loss, are ours, so that a weight means the same whatever the unit.

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, its
    use "quantization smoothing".
    """

    def __init__(
        self,
        name: str,
        quantity: Callable | str,
        head: Callable,
        features: str | keras.KerasTensor,
        loss="huber",
        weight: float | LearningRateSchedule = 0.1,
        missing: float | None = None,
        metrics=None,
        mean: float | None = None,
        deviation: float | None = None,
    ):
        super().__init__(name, quantity, head, loss, features, weight, missing, metrics)
        if (mean is None) != (deviation is None) or not (deviation is None or deviation > 0):
            raise ValueError(
                "`mean` and a positive `deviation` must be given together, or none. "
                f"Received: mean={mean}, deviation={deviation}"
            )
        self.mean, self.deviation = mean, deviation

    @property
    def fitted(self) -> bool:
        """Whether mean and deviation are known."""
        return self.mean is not None

    def fit(self, x, y) -> None:
        """Measures mean and standard deviation of the present values.

        Args:
            x: Inputs of the training data.
            y: Its labels.
        """
        values = self._values(x, y)
        missing = self.missing.get(self.name)
        check_not_constant(self.name, values, missing)
        present = values if missing is None else values[~is_missing(values, missing)]
        self.mean, self.deviation = float(present.mean()), float(present.std())

    def targets(self, x, y):
        if not self.fitted:
            raise ValueError(
                "Mean and deviation must be known before there are labels: call `fit`. "
                f"Received: {self.name!r}, not fitted"
            )
        values = self._values(x, y)
        target = (values - self.mean) / self.deviation
        missing = self.missing.get(self.name)
        if missing is not None:
            target = np.where(is_missing(values, missing), missing, target)
        return {self.name: target.astype("float32")}

    def _values(self, x, y):
        return np.asarray(super().targets(x, y)[self.name], "float64")

    def get_config(self) -> dict:
        """What was measured, as constructor arguments."""
        return {"mean": self.mean, "deviation": self.deviation}
