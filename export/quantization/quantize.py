"""Applies a quantisation recipe to a float32 flatbuffer."""

from collections.abc import Sequence

import numpy as np

from kmtl.export.flatbuffers.inspection import op_name
from kmtl.export.flatbuffers.operations import Operation, float_tensors, where
from kmtl.export.quantization.ranges import quiet_quantizer
from kmtl.export.quantization.recipes import calibrated
from kmtl.export.quantization.recipes import load_recipe as load_recipe


def quantize(flatbuffer: bytes, recipe: list[dict], ranges: dict | None = None) -> bytes:
    """Quantises a flatbuffer.

    Args:
        flatbuffer: A float32 model from `to_flatbuffer`.
        recipe: Rules; an empty list changes nothing.
        ranges: Tensor name -> (low, high), where the recipe needs them.
    """
    from ai_edge_quantizer import quantizer

    if not recipe:
        return flatbuffer
    known = {
        name: {"min": np.array([low]), "max": np.array([high])}
        for name, (low, high) in (ranges or {}).items()
    }
    try:
        with quiet_quantizer():
            work = quantizer.Quantizer(bytearray(flatbuffer), recipe)
            return _with_open_sizes(bytes(work.quantize(known or None).quantized_model))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "Every kernel must suit the type asked for, or its layer have another one by "
            f"`overrides`. Received: {error}"
        ) from error


def _with_open_sizes(content: bytes) -> bytes:
    """Repeats, for tensors that the quantiser has added, which sizes are known only when running.

    It writes 1 for them, and a head behind such a tensor would have one row.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    changed = False
    for graph in model.subgraphs:
        for op in graph.operators:
            if op_name(model.operatorCodes[op.opcodeIndex]) in ("QUANTIZE", "DEQUANTIZE"):
                before, after = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
                if before.shapeSignature is not None and after.shapeSignature is None:
                    after.shapeSignature, changed = before.shapeSignature, True
    if not changed:
        return content
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def check_done(content: bytes, operations: Sequence[Operation], types: Sequence[str]) -> list[str]:
    """Checks that a quantised file is what was asked for.

    Args:
        content: The quantised flatbuffer.
        operations: From `find_operations` on the float one.
        types: The type of each.

    Returns:
        Kinds of operations without weights that have no integer form and compute in float,
        though their type is an integer one.

    Raises:
        ValueError: for kernels that stayed in float32; the message names their layers.
    """
    floats = float_tensors(content)
    missed = [
        f"{where(op)}, {asked}"
        for op, asked in zip(operations, types, strict=True)
        if asked != "float32" and "weights" in floats.get(op.outputs[0], ())
    ]
    if missed:
        raise ValueError(
            "Every operation with weights must have a kernel for the type asked for; give those "
            "that have none another one, as in `overrides={layer: 'float32'}`. "
            f"Received: {'; '.join(missed)}"
        )
    return sorted({op.kind for op in calibrated(operations, types) if floats.get(op.outputs[0])})
