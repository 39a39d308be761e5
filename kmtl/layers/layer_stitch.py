"""Layer stitching: a task's head reads a learned mixture of the layers below it."""

import keras
from keras import ops

from kmtl.layers.checks import check_streams
from kmtl.layers.folding import weighted_sum


@keras.saving.register_keras_serializable(package="kmtl")
class LayerStitch(keras.layers.Layer):
    """Mixes the outputs of L layers of one tower by learned weights.

    Put one before each task's head when you do not know at which depth the task should be
    predicted: the weights learn it. With all weight on one layer it is supervision at that
    layer, with all weights 1 a skip connection from every layer.

    ```
    outputs = sum_l beta[l] * inputs[l]
    ```

    Args:
        init: Start of `beta`. `"balanced"`: `1 / L` each; `"last"`: `last_init` for the last
            layer, the rest spread evenly. Defaults to `"balanced"`.
        last_init: Start of the last layer's weight where `init="last"`. Defaults to `0.9`.

    Call arguments:
        inputs: List of L tensors of one shape, from the lowest layer to the highest.

    Input shape: L times `(batch, ..., channels)`.

    Output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: if the inputs differ in shape.

    Example:

    >>> import keras
    >>> import kmtl
    >>> inputs = keras.Input((4,))
    >>> low = keras.layers.Dense(8, activation="relu")(inputs)
    >>> high = keras.layers.Dense(8, activation="relu")(low)
    >>> stitch = kmtl.layers.LayerStitch(init="last")
    >>> head = keras.layers.Dense(1)(stitch([low, high]))
    >>> print(keras.ops.convert_to_numpy(stitch.beta))
    [0.1 0.9]

    Differences from the paper: none. As there, nothing holds the weights to be positive or
    to add up to 1.

    Reference: S. Ruder, J. Bingel, I. Augenstein, A. Soegaard (2019), "Latent Multi-task
    Architecture Learning", AAAI, arXiv:1705.08142 (2017 as "Sluice networks: Learning what to
    share between loosely related tasks"), the beta parameters.
    """

    def __init__(self, init="balanced", last_init=0.9, **kwargs):
        super().__init__(**kwargs)
        if init not in ("balanced", "last"):
            raise ValueError(f"`init` must be 'balanced' or 'last'. Received: init={init!r}")
        self.init = init
        self.last_init = last_init
        self.supports_masking = True

    def build(self, input_shape):
        check_streams(self, input_shape)
        self.beta = self.add_weight(
            name="beta", shape=(len(input_shape),), initializer=self._initial_beta
        )

    def _initial_beta(self, shape, dtype=None):
        layers = shape[0]
        last = self.last_init if self.init == "last" and layers > 1 else 1.0 / layers
        lower = (1.0 - last) / max(layers - 1, 1)
        return ops.convert_to_tensor([lower] * (layers - 1) + [last], dtype=dtype)

    def call(self, inputs):
        beta = ops.convert_to_tensor(self.beta)
        return sum(beta[layer] * x for layer, x in enumerate(inputs))

    def compute_mask(self, inputs, previous_mask=None):
        # The layers of one tower have one mask.
        return next((m for m in previous_mask or [] if m is not None), None)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def fold(self, inputs):
        """The same mixture by built-in layers: scaled copies, added."""
        return weighted_sum(inputs, ops.convert_to_numpy(self.beta), name=self.name)

    def get_config(self):
        return {**super().get_config(), "init": self.init, "last_init": self.last_init}
