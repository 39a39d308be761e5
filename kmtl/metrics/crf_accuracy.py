"""How many tags of a CRF are right."""

import keras
from keras import ops

from kmtl.ops.linear_chain import split_outputs, viterbi
from kmtl.ops.tag_labels import check_missing, read_tags


@keras.saving.register_keras_serializable(package="kmtl")
class CRFAccuracy(keras.metrics.Metric):
    """Share of steps whose tag in the best sequence is the label.

    The metric of a task whose output is a `kmtl.layers.CRF`. Each call finds the best sequences,
    at about the price of the loss.

    ```
    accuracy = number of labelled steps with decode(outputs)[b, t] = y_true[b, t]
               / number of labelled steps
    ```

    Args:
        missing: The label of padded steps, as in `kmtl.losses.CRFLoss`. Defaults to `-1`.
        name: The metric's name. Defaults to `"crf_accuracy"`.
        dtype: As in Keras. Defaults to `None`.

    Input shape: labels `(batch, steps)`, predictions `(batch, steps + tags + 2, tags)`; sample
    weights `(batch,)` or `(batch, steps)`. In a compiled step a label that is not allowed makes
    the result NaN.

    Raises:
        ValueError: as `kmtl.losses.CRFLoss`.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> crf = kmtl.layers.CRF(num_tags=2, kernel_initializer="identity")
    >>> outputs = crf(np.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]]))
    >>> accuracy = kmtl.metrics.CRFAccuracy()
    >>> print(float(accuracy(np.array([[0, 0, -1]]), outputs)))  # decoded: 0, 1
    0.5

    Differences from the paper: none; it is accuracy after decoding.

    Reference: G. Lample, M. Ballesteros, S. Subramanian, K. Kawakami, C. Dyer (2016), "Neural
    Architectures for Named Entity Recognition", NAACL, arXiv:1603.01360, equation 2, which
    decodes.
    """

    def __init__(self, missing=-1, name="crf_accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        check_missing(missing)
        self.missing = missing
        self.right = self.add_variable((), "zeros", name="right")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Decodes a batch and counts the tags that are right."""
        y_pred = ops.convert_to_tensor(y_pred)
        tags, lengths, valid = read_tags(y_true, y_pred, self.missing)
        decoded, _ = viterbi(*split_outputs(y_pred), lengths)
        labelled = ops.cast(decoded >= 0, self.dtype)
        weights = labelled * ops.where(valid, 1.0, float("nan"))[:, None]
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, self.dtype)
            if len(sample_weight.shape) == 1:
                sample_weight = sample_weight[:, None]
            weights = weights * sample_weight
        self.right.assign_add(ops.sum(weights * ops.cast(ops.equal(decoded, tags), self.dtype)))
        self.count.assign_add(ops.sum(weights))

    def result(self):
        return ops.divide_no_nan(self.right, self.count)

    def get_config(self):
        return {"missing": self.missing, "name": self.name, "dtype": self.dtype}
