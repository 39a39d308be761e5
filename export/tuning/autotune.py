"""The smallest or fastest file of a model in which every head keeps its budget."""

import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from kmtl.export.compare import VerificationError
from kmtl.export.files import check_replaceable, write_together
from kmtl.export.flatbuffers.converter import converter
from kmtl.export.folding.fold import fold
from kmtl.export.litert.export_litert import ExportResult, export_litert
from kmtl.export.litert.metadata import described
from kmtl.export.litert.post_training import PostTraining
from kmtl.export.quantization.recipes import OVERRIDES
from kmtl.export.quantization_aware.schemes import is_quantize_aware
from kmtl.export.runtime.reference import check_finite, expected_outputs, verification_inputs
from kmtl.export.runtime.verify import tolerance_of, verify
from kmtl.export.samples import as_named_arrays, read_samples
from kmtl.export.tuning.evaluate import REFERENCE, Evaluation, Evaluator
from kmtl.export.tuning.judge import Judge, share, unit_of
from kmtl.export.tuning.mixes import find_units
from kmtl.export.tuning.search import Search
from kmtl.export.tuning.trade_off import table, write_plot

TARGETS = ("bytes", "latency")
FINALISTS = 4
REPRESENTATIVE_SAMPLES = 256


@dataclasses.dataclass(frozen=True)
class Autotuned:
    """What `autotune` found and wrote; printed, a table in Markdown.

    Attributes:
        path: The `.tflite` file.
        export: The `ExportResult` of it: its types, recipe, errors against the Keras model.
        target: What was to be small, `"bytes"` or `"latency"`.
        budget: Head -> largest accepted loss.
        units: Head -> what its loss is counted in, `"points"` or `"%"`.
        metric_names: Head -> the metric's name.
        chosen: The `Evaluation` of the file.
        evaluations: All files that were measured, in that order, the float32 one first.
        sensitivity: Layer -> type -> head -> how much more the head loses when this layer
            alone has that type, and all others those of the cheapest file of one type that
            keeps the budget. Empty where no cheaper type was to be mixed in.
        complete: Whether there were evaluations for the whole search; else it left layers with
            few weights alone, or ended early.
    """

    path: Path
    export: ExportResult
    target: str
    budget: dict[str, float]
    units: dict[str, str]
    metric_names: dict[str, str]
    chosen: Evaluation
    evaluations: tuple[Evaluation, ...]
    sensitivity: dict[str, dict[str, dict[str, float]]]
    complete: bool

    @property
    def scores(self) -> dict[str, float]:
        """Head -> metric of the file."""
        return self.chosen.scores

    @property
    def losses(self) -> dict[str, float]:
        """Head -> loss of the file, in the budget's unit."""
        return self.chosen.losses

    def table(self) -> str:
        """The types alone, the file, and the layers' sensitivity, in Markdown."""
        return table(self)

    def plot(self, path: str | os.PathLike) -> None:
        """Draws every file: what it costs against the share of its budget the worst head uses.

        Args:
            path: Where to write; the ending tells the format: `.png`, `.svg` or `.pdf`.
        """
        write_plot(self, path)

    def __str__(self) -> str:
        return self.table()


