"""One call from a trained model to a pruned, clustered or quantised LiteRT file, by tfmot."""

import dataclasses
import math
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from kmtl.export.compare import compare
from kmtl.export.files import check_replaceable, write_together
from kmtl.export.flatbuffers.argument_names import spelled
from kmtl.export.flatbuffers.convert import to_flatbuffer
from kmtl.export.folding.fold import fold
from kmtl.export.folding.simplify import simplify
from kmtl.export.litert.export_litert import ExportResult
from kmtl.export.litert.metadata import describe, described
from kmtl.export.runtime.reference import check_finite, expected_outputs, verification_inputs
from kmtl.export.runtime.verify import TOLERANCES, verify
from kmtl.export.samples import as_named_arrays, read_samples
from kmtl.export.tfmot.arguments import check_options, check_training, checked_methods
from kmtl.export.tfmot.conversion import outputs_by_task, to_integer_flatbuffer
from kmtl.export.tfmot.kernels_in_file import (
    check_structure,
    distinct,
    kernels_in_file,
    share_of_zeros,
)
from kmtl.export.tfmot.legacy import load_tfmot, quiet_tensorflow, require_tfmot
from kmtl.export.tfmot.methods import cluster, prune
from kmtl.export.tfmot.quantization import check_quantizable, keep_structure, quantize_aware
from kmtl.export.tfmot.rebuild import rebuild, with_weights_of
from kmtl.export.tfmot.structure import KERNELS, kernels
from kmtl.export.tfmot.training import Objective, train

# Of the file against the fine-tuned model, which rounds as the file does. LiteRT multiplies by
# integers, so that an operation may be a step off and the next ones carry it on: heads behind up
# to 30 operations were 1 to 3 steps off, at most 0.016.
INTEGER_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfmotResult(ExportResult):
    """What `compress` wrote; the fields of `ExportResult`, and:

    Attributes:
        methods: What was done, in order.
        compressed_bytes: Size of the file after deflate, the method of zip and APK files. Zeros
            and clusters are smaller only then.
        sparsity: Layer -> share of zeros of its kernel in the file.
        distinct_weights: Layer -> number of different values of its kernel in the file.
        history: Method -> mean loss of each epoch.
    """

    methods: tuple[str, ...]
    compressed_bytes: int
    sparsity: dict[str, float]
    distinct_weights: dict[str, int]
    history: dict[str, list[float]]


