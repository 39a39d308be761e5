"""A page that shows what each number type costs each head of a model."""

import dataclasses
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from kmtl.export.benchmarking.latency import first_rows, median_latencies
from kmtl.export.files import write_together
from kmtl.export.folding.fold import fold
from kmtl.export.litert.export_litert import export_litert
from kmtl.export.quantization.recipes import QUANTIZATIONS, check_quantization
from kmtl.export.reporting.figures import check_packages
from kmtl.export.reporting.scores import check_labels, check_metrics, score
from kmtl.export.runtime.litert_model import load_litert
from kmtl.export.samples import as_named_arrays, read_samples

EXTRAS = ("matplotlib", "jinja2")
REFERENCE = "float32"
REPRESENTATIVE_SAMPLES = 256
ROUNDS, WARM_UP, CALLS = 5, 5, 20


@dataclasses.dataclass(frozen=True)
class FileReport:
    """One file of a report.

    Attributes:
        bytes: Its size.
        latency_ms: Median of a call with one row, on the interpreter, one thread.
        errors: Task -> errors against the Keras model, from `ExportResult.errors`.
        metrics: Task -> metric over all rows, for heads with one.
        deviations: Task -> |file - Keras model| of every value of every row.
        notes: What the export warned of.
    """

    bytes: int
    latency_ms: float
    errors: dict[str, dict[str, float]]
    metrics: dict[str, float]
    deviations: dict[str, np.ndarray]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What `report` measured.

    Attributes:
        path: The page.
        tasks: The heads' names, sorted.
        rows: Rows of the data.
        sizes: Task -> root mean square of the Keras model's outputs.
        files: Number type -> `FileReport`, float32 first.
        refused: Number type -> why there is no file.
        metric_names: Task -> the metric's name, for heads with one.
    """

    path: Path
    tasks: tuple[str, ...]
    rows: int
    sizes: dict[str, float]
    files: dict[str, FileReport]
    refused: dict[str, str]
    metric_names: dict[str, str]


def report(
    model: keras.Model,
    path: str | os.PathLike,
    data,
    labels: Mapping[str, np.ndarray] | None = None,
    metrics=None,
    quantizations: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
    representative_data=None,
) -> Report:
    """Exports a model in several number types and writes an HTML page that compares them.

    Use it to choose a type: the page has, per head and type, the metric and its change
    against float32, errors and their distribution, bytes, latency, the trade-off, and the
    weights. It is one file, needs no network and no JavaScript. The `.tflite` files are not
    kept; write the chosen one with `export_litert`. Errors are shown however large they are,
    so that a type on the page may still be refused there for its tolerance.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not.
        path: Where to write the page; must end in `.html`.
        data: Array (one input) or dict of input name -> array, to measure on.
        labels: Task -> labels of `data`, for the heads that have a metric. Defaults to `None`.
        metrics: What Keras takes for a metric (a name, an object, or a function of labels and
            outputs), for all labelled heads, or task -> one. Defaults to `None`.
        quantizations: Types as in `export_litert`; float32 is always among them. Defaults to
            `None`, all that there are.
        progress: Called with a line of text as work goes on. Defaults to `None`.
        representative_data: As in `export_litert`, for the ranges of types that need them;
            training inputs are best. Defaults to `None`, the first 256 rows of `data`.

    Returns:
        A `Report` with the figures of the page.

    Raises:
        ValueError: for bad arguments or data; a type that does not suit the model is no
            error, the page gives the reason.
        ImportError: if a package of the extra "report" is missing.
        OSError: if the path cannot be written.

    Example:

    ```python
    kmtl.export.report(
        model, "model.html", x_test, {"left": y_test}, {"left": "accuracy"},
        representative_data=x_train[:256],
    )
    ```
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"`path` must end in .html. Received: path={str(path)!r}")
    chosen = _checked_quantizations(quantizations)
    check_packages("A report", "report", EXTRAS)
    from kmtl.export.reporting.page import render

    progress = progress or (lambda line: None)
    plain = fold(model)
    tasks = tuple(sorted(plain.output))
    arrays = as_named_arrays(data, {x.name: x for x in plain.inputs})
    rows = len(next(iter(arrays.values())))
    labels = check_labels(labels, tasks, rows)
    metrics = check_metrics(metrics, labels)
    if representative_data is None:
        representative_data = {n: array[:REPRESENTATIVE_SAMPLES] for n, array in arrays.items()}
    samples = read_samples(representative_data, {x.name: x for x in plain.inputs})
    progress(f"the Keras model on {rows:,} rows")
    expected = _predict(plain, arrays)
    files, refused, runners = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for quantization in chosen:
            progress(f"{quantization}: exporting and comparing")
            file = Path(folder) / f"{quantization}.tflite"
            try:
                result, notes = _export(model, file, quantization, samples)
            except (ValueError, RuntimeError) as error:
                if quantization == REFERENCE:
                    raise
                refused[quantization] = " ".join(str(error).split())
                continue
            runners[quantization] = load_litert(file)
            answers = runners[quantization](arrays)
            files[quantization] = FileReport(
                bytes=result.bytes,
                latency_ms=math.nan,
                errors=result.errors,
                metrics={t: score(m, labels[t], answers[t]) for t, m in metrics.items()},
                deviations={t: np.abs(answers[t] - expected[t]).ravel() for t in tasks},
                notes=notes,
            )
    progress("latencies, the files in turn")
    for quantization, ms in _latencies(runners, arrays).items():
        files[quantization] = dataclasses.replace(files[quantization], latency_ms=ms)
    names = {task: metric.name for task, metric in metrics.items()}
    sizes = {task: float(np.sqrt(np.mean(np.square(y)))) or 1.0 for task, y in expected.items()}
    found = Report(path, tasks, rows, sizes, files, refused, names)
    progress("the page")
    write_together({path: render(found, plain).encode()})
    return found


def _checked_quantizations(quantizations) -> list[str]:
    if isinstance(quantizations, str):
        raise ValueError(
            f"`quantizations` must be a list of types. Received: quantizations={quantizations!r}"
        )
    chosen = list(dict.fromkeys(QUANTIZATIONS if quantizations is None else quantizations))
    for quantization in chosen:
        check_quantization(quantization)
    return [REFERENCE, *(name for name in chosen if name != REFERENCE)]


def _export(model, path, quantization, samples):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = export_litert(
            model, path, quantization, representative_data=samples, tolerance=math.inf
        )
    notes = (str(w.message) for w in caught if issubclass(w.category, UserWarning))
    return result, tuple(dict.fromkeys(notes))


def _predict(plain, arrays):
    outputs = plain.predict(
        keras.tree.pack_sequence_as(plain.input, [arrays[x.name] for x in plain.inputs]),
        verbose=0,
    )
    return {task: np.asarray(y, "float32") for task, y in outputs.items()}


def _latencies(runners, arrays):
    inputs = {name: first_rows(runner, arrays) for name, runner in runners.items()}
    return median_latencies(runners, inputs, rounds=ROUNDS, warmup=WARM_UP, runs=CALLS)
