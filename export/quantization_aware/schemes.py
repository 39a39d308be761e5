"""What a quantisation-aware model was trained for."""

import keras

from kmtl.export.quantization_aware.fake_quantize import FakeQuantize
from kmtl.export.quantization_aware.quantized_layer import QuantizedLayer

# Bits of (kernels, activations).
SCHEMES = {"int8": (8, 8), "int4": (4, 8), "int8x16": (8, 16)}


def is_quantize_aware(model: keras.Model) -> bool:
    """Whether the model comes from `quantize_aware`."""
    return any(isinstance(layer, FakeQuantize) for layer in model.layers)


def scheme_of(model: keras.Model) -> str:
    """The scheme of a model that `quantize_aware` made."""
    kernels = {x.num_bits for x in model.layers if isinstance(x, QuantizedLayer)}
    activations = {x.num_bits for x in model.layers if isinstance(x, FakeQuantize)}
    bits = (min(kernels, default=8), max(activations))
    return next(name for name, wanted in SCHEMES.items() if wanted == bits)


def has_per_tensor_dense(model: keras.Model) -> bool:
    """Whether a quantisation-aware model has a dense kernel with one scale for all outputs."""
    return any(isinstance(x, QuantizedLayer) and not x.per_channel for x in model.layers)


def check_trained_for(model: keras.Model, target: str | None) -> None:
    """Raises ValueError where a target needs other scales than the model was trained with."""
    dense = [
        x.name
        for x in model.layers
        if isinstance(x, QuantizedLayer) and isinstance(x.layer, keras.layers.Dense)
    ]
    if target and dense and not has_per_tensor_dense(model):
        raise ValueError(
            f"With target={target!r} every dense kernel must have one scale; train a model from "
            f"`quantize_aware(..., target={target!r})`. Received: a scale for each output in "
            f"{', '.join(dense)}"
        )
