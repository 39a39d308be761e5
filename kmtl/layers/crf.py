"""A linear-chain conditional random field as the head of a tagging task."""

import keras
import numpy as np
from keras import ops

from kmtl.ops import viterbi_numpy
from kmtl.ops.linear_chain import split_outputs, viterbi


@keras.saving.register_keras_serializable(package="kmtl")
class CRF(keras.layers.Layer):
    """Head that scores whole sequences of tags.

    Choose it over a `Dense` softmax for tagging tasks (chunks, names, phases of a signal) in
    which a tag says something about its neighbours: it learns which tags follow each other, and
    decoding finds the best sequence instead of the best tag at each step. Train it with
    `kmtl.losses.CRFLoss`.

    ```
    emissions = inputs @ kernel + bias
    score(y)  = start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_t, y_(t+1)] + end[y_n]
    outputs   = concatenate([emissions, transitions, [start], [end]])     # for each row
    ```

    A task has one output tensor, so the layer's output holds all that the loss and the decoding
    need, also in a file on a device: the emissions, and below them the other scores, which are
    the same in every row. Decoding is no part of the deployed graph. `decode` does it on Keras
    tensors; `decode_numpy` gives the same tags by NumPy alone, for the outputs of a LiteRT file.
    It is the one function of `kmtl/ops/viterbi_numpy.py`, which needs nothing else of kmtl.

    A Keras mask of the inputs ends here. Padded steps come last, and are told by their labels in
    training and by `lengths` in decoding.

    Args:
        num_tags: Number of tags, at least 2.
        use_boundaries: Whether to learn scores of the first and the last tag; without, they are
            0. Defaults to `True`.
        kernel_initializer: Initializer of the `(features, num_tags)` kernel.
            Defaults to `"glorot_uniform"`.
        transition_initializer: Initializer of `transitions`, from row to column, and of `start`
            and `end`. With zeros the layer starts as a softmax at each step.
            Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernel. Defaults to `None`.
        transition_regularizer: Regularizer of `transitions`, `start` and `end`, each on its own.
            Defaults to `None`.

    Input shape: `(batch, steps, features)`.

    Output shape: `(batch, steps + num_tags + 2, num_tags)`. In mixed precision they are half as
    wide, too; give the layer `dtype="float32"` where long sequences need exact scores.

    Raises:
        ValueError: if `num_tags` is less than 2 or the inputs have another rank; from the
            decoders for outputs of another shape, and for lengths that are out of range or no
            integers.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> crf = kmtl.layers.CRF(num_tags=2, kernel_initializer="identity")
    >>> outputs = crf(np.array([[[2.0, 0.0], [0.0, 1.0], [2.0, 0.0]]]))
    >>> print(np.array(kmtl.layers.CRF.decode(outputs)))
    [[0 1 0]]
    >>> _ = crf.transitions.assign([[0.0, -5.0], [-5.0, 0.0]])  # changes of tag are rare
    >>> outputs = crf(np.array([[[2.0, 0.0], [0.0, 1.0], [2.0, 0.0]]]))
    >>> print(kmtl.layers.CRF.decode_numpy(outputs, lengths=[2]))  # as on a device
    [[ 0  0 -1]]

    Differences from the paper: the scores of the first and of the last tag are vectors, where the
    paper adds two tags to the matrix. Transitions start at zero.

    Reference: J. Lafferty, A. McCallum, F. Pereira (2001), "Conditional Random Fields:
    Probabilistic Models for Segmenting and Labeling Sequence Data", ICML. As the head of a
    network: G. Lample, M. Ballesteros, S. Subramanian, K. Kawakami, C. Dyer (2016), "Neural
    Architectures for Named Entity Recognition", NAACL, arXiv:1603.01360, section 2.2.
    """

    def __init__(
        self,
        num_tags,
        use_boundaries=True,
        kernel_initializer="glorot_uniform",
        transition_initializer="zeros",
        kernel_regularizer=None,
        transition_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(num_tags, int) or num_tags < 2:
            raise ValueError(f"`num_tags` must be an integer >= 2. Received: num_tags={num_tags}")
        self.num_tags = num_tags
        self.use_boundaries = use_boundaries
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.transition_initializer = keras.initializers.get(transition_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.transition_regularizer = keras.regularizers.get(transition_regularizer)
        self.supports_masking = True

    def build(self, input_shape):
        if len(input_shape) != 3:
            raise ValueError(
                "Inputs of a `CRF` must be of shape (batch, steps, features). "
                f"Received: shape {tuple(input_shape)}"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], self.num_tags),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
        )
        self.bias = self.add_weight(name="bias", shape=(self.num_tags,), initializer="zeros")
        self.transitions = self._add_scores("transitions", (self.num_tags, self.num_tags))
        self.start = self.end = None
        if self.use_boundaries:
            self.start = self._add_scores("start", (self.num_tags,))
            self.end = self._add_scores("end", (self.num_tags,))

    def _add_scores(self, name, shape):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=self.transition_initializer,
            regularizer=self.transition_regularizer,
        )

    def _rows_below(self):
        """Transitions, start and end, `(num_tags + 2, num_tags)`."""
        transitions = ops.convert_to_tensor(self.transitions)
        if not self.use_boundaries:
            return ops.pad(transitions, ((0, 2), (0, 0)))
        ends = [ops.expand_dims(ops.convert_to_tensor(x), 0) for x in (self.start, self.end)]
        return ops.concatenate([transitions, *ends], axis=0)

    def call(self, inputs):
        emissions = ops.matmul(inputs, self.kernel) + self.bias
        below = self._rows_below()
        below = ops.broadcast_to(below, (ops.shape(inputs)[0], *below.shape))
        return ops.concatenate([emissions, below], axis=1)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # outputs have more rows than there are steps

    def compute_output_shape(self, input_shape):
        rows, steps = input_shape[:2]
        return rows, None if steps is None else steps + self.num_tags + 2, self.num_tags

    @staticmethod
    def decode(outputs, lengths=None):
        """The best sequences of tags, as a tensor.

        A row whose outputs are all NaN gets tag 0 at each step, without an error.

        Args:
            outputs: What the layer returns.
            lengths: Each row's number of steps, `(batch,)` of integers. Defaults to `None`, all
                of them.

        Returns:
            `(batch, steps)` of int32, -1 in padded steps.
        """
        outputs = ops.convert_to_tensor(outputs)
        potentials = split_outputs(outputs)
        _check_lengths(lengths, *potentials[0].shape[:2])
        return viterbi(*potentials, lengths)[0]

    @staticmethod
    def decode_numpy(outputs, lengths=None) -> np.ndarray:
        """`decode` by NumPy alone."""
        outputs = np.asarray(outputs)
        _check_lengths(lengths, *split_outputs(outputs)[0].shape[:2])
        return viterbi_numpy.decode(outputs, lengths)

    def fold(self, inputs):
        """A `Dense`, and below its outputs the other scores as constants."""
        dense = keras.layers.Dense(self.num_tags, name=f"{self.name}_emissions")
        dense.build(inputs.shape)
        dense.set_weights([ops.convert_to_numpy(w) for w in (self.kernel, self.bias)])
        emissions = dense(inputs)
        below = ops.convert_to_numpy(self._rows_below())
        steps = inputs.shape[1]
        if steps is not None:  # no tensor of zeros, for which integers have no scale
            padding = keras.layers.ZeroPadding1D((0, len(below)), name=f"{self.name}_padded")
            scores = np.pad(below, ((steps, 0), (0, 0)))
            return keras.layers.Rescaling(1.0, scores.tolist(), name=self.name)(padding(emissions))
        repeat = keras.layers.RepeatVector(len(below), name=f"{self.name}_rows")
        constants = keras.layers.Rescaling(0.0, below.tolist(), name=f"{self.name}_scores")
        below = constants(repeat(emissions[:, 0]))
        return keras.layers.Concatenate(axis=1, name=self.name)([emissions, below])

    def get_config(self):
        return {
            **super().get_config(),
            "num_tags": self.num_tags,
            "use_boundaries": self.use_boundaries,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "transition_initializer": keras.initializers.serialize(self.transition_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "transition_regularizer": keras.regularizers.serialize(self.transition_regularizer),
        }


def _check_lengths(lengths, rows, steps) -> None:
    """Requires a whole number of steps for each row, where the values are known."""
    if lengths is None:
        return
    try:
        values = ops.convert_to_numpy(lengths)
    except (NotImplementedError, TypeError):
        return  # TensorFlow's error, or JAX's, while a function is compiled
    most = np.inf if steps is None else steps
    one_for_each = values.ndim == 1 and rows in (None, len(values))
    whole = values.dtype.kind in "iu"
    if not whole or not one_for_each or ((values < 0) | (values > most)).any():
        raise ValueError(
            f"`lengths` must have an integer from 0 to {steps} for each of the {rows} rows. "
            f"Received: lengths={values.tolist()}"
        )
