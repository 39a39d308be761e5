"""Noise on some columns of the inputs, in training."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="kmtl")
class ColumnNoise(keras.layers.Layer):
    """Adds Gaussian noise to some positions of the last axis; what `InputsAsOutputs` needs.

    Args:
        columns: The positions.
        stddev: Standard deviation of the noise.
        seed: Of the noise. Defaults to `None`, random.
    """

    def __init__(self, columns: Sequence[int], stddev: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.columns, self.stddev, self.seed = list(columns), stddev, seed
        self._generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs, training=None):
        if not training:
            return inputs
        chosen = np.zeros(inputs.shape[-1], "float32")
        chosen[self.columns] = self.stddev
        noise = keras.random.normal(ops.shape(inputs), dtype=inputs.dtype, seed=self._generator)
        return inputs + noise * ops.convert_to_tensor(chosen, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def fold(self, inputs):
        """Nothing: the layer has no part in inference."""
        return inputs

    def get_config(self):
        own = {"columns": self.columns, "stddev": self.stddev, "seed": self.seed}
        return {**super().get_config(), **own}
