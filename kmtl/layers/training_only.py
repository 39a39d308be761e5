"""The mark of an output that only training has."""

import keras


@keras.saving.register_keras_serializable(package="kmtl")
class TrainingOnly(keras.layers.Layer):
    """Returns its input and marks it as an output that only training has.

    Put it behind the head of a helper task: `kmtl.export.fold`, and with it every export, then
    leaves this task out unless it is asked for by name. The heads of `kmtl.auxiliary` end in it.

    ```
    outputs = inputs
    ```

    Input shape: any.

    Output shape: the same.

    Example:

    >>> import keras
    >>> import kmtl.export
    >>> x = keras.Input((4,))
    >>> h = keras.layers.Dense(8, activation="relu")(x)
    >>> lanes = kmtl.layers.TrainingOnly()(keras.layers.Dense(2)(h))
    >>> model = kmtl.MultiTaskModel(x, {"steering": keras.layers.Dense(1)(h), "lanes": lanes})
    >>> print(list(kmtl.export.fold(model).output))
    ['steering']

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28: extra
    outputs that are only there while the network learns.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape

    def fold(self, inputs):
        """Nothing: the layer only marks."""
        return inputs