def autotune(
    model: keras.Model,
    path: str | os.PathLike,
    data,
    labels: Mapping[str, np.ndarray],
    metrics,
    budget: float | Mapping[str, float],
    target: str = "bytes",
    representative_data=None,
    types: Sequence[str] | None = None,
    higher_is_better: Mapping[str, bool] | None = None,
    batch_size: int | None = 1,
    max_evaluations: int = 200,
    progress: Callable[[str], None] | None = None,
) -> Autotuned:
    """Writes the smallest, or fastest, file in which every head keeps its budget.

    Use it where one type for all is too coarse: where int8 ruins a head, or int4 would do but
    for a layer or two. Every type is measured alone, then what each layer costs each head;
    from the smallest types, layers are raised one at a time until all heads keep their
    budgets, and tried lower again. Each file on the way is built, run on all of `data` and
    measured. The result is the cheapest of all that were measured, so never worse than the
    best single type; there may be a better one that a greedy search does not meet. It is then
    exported and compared with the Keras model as `export_litert` does it.

    A budget is the largest accepted loss of a head's metric against the float32 file:

    - percentage points, `100 * (float32 - file)`, where more is better and float32's value is
      at most 1: accuracies, IoU, AUC, R2. `0.3` lets an accuracy go from 0.9000 to 0.8970;
    - percent of float32's value, `100 * |float32 - file| / |float32|`, for all others: errors
      such as MAE, and scores without such a scale, such as PSNR in dB.

    Losses are rounded to 0.0001; those below 0 are gains. Each head's worse score on the two
    LiteRT runtimes counts. The files are chosen by `data` and fit it a little: give validation
    data, never test data, and measure the written file on test data once. With `n` rows an
    accuracy moves in steps of `100 / n` points, so that small budgets need many rows.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not, and not
            from `quantize_aware`, whose types are trained.
        path: Where to write; must end in `.tflite`.
        data: Validation inputs: array (one input) or dict of input name -> array.
        labels: Task -> labels of `data`, for every head.
        metrics: What Keras takes for a metric (a name, an object, or a function of labels and
            outputs), for all heads, or task -> one.
        budget: Task -> largest accepted loss, for every head, or one number for all. 0 is for
            heads that may lose nothing, `math.inf` for those that may lose anything.
        target: `"bytes"`, the size of the file, or `"latency"`, of a call on the interpreter of
            this machine with one thread. Defaults to `"bytes"`.
        representative_data: As in `export_litert`, for the ranges of integers; training inputs
            are best. Defaults to `None`, 256 rows of `data`.
        types: The types to mix: those that your device runs. Without `"float32"` there may be
            no file that keeps the budget. Defaults to `None`, all types of `export_litert`'s
            `overrides`.
        higher_is_better: Task -> whether more of its metric is better, where Keras does not
            know: functions and metrics of your own. Defaults to `None`.
        batch_size: Rows computed at a time; `None` for any number. Defaults to `1`.
        max_evaluations: Largest number of files to measure; the best until then is taken. An
            evaluation runs all of `data`. Defaults to `200`.
        progress: Called with a line of text as work goes on. Defaults to `None`.

    Returns:
        An `Autotuned`; `print` shows its table.

    Raises:
        ValueError: for bad arguments or data, and if no file of `types` keeps the budget; the
            message says what heads lose in the closest one.
        VerificationError: if the float32 file does not agree with the Keras model.
        OSError: if the path cannot be written. In each case nothing is left half-written.

    Example:

    ```python
    found = kmtl.export.autotune(
        model, "model.tflite", x_validation, y_validation,
        metrics={"seg": "sparse_categorical_accuracy", "depth": "mae"},
        budget={"seg": 0.3, "depth": 0.5},
    )
    print(found)             # found.export.overrides: the layers with other types
    found.plot("trade_off.png")
    ```
    """
    path = Path(path)
    types = _check_arguments(model, path, target, types, batch_size, max_evaluations)
    progress = progress or (lambda line: None)
    converter.start()  # it gets ready meanwhile
    plain = fold(model)
    tasks = sorted(plain.output)
    specs = {x.name: x for x in plain.inputs}
    arrays = as_named_arrays(data, specs)
    rows = len(next(iter(arrays.values())))
    judge = Judge(tasks, rows, labels, metrics, higher_is_better, budget)
    if representative_data is None:
        chosen = np.linspace(0, rows - 1, min(rows, REPRESENTATIVE_SAMPLES)).astype(int)
        representative_data = {name: array[chosen] for name, array in arrays.items()}
    samples = read_samples(representative_data, specs)
    progress(f"the float32 file, on {rows:,} rows")
    source = PostTraining(plain, samples, batch_size)
    inputs = verification_inputs(plain, samples)
    expected = expected_outputs(model, plain, inputs)
    check_finite(expected)
    verify(source.content, inputs, expected, tolerance_of(REFERENCE))

    def finish(content, quantization):
        return described(content, plain, quantization, samples)

    evaluate = Evaluator(source, finish, judge, arrays, target, max_evaluations, progress)
    search = Search(
        evaluate,
        judge,
        find_units(source.content, source.operations, plain),
        source.operations,
        types,
        cost=lambda e: e.bytes if target == "bytes" else e.latency_ms,
    )
    within = search.run()
    if not within:
        raise ValueError(_no_file(judge, evaluate.evaluations, types))
    best = within[0]
    if target == "latency":
        alone = next((e for e in within if not e.overrides), best)
        best = evaluate.fastest(list({id(e): e for e in (*within[:FINALISTS], alone)}.values()))
    progress(f"writing the best of {len(evaluate.evaluations)} files")
    # Folded once: slices get other names each time that they are made.
    export = _export(plain, path, best, evaluate.content(best), samples, batch_size)
    reference = evaluate.evaluations[0].scores
    return Autotuned(
        path=path,
        export=export,
        target=target,
        budget=judge.budget,
        units={t: unit_of(reference[t], judge.higher_is_better[t]) for t in tasks},
        metric_names={task: judge.metrics[task].name for task in tasks},
        chosen=best,
        evaluations=evaluate.evaluations,
        sensitivity=search.sensitivity,
        complete=search.complete,
    )


