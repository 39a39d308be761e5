"""What an integer file cannot do without: weights, biases and their scales."""

import numpy as np

from kmtl.export.flatbuffers.inspection import constant_bytes, read_model


def floor_bytes(content: bytes) -> int:
    """Bytes of a file's quantised constants and of the scales that they are read by.

    Each is counted once, however many tensors share it.
    """
    constants, scales = {}, set()
    with read_model(content, "the file") as (_, model):
        for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
            size = constant_bytes(model.buffers[tensor.buffer])
            scale = None if tensor.quantization is None else tensor.quantization.scale
            if size and scale is not None:
                constants[tensor.buffer] = size
                scales.add(np.asarray(scale, "float32").tobytes())
    return sum(constants.values()) + sum(map(len, scales))
