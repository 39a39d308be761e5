"""Quantisation-aware training: a model that computes as the integer file will."""

import keras
import numpy as np

from kmtl.export.folding.fold import fold
from kmtl.export.folding.simplify import consumers, only_consumer, simplify
from kmtl.export.quantization_aware.fake_quantize import FakeQuantize, fake_quantize
from kmtl.export.quantization_aware.quantized_layer import KERNELS, QuantizedLayer
from kmtl.export.samples import as_named_arrays
from kmtl.models.graph import Cloner, run
from kmtl.models.multi_task_model import MultiTaskModel

# Bits of (kernels, activations).
SCHEMES = {"int8": (8, 8), "int4": (4, 8), "int8x16": (8, 16)}
# Only these have LiteRT kernels with weights of 4 bits; others keep 8.
INT4_LAYERS = ("Conv1D", "Conv2D", "Dense")
RANGES = ("moving_average", "learned")

# Outputs have the grid of the inputs: integers are only moved or compared.
SAME_GRID = (
    "AveragePooling1D", "AveragePooling2D", "Cropping1D", "Cropping2D", "Flatten",
    "GetItem", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "MaxPooling1D", "MaxPooling2D",
    "Permute", "Reshape", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D",
)  # fmt: skip
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


def quantize_aware(
    model: keras.Model,
    scheme: str = "int8",
    representative_data=None,
    ranges: str = "moving_average",
    freeze_after: int | None = None,
    strict: bool = False,
) -> MultiTaskModel:
    """Turns a trained model into one that trains and predicts on the integer file's grid.

    Use it where `export_litert(..., quantization="int8")` costs a head too much: compile the
    result, `fit` it for a few epochs at a tenth of the learning rate, and export it.

    The model is folded first, as for export, so that what is trained is what is deployed:
    factorised kernels are trained as their product, stitches and normalisations stay as they
    are, and gradient reversal and dropout are gone.

    Args:
        model: A trained functional model with outputs `{task: tensor}`.
        scheme: `"int8"`, `"int4"` (kernels of 4 bits, activations of 8) or `"int8x16"`
            (activations of 16). Defaults to `"int8"`.
        representative_data: Array, or dict of input name -> array, with a few hundred typical
            inputs, to start the ranges from. Defaults to `None`: from the first batch.
        ranges: `"moving_average"` of the batches' extremes, or `"learned"`. Defaults to
            `"moving_average"`.
        freeze_after: Number of steps after which ranges stand still. Defaults to `None`.
        strict: Whether layers that stay in float are an error. Defaults to `False`.

    Returns:
        A `kmtl.MultiTaskModel`, not compiled. `float_layers(result)` lists what stays in float.
        Where it is loaded from a `.keras` file, import `kmtl.export` first.

    Raises:
        ValueError: for an unknown scheme, or with `strict` for layers without an integer form.

    Example:

    ```python
    aware = kmtl.export.quantize_aware(model, "int8", representative_data=x_train[:256])
    aware.compile(keras.optimizers.Adam(2e-4), loss=loss, weighting="pcgrad")
    aware.fit(x_train, y_train, epochs=2)
    kmtl.export.export_litert(aware, "model.tflite", representative_data=x_train[:256])
    ```

    Differences from the paper: normalisations keep the statistics that they have and are folded
    before training starts, where the paper folds each batch's; kernels have a range for each
    output channel, of their own extremes; biases are rounded, too. LiteRT's optimised int8
    kernels then give the same integers as this model does; kernels that round twice (those with
    4-bit weights, and others on some devices) may be a step off.

    Reference: B. Jacob, S. Kligys, B. Chen, M. Zhu, M. Tang, A. Howard, H. Adam, D. Kalenichenko
    (2018), "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR, arXiv:1712.05877, section 3.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"`scheme` must be one of {[*SCHEMES]}. Received: scheme={scheme!r}")
    if ranges not in RANGES:
        raise ValueError(f"`ranges` must be one of {RANGES}. Received: ranges={ranges!r}")
    plain = simplify(fold(model))
    result = _Builder(plain, scheme, ranges, freeze_after).build()
    if strict and float_layers(result):
        raise ValueError(
            f"With `strict` every layer must have an integer form. Received: {float_layers(result)}"
        )
    if representative_data is not None:
        calibrate(result, representative_data)
    return result


def is_quantize_aware(model: keras.Model) -> bool:
    """Whether the model comes from `quantize_aware`."""
    return any(isinstance(layer, FakeQuantize) for layer in model.layers)


def scheme_of(model: keras.Model) -> str:
    """The scheme of a model that `quantize_aware` made."""
    kernels = {x.num_bits for x in model.layers if isinstance(x, QuantizedLayer)}
    activations = {x.num_bits for x in model.layers if isinstance(x, FakeQuantize)}
    bits = (min(kernels, default=8), max(activations))
    return next(name for name, wanted in SCHEMES.items() if wanted == bits)


def float_layers(model: keras.Model) -> list[str]:
    """Names of a quantisation-aware model's layers that have no integer form."""
    ours = (FakeQuantize, QuantizedLayer, keras.layers.InputLayer)
    return [
        layer.name
        for layer in model.operations
        if not isinstance(layer, ours) and not _has_integer_form(layer)
    ]


