"""Limits of single operations on a Coral Edge TPU: "Known limitations" in Google's table.

The table is on the page "TensorFlow models on the Edge TPU"; `rules.py` says what that proves.
A limit takes an operation and returns the reason why it cannot map, or None.
"""

import math

import numpy as np

from kmtl.export.flatbuffers.graph import Operation, Tensor

SOFTMAX_LIMIT = 16_000


def constants(op: Operation) -> list[Tensor]:
    """The inputs whose values are in the file."""
    return [t for t in op.inputs if t and t.constant]


def sizes_text(tensor: Tensor) -> str:
    """A shape as text, `4 x 8 x 2`."""
    return " x ".join(map(str, tensor.shape))


def _constant_parameters(op):
    # TRANSPOSE_CONV: the output's size, weights, data; the others: data, weights, bias
    parameters = op.inputs[:2] if op.name == "TRANSPOSE_CONV" else op.inputs[1:3]
    if not all(t.constant for t in parameters if t):
        return "weights and biases must be constant"
    return None


def _same_dilation(op):
    sizes = op.options.dilationHFactor, op.options.dilationWFactor
    return f"dilation must be the same in x and y, not {sizes}" if sizes[0] != sizes[1] else None


def _no_fused_activation(op):
    if op.options.fusedActivationFunction:
        return "a fused activation function is not supported"
    return None


def _zero_padding_only(op):
    given = constants(op)
    zero = all(t.values is not None and np.all(t.values == t.zero_point) for t in given)
    if given and not (len(op.inputs) == 2 and zero):
        return "with a constant input there must be two inputs, and the constant must be all zeros"
    return None


def _default_weights_format(op):
    return "weights must be in the default format" if op.options.weightsFormat else None


def _per_tensor_weights(op):
    """Not on the page: TensorFlow Lite of that time computes per-channel convolutions only."""
    channels = op.inputs[1].channels
    if channels > 1:
        return f"weights must have one scale, not one for each of {channels} channels"
    return None


def _one_dimensional_output(op):
    return _one_dimensional(op.outputs[0], "the output")


def _one_dimensional_input(op):
    return _one_dimensional(op.inputs[0], "the input")


def _softmax_size(op):
    size = math.prod(op.inputs[0].shape)
    return f"at most {SOFTMAX_LIMIT:,} elements, not {size:,}" if size > SOFTMAX_LIMIT else None


def _not_over_batch(op):
    axes = _reduced_axes(op)
    if axes is None:
        return "the axes must be constant"
    return "the batch dimension must not be reduced" if 0 in axes else None


def _channels_by_four(op):
    axes, shape = _reduced_axes(op), op.inputs[0].shape
    if axes and len(shape) - 1 in axes and shape[-1] % 4:
        return f"reduced channels must be a multiple of 4, not {shape[-1]}"
    return None


def _no_packing_of_batch(op):
    return (
        "the batch dimension must not be packed" if op.options.axis in _first(op.outputs) else None
    )


def _no_padding_of_batch(op):
    paddings = op.inputs[1].values
    if paddings is None:
        return "the padding must be constant"
    return "the batch dimension must not be padded" if paddings[0].any() else None


def _no_splitting_of_batch(op):
    axis = op.inputs[0].values
    if axis is None:
        return "the axis must be constant"
    split = int(axis.reshape(-1)[0]) in _first(op.inputs[1:])
    return "the batch dimension must not be split" if split else None


def _plain_stride(op):
    strides = op.inputs[3].values
    if strides is None or np.any(strides != 1) or op.options.ellipsisMask or op.options.newAxisMask:
        return "strides must be constant and 1, without ellipsis and new axis"
    return None


def _alpha_per_channel(op):
    if math.prod(op.inputs[1].shape[:-1]) > 1:
        return f"alpha must have one value for each channel, not {sizes_text(op.inputs[1])}"
    return None


def _reduced_axes(op) -> set[int] | None:
    axes, ndim = op.inputs[1].values, len(op.inputs[0].shape)
    return None if axes is None else {int(axis) % ndim for axis in axes.reshape(-1)}


def _first(tensors) -> tuple[int, int]:
    """The batch dimension, counted from either end."""
    return 0, -len(tensors[0].shape)


def _one_dimensional(tensor, name):
    if math.prod(tensor.shape[:-1]) > 1:
        return f"{name} must be one-dimensional, not {sizes_text(tensor)}"
    return None


LIMITS = {
    "AVERAGE_POOL_2D": (_no_fused_activation,),
    "CONCATENATION": (_no_fused_activation, _zero_padding_only),
    "CONV_2D": (_constant_parameters, _same_dilation),
    "DEPTHWISE_CONV_2D": (_constant_parameters, _same_dilation),
    "FULLY_CONNECTED": (
        _constant_parameters, _default_weights_format, _per_tensor_weights, _one_dimensional_output,
    ),
    "MAX_POOL_2D": (_no_fused_activation,),
    "MEAN": (_not_over_batch, _channels_by_four),
    "PACK": (_no_packing_of_batch,),
    "PAD": (_no_padding_of_batch,),
    "PRELU": (_alpha_per_channel,),
    "REDUCE_MAX": (_not_over_batch,),
    "REDUCE_MIN": (_not_over_batch,),
    "SOFTMAX": (_one_dimensional_input, _softmax_size),
    "SPLIT": (_no_splitting_of_batch,),
    "STRIDED_SLICE": (_plain_stride,),
    "SUM": (_not_over_batch,),
    "TRANSPOSE_CONV": (_constant_parameters,),
}  # fmt: skip