def compress(
    model: keras.Model,
    path: str | os.PathLike,
    x,
    y,
    methods: str | Sequence[str] = ("quantize",),
    sparsity: float = 0.5,
    schedule: str = "polynomial",
    clusters: int = 16,
    centroids: str = "kmeans++",
    epochs: int = 2,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    tolerance: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> TfmotResult:
    """Fine-tunes a model with zeros, few values or integers as weights, and writes the file.

    Use it where the file that is downloaded must be small: zeros and few values make it so when
    it is packed. For integers alone, `quantize_aware` knows more layers, keeps the model's
    weighting and gives the file's own numbers. Needs `pip install "kmtl[tfmot]"`.

    The model is folded and its normalisations go into the kernels, so that what is pruned and
    clustered is what is deployed. It is rebuilt in Keras 2, on which tfmot works, with the same
    weights and outputs that are proved equal to the last bit. The methods follow one another,
    each with `epochs` of training, and each keeps what the ones before it did:

    - `"prune"`: the smallest weights of each kernel become zero;
    - `"cluster"`: each kernel has at most `clusters` values, zero among them when pruned;
    - `"quantize"`: quantisation-aware training; weights and activations of 8 bits. After
      `"cluster"`, a kernel has one scale and at most `clusters` different integers.

    Training minimises the plain sum of the losses that the model was compiled with, missing
    labels and `loss_weights` included, as Keras 2 does not run kmtl's weightings. All layers
    are trained, frozen ones too. tfmot leaves depthwise kernels and biases as they are.

    The user's `tf.keras` is not touched, nor is the model.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not, compiled
            with losses.
        path: Where to write; must end in `.tflite`.
        x: Array (one input) or dict of input name -> array, to train and to verify on.
        y: Task -> labels.
        methods: Of `"prune"`, `"cluster"` and `"quantize"`, one or several. Defaults to
            `("quantize",)`.
        sparsity: Share of zeros in a pruned kernel, from 0 to below 1. Defaults to `0.5`.
        schedule: `"polynomial"`, from none to `sparsity` over three quarters of the steps, or
            `"constant"`, all from the start. Defaults to `"polynomial"`.
        clusters: Largest number of values in a clustered kernel, at least 2, or 3 when pruned.
            Defaults to `16`.
        centroids: How the values of clusters begin: `"kmeans++"`, `"linear"`, `"density"` or
            `"random"`. Defaults to `"kmeans++"`.
        epochs: Rounds over the data for each method. Defaults to `2`.
        batch_size: Rows of a training step; the file computes one at a time. Defaults to `32`.
        learning_rate: Of Adam. Defaults to `1e-4`.
        tolerance: Largest accepted relative error of a head against the fine-tuned model.
            Defaults to `None`: 1e-5, with `"quantize"` 0.05.
        progress: Called with a line of text as work goes on. Defaults to `None`.

    Returns:
        A `TfmotResult`.

    Raises:
        ImportError: if tfmot or Keras 2 is missing; the message tells how to install them.
        ValueError: for bad arguments or data, a model without losses, and layers that Keras 2
            or a method does not have; the message names the layer.
        VerificationError: if a head of the file is too far off, or a kernel has lost its zeros
            or clusters. In each case nothing is written.
        OSError: if the path cannot be written.

    Example:

    ```python
    result = kmtl.export.tfmot.compress(
        model, "model.tflite", x_train, y_train, methods=("prune", "cluster", "quantize"),
        sparsity=0.6, clusters=16, epochs=3,
    )
    print(result.bytes, result.compressed_bytes, result.sparsity)
    ```
    """
    path = Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: path={str(path)!r}")
    check_replaceable(path.with_suffix(".json"))
    methods = checked_methods(methods)
    check_options(methods, sparsity, schedule, clusters, centroids)
    check_training(epochs, batch_size, learning_rate, tolerance)
    require_tfmot()
    folded = fold(model)
    plain = simplify(folded)
    spelled(i.name for i in plain.inputs)
    objective = Objective(model, sorted(plain.output))
    arrays = as_named_arrays(x, {i.name: i for i in plain.inputs})
    labels = objective.labels(y, len(next(iter(arrays.values()))))
    inputs = verification_inputs(plain, arrays)
    expected = expected_outputs(model, folded, inputs)
    check_finite(expected)
    compare(_outputs(plain, inputs), expected, TOLERANCES["float32"], "the simplified model")
    recipe = _recipe(methods, sparsity, schedule, clusters, centroids)
    tell = progress or (lambda line: None)
    flat = [arrays[i.name] for i in plain.inputs]

    def fit(tuned, **keywords):
        return train(
            tuned, objective, flat, labels, epochs, batch_size, learning_rate,
            progress=tell, **keywords,
        )  # fmt: skip

    steps = epochs * math.ceil(len(flat[0]) / batch_size)
    with quiet_tensorflow():  # it counts how often functions of one name are traced
        aware, history = _tuned(plain, inputs, arrays, recipe, fit, steps, tell)
    if aware is None:
        content, expected = to_flatbuffer(plain, 1), _outputs(plain, inputs)
    else:
        content = to_integer_flatbuffer(aware, plain)
        expected = outputs_by_task(aware, plain, inputs)
    check_finite(expected)
    quantization = "float32" if aware is None else "int8"
    content = described(content, plain, quantization, inputs)
    if tolerance is None:
        tolerance = TOLERANCES["float32"] if aware is None else INTEGER_TOLERANCE
    errors = verify(content, inputs, expected, tolerance)
    found = kernels_in_file(content, plain)
    check_structure(plain, found, recipe)
    result = TfmotResult(
        path=path,
        metadata_path=path.with_suffix(".json"),
        bytes=len(content),
        quantization=quantization,
        tasks=tuple(sorted(errors)),
        errors=errors,
        recipe=recipe,
        methods=methods,
        compressed_bytes=len(zlib.compress(content, 9)),
        sparsity={name: share_of_zeros(kernel) for name, kernel in sorted(found.items())},
        distinct_weights={name: distinct(kernel) for name, kernel in sorted(found.items())},
        history=history,
    )
    verified = {
        "samples": len(next(iter(inputs.values()))),
        "data": "representative",
        "tolerance": tolerance,
    }
    text = describe(content, plain.name, result, {}, verified)
    write_together({path: content, result.metadata_path: text.encode()})
    return result


def _tuned(plain, inputs, arrays, recipe, fit, steps, tell):
    """Fine-tunes `plain` in place; returns the quantised Keras 2 model, if any, and the losses."""
    tfmot, tf_keras = load_tfmot()
    aware, history, done = None, {}, set()
    for entry in recipe:
        method, options = entry["method"], {k: v for k, v in entry.items() if k != "method"}
        tell(method)
        base = rebuild(plain, inputs, tf_keras)
        if not done:  # before time goes into training
            _check_layers(tfmot, base, [other["method"] for other in recipe])
        zeros, clusters = "prune" in done, "cluster" in done
        if method == "prune":
            tuned, history[method] = prune(tfmot, base, fit, steps, **options)
            with_weights_of(plain, tuned)
        elif method == "cluster":
            tuned, history[method] = cluster(tfmot, base, fit, keep_zeros=zeros, **options)
            with_weights_of(plain, tuned)
        else:
            samples = read_samples(arrays, {i.name: i for i in plain.inputs})
            flat = [samples[i.name] for i in plain.inputs]
            aware = quantize_aware(tfmot, tf_keras, base, flat, per_tensor=clusters)
            history[method] = fit(aware, holds=keep_structure(aware, base, zeros, clusters))
        done.add(method)
    return aware, history


def _check_layers(tfmot, base, methods) -> None:
    """Raises ValueError if a method has nothing to work on, or a layer that it cannot do."""
    if not kernels(base) and {"prune", "cluster"} & set(methods):
        raise ValueError(
            f"The model must have kernels to prune or cluster, of {', '.join(KERNELS)}. "
            f"Received: model {base.name!r} without one"
        )
    if "quantize" in methods:
        check_quantizable(tfmot, base, per_tensor="cluster" in methods)


def _recipe(methods, sparsity, schedule, clusters, centroids) -> list[dict]:
    options = {
        "prune": {"sparsity": sparsity, "schedule": schedule},
        "cluster": {"clusters": clusters, "centroids": centroids},
        "quantize": {},
    }
    return [{"method": method, **options[method]} for method in methods]


def _outputs(plain, inputs) -> dict[str, np.ndarray]:
    return expected_outputs(plain, plain, inputs)