def calibrate(model: keras.Model, data) -> None:
    """Sets all ranges to the extremes of what a quantisation-aware model computes on data."""
    inputs = {x.name: x for x in model.inputs}
    arrays = as_named_arrays(data, inputs)
    layers = [
        layer
        for layer in model.layers
        if isinstance(layer, FakeQuantize) and layer.ranges != "fixed"
    ]
    tensors = [layer._inbound_nodes[0].input_tensors[0] for layer in layers]
    probe = keras.Model(model.inputs, tensors)
    lows, highs = np.full(len(layers), np.inf), np.full(len(layers), -np.inf)
    rows = len(next(iter(arrays.values())))
    for start in range(0, rows, 64):
        chunk = [arrays[x.name][start : start + 64] for x in model.inputs]
        for i, value in enumerate(probe(chunk, training=False)):
            value = keras.ops.convert_to_numpy(value)
            lows[i], highs[i] = min(lows[i], value.min()), max(highs[i], value.max())
    for layer, low, high in zip(layers, lows, highs, strict=True):
        layer.set_limits(low, high)


class _Builder:
    def __init__(self, plain, scheme, ranges, freeze_after):
        self._plain = plain
        self._kernel_bits, self._bits = SCHEMES[scheme]
        self._ranges, self._freeze_after = ranges, freeze_after
        self._consumers = consumers(plain)
        self._cloner = Cloner(rename=lambda layer: layer.name)
        self._shared = {}
        self._steps = {}  # id of a rounded tensor -> the steps of its grid

    def build(self) -> MultiTaskModel:
        plain = self._plain
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in plain.inputs
        ]
        starts = [self._round(x, f"{x.name}_range") if "float" in x.dtype else x for x in inputs]
        tasks = list(plain.output)
        needed = [plain.output[task] for task in tasks]
        tensors = run(plain, starts, self._call, needed=needed)
        return MultiTaskModel(
            inputs[0] if len(inputs) == 1 else {x.name: x for x in inputs},
            dict(zip(tasks, tensors, strict=True)),
            name=plain.name,
        )

    def _call(self, operation, args, kwargs):
        kind = type(operation).__name__
        if kind in KERNELS:
            y = self._quantized(operation)(args[0], steps=self._steps.get(id(args[0])))
        elif type(operation) is keras.layers.Rescaling:
            y = self._with_rounded_constants(operation)(*args)
        else:
            y = self._cloner(operation, args, kwargs)
        if kind in SAME_GRID:
            steps = self._steps.get(id(args[0]))
            self._steps.update((id(x), steps) for x in keras.tree.flatten(y))
            return y
        if self._is_rounded_later(operation):
            return y
        fixed = FIXED.get(_activation_name(operation)) if kind in NEW_GRID else None
        name = f"{operation.name}_range"
        return keras.tree.map_structure(lambda x: self._round(x, name, fixed), y)

    def _with_rounded_constants(self, layer):
        """In the file, what is multiplied or added has a grid of its own."""

        def rounded(values):
            values = np.asarray(values, "float32")
            grid = fake_quantize(values, values.min(), values.max(), self._bits)[0]
            return keras.ops.convert_to_numpy(grid).tolist()

        scale = rounded(layer.scale) if np.any(np.asarray(layer.scale) != 1.0) else layer.scale
        offset = rounded(layer.offset) if np.any(np.asarray(layer.offset)) else layer.offset
        return keras.layers.Rescaling(scale, offset, name=self._cloner.unique(layer.name))

    def _round(self, x, name, fixed=None):
        y, steps = self._quantizer(self._cloner.unique(name), fixed)(x)
        self._steps[id(y)] = steps
        return y

    def _quantized(self, layer):
        copy = self._shared.get(id(layer))
        if copy is None:
            inner = type(layer).from_config(layer.get_config())
            bits = self._kernel_bits if type(layer).__name__ in INT4_LAYERS else 8
            name = self._cloner.unique(layer.name)
            copy = self._shared[id(layer)] = QuantizedLayer(inner, bits, name=name)
            inner.build(layer._build_shapes_dict["input_shape"])
            inner.set_weights(layer.get_weights())
        return copy

    def _quantizer(self, name, fixed=None):
        if fixed is not None:
            low, high = fixed if self._bits == 8 else (-FIXED_16, FIXED_16)
            return FakeQuantize(self._bits, "fixed", limits=(low, high), name=name)
        return FakeQuantize(self._bits, self._ranges, freeze_after=self._freeze_after, name=name)

    def _is_rounded_later(self, operation) -> bool:
        """Whether LiteRT rounds the outputs first on the grid of what reads them.

        So it is with a ReLU, computed as one with the operation, and with a concatenation,
        whose inputs must have its own grid.
        """
        kind = type(operation).__name__
        reader = only_consumer(operation, self._consumers)
        if type(reader) is keras.layers.Concatenate:
            return True
        if kind not in (*KERNELS, "Add", "Multiply", "Subtract"):
            return False
        if kind in KERNELS and getattr(operation, "activation", None) not in (
            None,
            keras.activations.linear,
        ):
            return False
        return reader is not None and _activation_name(reader) in RELUS


def _activation_name(layer) -> str | None:
    if type(layer) is keras.layers.Softmax:
        return "softmax"
    if type(layer) is keras.layers.ReLU:
        plain = layer.negative_slope == 0.0 and layer.threshold == 0.0
        return {None: "relu", 6.0: "relu6"}.get(layer.max_value) if plain else None
    if type(layer) is keras.layers.Activation:
        return getattr(layer.activation, "__name__", None)
    return None


def _has_integer_form(layer) -> bool:
    kind = type(layer).__name__
    if kind in ("Activation", "ReLU"):
        return _activation_name(layer) in ACTIVATIONS
    return kind in KERNELS or kind in SAME_GRID or kind in NEW_GRID
