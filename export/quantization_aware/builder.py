"""The graph of a quantisation-aware model: where kernels and activations are rounded."""

import keras
import numpy as np

from kmtl.export.folding.rewrite import rewrite
from kmtl.export.folding.simplify import consumers, only_consumer
from kmtl.export.quantization_aware.fake_quantize import (
    FakeQuantize,
    RoundToGrid,
    fake_quantize,
)
from kmtl.export.quantization_aware.forms import (
    AVERAGED,
    FIXED,
    FIXED_16,
    INT4_LAYERS,
    MEANS,
    NEW_GRID,
    SAME_GRID,
    SUMS,
    activation_name,
    has_table,
    is_fused_with,
)
from kmtl.export.quantization_aware.kernels import Kernels
from kmtl.export.quantization_aware.quantized_layer import KERNELS, QuantizedLayer
from kmtl.export.quantization_aware.schemes import SCHEMES
from kmtl.export.quantization_aware.tables import TableActivation
from kmtl.models.graph import Cloner
from kmtl.models.multi_task_model import MultiTaskModel


class Builder:
    """Rebuilds a simplified model with everything on the grids that the file will have."""

    def __init__(self, plain, scheme, ranges, freeze_after, kept, per_channel_dense):
        self._plain = plain
        self._kernel_bits, self._bits = SCHEMES[scheme]
        self._ranges, self._freeze_after = ranges, freeze_after
        self._kept, self._per_channel_dense = kept, per_channel_dense
        self._consumers = consumers(plain)
        self._cloner = Cloner(rename=lambda layer: layer.name)
        self._shared = {}
        self._grids = {}  # id of a rounded tensor -> its grid
        self._unrounded = {}  # id of a rounded tensor -> what float operations read
        self._kernels = Kernels(self._kernel_bits, self._bits)

    def build(self) -> MultiTaskModel:
        """The model."""
        return rewrite(
            self._plain,
            self._call,
            start=self._start,
            end=lambda task, x: self._as_float(x),
            make=MultiTaskModel,
        )

    def _call(self, operation, args, kwargs):
        if operation.name in self._kept:
            return self._in_float(operation, args, kwargs)
        kind = type(operation).__name__
        if kind == "Concatenate":  # what was float becomes integers on its grid at once
            args = keras.tree.map_structure(self._as_float, args)
        if kind in KERNELS:
            y = self._quantized(operation)(args[0], grid=self._grids.get(id(args[0])))
            if self._kernels.rule_of(operation) is not None:
                y, steps = y
                self._kernels.add(operation, y, steps)
        elif self._bits == 16 and has_table(operation, args[0]):
            name = self._cloner.unique(operation.name)
            table = TableActivation(activation_name(operation), name=name)
            y = table(args[0], self._grids[id(args[0])])
        elif type(operation) is keras.layers.Rescaling:
            y = self._with_rounded_constants(operation)(*args)
        else:
            y = self._cloner(operation, args, kwargs)
        if kind in MEANS:
            self._kernels.add_mean(operation, args[0], self._grids.get(id(args[0])), y)
        if kind in SUMS:
            grids = [self._grids.get(id(x)) for x in args[0]]
            self._kernels.add_sum(operation, args[0], grids, y)
        self._kernels.pass_on(operation, args, y)
        if kind in SAME_GRID:
            grid = self._grids.get(id(args[0]))
            if kind in AVERAGED and grid is not None:
                name = self._cloner.unique(f"{operation.name}_rounded")
                away = kind != "UpSampling2D" or self._bits == 16
                y = RoundToGrid(away, self._bits, name=name)(y, grid)
            self._grids.update((id(x), grid) for x in keras.tree.flatten(y))
            return y
        if self._is_rounded_later(operation):
            return y
        fixed = FIXED.get(activation_name(operation)) if kind in NEW_GRID else None
        name = f"{operation.name}_range"
        return keras.tree.map_structure(
            lambda x: self._round(x, name, fixed) if "float" in x.dtype else x, y
        )

    def _start(self, x):
        """A model's input; the file's is in float for what reads it in float."""
        if "float" not in x.dtype:
            return x
        y = self._round(x, f"{x.name}_range")
        self._unrounded[id(y)] = x
        return y

    def _in_float(self, operation, args, kwargs):
        """The outputs, rounded where an integer operation reads them."""
        args, kwargs = keras.tree.map_structure(self._as_float, (args, kwargs))
        outputs = self._cloner(operation, args, kwargs)
        tensors = [x for node in operation._inbound_nodes for x in node.outputs]
        readers = [reader for x in tensors for reader in self._consumers.get(id(x), [])]
        if all(reader is None or reader.name in self._kept for reader in readers):
            return outputs

        def rounded(x):
            y = self._round(x, f"{operation.name}_range", after_float=True)
            self._unrounded[id(y)] = x
            return y

        return keras.tree.map_structure(rounded, outputs)

    def _as_float(self, x):
        return self._unrounded.get(id(x), x)

    def _with_rounded_constants(self, layer):
        """In the file, what is multiplied or added has a grid of its own."""

        def rounded(values):
            values = np.asarray(values, "float32")
            grid = fake_quantize(values, values.min(), values.max(), self._bits)[0]
            return keras.ops.convert_to_numpy(grid).tolist()

        scale = rounded(layer.scale) if np.any(np.asarray(layer.scale) != 1.0) else layer.scale
        offset = rounded(layer.offset) if np.any(np.asarray(layer.offset)) else layer.offset
        return keras.layers.Rescaling(scale, offset, name=self._cloner.unique(layer.name))

    def _round(self, x, name, fixed=None, after_float=False):
        kernels = self._kernels.behind(x)
        quantizer = self._quantizer(
            self._cloner.unique(name), fixed, after_float, [kernel for kernel, _ in kernels]
        )
        y, grid = quantizer(x, [steps for _, steps in kernels]) if kernels else quantizer(x)
        self._grids[id(y)] = grid
        return y

    def _quantized(self, layer):
        copy = self._shared.get(id(layer))
        if copy is None:
            inner = type(layer).from_config(layer.get_config())
            bits = self._kernel_bits if type(layer).__name__ in INT4_LAYERS else 8
            per_channel = self._per_channel_dense or type(layer) is not keras.layers.Dense
            name = self._cloner.unique(layer.name)
            with_steps = self._kernels.rule_of(layer) is not None
            copy = QuantizedLayer(inner, bits, per_channel, with_steps, name=name)
            self._shared[id(layer)] = copy
            inner.build(layer._build_shapes_dict["input_shape"])
            inner.set_weights(layer.get_weights())
        return copy

    def _quantizer(self, name, fixed, after_float, kernels):
        if fixed is not None:
            low, high = fixed if self._bits == 8 else (-FIXED_16, FIXED_16)
            return FakeQuantize(self._bits, "fixed", limits=(low, high), name=name)
        return FakeQuantize(
            self._bits,
            self._ranges,
            freeze_after=self._freeze_after,
            after_float=after_float,
            kernels=kernels,
            name=name,
        )

    def _is_rounded_later(self, operation) -> bool:
        """Whether LiteRT rounds the outputs first on the grid of what reads them.

        So it is with a ReLU, computed as one with the operation, and with a concatenation,
        whose inputs must have its own grid.
        """
        reader = only_consumer(operation, self._consumers)
        if type(reader) is keras.layers.Concatenate:
            return reader.name not in self._kept
        return is_fused_with(operation, reader)
