"""The loss of a CRF's tags."""

import keras
from keras import ops

from kmtl import backend
from kmtl.ops.linear_chain import log_normalizer, sequence_score, split_outputs
from kmtl.ops.tag_labels import check_missing, read_tags


@keras.saving.register_keras_serializable(package="kmtl")
class CRFLoss(keras.losses.Loss):
    """Negative log-likelihood of whole sequences of tags.

    The loss of a task whose output is a `kmtl.layers.CRF`; its score is
    `kmtl.metrics.CRFAccuracy`.

    ```
    loss[b] = log sum_y exp(score(b, y)) - score(b, y_true[b])           # y over all sequences
    loss    = 1 / n * sum_b loss[b]        # over the n sequences that have a label; 0 if n = 0
    ```

    Steps that are padded have the label `missing`, and a sequence without any label is a missing
    one. Sequences are not divided by their lengths, so longer ones count for more. In a
    `kmtl.MultiTaskModel` n is that of all replicas, without sequences of sample weight 0; in a
    plain `keras.Model` a weight of 0 does not lower n. Sample weights are one for each sequence,
    `(batch,)`; those of shape `(batch, steps)` are an error of shapes where they meet the loss,
    as the steps of a sequence have no losses of their own: leave steps out by `missing`.

    What is not allowed raises an error where values can be seen, as when a model runs eagerly or
    the loss is called on arrays. A compiled step cannot stop: there such a sequence's loss is
    NaN, at which `fit` of a `kmtl.MultiTaskModel` stops, naming the task. A loss that is not
    finite at the very first batch thus mostly means labels that are no tags: compile with
    `run_eagerly=True`, and the error names the row and the step.

    Keras's metrics, such as `"accuracy"`, fail with an error of shapes, as these outputs have more
    rows than there are labels: use `kmtl.metrics.CRFAccuracy`.

    Args:
        missing: The label of padded steps, which come after all others: NaN or a number that is
            no tag. An argument of the loss, not of `compile`, since most rows have both kinds of
            steps. Defaults to `-1`.
        name: The loss's name. Defaults to `"crf_loss"`.
        dtype: As in Keras. Defaults to `None`.

    Input shape: labels `(batch, steps)`, tags from 0 to `tags - 1` and then `missing`;
    predictions `(batch, steps + tags + 2, tags)`, the outputs of a `kmtl.layers.CRF`.

    Raises:
        ValueError: for a `missing` that could be a tag; when called on other shapes; and, where
            values can be seen, for labels that are no tags or follow a missing one.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((3, 4))
    >>> model = kmtl.MultiTaskModel(x, {"tags": kmtl.layers.CRF(num_tags=2)(x)})
    >>> model.compile("adam", loss={"tags": kmtl.losses.CRFLoss()})
    >>> y = np.array([[0, 1, -1], [1, -1, -1]])  # one of 4 sequences of length 2, of 2 of length 1
    >>> history = model.fit(np.zeros((2, 3, 4)), {"tags": y}, verbose=0)
    >>> print(f"{history.history['loss'][0]:.3f}")  # (log(4) + log(2)) / 2
    1.040

    Differences from the paper: none. The gradient is the difference of expected and observed
    scores' gradients, as there; second derivatives of the normaliser are left out.

    Reference: J. Lafferty, A. McCallum, F. Pereira (2001), "Conditional Random Fields:
    Probabilistic Models for Segmenting and Labeling Sequence Data", ICML. On top of a network:
    G. Lample, M. Ballesteros, S. Subramanian, K. Kawakami, C. Dyer (2016), "Neural Architectures
    for Named Entity Recognition", NAACL, arXiv:1603.01360, equation 1.
    """

    def __init__(self, missing=-1, name="crf_loss", dtype=None):
        super().__init__(name=name, dtype=dtype)
        check_missing(missing)
        self.missing = missing

    def per_label(self, y_true, y_pred):
        """Each sequence's loss, 0 for absent ones, and which are present; both `(batch,)`."""
        tags, lengths, valid = read_tags(y_true, y_pred, self.missing)
        potentials = split_outputs(y_pred)
        values = log_normalizer(*potentials, lengths) - sequence_score(*potentials, tags, lengths)
        # Rounding must not make a probability larger than 1: weightings may take a logarithm.
        values = ops.cast(ops.maximum(values, 0.0), y_pred.dtype)
        return ops.where(valid, values, float("nan")), lengths > 0

    def shares(self, present):
        """What to multiply each sequence's loss by: all count alike."""
        del present
        return ops.ones((), self.dtype)

    def call(self, y_true, y_pred):
        """`(batch,)`, whose mean over the global batch is the loss."""
        values, present = self.per_label(y_true, y_pred)
        counts = ops.stack(
            [ops.cast(ops.size(values), self.dtype), ops.sum(ops.cast(present, self.dtype))]
        )
        rows, labelled = ops.unstack(backend.all_reduce_sum(counts), 2)
        return values * (rows / ops.maximum(labelled, 1.0))

    def get_config(self):
        return {"missing": self.missing, "name": self.name, "dtype": self.dtype}
