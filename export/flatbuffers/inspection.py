"""What is inside a LiteRT file: heads, types, operations, bytes."""

import contextlib
import dataclasses
import functools
import os
import struct
from collections import Counter

import numpy as np

from kmtl.export.flatbuffers.convert import quiet_stderr

# What reading a damaged model may raise, in Python or from the runtimes.
DAMAGE = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, StopIteration,
    TypeError, ValueError, struct.error,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """An input or a head.

    Attributes:
        shape: Its sizes, the batch first; None where the file takes any.
        dtype: Its type.
        scale: Of a quantised one, whose values are `(integer - zero_point) * scale`; else None.
        zero_point: The integer that stands for 0; else None.
    """

    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


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
    type_names = enum_names("TensorType")
    ops, float_ops, weights, seen = Counter(), Counter(), Counter(), set()
    with read_model(content, source) as (signature, model):
        for graph in model.subgraphs:
            for tensor in graph.tensors:
                size = constant_bytes(model.buffers[tensor.buffer])
                if size and tensor.buffer not in seen:
                    seen.add(tensor.buffer)
                    weights[type_names[tensor.type]] += size
            for op in graph.operators:
                name = op_name(model.operatorCodes[op.opcodeIndex])
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


@contextlib.contextmanager
def read_model(content: bytes, source: str):
    """Gives `(signature, model)`, the model as the schema's Python objects.

    Raises:
        ValueError: if the bytes are no whole LiteRT model with named heads, or trip the code
            inside the block.
    """
    from ai_edge_litert import schema_py_generated as schema

    signature = check_flatbuffer(content, source)
    with refuse_damage(content, source):
        yield signature, schema.ModelT.InitFromPackedBuf(content, 0)


@contextlib.contextmanager
def refuse_damage(content: bytes, source: str):
    """Turns what a model trips over into the error for a damaged file.

    What LiteRT's verifier lets through may still contradict itself: an operation without
    inputs, say, or a table that ends before its index.

    Raises:
        ValueError: instead of what is raised inside the block.
    """
    try:
        yield
    except DAMAGE as error:
        raise _refusal(content, source, f"{type(error).__name__}: {error}") from error


def check_flatbuffer(content: bytes, source: str) -> Signature:
    """Verifies that bytes are a whole LiteRT model with named heads; returns its signature.

    LiteRT's own verifier checks every offset, and `_check_entries` what it leaves out, so that
    truncated, foreign and damaged files end here and never crash the process.
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
            _check_entries(content)
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
        raise _refusal(content, source, error) from error


def constant_bytes(buffer) -> int:
    """Size of a constant, which larger files hold behind the flatbuffer; 0 of a variable."""
    return buffer.size if buffer.data is None else len(buffer.data)


def _check_entries(content) -> None:
    """Checks what native code follows unchecked, to a crash: where the signatures point."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    for i in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(i)
        graph = signature.SubgraphIndex()
        if graph >= model.SubgraphsLength():
            raise ValueError(f"signature {i} enters graph {graph}, which does not exist")
        ends = [signature.Inputs(j) for j in range(signature.InputsLength())]
        ends += [signature.Outputs(j) for j in range(signature.OutputsLength())]
        tensors = model.Subgraphs(graph).TensorsLength()
        if any(end.TensorIndex() >= tensors for end in ends):
            raise ValueError(f"signature {i} names a tensor that does not exist")


def op_name(code) -> str:
    """The schema's name of an operation; `CUSTOM:` and its own for one that is not builtin."""
    name = enum_names("BuiltinOperator")[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return f"CUSTOM:{code.customCode.decode()}" if name == "CUSTOM" else name


@functools.cache
def enum_names(enum: str) -> dict[int, str]:
    """Number -> name in one of the schema's enumerations."""
    from ai_edge_litert import schema_py_generated as schema

    return {v: k for k, v in vars(getattr(schema, enum)).items() if isinstance(v, int)}


def _refusal(content, source, why) -> ValueError:
    return ValueError(
        f"A LiteRT model must be whole and have named heads. Received: {source}, "
        f"{len(content)} bytes ({why})"
    )


def _info(details) -> TensorInfo:
    sizes = details["shape"]
    if len(details["shape_signature"]) == len(sizes):
        sizes = details["shape_signature"]
    scale, zero_point = details["quantization"]
    return TensorInfo(
        tuple(None if n < 0 else int(n) for n in sizes),
        np.dtype(details["dtype"]).name,
        float(scale) if scale else None,
        int(zero_point) if scale else None,
    )
