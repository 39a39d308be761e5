"""Labels made in NumPy, inside of a `tf.data` pipeline."""

from collections.abc import Callable

import numpy as np


def mapped(dataset, with_targets: Callable):
    """A dataset of the same batches, with other labels.

    Args:
        dataset: A `tf.data.Dataset` of batches `(x, y)` or `(x, y, sample_weight)`. The first
            is read, to know names, shapes and types.
        with_targets: `(x, y) -> (x, {name: labels})` on arrays.
    """
    import tensorflow as tf

    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise ValueError(
            "The dataset must have batches (x, y) or (x, y, sample_weight). "
            f"Received: element_spec={spec}"
        )
    first = next(iter(dataset.take(1).as_numpy_iterator()), None)
    if first is None:
        raise ValueError("The dataset must have at least one batch. Received: none")
    example = with_targets(*first[:2])
    same_inputs = example[0] is first[0]
    if same_inputs:  # they need not go through NumPy
        example = example[1]
    arrays = [np.asarray(a) for a in tf.nest.flatten(example)]
    leaves = tf.nest.flatten(spec[:2])
    # Sizes beyond the batch's are those of the first batch only where all are known to be fixed.
    fixed = all(leaf.shape.rank and None not in leaf.shape[1:] for leaf in leaves)
    rows = leaves[0].shape[0]

    def compute(*flat):
        made = with_targets(*tf.nest.pack_sequence_as(spec[:2], flat))
        made = tf.nest.flatten(made[1] if same_inputs else made)
        return [np.asarray(a, like.dtype) for a, like in zip(made, arrays, strict=True)]

    def add(x, y, *sample_weight):
        types = [tf.as_dtype(a.dtype) for a in arrays]
        made = tf.numpy_function(compute, tf.nest.flatten((x, y)), types)
        for tensor, like in zip(made, arrays, strict=True):
            inner = like.shape[1:]
            tensor.set_shape([rows, *(inner if fixed else [None] * len(inner))])
        made = tf.nest.pack_sequence_as(example, made)
        return (x, made, *sample_weight) if same_inputs else (*made, *sample_weight)

    return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)
