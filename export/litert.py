"""One call from a trained model to a verified LiteRT file."""

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from kmtl.export.convert import to_flatbuffer
from kmtl.export.files import write_together
from kmtl.export.fold import fold
from kmtl.export.inspection import inspect_bytes
from kmtl.export.quantize import (
    CALIBRATED,
    as_named_arrays,
    check_quantization,
    load_recipe,
    quantize,
    representative_samples,
)
from kmtl.export.verify import TOLERANCES, verify
from kmtl.version import __version__

VERIFICATION_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What `export_litert` wrote.

    Attributes:
        path: The `.tflite` file.
        metadata_path: The JSON file beside it.
        bytes: Size of the `.tflite` file.
        quantization: Name of the recipe.
        tasks: The heads' names, sorted.
        errors: Task -> `max_abs_error`, `mean_abs_error`, `relative_error` against the Keras
            model, the larger of the two runtimes'.
        recipe: The recipe's rules, as data.
    """

    path: Path
    metadata_path: Path
    bytes: int
    quantization: str
    tasks: tuple[str, ...]
    errors: dict[str, dict[str, float]]
    recipe: list[dict]


def export_litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: str = "float32",
    representative_data=None,
    tolerance: float | None = None,
    tasks: str | Sequence[str] | None = None,
    batch_size: int = 1,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> ExportResult:
    """Folds, converts and quantises a model, runs the result and compares it head by head.

    The file is written under a temporary name and gets its own only when every head agrees
    with the Keras model on both LiteRT runtimes, `Interpreter` and `CompiledModel`. It holds
    builtin operations only, inputs and outputs are float32, and the heads keep their names.
    A JSON file of the same name records tasks, shapes, labels, recipe, sizes and errors.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not.
        path: Where to write; must end in `.tflite`.
        quantization: `"float32"`, `"float16"` (half the bytes), `"dynamic_int8"` (int8
            weights, float activations: a quarter of the bytes, no data needed) or `"int8"`
            (all int8, for integer accelerators). Defaults to `"float32"`.
        representative_data: Array, or dict of input name -> array, with a few hundred
            typical inputs: sets the int8 ranges, and all types are verified on it. Defaults
            to `None`, standard normal noise for verification; `"int8"` needs data.
        tolerance: Largest accepted relative error of a head. Defaults to `None`: 1e-5 for
            float32, 5e-3 for float16, 0.1 for dynamic_int8, 0.2 for int8, which catches
            broken heads; set it lower where your application asks for it.
        tasks: The tasks to export. Defaults to `None`, all.
        batch_size: Rows computed at a time. Defaults to `1`.
        labels: Task -> class names, for the JSON file.

    Returns:
        An `ExportResult`.

    Raises:
        ValueError: for bad arguments or data, non-finite weights, or an operation without a
            builtin form (the message names the layer).
        VerificationError: if a head is too far off.
        OSError: if the path cannot be written. In each case nothing is left half-written.

    Example:

    ```python
    result = kmtl.export.export_litert(
        model, "model.tflite", quantization="int8", representative_data=x_train[:256]
    )
    print(result.bytes, result.errors["left"]["max_abs_error"])
    ```
    """
    path = Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: path={str(path)!r}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive. Received: tolerance={tolerance}")
    check_quantization(quantization)
    plain = fold(model, tasks)
    labels = _checked_labels(labels, plain)
    recipe = load_recipe(quantization)
    samples = None
    if quantization in CALIBRATED:
        samples = representative_samples(plain, representative_data, batch_size)
    inputs = _verification_inputs(plain, representative_data)
    expected = _expected_outputs(model, plain, inputs)
    content = quantize(to_flatbuffer(plain, batch_size), recipe, samples)
    tolerance = TOLERANCES[quantization] if tolerance is None else tolerance
    errors = verify(content, inputs, expected, tolerance)
    found = inspect_bytes(content)
    left_in_float = sorted(set(found.float_ops) - {"QUANTIZE", "DEQUANTIZE"})
    if quantization == "int8" and left_in_float:
        warnings.warn(
            f"The quantiser has no integer form for {left_in_float}; they compute in float.",
            stacklevel=2,
        )
    metadata_path = path.with_suffix(".json")
    metadata = {
        "model": plain.name,
        "kmtl_version": __version__,
        "quantization": quantization,
        "recipe": recipe,
        "bytes": found.bytes,
        "weight_bytes": found.weight_bytes,
        "ops": found.ops,
        "float_ops": left_in_float,
        "signature": found.signature.key,
        "inputs": {n: dataclasses.asdict(t) for n, t in found.signature.inputs.items()},
        "tasks": {
            task: {
                **dataclasses.asdict(info),
                "labels": labels.get(task),
                "errors": errors[task],
            }
            for task, info in found.signature.outputs.items()
        },
        "verified": {
            "runtimes": ["interpreter", "compiled_model"],
            "samples": len(next(iter(inputs.values()))),
            "data": "noise" if representative_data is None else "representative",
            "tolerance": tolerance,
        },
    }
    text = json.dumps(metadata, indent=2) + "\n"
    write_together({path: content, metadata_path: text.encode()})
    return ExportResult(
        path=path,
        metadata_path=metadata_path,
        bytes=len(content),
        quantization=quantization,
        tasks=tuple(sorted(errors)),
        errors=errors,
        recipe=recipe,
    )


def _verification_inputs(plain, representative_data) -> dict[str, np.ndarray]:
    inputs = {x.name: x for x in plain.inputs}
    if representative_data is not None:
        arrays = as_named_arrays(representative_data, inputs)
        return {name: array[:VERIFICATION_SAMPLES] for name, array in arrays.items()}
    rng = np.random.default_rng(0)
    noise = {}
    for name, x in inputs.items():
        shape = (VERIFICATION_SAMPLES, *x.shape[1:])
        if "float" not in x.dtype:
            raise ValueError(
                f"`representative_data` must be given for integer inputs, whose range kmtl "
                f"cannot know. Received: None for input {name!r} of type {x.dtype}"
            )
        noise[name] = rng.normal(size=shape).astype(x.dtype)
    return noise


def _expected_outputs(model, plain, inputs) -> dict[str, np.ndarray]:
    """The trained model's outputs; the folded one's where the trained one cannot be asked.

    That is so when the chosen tasks need only some of its inputs, and in mixed precision,
    whose rounding would hide the file's own error.
    """
    same_inputs = len(model.inputs) == len(plain.inputs)
    reference = model if same_inputs and model.compute_dtype == "float32" else plain
    flat = [inputs[x.name] for x in reference.inputs]
    outputs = reference(keras.tree.pack_sequence_as(reference.input, flat), training=False)
    return {
        task: keras.ops.convert_to_numpy(outputs[task]).astype("float32") for task in plain.output
    }


def _checked_labels(labels, plain) -> dict:
    labels = dict(labels or {})
    for task, names in labels.items():
        if task not in plain.output:
            raise ValueError(
                f"`labels` must name exported tasks {sorted(plain.output)}. Received: {task!r}"
            )
        if len(names) != plain.output[task].shape[-1]:
            raise ValueError(
                f"`labels` must hold a name for each of the {plain.output[task].shape[-1]} "
                f"outputs of task {task!r}. Received: {len(names)} names"
            )
    return {task: [str(n) for n in names] for task, names in labels.items()}
