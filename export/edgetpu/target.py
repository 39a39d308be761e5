"""What a file must be before it is handed to the Edge TPU's compiler."""

import dataclasses
import warnings
from collections.abc import Sequence

import keras

from kmtl.export.edgetpu import rules
from kmtl.export.edgetpu.lint import Lint, lint_graph
from kmtl.export.flatbuffers.graph import Operation, read_graph
from kmtl.export.flatbuffers.operations import LOOPS, find_operations, where
from kmtl.export.flatbuffers.operations import Operation as NamedOperation

QUANTIZATIONS = ("int8_io", "uint8_io")
ENDS = ("QUANTIZE", "DEQUANTIZE")  # of a part that computes in float


def check_request(quantization: str, overrides: dict, batch_size: int | None) -> None:
    """Raises ValueError for arguments of `export_litert` that no Edge TPU can serve."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"With target='edgetpu' `quantization` must be one of {QUANTIZATIONS}: an Edge TPU "
            f"computes in 8-bit integers only. Received: quantization={quantization!r}"
        )
    if overrides:
        raise ValueError(
            "With target='edgetpu' no layer or head may have a type of its own. "
            f"Received: overrides={overrides}"
        )
    if batch_size is None:
        raise ValueError(
            "With target='edgetpu' every size must be constant. Received: batch_size=None"
        )


def check_no_loops_on_target(operations: Sequence[NamedOperation]) -> None:
    """Raises ValueError for recurrent layers, naming them."""
    # The published list has LSTMs, as one operation, which Keras 3 layers do not become.
    found = [where(op) for op in operations if op.kind in LOOPS]
    if found:
        raise ValueError(
            "An Edge TPU runs no loops; export recurrent layers for the CPU, or use "
            f"convolutions over time. Received: {'; '.join(found)}"
        )


def lint_for_compiler(content: bytes, plain: keras.Model) -> Lint:
    """Lints a file, refuses one that the compiler would refuse, and tells what falls to the CPU.

    Args:
        content: The quantised flatbuffer.
        plain: The model that it was converted from, for the layers' names.

    Raises:
        ValueError: for operations that compute in float, that make the compiler refuse the
            file, or if nothing at all maps.
    """
    with read_graph(content) as graph:
        lint = lint_graph(graph)
        ops = graph.operations
    names = _names(ops, find_operations(content, plain))
    floats = [names[op.index] for op in ops if _is_float(op) and op.name not in ENDS]
    if floats:
        raise ValueError(
            "With target='edgetpu' every operation must have an 8-bit form. "
            f"Received: float in {'; '.join(floats)}"
        )
    refused = [f"{names[op.index]}: {rules.refusal(op)}" for op in ops if rules.refusal(op)]
    if refused:
        raise ValueError(
            "The Edge TPU compiler must know every operation of a file. "
            f"Received: {'; '.join(refused)}"
        )
    fallen = [row for row in lint.ops if not row.mapped]
    if len(fallen) == len(ops):
        raise ValueError(
            "With target='edgetpu' something must run on it. "
            f"Received: {names[0]}: {lint.ops[0].reasons[0]}"
        )
    if fallen:
        listed = "; ".join(f"{names[row.index]}: {row.reasons[0]}" for row in fallen)
        shares = ", ".join(
            f"{head} {share:.1%}" for head, share in lint.head_shares.items() if share is not None
        )
        warnings.warn(
            f"A part of the file falls to the CPU; of the multiply-accumulates the Edge TPU gets "
            f"{shares}. {listed}",
            stacklevel=3,
        )
    return lint


def _names(ops, named) -> list[str]:
    """Kind and layers of each operation; the converter's own pieces have those of their reader."""
    layers = [op.layers for op in named]
    for op in reversed(ops):
        if not layers[op.index]:
            readers = (r.index for r in ops if set(op.output_ids) & set(r.input_ids))
            layers[op.index] = next((layers[i] for i in readers), ())
    return [
        where(dataclasses.replace(op, layers=found))
        for op, found in zip(named, layers, strict=True)
    ]


def _is_float(op: Operation) -> bool:
    return any(t and t.dtype.startswith("FLOAT") for t in (*op.inputs, *op.outputs))
