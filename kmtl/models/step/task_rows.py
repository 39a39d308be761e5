"""Every task's gradient by one parting tensor: how it is found, and what can be done with it.

Two ways give the same numbers. `Copies` serves any network: each task reads a copy of the tensor,
and the gradients by the copies are the rows. `Taps` serves the common case that only dense heads
read the tensor: a row is then `signal @ kernel.T` with the small signal at the head's first layer,
and neither the Gramian nor the combination needs the rows themselves.
"""

import contextlib
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kmtl.layers import TaskStackedDense


def is_tappable(layer) -> bool:
    """Whether a layer is `activation(inputs @ kernel + bias)` and nothing else."""
    if isinstance(layer, TaskStackedDense):
        return True
    plain = type(layer) is keras.layers.Dense
    return plain and layer.quantization_mode is None and not layer.lora_enabled


@contextlib.contextmanager
def tapped(layer, tap):
    """Adds `tap` to the layer's values before the activation."""
    if tap is None:
        yield
        return
    activation = layer.activation
    layer.activation = lambda x: (activation or ops.copy)(x + ops.cast(tap, x.dtype))
    try:
        yield
    finally:
        layer.activation = activation


class Copies:
    """Rows by a copy of the tensor for each task.

    Args:
        tasks: All tasks, in the order of the copies.
        trained: The tasks with a loss, in the order of the rows.
    """

    def __init__(self, tasks: Sequence[str], trained: Sequence[str]):
        self.tasks = list(tasks)
        self._chosen = [self.tasks.index(task) for task in trained]

    def argument(self, feature):
        """What to differentiate by."""
        return ops.broadcast_to(feature, (len(self.tasks), *ops.shape(feature)))

    def features(self, argument, feature) -> list:
        """What each task reads."""
        del feature
        # Not `unstack`, whose gradient JAX adds up from T padded tensors.
        return [ops.squeeze(x, axis=0) for x in ops.split(argument, len(self.tasks), axis=0)]

    def taps(self, argument, feature) -> dict:
        """Layer id -> what to add before its activation."""
        return {}

    def rows(self, gradient, feature):
        """The rows, from the gradient by the argument."""
        if self._chosen != list(range(len(self.tasks))):
            gradient = ops.take(gradient, self._chosen, axis=0)
        return Rows(gradient)


class Taps:
    """Rows by the signals at dense layers that read the tensor.

    Args:
        layers: The layers, each with the tasks of its outputs.
        tasks: All tasks.
        trained: The tasks with a loss, in the order of the rows.
    """

    def __init__(self, layers: Sequence[tuple], tasks: Sequence[str], trained: Sequence[str]):
        self._layers, self._tasks, self._trained = list(layers), list(tasks), list(trained)
        self._sizes = [layer.units * len(owners) for layer, owners in self._layers]
        owners = [
            task for layer, tasks in self._layers for task in tasks for _ in range(layer.units)
        ]
        # Which signals are whose.
        self._membership = np.array([[o == t for t in trained] for o in owners], "float32")

    def argument(self, feature):
        return ops.zeros((_samples(feature), sum(self._sizes)), dtype=feature.dtype)

    def features(self, argument, feature):
        del argument
        return [feature] * len(self._tasks)

    def taps(self, argument, feature):
        # Not slices, whose gradients would be added up from padded tensors.
        ends = np.cumsum(self._sizes)[:-1].tolist()
        pieces = ops.split(argument, ends, axis=1) if ends else [argument]
        taps = {}
        for (layer, owners), piece in zip(self._layers, pieces, strict=True):
            stacked = isinstance(layer, TaskStackedDense)
            shape = (-1, len(owners)) if stacked else ops.shape(feature)[:-1]
            taps[id(layer)] = ops.reshape(piece, (*shape, layer.units))
        return taps

    def rows(self, gradient, feature):
        kernels = []
        for layer, owners in self._layers:
            kernel = ops.cast(ops.convert_to_tensor(layer.kernel), "float32")
            if isinstance(layer, TaskStackedDense):
                kernel = ops.transpose(kernel, (0, 2, 1))
            kernels.append(ops.reshape(kernel, (kernel.shape[0], layer.units * len(owners))))
        kernel = kernels[0] if len(kernels) == 1 else ops.concatenate(kernels, axis=1)
        rows = DenseRows(gradient, kernel, self._membership, ops.shape(feature))
        signals, tasks = self._membership.shape
        # Many signals make their products dearer than the rows.
        small = 2 * signals**2 <= kernel.shape[0] * (signals + tasks**2)
        return rows if small else Rows(rows.tensor)


class Rows:
    """The rows as they are.

    Args:
        tensor: `(T, ...)`.
    """

    def __init__(self, tensor):
        self.tensor = tensor

    def gramian(self):
        """`(T, T)`, products of the rows."""
        flat = ops.reshape(self.tensor, (self.tensor.shape[0], -1))
        return ops.matmul(flat, ops.transpose(flat))

    def combine(self, weights):
        """The rows' sum with weights `(T,)`, in the tensor's shape."""
        return ops.tensordot(weights, self.tensor, axes=1)


class DenseRows:
    """`row[t] = signals[t] @ kernel[t].T`, without computing it.

    Args:
        signals: `(N, S)`, gradients before the activations, of all samples.
        kernel: `(D, S)`.
        membership: `(S, T)`, 1 where a signal belongs to a task.
        shape: Of the parting tensor, with `N * D` entries.
    """

    def __init__(self, signals, kernel, membership, shape):
        self._signals, self._kernel = signals, kernel
        self._membership, self._shape = membership, shape

    def gramian(self):
        products = ops.matmul(ops.transpose(self._signals), self._signals)
        products = products * ops.matmul(ops.transpose(self._kernel), self._kernel)
        signals, tasks = self._membership.shape
        if signals == tasks and np.array_equal(self._membership, np.eye(tasks)):
            return products
        # A task whose gradient is not finite must not touch the others, by NaN * 0.
        membership = ops.array(self._membership)
        bad = ~ops.isfinite(ops.diagonal(products))
        products = ops.where(bad[:, None] | bad[None, :], 0.0, products)
        gramian = ops.matmul(ops.transpose(membership), ops.matmul(products, membership))
        bad = ops.matmul(ops.cast(bad, "float32"), membership) > 0.0
        return ops.where(bad[:, None] | bad[None, :], float("nan"), gramian)

    def combine(self, weights):
        of_signal = ops.matmul(ops.array(self._membership), weights)
        combined = ops.matmul(self._signals * of_signal, ops.transpose(self._kernel))
        return ops.reshape(combined, self._shape)

    @property
    def tensor(self):
        """`(T, ...)`."""
        rows = []
        for of_task in self._membership.T:
            (chosen,) = np.nonzero(of_task)
            signals, kernel = (ops.take(x, chosen, axis=1) for x in (self._signals, self._kernel))
            rows.append(ops.matmul(signals, ops.transpose(kernel)))
        return ops.reshape(ops.stack(rows), (len(rows), *self._shape))


def _samples(feature):
    shape = ops.shape(feature)[:-1]
    if all(isinstance(n, int) for n in shape):
        return math.prod(shape)
    return ops.prod(ops.stack(shape))
