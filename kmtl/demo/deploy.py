"""Writes the chosen network as LiteRT files and measures each of them as a device would."""

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from kmtl.datasets.overlay import Split, Splits
from kmtl.demo.networks import CLASSES, TASKS
from kmtl.export import LiteRTModel, export_litert, load_litert
from kmtl.export.benchmarking.latency import first_rows, median_latencies

QUANTIZATIONS = ("float32", "float16", "dynamic_int8", "int8")

REPRESENTATIVE_SAMPLES = 256


def deploy(model: keras.Model, folder: Path, data: Splits) -> dict:
    """Exports `model` in every number type and measures the files.

    Args:
        model: The trained network.
        folder: Where to write `<quantization>.tflite` and `.json`.
        data: Training images set the int8 ranges; test images measure.

    Returns:
        Quantization -> path (in the folder), bytes, latency_ms (median of single-row calls,
        one thread), test (accuracy of each task), max_abs_error (of each task's logits over all
        test images, against the Keras model) and answers (task -> classes, for pictures).
    """
    files, runners = {}, {}
    expected = model.predict(data.test.x, batch_size=500, verbose=0)
    for quantization in QUANTIZATIONS:
        result = export_litert(
            model,
            folder / f"{quantization}.tflite",
            quantization=quantization,
            representative_data=data.train.x[:REPRESENTATIVE_SAMPLES],
            labels={task: [str(digit) for digit in range(CLASSES)] for task in TASKS},
        )
        runners[quantization] = load_litert(result.path)
        files[quantization] = {
            "path": result.path.name,
            "bytes": result.bytes,
            **_measure(runners[quantization], data.test, expected),
        }
    rows = {name: first_rows(runner, data.test.x) for name, runner in runners.items()}
    for quantization, latency in median_latencies(runners, rows).items():
        files[quantization]["latency_ms"] = latency
    return files


def _measure(runner: LiteRTModel, test: Split, expected: Mapping) -> dict:
    logits = runner(test.x)
    answers = {task: logits[task].argmax(axis=-1) for task in TASKS}
    return {
        "test": {task: float(np.mean(answers[task] == test.y[task])) for task in TASKS},
        "max_abs_error": {
            task: float(np.abs(logits[task] - expected[task]).max()) for task in TASKS
        },
        "answers": answers,
    }
