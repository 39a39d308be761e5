"""Where examples come from: arrays, or a `tf.data.Dataset` that is read from its start."""

from collections.abc import Mapping

import keras
import numpy as np

from kmtl.data.hashing import hashed
from kmtl.data.permutation import permuted


class ArraySource:
    """Arrays, of which any row can be had at any time.

    Attributes:
        name: The user's name of it.
        size: Number of examples.
        spec: `(x, labels, weights)` of one example, each a `tf.TensorSpec` or a dict of them.
        labels: Task -> array.
    """

    def __init__(self, name: str, x, labels: Mapping, weights: Mapping):
        self.name = name
        arrays = {"x": x, "labels": dict(labels), "weights": dict(weights)}
        self._arrays = keras.tree.map_structure(np.asarray, arrays)
        self.labels = self._arrays["labels"]
        self.size = self._common_length()
        self.spec = keras.tree.map_structure(_spec_of_rows, tuple(self._arrays.values()))

    def _common_length(self):
        lengths = {
            "/".join(map(str, path)): len(array) if array.ndim else 0
            for path, array in keras.tree.flatten_with_path(self._arrays)
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "All arrays of a source must have one length, that of its examples. "
                f"Received: lengths {lengths} in source {self.name!r}"
            )
        return next(iter(lengths.values()))

    def tensors(self):
        """What `take` reads from: to be had outside of functions, as it copies the arrays."""
        import tensorflow as tf

        with tf.device("CPU"):
            return tf.nest.map_structure(tf.convert_to_tensor, tuple(self._arrays.values()))

    @staticmethod
    def take(tensors, rows):
        """The examples with some numbers, as one tensor each."""
        import tensorflow as tf

        return tf.nest.map_structure(lambda tensor: _standard(tf.gather(tensor, rows)), tensors)

    def batches(self, seed: int, number: int, position: int, rows: int):
        """An endless `tf.data.Dataset` of examples, `rows` at a time, in the order of positions.

        Args:
            seed: The user's.
            number: Which source this is.
            position: How many examples came before.
            rows: Examples of a batch.
        """
        import tensorflow as tf

        tensors, size = self.tensors(), self.size

        def batch(positions):
            ones = tf.ones_like(positions)
            return self.take(tensors, shuffled(seed, number * ones, size * ones, positions))

        positions = tf.data.Dataset.range(position, tf.int64.max).batch(rows)
        return positions.map(batch, num_parallel_calls=tf.data.AUTOTUNE)


class StreamSource:
    """Examples that a `tf.data.Dataset` reads one after the other.

    Attributes:
        name, size, spec: As those of an `ArraySource`.
        labels: Empty, as no label can be had before it is read.
    """

    labels = {}

    def __init__(self, name: str, dataset, buffer_size: int):
        import tensorflow as tf

        self.name = name
        self._dataset = dataset
        self._buffer_size = buffer_size
        self.size = self._count()
        x, labels, *weights = dataset.element_spec
        spec = (x, dict(labels), dict(weights[0]) if weights else {})
        for leaf in tf.nest.flatten(spec):
            if not isinstance(leaf, tf.TensorSpec) or not leaf.shape.is_fully_defined():
                raise ValueError(
                    "The examples of a `tf.data.Dataset` must be tensors of known shapes. "
                    f"Received: {leaf} in source {name!r}"
                )
        self.spec = tf.nest.map_structure(lambda leaf: _spec(leaf.shape, leaf.dtype), spec)

    def _count(self):
        import tensorflow as tf

        size = int(self._dataset.cardinality())
        if size == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "A `tf.data.Dataset` must end, so that a pass through it is defined. "
                f"Received: an infinite one as source {self.name!r}"
            )
        if size == tf.data.UNKNOWN_CARDINALITY:
            print(
                f"Counting the examples of source {self.name!r}; "
                "`tf.data.experimental.assert_cardinality` would spare this."
            )
            size = int(self._dataset.reduce(np.int64(0), lambda count, *_: count + 1))
        return size

    def batches(self, seed: int, number: int, position: int, rows: int):
        """As `ArraySource.batches`; reads what comes before `position` in its pass."""
        import tensorflow as tf

        def one_pass(passes):
            # This function's seed; else the order would depend on the program's as well.
            tf.random.set_seed(1)
            key = tf.bitcast(hashed(seed, tf.constant(number, tf.int64), passes), tf.int64)
            return self._dataset.shuffle(self._buffer_size, key, reshuffle_each_iteration=False)

        passes = tf.data.Dataset.range(position // self.size, tf.int64.max).flat_map(one_pass)
        batches = passes.skip(position % self.size).batch(rows)
        return batches.map(_standard_form, num_parallel_calls=tf.data.AUTOTUNE)


def shuffled(seed: int, sources, sizes, positions):
    """Row numbers in arrays: every pass through a source takes its rows in an order of its own.

    Args:
        seed: The user's.
        sources: int64 tensor, numbers of sources.
        sizes: int64 tensor of its shape, their sizes.
        positions: int64 tensor of its shape, how many rows of the source came before.
    """
    key = hashed(seed, sources, positions // sizes)
    return permuted(positions % sizes, sizes, key)


def _standard_form(x, labels, weights=None):
    import tensorflow as tf

    return tf.nest.map_structure(_standard, (x, dict(labels), dict(weights or {})))


def _spec_of_rows(array):
    return _spec(array.shape[1:], array.dtype)


def _spec(shape, dtype):
    """The spec of what `_standard` makes."""
    import tensorflow as tf

    dtype = tf.as_dtype(dtype)
    return tf.TensorSpec(shape, keras.config.floatx() if dtype.is_floating else dtype)


def _standard(tensor):
    """Floating numbers in Keras's type, as `fit` makes them of arrays."""
    import tensorflow as tf

    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor
