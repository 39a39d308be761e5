"""Two layers that Keras 2 lacks, or has in a form that tfmot cannot quantise."""

import functools

import numpy as np


@functools.cache
def own_layers() -> dict[str, type]:
    """Name -> class; made when first asked for, so that Keras 2 is imported only then."""
    import tf_keras

    class Affine(tf_keras.layers.Layer):
        """A product with a constant, or a sum with one.

        As a weight, so that it is rounded in training as the file's constants are.
        """

        def __init__(self, values, adds, **kwargs):
            super().__init__(**kwargs)
            self.values, self.adds = values, adds

        def build(self, input_shape):
            values = np.asarray(self.values, "float32")
            start = tf_keras.initializers.Constant(values)
            self.constant = self.add_weight(
                "constant", values.shape, initializer=start, trainable=False
            )

        def call(self, inputs):
            return inputs + self.constant if self.adds else inputs * self.constant

        def compute_output_shape(self, input_shape):
            return input_shape

        def get_config(self):
            return {**super().get_config(), "values": self.values, "adds": self.adds}

    class Slice(tf_keras.layers.Layer):
        """`x[key]`; `key` is a list of `[start, stop, step]`, of integers, and of "..."."""

        def __init__(self, key, **kwargs):
            super().__init__(**kwargs)
            self.key = key

        def call(self, inputs):
            return inputs[tuple(_part(part) for part in self.key)]

        def compute_output_shape(self, input_shape):
            rows = input_shape[0]
            probe = np.empty((0, *input_shape[1:]), "bool")
            shape = probe[tuple(_part(part) for part in self.key)].shape
            return (rows, *shape[1:])

        def get_config(self):
            return {**super().get_config(), "key": self.key}

    return {"Affine": Affine, "Slice": Slice}


def slice_of(key, name: str):
    """A `Slice` for a key as `keras.ops` has it, or None if it holds tensors or new axes."""
    parts = key if isinstance(key, tuple) else (key,)
    written = []
    for part in parts:
        if part is Ellipsis:
            written.append("...")
        elif isinstance(part, slice):
            written.append([part.start, part.stop, part.step])
        elif isinstance(part, int):
            written.append(part)
        else:
            return None
    if parts[0] not in (Ellipsis, slice(None)):  # rows are not for a layer to choose
        return None
    return own_layers()["Slice"](written, name=name)


def affine_of(layer, name: str):
    """An `Affine` for a `keras.layers.Rescaling` that only multiplies or only adds."""
    adds = bool(np.any(np.asarray(layer.offset)))
    if adds and np.any(np.asarray(layer.scale) != 1.0):
        return None
    values = np.asarray(layer.offset if adds else layer.scale, "float32").tolist()
    return own_layers()["Affine"](values, adds, name=name)


def _part(part):
    if part == "...":
        return Ellipsis
    return slice(*part) if isinstance(part, (list, tuple)) else part
