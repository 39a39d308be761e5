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
from kmtl.export.quantization.quantize import quantize
from kmtl.export.quantization.recipes import load_recipe
from kmtl.export.quantization_aware.fake_quantize import FakeQuantize
from kmtl.export.quantization_aware.quantize_aware import scheme_of
from kmtl.export.quantization_aware.quantized_layer import QuantizedLayer
from kmtl.models.graph import Cloner, run

# Operations whose outputs have the inputs' grid.
SAME_GRID = (
    "AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER",
    "MAX_POOL_2D", "PAD", "REDUCE_MAX", "REDUCE_MIN", "RESHAPE", "RESIZE_NEAREST_NEIGHBOR", "SLICE",
    "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE",
)  # fmt: skip
# Operations whose inputs must have the output's grid.
GRID_OF_OUTPUT = ("CONCATENATION",)


class _Mark(keras.layers.Layer):
    """What the converter turns into a pair; its name tells whose range it is."""

    def call(self, inputs):
        import tensorflow as tf

        return tf.quantization.fake_quant_with_min_max_args(inputs, -1.0, 1.0)


def from_quantize_aware(model: keras.Model, batch_size: int | None) -> tuple:
    """The integer file of a quantisation-aware model.

    Operations that lack a range for one of their tensors stay in float.

    Args:
        model: A model as `quantize_aware` returns it, trained.
        batch_size: The fixed batch size, or None for a dynamic one.

    Returns:
        `(content, recipe, kinds of operations that stay in float)`.
    """
    content, ranges = to_flatbuffer_with_ranges(model, batch_size)
    in_float = _without_ranges(content, ranges)
    recipe = load_recipe(scheme_of(model)) + [
        {
            "regex": f"^{re.escape(name)}",
            "operation": "*",
            "algorithm_key": "no_quantize",
            "op_config": {},
        }
        for _, name in in_float
    ]
    return quantize(content, recipe, ranges), recipe, sorted({kind for kind, _ in in_float})


def to_flatbuffer_with_ranges(model: keras.Model, batch_size: int | None) -> tuple[bytes, dict]:
    """Converts a quantisation-aware model.

    Args:
        model: A model as `quantize_aware` returns it, trained.
        batch_size: The fixed batch size, or None for a dynamic one.

    Returns:
        The float flatbuffer, whose kernels hold rounded values, and tensor name -> (low, high).
    """
    limits, cloner = {}, Cloner(rename=lambda layer: layer.name)

    def call(operation, args, kwargs):
        if isinstance(operation, QuantizedLayer):
            return _with_rounded_kernel(operation, args[0], cloner)
        if isinstance(operation, FakeQuantize):
            name = f"kmtl_range_{len(limits):06d}"
            limits[name] = operation.get_limits()
            marked = _Mark(name=name)(args[0])
            return marked, marked  # nothing reads the steps
        return cloner(operation, args, kwargs)

    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in model.inputs]
    tasks = list(model.output)
    tensors = run(model, inputs, call, needed=[model.output[task] for task in tasks])
    marked = keras.Model(
        inputs[0] if len(inputs) == 1 else {x.name: x for x in inputs},
        dict(zip(tasks, tensors, strict=True)),
        name=model.name,
    )
    return take_out_pairs(to_flatbuffer(marked, batch_size), limits)


def take_out_pairs(content: bytes, limits: dict) -> tuple[bytes, dict]:
    """Removes the QUANTIZE and DEQUANTIZE pairs of marks.

    Args:
        content: A flatbuffer.
        limits: Name of a mark -> (low, high).

    Returns:
        The flatbuffer without them, and tensor name -> (low, high).
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs

    def kind(op):
        return op_name(model.operatorCodes[op.opcodeIndex])

    source, ranges = {}, {}  # tensor behind a pair -> the one before it
    for op in graph.operators:
        if kind(op) == "QUANTIZE":
            mark = re.search(r"kmtl_range_\d{6}", graph.tensors[op.outputs[0]].name.decode())
            before = source.get(op.inputs[0], op.inputs[0])
            source[op.outputs[0]] = before
            ranges[before] = limits[mark.group()]
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
        known = [ranges[i] for i in op.inputs if i in ranges]
        if kind(op) in SAME_GRID and known:
            for i in op.outputs:
                ranges.setdefault(i, known[0])
    for op in reversed(graph.operators):  # the converter puts reshapes before some roundings
        known = [ranges[i] for i in op.outputs if i in ranges]
        if kind(op) in (*SAME_GRID, *GRID_OF_OUTPUT) and known:
            for i in op.inputs:
                if graph.tensors[i].type == schema.TensorType.FLOAT32:
                    ranges.setdefault(i, known[0])
    named = {graph.tensors[i].name.decode(): r for i, r in ranges.items()}
    _drop_unused_tensors(model, graph)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), named


def _without_ranges(content, ranges) -> list[tuple[str, str]]:
    """Kind and first output's name of the operations that lack a range for a tensor of theirs."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    found = []
    for op in graph.operators:
        tensors = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
        if any(
            t.type == schema.TensorType.FLOAT32
            and model.buffers[t.buffer].data is None
            and t.name.decode() not in ranges
            for t in tensors
        ):
            kind = op_name(model.operatorCodes[op.opcodeIndex])
            found.append((kind, graph.tensors[op.outputs[0]].name.decode()))
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
