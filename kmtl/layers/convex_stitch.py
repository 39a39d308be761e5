"""Convex stitching: a learned mixture with weights that are positive and add up to 1."""

import keras
from keras import ops

from kmtl.layers.checks import check_streams
from kmtl.layers.folding import weighted_sum


@keras.saving.register_keras_serializable(package="kmtl")
class ConvexStitch(keras.layers.Layer):
    """Mixes tensors by a softmax over learned scores.

    Use it where alternatives compete, as the layers do that `kmtl.models.SoftOrdering` may apply
    at one depth; `LayerStitch` has weights of any sign and size instead.

    ```
    weights = softmax(scores)                      # scores are 0 at first: all weights 1 / K
    outputs = sum_k weights[k] * inputs[k]
    ```

    Call arguments:
        inputs: List of K tensors of one shape.

    Input shape: K times `(batch, ..., channels)`.

    Output shape: `(batch, ..., channels)`.

    Raises:
        ValueError: if the inputs differ in shape.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> stitch = kmtl.layers.ConvexStitch()
    >>> print(stitch([np.full((1, 2), 1.0), np.full((1, 2), 4.0)]).shape)
    (1, 2)
    >>> stitch.set_weights([np.array([0.0, 100.0])])
    >>> print(float(stitch([np.full((1, 2), 1.0), np.full((1, 2), 4.0)])[0, 0]))
    4.0

    Differences from the paper: one layer for one task and depth; the paper's tensor of scores is
    all of these layers together.

    Reference: E. Meyerson, R. Miikkulainen (2018), "Beyond Shared Hierarchies: Deep Multitask
    Learning through Soft Layer Ordering", ICLR, arXiv:1711.00108, section 4, soft ordering.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        check_streams(self, input_shape)
        self.scores = self.add_weight(name="scores", shape=(len(input_shape),), initializer="zeros")

    @property
    def weights_of_inputs(self):
        """`(K,)`, the share of each input."""
        return ops.softmax(ops.convert_to_tensor(self.scores))

    def call(self, inputs):
        weights = self.weights_of_inputs
        return sum(weights[k] * x for k, x in enumerate(inputs))

    def compute_mask(self, inputs, previous_mask=None):
        # All inputs are made from one tensor, and have its mask.
        return next((m for m in previous_mask or [] if m is not None), None)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def fold(self, inputs):
        """The same mixture by built-in layers: scaled copies, added."""
        return weighted_sum(inputs, ops.convert_to_numpy(self.weights_of_inputs), name=self.name)
