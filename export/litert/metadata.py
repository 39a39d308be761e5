"""The JSON file beside a `.tflite` file: what it holds, how it was made, how far it is off."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kmtl.export.flatbuffers.add_metadata import with_metadata
from kmtl.export.flatbuffers.inspection import TensorInfo, inspect_bytes
from kmtl.export.flatbuffers.model_metadata import InputInfo
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
        "target": _target(result.lint),
        "signature": found.signature.key,
        "task_signatures": sorted(set(found.signatures) - {found.signature.key}),
        "inputs": {
            name: {**_tensor(info), **_feeding(found.metadata.inputs[name])}
            for name, info in found.signature.inputs.items()
        },
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


def _feeding(info: InputInfo) -> dict:
    """What the application does to an input before feeding it, where that is known."""
    return {"mean": info.mean, "std": info.std} if info.std else {}


def _target(lint) -> dict | None:
    """What an accelerator gets, as shares of the multiply-accumulates."""
    return lint and {"name": lint.target, "share": lint.share, "head_shares": lint.head_shares}


def described(
    content: bytes,
    plain: keras.Model,
    quantization: str,
    samples: Mapping[str, np.ndarray] | None,
    labels: Mapping[str, Sequence[str]] | None = None,
    normalization: Mapping[str, tuple] | None = None,
) -> bytes:
    """The flatbuffer with its metadata: names, labels, what inputs were like and must be made.

    Args:
        content: The flatbuffer.
        plain: The folded model.
        quantization: The recipe's name.
        samples: Representative data by input name, whose extremes are told, or None.
        labels: Task -> class names. Defaults to `None`.
        normalization: Input name -> (mean, std) that the application subtracts and divides by.
            Defaults to `None`.
    """
    inputs = {name: {} for name in {**(samples or {}), **(normalization or {})}}
    for name, x in (samples or {}).items():
        inputs[name] |= {"minimum": (float(x.min()),), "maximum": (float(x.max()),)}
    for name, (mean, std) in (normalization or {}).items():
        inputs[name] |= {"mean": _floats(mean), "std": _floats(std)}
    info = {name: InputInfo(**found) for name, found in inputs.items()}
    return with_metadata(content, plain.name, f"kmtl {__version__}, {quantization}", info, labels)


def _floats(values) -> tuple[float, ...]:
    return tuple(float(x) for x in np.ravel(values))
