"""Which grid LiteRT gives to what a layer computes."""

import keras

from kmtl.export.quantization_aware.fixed_point import (
    DIFFERENCE,
    ONCE,
    REDUCED,
    SUM,
    TWICE_AWAY,
    TWICE_UP,
)
from kmtl.export.quantization_aware.quantized_layer import KERNELS

# Only these have LiteRT kernels with weights of 4 bits; others keep 8.
INT4_LAYERS = ("Conv1D", "Conv2D", "Dense")
# Outputs have the grid of the inputs: integers are only moved or compared.
SAME_GRID = (
    "AveragePooling1D", "AveragePooling2D", "Cropping1D", "Cropping2D", "Flatten",
    "GetItem", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "MaxPooling1D", "MaxPooling2D",
    "Permute", "Reshape", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
)  # fmt: skip
# Of these, means are rounded to it.
AVERAGED = ("AveragePooling1D", "AveragePooling2D", "UpSampling2D")
NEW_GRID = (
    "Activation", "Add", "Concatenate", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
    "Multiply", "ReLU", "Rescaling", "Softmax", "Subtract",
)  # fmt: skip
ACTIVATIONS = ("gelu", "hard_silu", "linear", "relu", "relu6", "sigmoid", "softmax", "tanh")
RELUS = ("relu", "relu6")
# Where LiteRT's kernels fix the grid: (low, high) for 8 bits.
FIXED = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
FIXED_16 = 32767 / 32768
SUMS = {"Add": SUM, "Subtract": DIFFERENCE}
MEANS = ("GlobalAveragePooling1D", "GlobalAveragePooling2D")


def rounding_rule(layer, kernel_bits: int, bits: int) -> str | None:
    """How LiteRT's kernel for a layer rounds, by `fixed_point`; None where it rounds once.

    Found by comparing with the kernels' integers, and by which of them XNNPACK takes.

    Args:
        layer: Of the simplified model.
        kernel_bits: Bits of the scheme's kernels.
        bits: Bits of its activations.
    """
    kind = type(layer).__name__
    if bits == 16:
        if kind in MEANS:
            return TWICE_AWAY
        if kind in SUMS:
            return SUMS[kind]
        return {"Dense": ONCE, "Embedding": None}.get(kind, REDUCED) if kind in KERNELS else None
    if kernel_bits == 4 and kind in INT4_LAYERS:
        # XNNPACK takes no convolutions with 4 bits, and of dense layers those whose rows of
        # 4-bit numbers end with a whole byte.
        if kind == "Dense":
            return TWICE_UP if layer.kernel.shape[0] % 2 else None
        return TWICE_UP if layer.groups == 1 else TWICE_AWAY
    return None


def activation_name(layer) -> str | None:
    """The function that a layer applies, if that is all that it does."""
    if type(layer) is keras.layers.Softmax:
        return "softmax"
    if type(layer) is keras.layers.ReLU:
        plain = layer.negative_slope == 0.0 and layer.threshold == 0.0
        return {None: "relu", 6.0: "relu6"}.get(layer.max_value) if plain else None
    if type(layer) is keras.layers.Activation:
        return getattr(layer.activation, "__name__", None)
    return None


def has_table(layer, x) -> bool:
    """Whether LiteRT's kernel for 16-bit integers looks a layer's function of `x` up in a table."""
    axes = (-1, len(x.shape) - 1) if activation_name(layer) in FIXED else ()
    return getattr(layer, "axis", -1) in axes


def is_fused_with(layer, reader) -> bool:
    """Whether LiteRT computes a layer and the ReLU that alone reads it as one operation."""
    if type(layer).__name__ not in (*KERNELS, "Add", "Multiply", "Subtract"):
        return False
    linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
    return linear and reader is not None and activation_name(reader) in RELUS


def has_integer_form(layer) -> bool:
    """Whether LiteRT computes the layer in integers."""
    kind = type(layer).__name__
    if any(node.arguments.kwargs.get("mask") is not None for node in layer._inbound_nodes):
        return False  # as a mean over what a mask leaves
    if kind in ("Activation", "ReLU"):
        return activation_name(layer) in ACTIVATIONS
    return kind in KERNELS or kind in SAME_GRID or kind in NEW_GRID