def _check_arguments(model, path, target, types, batch_size, max_evaluations) -> list[str]:
    """Raises ValueError for bad ones; returns the types."""
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: path={str(path)!r}")
    check_replaceable(path.with_suffix(".json"))
    if target not in TARGETS:
        raise ValueError(f"`target` must be one of {TARGETS}. Received: target={target!r}")
    if is_quantize_aware(model):
        raise ValueError(
            "`model` must not be from `quantize_aware`, whose types are trained; write it with "
            f"`export_litert`. Received: {model.name}"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1, or None. Received: batch_size={batch_size}"
        )
    chosen = list(dict.fromkeys(OVERRIDES if types is None else types))
    if isinstance(types, str) or not chosen or not set(chosen) <= set(OVERRIDES):
        raise ValueError(f"`types` must be a list of some of {OVERRIDES}. Received: types={types}")
    if max_evaluations < len({REFERENCE, *chosen}):
        raise ValueError(
            f"`max_evaluations` must be at least {len({REFERENCE, *chosen})}, one for float32 and "
            f"for each type. Received: max_evaluations={max_evaluations}"
        )
    return chosen


def _no_file(judge, evaluations, types) -> str:
    tried = [e for e in evaluations if not e.refused and e.quantization in types]
    if not tried:
        return (
            f"`types` must hold one that suits the model. Received: types={types}, of which "
            f"{evaluations[-1].quantization} gives: {evaluations[-1].refused}"
        )
    closest = min(tried, key=lambda e: share(e.losses, judge.budget))
    lost = ", ".join(
        f"{task} loses {value:g} of {judge.budget[task]:g}"
        for task, value in closest.losses.items()
    )
    return (
        "`types` must hold one in which every head keeps its budget, as 'float32' does. "
        f"Received: types={types}; in {closest.quantization} {lost}"
    )


def _export(plain, path, best, content, samples, batch_size) -> ExportResult:
    """Writes the file as `export_litert` does, if it is the one that was measured."""
    with tempfile.TemporaryDirectory() as folder:
        result = export_litert(
            plain,
            Path(folder) / path.name,
            best.quantization,
            representative_data=samples,
            tolerance=math.inf,  # the budgets judge what its types cost
            batch_size=batch_size,
            overrides=best.overrides,
        )
        written, metadata = result.path.read_bytes(), result.metadata_path.read_bytes()
    if written != content:
        raise VerificationError(
            "The file must be the one that was measured. Received: "
            f"{len(written):,} bytes that differ from the {len(content):,} measured"
        )
    result = dataclasses.replace(result, path=path, metadata_path=path.with_suffix(".json"))
    write_together({path: written, result.metadata_path: metadata})
    return result
