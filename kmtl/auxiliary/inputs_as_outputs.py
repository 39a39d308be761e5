"""Input features that the network predicts instead of reading."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.checks import check_shape
from kmtl.auxiliary.column_noise import ColumnNoise
from kmtl.models.graph import run

MODES = ("out", "both")


class InputsAsOutputs(AuxiliaryTask):
    """Turns noisy input features into outputs of training.

    Use it for features that are too noisy, or too seldom at hand when the model serves, to be
    worth reading: what predicts them from the other inputs can be worth more than their values.
    Which features those are, `kmtl.analysis.rank_input_or_output` measures.

    ```
    x     = [x_in, x_out]                        # x_out: `columns`
    loss  = L_main + weight * loss(x_out, head(features(x_in)))               # mode "out"
          = L_main + weight * loss(x_out, head(features(x_in, x_out + noise)))      # "both"
    ```

    In mode `"out"` you build your model on the columns that are left, and give the full inputs
    to `kmtl.auxiliary.AuxiliaryTasks.add_targets`: it takes the columns out and makes them
    labels. Nothing else gets to the model, so that they cannot leak into its trunk unless your
    preprocessing mixed them into other columns before. `inputs` does the same for serving. In mode
    `"both"` your model reads all columns, with noise on these so that it does not copy them.

    Args:
        name: The task's name, new to the model.
        columns: Positions in the last axis of an array of inputs, or names of entries of a
            dict of them.
        head: A layer or model with an output for each column, as wide as the entries where
            columns are names.
        features: Name of the layer of your model whose output the head reads.
        loss: As `compile` takes it. Defaults to `"mse"`: standardise the columns.
        weight: Factor of the loss. Defaults to `1.0`.
        mode: `"out"` or `"both"`. Defaults to `"out"`.
        noise: Standard deviation of what is added to the columns where they are read, in
            training; only with `"both"`. Defaults to `0.0`.
        missing: Value that means "not known". Defaults to `None`, all are.
        metrics: A metric or a list of them. Defaults to `None`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; without columns, for another mode, for
            noise that is negative or goes with `"out"`, for data without the columns, and for
            a head of another width: on building, or for named columns when an attached task
            gets data.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((3,))  # of four columns
    >>> h = keras.layers.Dense(8, activation="relu", name="trunk")(x)
    >>> model = keras.Model(x, {"price": keras.layers.Dense(1)(h)})
    >>> task = kmtl.auxiliary.InputsAsOutputs(
    ...     "noisy", [1], keras.layers.Dense(1), features="trunk", weight=0.3
    ... )
    >>> helpers = kmtl.auxiliary.AuxiliaryTasks([task])
    >>> both = helpers.attach(model)
    >>> x, y = helpers.add_targets((np.arange(8.0).reshape(2, 4), {"price": np.ones((2, 1))}))
    >>> print(x.tolist(), y["noisy"].tolist())
    [[0.0, 2.0, 3.0], [4.0, 6.0, 7.0]] [[1.0], [5.0]]

    Differences from the paper: it has one loss, with equal weights for all outputs. To add
    noise in mode `"both"` is ours; with it their two separate hidden layers are not needed.

    Reference: R. Caruana, V. R. de Sa (1997), "Promoting Poor Features to Supervisors: Some
    Inputs Work Better as Outputs", NIPS 9, pages 389 to 395.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[int] | Sequence[str],
        head: Callable,
        features: str,
        loss="mse",
        weight: float | LearningRateSchedule = 1.0,
        mode: str = "out",
        noise: float = 0.0,
        missing: float | None = None,
        metrics=None,
    ):
        super().__init__(name, self._columns_of, head, loss, features, weight, missing, metrics)
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={mode!r}")
        if not noise >= 0 or (noise and mode == "out"):
            raise ValueError(
                '`noise` must be at least 0, and 0 with mode "out", where the columns are not '
                f"read. Received: noise={noise}, mode={mode!r}"
            )
        columns = [columns] if isinstance(columns, str) else list(columns)
        if not columns or len({type(c) for c in columns}) > 1 or len(set(columns)) < len(columns):
            raise ValueError(
                "`columns` must hold different positions, or different names. "
                f"Received: columns={columns}"
            )
        self.columns, self.mode, self.noise = columns, mode, noise
        self._width = None

    def inputs(self, x):
        """What the model gets: in mode `"out"` all but the columns.

        Args:
            x: All inputs, an array or a dict of them.
        """
        self._check(x)
        if self.mode == "both":
            return x
        if isinstance(x, Mapping):
            return {key: value for key, value in x.items() if key not in self.columns}
        return np.delete(x, self.columns, axis=-1)

    def prepare(self, model):
        if not self.noise:
            return model
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in model.inputs
        ]
        noisy = [self._with_noise(x) for x in inputs]
        outputs = run(model, noisy, lambda operation, args, kwargs: operation(*args, **kwargs))
        packed = keras.tree.pack_sequence_as(model.input, inputs)
        return keras.Model(packed, outputs, name=model.name)

    def build(self, model):
        built = super().build(model)
        self._width = built[self.name].shape[-1:]
        if not isinstance(self.columns[0], str):
            check_shape("head", self._width, (len(self.columns),))
        return built

    def _with_noise(self, x):
        if not isinstance(self.columns[0], str):
            return ColumnNoise(self.columns, self.noise, name=f"{self.name}_noise")(x)
        if x.name in self.columns:
            return ColumnNoise(range(x.shape[-1]), self.noise, name=f"{x.name}_noise")(x)
        return x

    def _columns_of(self, x, y):
        self._check(x)
        if isinstance(x, Mapping):
            labels = [np.reshape(x[c], (len(x[c]), -1)) for c in self.columns]
            labels = np.concatenate(labels, axis=1)
            if self._width is not None:
                check_shape("head", self._width, labels.shape[1:])
            return labels
        return np.asarray(x)[..., self.columns]

    def _check(self, x):
        known = sorted(x) if isinstance(x, Mapping) else range(np.shape(x)[-1])
        if not set(self.columns) <= set(known):
            raise ValueError(
                f"`columns` must be among those of the data's inputs, {list(known)}. "
                f"Received: columns={self.columns}"
            )
