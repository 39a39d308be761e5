"""What is inside a LiteRT file: heads, types, operations, bytes."""

import contextlib
import dataclasses
import functools
import os
import struct
from collections import Counter

import numpy as np

from kmtl.export.flatbuffers.convert import quiet_stderr
from kmtl.export.flatbuffers.model_metadata import ModelMetadata, read_metadata

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
        signature: Inputs and heads: of several signatures, the first.
        signatures: All signatures by their keys.
        ops: Of what the first signature runs: operation name -> how often it occurs.
        float_ops: The same for operations that compute on float tensors.
        metadata: What the file says of itself, such as the names of classes; None if nothing.
    """

    bytes: int
    weight_bytes: dict[str, int]
    signature: Signature
    signatures: dict[str, Signature]
    ops: dict[str, int]
    float_ops: dict[str, int]
    metadata: ModelMetadata | None = None


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
    with read_model(content, source) as (signatures, model):
        signature, *others = signatures.values()
        entries = {entry.signatureKey.decode(): entry for entry in model.signatureDefs}
        elsewhere = {entries[other.key].subgraphIndex for other in others}
        elsewhere.discard(entries[signature.key].subgraphIndex)
        for index, graph in enumerate(model.subgraphs):
            for tensor in graph.tensors:
                size = constant_bytes(model.buffers[tensor.buffer])
                if size and tensor.buffer not in seen:
                    seen.add(tensor.buffer)
                    weights[type_names[tensor.type]] += size
            for op in [] if index in elsewhere else graph.operators:
                name = op_name(model.operatorCodes[op.opcodeIndex])
                ops[name] += 1
                touched = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
                if any(type_names[t.type].startswith("FLOAT") for t in touched):
                    float_ops[name] += 1
        metadata = read_metadata(content)
    return Inspection(
        bytes=len(content),
        weight_bytes=dict(weights),
        signature=signature,
        signatures=signatures,
        ops=dict(sorted(ops.items())),
        float_ops=dict(sorted(float_ops.items())),
        metadata=metadata,
    )


@contextlib.contextmanager
def read_model(content: bytes, source: str):
    """Gives `(signatures by key, model)`, the model as the schema's Python objects.

    Raises:
        ValueError: if the bytes are no whole LiteRT model with named heads, or trip the code
            inside the block.
    """
    from ai_edge_litert import schema_py_generated as schema

    signatures = read_signatures(content, source)
    with refuse_damage(content, source):
        yield signatures, schema.ModelT.InitFromPackedBuf(content, 0)


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

    Of several signatures, the first.
    """
    return next(iter(read_signatures(content, source).values()))


def read_signatures(content: bytes, source: str) -> dict[str, Signature]:
    """Verifies that bytes are a whole LiteRT model with named heads; returns its signatures.

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
            keys = list(interpreter.get_signature_list())
            if not keys:
                raise ValueError("no signature, so that heads have no names")
            return {key: _signature(key, interpreter.get_signature_runner(key)) for key in keys}
    except (ValueError, RuntimeError) as error:
        raise _refusal(content, source, error) from error


def _signature(key, runner) -> Signature:
    return Signature(
        key,
        {n: _info(d) for n, d in sorted(runner.get_input_details().items())},
        {n: _info(d) for n, d in sorted(runner.get_output_details().items())},
    )


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
