"""One call from a trained model to a verified LiteRT file."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from kmtl.export.edgetpu.lint import TARGETS, Lint
from kmtl.export.edgetpu.target import check_request, lint_for_compiler
from kmtl.export.files import check_replaceable, write_together
from kmtl.export.flatbuffers.converter import converter
from kmtl.export.flatbuffers.task_signatures import with_task_signatures
from kmtl.export.folding.fold import fold
from kmtl.export.litert.arguments import (
    check_batch_size,
    check_deployable,
    checked_labels,
    checked_mapping,
    checked_normalization,
    checked_quantization,
)
from kmtl.export.litert.metadata import describe, described
from kmtl.export.litert.post_training import PostTraining
from kmtl.export.litert.preprocessing import with_preprocessing
from kmtl.export.quantization.recipes import check_overrides
from kmtl.export.quantization_aware.emulation import from_quantize_aware
from kmtl.export.quantization_aware.schemes import is_quantize_aware
from kmtl.export.runtime.reference import check_finite, expected_outputs, verification_inputs
from kmtl.export.runtime.verify import tolerance_of, verify
from kmtl.export.samples import read_samples, without


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
        lint: What the target maps, where one was named; else None.
    """

    path: Path
    metadata_path: Path
    bytes: int
    quantization: str
    tasks: tuple[str, ...]
    errors: dict[str, dict[str, float]]
    recipe: list[dict]
    overrides: dict[str, str] = dataclasses.field(default_factory=dict)
    lint: Lint | None = None


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
    target: str | None = None,
    task_signatures: bool = False,
    preprocessing: Mapping[str, keras.Model] | None = None,
    normalization: Mapping[str, tuple] | None = None,
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
            verification; inputs that are integers need data.
        tolerance: Largest accepted relative error of a head. Defaults to `None`: that of the
            type in `kmtl.export.runtime.verify`, such as 1e-5 for float32 and 0.2 for int8, which
            catches broken heads; set it lower where your application asks for it.
        tasks: The tasks to export. Defaults to `None`, all that are not only for training.
        batch_size: Rows computed at a time; `None` for any number. Defaults to `1`.
        labels: Task -> class names, each a line of text, for the JSON file and for the file's
            own metadata, where Android's and MediaPipe's tools find them. Defaults to `None`.
        overrides: Name of a head or layer -> its own type, one of `quantization`'s without
            `_io`. A head's applies to what only this head needs; a layer's goes before it,
            and a name that is both means the head. Layers are those of `fold(model)`.
            Defaults to `None`.
        target: `"edgetpu"` for a file that Google's compiler for that accelerator takes:
            `"int8_io"` (then the default) or `"uint8_io"`, a scale for each dense kernel instead
            of each output, constant sizes. What the accelerator would leave to the CPU by the
            published rules is a warning, what its compiler would refuse an error; see
            `lint_litert`. Defaults to `None`, any CPU.
        task_signatures: Whether the file has a signature for each task beside the one for all.
            It is named like the task, runs only what this task needs and gives the same answer.
            Constants are in the file once, but runtimes prepare kernels for every signature when
            they load it: more memory, 1.7 times with two tasks on MobileNetV2. Defaults to
            `False`.
        preprocessing: Input name -> a Keras model with one input and one output that becomes
            part of the file, from what the device has to what the model takes, such as
            `keras.Sequential([keras.Input((480, 640, 3), dtype="uint8"),
            keras.layers.Resizing(96, 96), keras.layers.Rescaling(1 / 255)])`. The input keeps its
            name, and `representative_data` is what the device has. Defaults to `None`.
        normalization: Input name -> `(mean, std)` that the *application* subtracts and divides
            by, numbers or one for each channel: for the metadata of the file, where Android's
            and MediaPipe's tools look, and the JSON file. Defaults to `None`.

    Returns:
        An `ExportResult`.

    Raises:
        ValueError: for bad arguments or data; non-finite weights; an operation without a
            builtin form, or with weights that have none in the type asked for, or that the
            target cannot serve; data that leaves an operation constant or makes it infinite
            (the message names the layer).
        VerificationError: if a head is too far off.
        OSError: if the path cannot be written, or the JSON file beside it is somebody else's. In
            each case nothing is left half-written.

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
    check_replaceable(path.with_suffix(".json"))
    check_batch_size(batch_size)
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive. Received: tolerance={tolerance}")
    if target not in (None, *TARGETS):
        raise ValueError(f"`target` must be one of {TARGETS}, or None. Received: {target!r}")
    quantization = checked_quantization(model, quantization, overrides, target)
    overrides = check_overrides(overrides)
    if target:
        check_request(quantization, overrides, batch_size)
    preprocessing = checked_mapping("preprocessing", preprocessing)
    if preprocessing:
        model = with_preprocessing(model, preprocessing)
    converter.start()  # it gets ready meanwhile
    plain = fold(model, tasks)
    check_deployable(plain)
    labels = checked_labels(labels, plain)
    normalization = checked_normalization(normalization, preprocessing, plain)
    samples = None
    if representative_data is not None:
        unneeded = {x.name for x in model.inputs} - {x.name for x in plain.inputs}
        specs = {x.name: x for x in plain.inputs}
        samples = read_samples(without(unneeded, representative_data), specs)
    inputs = verification_inputs(plain, samples)
    expected = expected_outputs(model, plain, inputs)
    if is_quantize_aware(plain):
        content, recipe, left_in_float = from_quantize_aware(plain, quantization, batch_size)
    else:
        source = PostTraining(plain, samples, batch_size, target)
        content, recipe, left_in_float = source.quantized(quantization, overrides)
    if task_signatures:
        content = with_task_signatures(content)
    content = described(content, plain, quantization, samples, labels, normalization)
    lint = lint_for_compiler(content, plain) if target else None
    check_finite(expected)
    if tolerance is None:
        tolerance = tolerance_of(quantization, *overrides.values())
    errors = verify(content, inputs, expected, tolerance)
    if left_in_float:
        warnings.warn(
            f"Operations of this file that compute in float: {', '.join(left_in_float)}. The "
            "quantiser has no integer form for them, or they were kept so.",
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
        lint=lint,
    )
    verified = {
        "samples": len(next(iter(inputs.values()))),
        "data": "noise" if samples is None else "representative",
        "tolerance": tolerance,
    }
    text = describe(content, plain.name, result, labels, verified)
    write_together({path: content, result.metadata_path: text.encode()})
    return result
