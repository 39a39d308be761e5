"""Products of the tasks' gradients by shared weights, for less than the price of the gradients."""

from collections.abc import Sequence

import keras
from keras import ops

from kmtl import backend
from kmtl.models.step.parting import Parting


class WeightGramian:
    """`gramian[s, t]`: product of two tasks' gradients by the trunk's weights.

    A dense layer with inputs `x (N, D)` whose values before the activation have the gradient
    `signal[t] (N, U)` has the weights' gradient `x.T @ signal[t]`. Products do not need it:

    ```
    <x.T @ signal[s], x.T @ signal[t]> = sum of (x @ x.T @ signal[s]) * signal[t]
    ```

    which is cheaper where `N < D`. The signals come from a tap, zeros added before the
    activation. For weights of other layers, and for several replicas, whose gradients must be
    added up first, the gradients are computed.

    Args:
        parting: Where the tasks part.
        variables: The trunk's variables that count.
    """

    def __init__(self, parting: Parting, variables: Sequence[keras.Variable]):
        self._tapped, self._variables = [], list(variables)
        if backend.num_replicas() > 1:
            return
        counted = {id(v) for v in variables}
        for layer in parting.dense_layers():
            # A kernel or bias that is frozen alone is not counted, and one that another layer
            # uses, too, has a gradient with two terms.
            own = {id(v) for v in layer.variables}
            if own <= counted and own.isdisjoint(parting.variables_beside(layer)):
                self._tapped.append(layer)
                self._variables = [v for v in self._variables if id(v) not in own]

    def arguments(self, num_samples) -> list:
        """What to differentiate the trunk by, beside its variables."""
        return [
            ops.zeros((num_samples, layer.units), dtype=layer.compute_dtype)
            for layer in self._tapped
        ]

    def taps(self, arguments) -> dict:
        """Layer id -> what to add before its activation."""
        return {id(layer): tap for layer, tap in zip(self._tapped, arguments, strict=True)}

    def __call__(self, rows: list, inputs: dict, pull) -> tuple:
        """The Gramian `(T, T)`, of the global batch, and the gradients that it took.

        These are those of the layers without a tap: id of a variable -> `(T, ...)`.

        Args:
            rows: For each parting tensor the tasks' gradients `(T, ...)`.
            inputs: Layer id -> what the tapped layers have read.
            pull: `(cotangents of the parting tensors, variables) -> gradients by the
                variables and by the arguments`.
        """
        pulled = [pull([row[t] for row in rows], self._variables) for t in range(rows[0].shape[0])]
        gramian, computed = ops.zeros((len(pulled), len(pulled))), {}
        by_variable = zip(*(gradients for gradients, _ in pulled), strict=True)
        for variable, gradients in zip(self._variables, by_variable, strict=True):
            if gradients[0] is not None:  # as for every task, whose gradients go the same way
                gradients = backend.all_reduce_sum(ops.stack(gradients))
                gramian = gramian + _products(gradients, gradients)
                computed[id(variable)] = gradients
        by_layer = zip(*(signals for _, signals in pulled), strict=True)
        for layer, signals in zip(self._tapped, by_layer, strict=True):
            if signals[0] is not None:
                x = ops.cast(inputs[id(layer)], "float32")
                gramian = gramian + _dense_products(x, ops.stack(signals), layer.use_bias)
        return gramian, computed


def _dense_products(inputs, signals, use_bias):
    num_samples, size = ops.shape(inputs)

    def by_samples():
        similarities = ops.matmul(inputs, ops.transpose(inputs)) + float(use_bias)
        return _products(ops.matmul(similarities, signals), signals)

    def by_weights():
        gradients = ops.matmul(ops.transpose(inputs), signals)
        products = _products(gradients, gradients)
        if use_bias:
            gradients = ops.sum(signals, axis=1)
            products = products + _products(gradients, gradients)
        return products

    if isinstance(num_samples, int):
        return by_samples() if num_samples < size else by_weights()
    return ops.cond(num_samples < size, by_samples, by_weights)


def _products(a, b):
    n = a.shape[0]
    return ops.matmul(ops.reshape(a, (n, -1)), ops.transpose(ops.reshape(b, (n, -1))))
