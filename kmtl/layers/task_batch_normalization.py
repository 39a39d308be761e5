"""Batch normalisation with statistics of its own for each data set."""

import keras
import numpy as np
from keras import ops

from kmtl import backend
from kmtl.layers.sources import check_features_and_source, check_integers, numbers_of_rows
from kmtl.ops.labels import to_rank


@keras.saving.register_keras_serializable(package="kmtl")
class TaskBatchNormalization(keras.layers.Layer):
    """`BatchNormalization` that keeps the data sets of a mixture apart.

    Put it in place of `BatchNormalization` in a trunk that is trained on a data set for each
    task, where these look different: their common mean and variance are right for none. All
    other weights stay shared. `kmtl.data.TaskMixture(source_input="source")` tells which data
    set a row is from.

    ```
    outputs[b] = gamma[s] * (x[b] - mean[s]) / sqrt(variance[s] + epsilon) + beta[s],  s = source[b]
    moving[s] <- momentum * moving[s] + (1 - momentum) * batch[s]    if the batch has rows of s
    ```

    In training `mean[s]` and `variance[s]` are those of the rows of source `s` in the batch of all
    replicas together, over all axes but the channels, without masked timesteps; else the moving
    ones. A source without rows keeps its moving statistics.

    Args:
        num_sources: Number of data sets.
        axis: The channel axis. Defaults to `-1`.
        momentum: Share of the moving statistics that a step keeps. Defaults to `0.99`.
        epsilon: Added to variances. Defaults to `0.001`.
        center: Whether to add `beta`. Defaults to `True`.
        scale: Whether to multiply by `gamma`. Defaults to `True`.
        shared_affine: Whether all sources have one `gamma` and `beta` instead of their own.
            Defaults to `False`.

    Call arguments:
        inputs: List of the features `x` and `source`, integers from 0 to `num_sources - 1`. Others
            raise an error where their values are known; in a compiled function, such as a step of
            `fit`, such a row comes out as NaN and counts in no statistics.
        training: Whether to use the batch's statistics. As in `BatchNormalization`, only if the
            layer is trainable.
        mask: Of the features, with the first of their axes, channels left out.

    Input shape: `(batch, ..., channels)` and `(batch,)` or `(batch, 1)`.

    Output shape: that of the features.

    Raises:
        ValueError: if `num_sources` is less than 1 or `axis` is 0; for inputs of other shapes, a
            `source` that is not of an integer type or out of range.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> layer = kmtl.layers.TaskBatchNormalization(2, epsilon=1e-6)
    >>> x, source = np.array([[1.0], [3.0], [100.0], [500.0]]), np.array([0, 0, 1, 1])
    >>> print(np.round(np.ravel(layer([x, source], training=True)), 3).tolist())
    [-1.0, 1.0, -1.0, 1.0]

    Differences from the paper: the layer only, not the paper's two stages with labels guessed for
    one of the domains; a batch may hold rows of several sources; replicas share statistics.

    Reference: W.-G. Chang, T. You, S. Seo, S. Kwak, B. Han (2019), "Domain-Specific Batch
    Normalization for Unsupervised Domain Adaptation", CVPR, arXiv:1906.03950.
    """

    def __init__(
        self,
        num_sources,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        shared_affine=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(num_sources, int) or num_sources < 1:
            raise ValueError(
                f"`num_sources` must be an integer >= 1. Received: num_sources={num_sources}"
            )
        if axis == 0:
            raise ValueError("`axis` must not be 0, the axis of rows. Received: axis=0")
        self.num_sources = num_sources
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.shared_affine = shared_affine
        self.supports_masking = True

    def build(self, input_shape):
        x_shape, self._axis = check_features_and_source(self, input_shape)
        channels = x_shape[self._axis]
        axes = range(1, len(x_shape))
        self._positions = tuple(a for a in axes if a != self._axis)
        # What a row of a table becomes to go with the features of a row.
        self._row_shape = tuple(channels if a == self._axis else 1 for a in axes)
        sources = 1 if self.shared_affine else self.num_sources

        def add(name, initializer, sources=self.num_sources, trainable=False):
            return self.add_weight(
                name=name,
                shape=(sources, channels),
                initializer=initializer,
                trainable=trainable,
                autocast=False,
            )

        self.gamma = add("gamma", "ones", sources, True) if self.scale else None
        self.beta = add("beta", "zeros", sources, True) if self.center else None
        # All replicas assign the same numbers, so that there is nothing to aggregate.
        self.moving_mean = add("moving_mean", "zeros")
        self.moving_variance = add("moving_variance", "ones")

    def call(self, inputs, training=None, mask=None):
        x, source = inputs
        source = numbers_of_rows(source, self.num_sources)
        x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        mean = ops.cast(self.moving_mean, x.dtype)
        variance = ops.cast(self.moving_variance, x.dtype)
        if training and self.trainable:
            mask = mask[0] if isinstance(mask, (list, tuple)) else mask
            mean, variance = self._batch_statistics(x, source, mask, mean, variance)
        scale, offset = self._scale_and_offset(mean, variance)
        y = x * self._of_rows(scale, source) + self._of_rows(offset, source)
        return ops.cast(y, self.compute_dtype)

    def _batch_statistics(self, x, source, mask, moving_mean, moving_variance):
        """Each source's mean and variance, the moving ones if it has no row; moves these on."""
        if mask is not None:
            mask = ops.expand_dims(to_rank(ops.cast(mask, "bool"), len(x.shape) - 1), self._axis)

        def sums(values):
            """`(num_sources, channels)`, of this replica's rows."""
            if mask is not None:  # selected, not multiplied: what is padded may be NaN
                values = ops.where(mask, values, ops.zeros_like(values))
            rows = ops.sum(values, axis=self._positions)
            return ops.segment_sum(rows, source, self.num_sources + 1)[:-1]

        shape = [1 if a == self._axis else n for a, n in enumerate(ops.shape(x))]
        counts_and_sums = [sums(ops.ones(shape, dtype=x.dtype)), sums(x)]
        totals = backend.all_reduce_sum(ops.concatenate(counts_and_sums, axis=1))
        count, total = totals[:, :1], totals[:, 1:]
        present, count = count > 0, ops.maximum(count, 1)
        mean = total / count
        # In a second pass, as the mean of squares less the squared mean cancels.
        squares = sums(ops.square(x - self._of_rows(mean, source)))
        variance = backend.all_reduce_sum(squares) / count
        for variable, moving, batch in (
            (self.moving_mean, moving_mean, mean),
            (self.moving_variance, moving_variance, variance),
        ):
            moved = moving * self.momentum + batch * (1.0 - self.momentum)
            variable.assign(ops.where(present, moved, moving))
        return ops.where(present, mean, moving_mean), ops.where(present, variance, moving_variance)

    def _scale_and_offset(self, mean, variance):
        """Tables by source: `outputs = scale * x + offset`."""
        scale = ops.rsqrt(variance + self.epsilon)
        if self.scale:
            scale = scale * ops.cast(self.gamma, scale.dtype)
        offset = -mean * scale
        if self.center:
            offset = offset + ops.cast(self.beta, scale.dtype)
        return scale, offset

    def _of_rows(self, table, source):
        """The rows' entries of a table by source, NaN for an unknown one."""
        table = ops.pad(table, ((0, 1), (0, 0)), constant_values=np.nan)
        return ops.reshape(ops.take(table, source, axis=0), (-1, *self._row_shape))

    def compute_mask(self, inputs, previous_mask=None):
        return previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask

    def compute_output_spec(self, inputs, *args, **kwargs):
        check_integers(inputs[1])  # here, as `build` sees shapes only
        return super().compute_output_spec(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def fold(self, inputs):
        """`x * scale + offset`, each source's numbers looked up in an `Embedding`.

        It does not check `source`: a negative one counts from the end, as in `Embedding`.
        """
        x, source = inputs
        tables = self._scale_and_offset(
            ops.convert_to_tensor(self.moving_mean), ops.convert_to_tensor(self.moving_variance)
        )
        scale, offset = (
            self._fold_table(ops.convert_to_numpy(table), source, f"{self.name}_{name}")
            for table, name in zip(tables, ("scale", "offset"), strict=True)
        )
        scaled = keras.layers.Multiply(name=f"{self.name}_scaled")([x, scale])
        return keras.layers.Add(name=self.name)([scaled, offset])

    def _fold_table(self, table, source, name):
        embedding = keras.layers.Embedding(*table.shape, name=name)
        embedding.build(source.shape)
        embedding.set_weights([table])
        return keras.layers.Reshape(self._row_shape, name=f"{name}_of_rows")(embedding(source))

    def get_config(self):
        return {
            **super().get_config(),
            "num_sources": self.num_sources,
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "shared_affine": self.shared_affine,
        }
