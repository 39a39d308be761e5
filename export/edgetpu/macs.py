"""How many multiply-accumulates an operation costs, from the shapes in the file."""

import math
from collections.abc import Sequence

from kmtl.export.flatbuffers.graph import Operation


def macs(op: Operation, graphs: Sequence[Sequence[Operation]] = ()) -> int:
    """Multiply-accumulates of one operation; 0 for those that are no product of matrices.

    An open size counts as 1. A loop or a branch counts all that it calls once, since the file
    does not say how often it runs.

    Args:
        op: The operation.
        graphs: All graphs of the file, where a loop finds its body. Defaults to `()`.
    """
    return _macs(op, graphs, frozenset())


def _macs(op, graphs, entered):
    if op.name in _COUNTS:
        return _COUNTS[op.name](op)
    called = {
        getattr(op.options, name, None) for name in _CALLS.get(op.name, ())
    } - entered  # a damaged file may call itself
    return sum(_macs(inner, graphs, entered | called) for i in called for inner in graphs[i])


def _convolution(op):
    return _size(op.outputs[0]) * math.prod(op.inputs[1].shape[1:])


def _depthwise(op):
    return _size(op.outputs[0]) * math.prod(op.inputs[1].shape[1:3])


def _transposed(op):  # inputs: output's shape, weights (out, height, width, in), data
    return _size(op.inputs[2]) * math.prod(op.inputs[1].shape[:3])


def _fully_connected(op):
    return _size(op.outputs[0]) * op.inputs[1].shape[-1]


def _batch_matmul(op):
    return _size(op.outputs[0]) * op.inputs[0].shape[-2 if op.options.adjX else -1]


def _size(tensor):
    return math.prod(tensor.shape)


_COUNTS = {
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transposed,
}
_CALLS = {
    "IF": ("thenSubgraphIndex", "elseSubgraphIndex"),
    "WHILE": ("condSubgraphIndex", "bodySubgraphIndex"),
}
