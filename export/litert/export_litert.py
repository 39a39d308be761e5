"""One call from a trained model to a verified LiteRT file."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from kmtl.export.files import write_together
from kmtl.export.flatbuffers.convert import to_flatbuffer
from kmtl.export.flatbuffers.operations import find_operations, where
from kmtl.export.folding.fold import fold
from kmtl.export.litert.metadata import describe
from kmtl.export.quantization.quantize import check_done, quantize
from kmtl.export.quantization.ranges import check_no_loops, check_ranges, measure_ranges
from kmtl.export.quantization.recipes import (
    assign,
    check_overrides,
    check_quantization,
    load_recipe,
    needs_data,
    with_overrides,
)
from kmtl.export.quantization_aware.emulation import from_quantize_aware
from kmtl.export.quantization_aware.quantize_aware import is_quantize_aware, scheme_of
from kmtl.export.runtime.reference import check_finite, expected_outputs, verification_inputs
from kmtl.export.runtime.verify import tolerance_of, verify
from kmtl.export.samples import calibration_batches, read_samples


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
        recipe: The recipe's rules, with those of the overrides, as data.
        overrides: Head or layer -> its own type, as asked for.
    """

    path: Path
    metadata_path: Path
    bytes: int
    quantization: str
    tasks: tuple[str, ...]
    errors: dict[str, dict[str, float]]
    recipe: list[dict]
    overrides: dict[str, str] = dataclasses.field(default_factory=dict)


def export_litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: str | None = None,
    representative_data=None,
    tolerance: float | None = None,
    tasks: str | Sequence[str] | None = None,
    batch_size: int | None = 1,
    labels: Mapping[str, Sequence[str]] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> ExportResult:
    """Folds, converts and quantises a model, runs the result and compares it head by head.

    The file is written under a temporary name and gets its own only when every head agrees
    with the Keras model on both LiteRT runtimes, `Interpreter` and `CompiledModel`, with one
    and with four threads. It holds builtin operations only and the heads keep their names.
    Inputs and outputs are float32, except with `"int8_io"` and `"uint8_io"`. A JSON file of
    the same name records tasks, shapes, labels, recipe, sizes and errors.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not.
        path: Where to write; must end in `.tflite`.
        quantization: The type of weights and activations:

            - `"float32"`; `"float16"`: half the bytes;
            - `"dynamic_int8"`: int8 weights, activations quantised while running: a quarter of
              the bytes, no data needed; `"dynamic_int4"`, and `"dynamic_int4_block32"` with a
              scale for each 32 weights of a dense kernel: an eighth;
            - `"weight_only_int8"`, `"weight_only_int4"`: as small, but computing in float32:
              more exact and slower;
            - `"int8"`: activations too, for integer accelerators; `"int8_io"` and `"uint8_io"`
              with inputs and outputs of that type; `"int8x16"`: activations of 16 bits, where
              int8 costs a head too much; `"int4"`: kernels of 4 bits where there is such an
              operation, else 8. These need `representative_data`.

            Defaults to `None`: `"float32"`, or the scheme of a model from `quantize_aware`,
            which cannot have another, and whose ranges are its own.
        representative_data: Typical inputs, which set the ranges of integers, and on which
            all types are verified: an array (one input), dict of input name -> array,
            `tf.data.Dataset`, iterator, or function that returns one, of batches (arrays,
            dicts, or tuples that begin with one, as `(x, y)`). At most 512 samples are taken,
            so that it may be endless. Defaults to `None`, standard normal noise for
            verification.
        tolerance: Largest accepted relative error of a head. Defaults to `None`: that of the
            type in `kmtl.export.runtime.verify`, such as 1e-5 for float32 and 0.2 for int8, which
            catches broken heads; set it lower where your application asks for it.
        tasks: The tasks to export. Defaults to `None`, all.
        batch_size: Rows computed at a time; `None` for any number. Defaults to `1`.
        labels: Task -> class names, for the JSON file.
        overrides: Name of a head or layer -> its own type, one of `quantization`'s without
            `_io`. A head's applies to what only this head needs; a layer's goes before it,
            and a name that is both means the head. Layers are those of `fold(model)`.
            Defaults to `None`.

    Returns:
        An `ExportResult`.

    Raises:
        ValueError: for bad arguments or data; non-finite weights; an operation without a
            builtin form, or with weights that have none in the type asked for; data that
            leaves an operation constant or makes it infinite (the message names the layer).
        VerificationError: if a head is too far off.
        OSError: if the path cannot be written. In each case nothing is left half-written.

    Example:

    ```python
    result = kmtl.export.export_litert(
        model, "model.tflite", quantization="int8", representative_data=x_train[:256],
        overrides={"depth": "int8x16"},
    )
    print(result.bytes, result.errors["depth"]["max_abs_error"])
    ```
    """
    path = Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: path={str(path)!r}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1, or None. Received: batch_size={batch_size}"
        )
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive. Received: tolerance={tolerance}")
    quantization = _checked_quantization(model, quantization, overrides)
    overrides = check_overrides(overrides)
    plain = fold(model, tasks)
    labels = _checked_labels(labels, plain)
    samples = None
    if representative_data is not None:
        samples = read_samples(representative_data, {x.name: x for x in plain.inputs})
    inputs = verification_inputs(plain, samples)
    expected = expected_outputs(model, plain, inputs)
    if is_quantize_aware(plain):
        content, recipe, left_in_float = from_quantize_aware(plain, batch_size)
    else:
        content, recipe, left_in_float = _post_training(
            plain, quantization, overrides, samples, batch_size
        )
    check_finite(expected)
    if tolerance is None:
        tolerance = tolerance_of(quantization, *overrides.values())
    errors = verify(content, inputs, expected, tolerance)
    if left_in_float:
        warnings.warn(
            f"The quantiser has no integer form for {left_in_float}; they compute in float.",
            stacklevel=2,
        )
    result = ExportResult(
        path=path,
        metadata_path=path.with_suffix(".json"),
        bytes=len(content),
        quantization=quantization,
        tasks=tuple(sorted(errors)),
        errors=errors,
        recipe=recipe,
        overrides=overrides,
    )
    verified = {
        "samples": len(next(iter(inputs.values()))),
        "data": "noise" if samples is None else "representative",
        "tolerance": tolerance,
    }
    text = describe(content, plain.name, result, labels, verified)
    write_together({path: content, result.metadata_path: text.encode()})
    return result


