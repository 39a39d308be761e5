"""Which layers of a model, and which heads, the operations of its flatbuffer belong to."""

import dataclasses
from collections import Counter

import keras

from kmtl.export.flatbuffers.convert import scope_of
from kmtl.export.flatbuffers.inspection import constant_bytes, op_name

# Operations with a kernel or a table among their inputs.
WITH_WEIGHTS = (
    "BATCH_MATMUL", "CONV_2D", "CONV_3D", "CONV_3D_TRANSPOSE", "DEPTHWISE_CONV_2D",
    "EMBEDDING_LOOKUP", "FULLY_CONNECTED", "GATHER", "TRANSPOSE_CONV",
)  # fmt: skip

# What the converter makes of recurrent layers and other control flow.
LOOPS = ("IF", "WHILE")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of a float flatbuffer.

    Attributes:
        kind: Its name, such as `"CONV_2D"`.
        outputs: Names of its output tensors; quantising keeps them.
        layers: Names of the layers that it computes; several where the converter fused them.
        heads: The tasks that need it.
    """

    kind: str
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    heads: tuple[str, ...]


def find_operations(content: bytes, plain: keras.Model) -> list[Operation]:
    """The operations of a flatbuffer from `to_flatbuffer`, in the order of computation.

    Args:
        content: The flatbuffer, not quantised.
        plain: The model that it was converted from.
    """
    model, graph, kind = _parsed(content)
    names = [tensor.name.decode() for tensor in graph.tensors]
    layer_of = {scope_of(x.name): x.name for x in plain.operations}
    readers = Counter(i for op in graph.operators for i in set(op.inputs))
    heads = {o.tensorIndex: o.name.decode() for o in model.signatureDefs[0].outputs}

    def layers_in(tensors):
        scopes = (part.split("/")[0] for i in tensors for part in names[i].split(";"))
        return {layer_of[scope] for scope in scopes if scope in layer_of}

    def layers(op):
        found = layers_in(op.outputs)
        if not found:  # a head's tensor has a name of its own; kernels still tell
            own = [i for i in op.inputs if readers[i] == 1 and _constant(model, graph, i)]
            found = layers_in(own)
        for task in {heads[i] for i in op.outputs if i in heads}:
            found.add(plain.output[task]._keras_history.operation.name)
        return tuple(sorted(found))

    needed_by = _needed_by(graph, heads)
    return [
        Operation(
            kind(op),
            tuple(names[i] for i in op.outputs),
            layers(op),
            tuple(sorted(set().union(*(needed_by.get(i, ()) for i in op.outputs)))),
        )
        for op in graph.operators
    ]


def float_tensors(content: bytes) -> dict[str, set[str]]:
    """Output tensor of each operation that touches floats -> `"weights"`, `"values"` or both.

    `"weights"` says that a kernel or a table is in float32, `"values"` that something else is.
    """
    model, graph, kind = _parsed(content)
    from ai_edge_litert import schema_py_generated as schema

    found = {}
    for op in graph.operators:
        if kind(op) in ("QUANTIZE", "DEQUANTIZE"):
            continue
        floats = [
            i
            for i in (*op.inputs, *op.outputs)
            if i >= 0 and graph.tensors[i].type == schema.TensorType.FLOAT32
        ]
        weights = {i for i in floats if kind(op) in WITH_WEIGHTS and _constant(model, graph, i)}
        weights = {i for i in weights if len(graph.tensors[i].shape) > 1}  # 1 is a bias
        what = {"weights"} if weights else set()
        if set(floats) - weights:
            what.add("values")
        found[graph.tensors[op.outputs[0]].name.decode()] = what
    return found


def constant_tensors(content: bytes) -> set[str]:
    """Names of the tensors whose values are in the file."""
    model, graph, _ = _parsed(content)
    names = [tensor.name.decode() for tensor in graph.tensors]
    return {name for i, name in enumerate(names) if _constant(model, graph, i)}


def where(op: Operation) -> str:
    """An operation for a message: kind and layers."""
    return f"{op.kind} in layer {', '.join(op.layers) or 'unknown'}"


def _needed_by(graph, heads) -> dict[int, set[str]]:
    """Tensor -> the tasks whose head depends on it."""
    needed = {i: {task} for i, task in heads.items()}
    for op in reversed(graph.operators):
        tasks = set().union(*(needed.get(i, ()) for i in op.outputs))
        for i in op.inputs:
            needed.setdefault(i, set()).update(tasks)
    return needed


def _constant(model, graph, i) -> bool:
    return i >= 0 and constant_bytes(model.buffers[graph.tensors[i].buffer]) > 0


def _parsed(content):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)

    def kind(op):
        return op_name(model.operatorCodes[op.opcodeIndex])

    return model, model.subgraphs[0], kind
