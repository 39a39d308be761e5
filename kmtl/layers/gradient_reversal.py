"""Gradient reversal: what the head behind it learns, the trunk before it unlearns."""

import keras
from keras import ops

STRENGTH_VARIABLE_NAME = "gradient_reversal_strength"


@ops.custom_gradient
def _reverse(x, strength):
    # `strength` is an argument because TensorFlow accepts no variables read in here; the
    # schedule owns its value, so its gradient is zero.
    def gradient(upstream):
        return -ops.cast(strength, upstream.dtype) * upstream, ops.zeros_like(strength)

    return x, gradient


@keras.saving.register_keras_serializable(package="kmtl")
class GradientReversal(keras.layers.Layer):
    """Returns its input and multiplies the gradient by `-strength`.

    Put it between a shared trunk and the head of an adversarial task, when the trunk's
    features must *not* tell something: the domain an image comes from, the speaker of a
    sentence. One ordinary descent then trains the head to find it and the trunk to hide it.
    `kmtl.callbacks.GradientReversalSchedule` raises the strength from 0 during training.

    ```
    outputs     = inputs
    dL/d inputs = -strength * dL/d outputs
    ```

    The strength in force is the non-trainable variable `strength_variable`: assign to it at
    any time. It is saved with the model.

    Args:
        strength: Start of the strength, at least 0; 0 blocks the gradient.
            Defaults to `1.0`.

    Call arguments:
        inputs: Tensor of floats of any shape.
        training: Whether gradients will be taken. If not, the input itself is returned.

    Input shape: any.

    Output shape: the same.

    Raises:
        ValueError: if `strength` is negative.

    Example:

    >>> import keras
    >>> import kmtl
    >>> inputs = keras.Input((4,))
    >>> features = keras.layers.Dense(8, activation="relu")(inputs)
    >>> label = keras.layers.Dense(3, activation="softmax", name="label")(features)
    >>> reverse = kmtl.layers.GradientReversal(strength=0.1)
    >>> domain = keras.layers.Dense(1, activation="sigmoid", name="domain")(reverse(features))
    >>> model = keras.Model(inputs, {"label": label, "domain": domain})
    >>> _ = reverse.strength_variable.assign(0.5)
    >>> print(float(reverse.strength_variable))
    0.5

    Differences from the paper: none.

    Reference: Y. Ganin, V. Lempitsky (2015), "Unsupervised Domain Adaptation by
    Backpropagation", ICML, arXiv:1409.7495, the gradient reversal layer R_lambda of section 3.
    """

    def __init__(self, strength=1.0, **kwargs):
        super().__init__(**kwargs)
        if not strength >= 0:
            raise ValueError(f"`strength` must be at least 0. Received: strength={strength}")
        self.strength = strength
        self.supports_masking = True

    def build(self, input_shape):
        self.strength_variable = self.add_weight(
            name=STRENGTH_VARIABLE_NAME,
            shape=(),
            initializer=keras.initializers.Constant(self.strength),
            trainable=False,
            aggregation="only_first_replica",
        )

    def call(self, inputs, training=None):
        if not training:
            return inputs
        return _reverse(inputs, ops.convert_to_tensor(self.strength_variable))

    def compute_output_shape(self, input_shape):
        return input_shape

    def fold(self, inputs):
        """Nothing: the layer has no part in inference."""
        return inputs

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}