def _checked_quantization(model, quantization, overrides) -> str:
    if not is_quantize_aware(model):
        quantization = quantization or "float32"
        check_quantization(quantization)
        return quantization
    scheme = scheme_of(model)
    if quantization not in (None, scheme) or overrides:
        raise ValueError(
            "A model from `quantize_aware` is exported as it was trained, without `overrides` and "
            f"with quantization={scheme!r}. Received: quantization={quantization!r}, "
            f"overrides={overrides}"
        )
    return scheme


def _post_training(plain, quantization, overrides, samples, batch_size):
    """The quantised file, its recipe, and kinds of operations that stay in float."""
    batches = None
    if any(needs_data(load_recipe(name)) for name in (quantization, *overrides.values())):
        batches = calibration_batches(samples, batch_size, plain)
    content = to_flatbuffer(plain, batch_size)
    operations = find_operations(content, plain)
    if batch_size is None:
        _check_shapes(operations)
    types = assign(operations, quantization, overrides)
    recipe = with_overrides(quantization, operations, types)
    ranges = None
    if batches is not None:
        check_no_loops(operations)
        ranges = measure_ranges(content, batches)
        check_ranges(ranges, operations, types)
    content = quantize(content, recipe, ranges)
    return content, recipe, check_done(content, operations, types)


def _check_shapes(operations) -> None:
    found = [where(op) for op in operations if op.kind == "SHAPE"]
    if found:
        raise ValueError(
            "With `batch_size=None` no layer may compute shapes while running, which LiteRT's "
            f"CompiledModel cannot do; give a number. Received: {'; '.join(found)}"
        )


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
