"""What an operation must be to run on a Coral Edge TPU: the published rules, one function each.

The rules are Google's, from the page "TensorFlow models on the Edge TPU"
(coral.ai/docs/edgetpu/models-intro), sections "Model requirements" and "Supported operations",
for the compiler 16.0 and runtime 14. Three come from elsewhere and say so: versions
(`edgetpu_ops.py`), per-channel weights of fully-connected operations, and a float input, whose
QUANTIZE the page says stays on the CPU and which compiler logs show not to cut the graph.

The compiler is closed, frozen since 2021 and not available here: that it decides as these rules
say could not be verified, and its log knows refusals ("some unspecified limitation") that no
page explains. A file that breaks a rule does not map; one that keeps all is likely to.

A rule takes an operation and returns the reason why it cannot map, or None.
"""

import math

from kmtl.export.edgetpu.limits import LIMITS, constants, sizes_text
from kmtl.export.edgetpu.mapped_ops import NEWEST_VERSIONS, SUPPORTED
from kmtl.export.flatbuffers.graph import Operation, Tensor

DATA_TYPES = ("INT8", "UINT8")
CONSTANT_TYPES = ("INT8", "UINT8", "INT16", "INT32", "INT64")  # weights, biases, axes


def reasons(op: Operation) -> tuple[str, ...]:
    """Why an operation cannot run on the accelerator by itself; empty if it can."""
    if op.name not in SUPPORTED:
        return (f"{op.name} is not among the operations that the Edge TPU supports",)
    found = (rule(op) for rule in (*EVERYWHERE, *LIMITS.get(op.name, ())))
    return tuple(reason for reason in found if reason)


def refusal(op: Operation) -> str | None:
    """Why the compiler refuses a whole file that holds this operation, wherever it would run."""
    if op.name.startswith("CUSTOM"):
        return None
    newest = NEWEST_VERSIONS.get(op.name)
    if newest is None:
        return f"{op.name} is newer than the compiler, which refuses the whole file"
    if op.version > newest:
        return (
            f"{op.name} version {op.version} is newer than {newest}, the newest that the "
            "compiler knows; it refuses the whole file"
        )
    return None


def at_the_edge(op: Operation, inputs: set[int], heads: set[int]) -> str | None:
    """Why an operation that turns float to integer or back at the file's ends stays on the CPU."""
    if op.name == "QUANTIZE" and op.input_ids[0] in inputs and _is_float(op.inputs[0]):
        return "a float input is quantised on the CPU; an int8 or uint8 input is not"
    if op.name == "DEQUANTIZE" and op.output_ids[0] in heads:
        return "a float head is dequantised on the CPU; an int8 or uint8 head is not"
    return None


def _types(op):
    wrong = {t.dtype for t in _data(op) if t.dtype not in DATA_TYPES}
    wrong |= {t.dtype for t in constants(op) if t.dtype not in CONSTANT_TYPES}
    if wrong:
        return f"tensors must be int8 or uint8, not {', '.join(sorted(wrong)).lower()}"
    return None


def _constant_sizes(op):
    if any(t.dynamic for t in _data(op)):
        return "sizes must be constant: an open one, such as a dynamic batch, is not"
    return None


def _rank(op):
    for tensor in _data(op):
        if math.prod(tensor.shape[:-3]) > 1:
            return f"only the three innermost dimensions may exceed 1, not {sizes_text(tensor)}"
    return None


EVERYWHERE = (_types, _constant_sizes, _rank)


def _data(op) -> list[Tensor]:
    """What is computed: neither constants nor the state of a recurrent operation."""
    return [t for t in (*op.inputs, *op.outputs) if t and not (t.constant or t.variable)]


def _is_float(tensor) -> bool:
    return tensor.dtype.startswith("FLOAT")
