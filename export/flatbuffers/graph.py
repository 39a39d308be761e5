"""A LiteRT file's operations and tensors in a form that rules can be written on."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from kmtl.export.flatbuffers.inspection import Signature, enum_names, op_name, read_model


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What an operation reads or writes.

    Attributes:
        shape: Sizes, 1 where the file leaves one open.
        dtype: The schema's name of the type, such as `INT8`.
        dynamic: Whether a size is open until the model runs.
        constant: Whether the values are in the file.
        variable: Whether it is a state that stays from one run to the next.
        values: The integers of a constant, else None.
        channels: Number of quantisation scales: more than one is per channel.
        zero_point: The integer that stands for 0.
        name: Its name in the file, which tells the layer.
    """

    shape: tuple[int, ...]
    dtype: str
    dynamic: bool = False
    constant: bool = False
    variable: bool = False
    values: np.ndarray | None = None
    channels: int = 0
    zero_point: int = 0
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation; `input_ids` and `output_ids` number the tensors, -1 stands for none."""

    index: int
    name: str
    version: int
    input_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any


@dataclasses.dataclass(frozen=True)
class Graph:
    """What runs for one signature: its operations in order and the tensors that have names.

    Attributes:
        signature: The signature with types and shapes.
        operations: In the order in which they run.
        inputs: Input name -> index of its tensor.
        heads: Head -> index of its tensor.
        graphs: The operations of all graphs of the file, such as the body of a loop.
    """

    signature: Signature
    operations: tuple[Operation, ...]
    inputs: dict[str, int]
    heads: dict[str, int]
    graphs: list[tuple[Operation, ...]]


@contextlib.contextmanager
def read_graph(content: bytes, source: str = "<bytes>") -> Iterator[Graph]:
    """Gives the graph behind a file's first signature, the one that `inspect_litert` shows.

    What does not fit together in it is reported as a damaged file, also when only code inside
    the block notices: a convolution without weights, for instance.

    Raises:
        ValueError: if the bytes are no whole LiteRT model with named heads.
    """
    with read_model(content, source) as (signatures, model):
        signature = next(iter(signatures.values()))
        key = signature.key.encode()
        entry = next(s for s in model.signatureDefs if s.signatureKey == key)
        graphs = [_operations(model, graph) for graph in model.subgraphs]
        yield Graph(
            signature,
            graphs[entry.subgraphIndex],
            {m.name.decode(): m.tensorIndex for m in _listed(entry.inputs)},
            {m.name.decode(): m.tensorIndex for m in _listed(entry.outputs)},
            graphs,
        )


def _operations(model, graph) -> tuple[Operation, ...]:
    tensors = [_tensor(model, tensor) for tensor in _listed(graph.tensors)]
    operations = []
    for index, op in enumerate(_listed(graph.operators)):
        code = model.operatorCodes[op.opcodeIndex]
        inputs, outputs = (tuple(int(i) for i in _listed(ids)) for ids in (op.inputs, op.outputs))
        operations.append(
            Operation(
                index,
                op_name(code),
                code.version,
                inputs,
                outputs,
                tuple(tensors[i] if i >= 0 else None for i in inputs),
                tuple(tensors[i] for i in outputs),
                op.builtinOptions,
            )
        )
    return tuple(operations)


def _tensor(model, tensor) -> Tensor:
    buffer = model.buffers[tensor.buffer]
    dtype = enum_names("TensorType")[tensor.type]
    shape = tuple(int(n) for n in _listed(tensor.shape))
    constant = buffer.data is not None or bool(buffer.offset)
    quantization = tensor.quantization
    scales = _listed(quantization.scale) if quantization else []
    zeros = _listed(quantization.zeroPoint) if quantization else []
    return Tensor(
        shape=shape,
        dtype=dtype,
        dynamic=any(n < 0 for n in _listed(tensor.shapeSignature)),
        constant=constant,
        variable=bool(tensor.isVariable),
        values=_values(buffer.data, dtype, shape),
        channels=len(scales),
        zero_point=int(zeros[0]) if len(zeros) else 0,
        name=(tensor.name or b"").decode(errors="replace"),
    )


def _values(data, dtype, shape) -> np.ndarray | None:
    if data is None or dtype not in ("INT8", "UINT8", "INT32", "INT64"):
        return None
    return np.frombuffer(bytes(data), dtype.lower()).reshape(shape)


def _listed(values):
    return [] if values is None else values
