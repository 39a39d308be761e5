"""Reconstruction as a helper task."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import features_of, marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.checks import check_shape


class AuxiliaryAutoencoder(AuxiliaryTask):
    """A decoder that rebuilds the inputs, or an earlier layer's features, from the trunk's.

    Use it when labels are few: reconstruction trains the trunk on all rows, also on those whose
    main labels are missing. Too high a weight makes the trunk keep what the main task does not
    need.

    ```
    loss = weight * loss(x, decoder(features))                                  # of an input
         = weight * loss(0, decoder(features) - stop_gradient(h))        # h of a layer `of`
    ```

    Args:
        name: The task's name, new to the model.
        decoder: A layer or model, from the features to the shape of what is rebuilt.
        features: Name of the layer of your model whose output the decoder reads, or that tensor.
        of: What to rebuild: name of an input, or of another layer, whose features then are taken
            as they are, without a gradient. Defaults to `None`, the only input.
        loss: As `compile` takes it; of a layer one of differences, such as `"mse"` and `"mae"`.
            Defaults to `"mse"`.
        weight: Factor of the loss. Defaults to `1.0`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; on building, for several inputs without
            `of`, for a layer that the model lacks, and for a decoder with an output of another
            shape than what it is to rebuild.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> h = keras.layers.Dense(2, name="trunk")(x)
    >>> model = keras.Model(x, {"price": keras.layers.Dense(1)(h)})
    >>> task = kmtl.auxiliary.AuxiliaryAutoencoder(
    ...     "rebuilt", keras.layers.Dense(4), features="trunk", weight=0.1
    ... )
    >>> both = kmtl.auxiliary.AuxiliaryTasks([task]).attach(model)
    >>> print(both.output["rebuilt"].shape)
    (None, 4)

    Differences from the paper: it is trained with the main task, not before it.

    Reference: M. Ranzato, M. Szummer (2008), "Semi-supervised Learning of Compact Document
    Representations with Deep Networks", ICML: a reconstruction and a classification loss in one
    sum.
    """

    def __init__(
        self,
        name: str,
        decoder: Callable,
        features: str | keras.KerasTensor,
        of: str | None = None,
        loss="mse",
        weight: float | LearningRateSchedule = 1.0,
    ):
        super().__init__(name, None, decoder, loss, features, weight)
        self.decoder, self.of = decoder, of

    def build(self, model):
        if self.of is None and len(model.inputs) > 1:
            raise ValueError(
                "`of` must name what to rebuild where there are several inputs, "
                f"{sorted(x.name for x in model.inputs)}. Received: of=None"
            )
        original = model.inputs[0] if self.of is None else features_of(model, self.of, "of")
        rebuilt = self.decoder(features_of(model, self.features))
        check_shape("decoder", rebuilt.shape[1:], original.shape[1:])
        if not self._is_input(model.input):
            difference = rebuilt - ops.stop_gradient(original)
            rebuilt = keras.layers.Flatten(name=f"{self.name}_difference")(difference)
        return {self.name: marked(self.name, rebuilt)}

    def targets(self, x, y):
        if self._is_input(x):
            return {
                self.name: np.asarray(keras.tree.flatten(x)[0] if self.of is None else x[self.of])
            }
        return {self.name: np.zeros((len(keras.tree.flatten(x)[0]), 1), "float32")}

    def check_targets(self, labels):
        """Nothing of a layer, whose labels are all 0 as the difference is the output."""
        if any(np.any(values) for values in labels.values()):
            super().check_targets(labels)

    def _is_input(self, x):
        """Whether labels are inputs; `x` are those of a model or of data."""
        return self.of is None or (isinstance(x, Mapping) and self.of in x)
