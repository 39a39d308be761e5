"""What two sentences have in common: features for a head that compares them."""

import keras
from keras import ops

from kmtl import backend

# Added to what must not be the largest; finite in half precision, too.
BLOCKED = -1e4


@keras.saving.register_keras_serializable(package="kmtl")
class SentencePair(keras.layers.Layer):
    """Compares two sequences: each is pooled over time, then both are set against each other.

    Put it before the classifier of a task about two sentences or two signals. Without `signed`
    the order of the two does not matter (are they alike?); with it, it does (does the first
    follow from the second?).

    ```
    a, b    = max_i first[i], max_i second[i]                    # over steps that are not masked
    outputs = [|a - b|; a * b; *vectors]                         # signed=False
            = [a - b; a * b; *vectors]                           # signed=True
    ```

    Args:
        signed: Whether the difference keeps its sign. Defaults to `False`.

    Call arguments:
        inputs: List of the two sequences and of any number of vectors to append, such as the
            label embedding of another task about the pair.
        mask: Keras's masks of the inputs. Every sequence needs a step that is not masked.

    Input shape: `(batch, steps, features)`, `(batch, steps_2, features)`, and `(batch, size)` for
    each vector.

    Output shape: `(batch, 2 * features + the vectors' sizes)`.

    Raises:
        ValueError: if the first two inputs are no sequences of one number of features.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> first, second = np.array([[[1.0, 2.0], [3.0, 0.0]]]), np.array([[[4.0, 1.0]]])
    >>> print(np.array(kmtl.layers.SentencePair()([first, second])))
    [[ 1.  1. 12.  2.]]
    >>> print(np.array(kmtl.layers.SentencePair(signed=True)([first, second])))
    [[-1.  1. 12.  2.]]

    Differences from the paper: that the entailment features keep the sign, and take the label
    embedding of relatedness, is from memory of the paper; its text could not be read here.

    Reference: K. Hashimoto, C. Xiong, Y. Tsuruoka, R. Socher (2017), "A Joint Many-Task Model:
    Growing a Neural Network for Multiple NLP Tasks", EMNLP, arXiv:1611.01587, sections 2.4 and
    2.5, the feature vectors d1 and d2.
    """

    def __init__(self, signed=False, **kwargs):
        super().__init__(**kwargs)
        self.signed = signed
        self.supports_masking = True

    def build(self, input_shape):
        shapes = [s if isinstance(s, (list, tuple)) else () for s in input_shape[:2]]
        if [len(s) for s in shapes] != [3, 3] or shapes[0][-1] != shapes[1][-1]:
            raise ValueError(
                "The first two inputs of `SentencePair` must be of shape (batch, steps, features) "
                f"with as many features. Received: input_shape={input_shape}"
            )

    def call(self, inputs, mask=None):
        masks = [None] * len(inputs) if mask is None else mask
        a, b = (_pooled(x, m) for x, m in zip(inputs[:2], masks, strict=False))
        difference = a - b if self.signed else ops.abs(a - b)
        return ops.concatenate([difference, a * b, *inputs[2:]], axis=-1)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # there are no steps any more

    def compute_output_shape(self, input_shape):
        size = 2 * input_shape[0][-1] + sum(shape[-1] for shape in input_shape[2:])
        return (input_shape[0][0], size)

    def fold(self, inputs):
        """Poolings, a difference, a product and a concatenation."""
        layers, name = keras.layers, self.name
        a, b = (self._folded_pooling(x, n) for n, x in enumerate(inputs[:2]))
        difference = layers.Subtract(name=f"{name}_difference")([a, b])
        if not self.signed:
            difference = ops.abs(difference)
        product = layers.Multiply(name=f"{name}_product")([a, b])
        return layers.Concatenate(name=name)([difference, product, *inputs[2:]])

    def _folded_pooling(self, x, n):
        layers, name = keras.layers, f"{self.name}_{n}"
        pool = layers.GlobalMaxPooling1D(data_format="channels_last", name=f"{name}_max")
        mask = backend.get_mask(x)
        if mask is None:
            return pool(x)
        # Heights above the lowest value, 0 at masked steps: unlike `BLOCKED`, integers hold them.
        lowest = ops.min(x, axis=1, keepdims=True)
        heights = layers.Subtract(name=f"{name}_heights")([x, lowest])
        there = layers.Reshape((-1, 1), name=f"{name}_mask")(ops.cast(mask, "float32"))
        heights = layers.Multiply(name=f"{name}_there")([heights, there])
        return layers.Add(name=f"{name}_largest")([ops.squeeze(lowest, 1), pool(heights)])

    def get_config(self):
        return {**super().get_config(), "signed": self.signed}


def _pooled(x, mask):
    if mask is not None:
        x = x + ops.cast(ops.where(ops.expand_dims(mask, -1), 0.0, BLOCKED), x.dtype)
    return ops.max(x, axis=1)
