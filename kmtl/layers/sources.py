"""The data set that each row of a batch is from, as an input of a layer."""

import keras
from keras import ops


def check_features_and_source(layer, shapes):
    """Requires features with known channels, and a source for each row.

    Returns:
        `(shape of the features, their channel axis counted from 0)`.
    """
    if len(shapes) != 2 or not all(isinstance(shape, (list, tuple)) for shape in shapes):
        raise ValueError(
            f"`{type(layer).__name__}` takes a list of two tensors, features and `source`. "
            f"Received: input_shape={shapes}"
        )
    features, source = (tuple(shape) for shape in shapes)
    if len(source) != 1 and source[1:] != (1,):
        raise ValueError(
            f"`source` must have shape (batch,) or (batch, 1). Received: shape {source}"
        )
    rank, axis = len(features), layer.axis
    if not -rank < axis < rank or features[axis] is None:
        raise ValueError(
            "The features must have an axis of rows and one of channels, `axis`, of known size. "
            f"Received: shape {features}, axis={axis}"
        )
    return features, axis % rank


def check_integers(source) -> None:
    """Requires numbers of sources that are integers."""
    dtype = keras.backend.standardize_dtype(source.dtype)
    if "int" not in dtype:
        raise ValueError(
            '`source` must be of an integer type, as `keras.Input((), dtype="int32")` is. '
            f"Received: {dtype}"
        )


def numbers_of_rows(source, num_sources: int):
    """`source` as `(batch,)` of int32, with `num_sources` for all numbers out of range.

    Raises:
        ValueError: for numbers out of range, where their values are known.
    """
    check_integers(source)
    try:
        values = ops.convert_to_numpy(source)
    except (NotImplementedError, TypeError):
        pass  # TensorFlow's error, or JAX's, while a function is compiled
    else:
        wrong = values[(values < 0) | (values >= num_sources)]
        if wrong.size:
            raise ValueError(
                "`source` must be at least 0 and less than `num_sources`. "
                f"Received: num_sources={num_sources}, source {sorted(set(wrong.tolist()))}"
            )
    source = ops.cast(ops.reshape(source, (-1,)), "int32")
    known = ops.logical_and(source >= 0, source < num_sources)
    return ops.where(known, source, num_sources)
