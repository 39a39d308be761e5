"""From a quantisation-aware Keras model to a float flatbuffer and the ranges of its tensors.

The converter writes each rounding of an activation as a pair of QUANTIZE and DEQUANTIZE. The pairs
are taken out again; what remains is the float graph, and a range for each tensor that had a
pair.
"""

import re

import keras
import numpy as np

from kmtl.export.flatbuffers.convert import to_flatbuffer
from kmtl.export.flatbuffers.inspection import op_name
from kmtl.export.flatbuffers.packing import repack
from kmtl.export.folding.rewrite import rewrite
from kmtl.export.quantization.quantize import quantize
from kmtl.export.quantization.recipes import load_recipe, per_tensor_dense
from kmtl.export.quantization_aware.calibration import check_calibrated
from kmtl.export.quantization_aware.fake_quantize import FakeQuantize, RoundToGrid
from kmtl.export.quantization_aware.quantized_layer import QuantizedLayer
from kmtl.export.quantization_aware.schemes import has_per_tensor_dense
from kmtl.export.quantization_aware.tables import TableActivation
from kmtl.models.graph import Cloner

# Operations whose outputs have the inputs' grid.
SAME_GRID = (
    "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER",
    "MAX_POOL_2D", "PAD", "REDUCE_MAX", "REDUCE_MIN", "RESHAPE", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE",
    "STRIDED_SLICE", "TILE", "TRANSPOSE",
)  # fmt: skip
# Operations whose inputs must have the output's grid.
GRID_OF_OUTPUT = ("CONCATENATION",)


