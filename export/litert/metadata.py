"""The JSON file beside a `.tflite` file: what it holds, how it was made, how far it is off."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from kmtl.export.flatbuffers.inspection import TensorInfo, inspect_bytes
from kmtl.export.runtime.litert_model import RUNTIMES
from kmtl.export.runtime.verify import THREADS
from kmtl.version import __version__


def describe(
    content: bytes,
    name: str,
    result,
    labels: Mapping[str, Sequence[str]],
    verified: Mapping,
) -> str:
    """The text of the JSON file.

    Args:
        content: The `.tflite` file's bytes.
        name: The model's name.
        result: The `ExportResult`.
        labels: Task -> class names.
        verified: `samples`, `data` and `tolerance` of the verification.
    """
    found = inspect_bytes(content)
    metadata = {
        "model": name,
        "kmtl_version": __version__,
        "quantization": result.quantization,
        "overrides": result.overrides,
        "recipe": result.recipe,
        "bytes": found.bytes,
        "weight_bytes": found.weight_bytes,
        "ops": found.ops,
        "float_ops": sorted(set(found.float_ops) - {"QUANTIZE", "DEQUANTIZE"}),
        "signature": found.signature.key,
        "inputs": {n: _tensor(t) for n, t in found.signature.inputs.items()},
        "tasks": {
            task: {**_tensor(info), "labels": labels.get(task), "errors": result.errors[task]}
            for task, info in found.signature.outputs.items()
        },
        "verified": {"runtimes": list(RUNTIMES), "threads": list(THREADS), **verified},
    }
    return json.dumps(metadata, indent=2) + "\n"


def _tensor(info: TensorInfo) -> dict:
    """Shape and type, with scale and zero point where it is quantised."""
    fields = dataclasses.asdict(info)
    return {key: value for key, value in fields.items() if value is not None}
