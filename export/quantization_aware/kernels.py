"""Which kernels computed what a quantisation-aware model rounds."""

import math

import keras

from kmtl.export.quantization_aware.forms import RELUS, activation_name, rounding_rule


class Kernels:
    """Follows tensors from the kernels that compute them to where they are rounded.

    Args:
        kernel_bits: Bits of the scheme's kernels.
        bits: Bits of its activations.
    """

    def __init__(self, kernel_bits: int, bits: int):
        self._kernel_bits, self._bits = kernel_bits, bits
        self._known = {}  # id of a tensor that is not rounded yet -> [(kernel, its steps)]

    def rule_of(self, layer) -> str | None:
        """How the kernel for a layer rounds; None where it rounds once."""
        return rounding_rule(layer, self._kernel_bits, self._bits)

    def behind(self, x) -> list[tuple]:
        """`(kernel, steps)` of those that computed `x` and round in ways of their own."""
        return self._known.get(id(x), [])

    def add(self, layer, y, steps, count: int = 1) -> None:
        """Remembers that a layer's kernel computed `y`."""
        kernel = {
            "rule": self.rule_of(layer),
            "first": 0,
            "channels": y.shape[-1],
            "count": count,
            "low": None,
            "high": None,
        }
        self._known[id(y)] = [(kernel, steps)]

    def add_mean(self, layer, x, grid, y) -> None:
        """Remembers that a layer's kernel computed `y`, the means of `x` on its grid."""
        sizes = x.shape[1:-1]
        if self.rule_of(layer) is not None and grid is not None and None not in sizes:
            self.add(layer, y, grid, math.prod(sizes))

    def add_sum(self, layer, terms, grids, y) -> None:
        """Remembers that a layer's kernel computed `y`, of two tensors on grids of their own."""
        if self.rule_of(layer) is not None and None not in grids:
            self.add(layer, y, [terms[0], grids[0], terms[1], grids[1]])

    def pass_on(self, operation, args, y) -> None:
        """Remembers the same of `y`, where an operation does no more than fuse or join."""
        activation = activation_name(operation)
        if activation in RELUS:
            limits = {"low": 0.0, "high": 6.0 if activation == "relu6" else None}
            self._known[id(y)] = [({**k, **limits}, s) for k, s in self.behind(args[0])]
        if type(operation) is keras.layers.Concatenate and operation.axis in (-1, len(y.shape) - 1):
            found, first = [], 0
            for x in args[0]:
                found += [({**k, "first": first + k["first"]}, s) for k, s in self.behind(x)]
                first += x.shape[-1]
            self._known[id(y)] = found
