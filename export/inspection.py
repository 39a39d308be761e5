"""What is inside a LiteRT file: heads, types, operations, bytes."""

import dataclasses
import os
from collections import Counter

import numpy as np

from kmtl.export.convert import quiet_stderr


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or a head: its shape, with the batch, and its type."""

    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Signature:
    """A named entry point of a file with its named inputs and outputs."""

    key: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `inspect_litert` found.

    Attributes:
        bytes: Size of the file.
        weight_bytes: Bytes of constant tensors by type.
        signature: Inputs and heads.
        ops: Operation name -> how often it occurs.
        float_ops: The same for operations that compute on float tensors.
    """

    bytes: int
    weight_bytes: dict[str, int]
    signature: Signature
    ops: dict[str, int]
    float_ops: dict[str, int]


def inspect_litert(path: str | os.PathLike) -> Inspection:
    """Reads a `.tflite` file's heads, types, operations and sizes without running it.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no LiteRT model or is cut short.
    """
    with open(path, "rb") as file:
        return inspect_bytes(file.read(), str(path))


def inspect_bytes(content: bytes, source: str = "<bytes>") -> Inspection:
    """`inspect_litert` for a model in memory."""
    from ai_edge_litert import schema_py_generated as schema

    signature = check_flatbuffer(content, source)
    op_names = _names(schema.BuiltinOperator)
    type_names = _names(schema.TensorType)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    ops, float_ops, weights, seen = Counter(), Counter(), Counter(), set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is not None and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                weights[type_names[tensor.type]] += len(data)
        for op in graph.operators:
            code = model.operatorCodes[op.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = op_names[builtin]
            if name == "CUSTOM":
                name = f"CUSTOM:{code.customCode.decode()}"
            ops[name] += 1
            touched = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
            if any(type_names[t.type].startswith("FLOAT") for t in touched):
                float_ops[name] += 1
    return Inspection(
        bytes=len(content),
        weight_bytes=dict(weights),
        signature=signature,
        ops=dict(sorted(ops.items())),
        float_ops=dict(sorted(float_ops.items())),
    )


def check_flatbuffer(content: bytes, source: str) -> Signature:
    """Verifies that bytes are a whole LiteRT model with named heads; returns its signature.

    LiteRT's own verifier checks every offset, so that truncated, foreign and damaged files
    end here and never crash the process.
    """
    if content[4:8] != b"TFL3":
        raise ValueError(
            "A LiteRT model must start with the identifier TFL3. "
            f"Received: {source}, {len(content)} bytes starting with {content[:8]!r}"
        )
    from ai_edge_litert.interpreter import Interpreter

    try:
        with quiet_stderr():
            interpreter = Interpreter(model_content=content)
            signatures = interpreter.get_signature_list()
            key = next(iter(signatures), None)
            if key is None:
                raise ValueError("no signature, so that heads have no names")
            runner = interpreter.get_signature_runner(key)
            return Signature(
                key,
                {n: _info(d) for n, d in sorted(runner.get_input_details().items())},
                {n: _info(d) for n, d in sorted(runner.get_output_details().items())},
            )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"A LiteRT model must be whole and have named heads. Received: {source}, "
            f"{len(content)} bytes ({error})"
        ) from error


def _info(details) -> TensorInfo:
    return TensorInfo(tuple(int(n) for n in details["shape"]), np.dtype(details["dtype"]).name)


def _names(enum) -> dict[int, str]:
    return {v: k for k, v in vars(enum).items() if isinstance(v, int)}
