"""A step's logs as one tensor, on their way out of the compiled function.

Each tensor that such a function returns costs Python some microseconds; with the losses, metrics
and weights of dozens of tasks that becomes a good part of a step.
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from kmtl import backend

PACKED = "packed"


def make_function(model: keras.Model, kind: str, make: Callable) -> None:
    """Has Keras make `model.train_function` or `test_function` of a step with packed logs.

    Callers of the function see the logs by name, as ever.

    Args:
        model: The model.
        kind: `"train"` or `"test"`.
        make: Keras's own `make_train_function` or `make_test_function`.
    """
    step, names = getattr(model, f"{kind}_step"), []

    def packed_step(*args):
        result = step(*args)
        if isinstance(result, tuple):  # under JAX, with the variables' new values
            return pack(result[0], names), *result[1:]
        return pack(result, names)

    if model.steps_per_execution > 1 and backend.spreads(model):
        function = backend.several_steps(model, packed_step)
    else:
        setattr(model, f"{kind}_step", packed_step)
        try:
            make(force=True)
        finally:
            delattr(model, f"{kind}_step")
        function = getattr(model, f"{kind}_function")

    def function_with_names(*args):
        result = function(*args)
        if isinstance(result, tuple):
            return unpack(result[0], names), *result[1:]
        return unpack(result, names)

    setattr(model, f"{kind}_function", function_with_names)


def pack(logs: dict, names: list) -> dict:
    """The logs with their scalars in one row, whose names are written to `names`.

    Keras takes the mean over all replicas' rows, along this first axis where there are several
    workers.
    """
    logs = {name: ops.convert_to_tensor(value) for name, value in logs.items()}
    names[:] = [name for name, x in logs.items() if len(x.shape) == 0]
    others = {name: x for name, x in logs.items() if name not in names}
    row = ops.stack([ops.cast(logs[name], "float32") for name in names])[None]
    return {PACKED: row, **{name: x[None] for name, x in others.items()}}


def unpack(logs: dict, names: list) -> dict:
    """The logs by name; nothing is copied or waited for until somebody reads a number."""
    vector = _Vector(logs[PACKED])
    others = {name: x[0] for name, x in logs.items() if name != PACKED}
    return {**{name: _Scalar(vector, i) for i, name in enumerate(names)}, **others}


class _Vector:
    def __init__(self, tensor):
        self._tensor, self._values = tensor, None

    @property
    def values(self) -> np.ndarray:
        if self._values is None:
            self._values = ops.convert_to_numpy(self._tensor).reshape(-1)
        return self._values


class _Scalar:
    """An entry of a vector, as far as callbacks need it to be a number."""

    def __init__(self, vector: _Vector, index: int):
        self._vector, self._index = vector, index

    def __array__(self, dtype=None, copy=None):
        return np.array(self._vector.values[self._index], dtype)

    def __float__(self):
        return float(self._vector.values[self._index])

    def __repr__(self):
        return repr(float(self))