class _Mark(keras.layers.Layer):
    """What the converter turns into a pair; its name tells whose range it is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs):
        import tensorflow as tf

        return tf.quantization.fake_quant_with_min_max_args(inputs, -1.0, 1.0)


def from_quantize_aware(model: keras.Model, quantization: str, batch_size: int | None) -> tuple:
    """The integer file of a quantisation-aware model.

    Operations that lack a range for one of their tensors stay in float.

    Args:
        model: A model as `quantize_aware` returns it, trained.
        quantization: One of `quantizations_of(model)`.
        batch_size: The fixed batch size, or None for a dynamic one.

    Returns:
        `(content, recipe, kinds of operations that stay in float)`.

    Raises:
        ValueError: for ranges that were never set or that no integers can have.
    """
    check_calibrated(model)
    content, ranges, kept = to_flatbuffer_with_ranges(model, batch_size)
    in_float = _without_ranges(content, ranges, kept)
    recipe = load_recipe(quantization)
    if has_per_tensor_dense(model):
        recipe = per_tensor_dense(recipe)
    recipe += [
        {
            "regex": f"^{re.escape(name)}",
            "operation": "*",
            "algorithm_key": "no_quantize",
            "op_config": {},
        }
        for _, name in in_float
    ]
    return quantize(content, recipe, ranges), recipe, sorted({kind for kind, _ in in_float})


def to_flatbuffer_with_ranges(model: keras.Model, batch_size: int | None) -> tuple:
    """Converts a quantisation-aware model.

    Args:
        model: A model as `quantize_aware` returns it, trained.
        batch_size: The fixed batch size, or None for a dynamic one.

    Returns:
        The float flatbuffer, whose kernels hold rounded values; tensor name -> (low, high);
        names of the tensors that stay in float though integers read them.
    """
    marks, cloner = {}, Cloner(rename=lambda layer: layer.name)

    def call(operation, args, kwargs):
        if isinstance(operation, QuantizedLayer):
            y = _with_rounded_kernel(operation, args[0], cloner)
            return (y, y) if operation.with_steps else y  # nothing reads the steps
        if isinstance(operation, FakeQuantize):
            name = f"kmtl_range_{len(marks):06d}"
            marks[name] = operation
            marked = _Mark(name=name)(args[0])
            return marked, marked  # nothing reads the grid
        if isinstance(operation, RoundToGrid):
            return args[0]
        if isinstance(operation, TableActivation):
            name = cloner.unique(operation.name)
            return keras.layers.Activation(operation.function, name=name)(args[0])
        return cloner(operation, args, kwargs)

    content = to_flatbuffer(rewrite(model, call), batch_size)
    content, marked = take_out_pairs(content, {n: x.get_limits() for n, x in marks.items()})
    ranges = {name: limits for name, (limits, _) in marked.items()}
    kept = {name for name, (_, mark) in marked.items() if mark and marks[mark].after_float}
    return content, ranges, kept


def take_out_pairs(content: bytes, limits: dict) -> tuple[bytes, dict]:
    """Removes the QUANTIZE and DEQUANTIZE pairs of marks.

    Args:
        content: A flatbuffer.
        limits: Name of a mark -> (low, high).

    Returns:
        The flatbuffer without them, and tensor name -> ((low, high), name of its mark), the
        mark None where the range is that of a neighbour.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]  # the others are what control flow runs

    def kind(op):
        return op_name(model.operatorCodes[op.opcodeIndex])

    source, ranges = {}, {}  # tensor behind a pair -> the one before it
    for op in graph.operators:
        if kind(op) == "QUANTIZE":
            name = graph.tensors[op.outputs[0]].name.decode()
            mark = re.search(r"kmtl_range_\d{6}", name).group()
            before = source.get(op.inputs[0], op.inputs[0])
            source[op.outputs[0]] = before
            ranges[before] = limits[mark], mark
        if kind(op) == "DEQUANTIZE":
            source[op.outputs[0]] = source[op.inputs[0]]
    graph.operators = [op for op in graph.operators if kind(op) not in ("QUANTIZE", "DEQUANTIZE")]
    for op in graph.operators:
        op.inputs = [source.get(i, i) for i in op.inputs]
    graph.outputs = [source.get(i, i) for i in graph.outputs]
    for signature in model.signatureDefs:
        for output in signature.outputs:
            output.tensorIndex = source.get(output.tensorIndex, output.tensorIndex)
    for op in graph.operators:  # in the order of computation
        known = [ranges[i][0] for i in op.inputs if i in ranges]
        if kind(op) in SAME_GRID and known:
            for i in op.outputs:
                ranges.setdefault(i, (known[0], None))
    for op in reversed(graph.operators):  # the converter puts reshapes before some roundings
        known = [ranges[i][0] for i in op.outputs if i in ranges]
        if kind(op) in (*SAME_GRID, *GRID_OF_OUTPUT) and known:
            for i in op.inputs:
                tensor = graph.tensors[i]
                constant = model.buffers[tensor.buffer].data is not None
                if tensor.type == schema.TensorType.FLOAT32 and not constant:
                    ranges.setdefault(i, (known[0], None))
    named = {graph.tensors[i].name.decode(): found for i, found in ranges.items()}
    _drop_unused_tensors(model, graph)
    return repack(model, content), named


def _without_ranges(content, ranges, kept) -> list[tuple[str, str]]:
    """Kind and first output's name of the operations that are kept, or lack a tensor's range."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    found = []
    for op in graph.operators:
        tensors = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
        outputs = [graph.tensors[i].name.decode() for i in op.outputs]
        if kept.intersection(outputs) or any(
            t.type == schema.TensorType.FLOAT32
            and model.buffers[t.buffer].data is None
            and t.name.decode() not in ranges
            for t in tensors
        ):
            found.append((op_name(model.operatorCodes[op.opcodeIndex]), outputs[0]))
    return found


def _drop_unused_tensors(model, graph):
    used = {*graph.inputs, *graph.outputs}
    used |= {i for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0}
    kept = sorted(used)
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in kept]
    graph.inputs = [place[i] for i in graph.inputs]
    graph.outputs = [place[i] for i in graph.outputs]
    for op in graph.operators:
        op.inputs = [place[i] for i in op.inputs]
        op.outputs = [place[i] for i in op.outputs]
    for signature in model.signatureDefs:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = place[entry.tensorIndex]


def _with_rounded_kernel(layer, x, cloner):
    inner = layer.layer
    config = {**inner.get_config(), "name": cloner.unique(inner.name)}
    copy = type(inner).from_config(config)
    y = copy(x)
    rounded = keras.ops.convert_to_numpy(layer.rounded_kernel()[0])
    kernel = layer.kernel
    copy.set_weights([rounded if v is kernel else np.asarray(v.numpy()) for v in inner.weights])
    return y
