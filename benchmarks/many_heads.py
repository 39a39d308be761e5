"""One LiteRT file with many heads against a file for each task, MobileNetV2 as the trunk."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np

from benchmarks.digit_networks import mobilenet_v2
from benchmarks.timing import Comparison, compare, compare_values, interleave, stopwatch
from kmtl.export import benchmark_litert, export_litert, load_litert

SHAPE = (64, 64, 3)
TASKS = (2, 4, 8)
QUANTIZATIONS = ("float32", "int8")
ROUNDS = 150
MIB = 2**20

ONE, ALL = "one file", "a file for each"
SIGNATURES, PLAIN = "with task signatures", "without"
TASK, SINGLE = "one task's signature", "its own file"


def run() -> list[Comparison]:
    rows = []
    data = np.random.default_rng(0).normal(size=(32, *SHAPE)).astype("float32")
    tasks = [f"task_{t}" for t in range(max(TASKS))]
    for quantization in QUANTIZATIONS:
        with TemporaryDirectory() as folder:
            export = Exporter(Path(folder), quantization, data)
            model = make_model(tasks, data)
            singles = {task: export(model, [task]) for task in tasks}
            for number in TASKS:
                some = tasks[:number]
                files = Files(
                    together=export(model, some),
                    with_signatures=export(model, some, task_signatures=True),
                    singles=[singles[task] for task in some],
                )
                rows += files.rows(f"{number} heads, {quantization}", some[0], data[:1])
    return rows


def make_model(tasks: Sequence[str], data) -> keras.Model:
    """Not trained, but normalised as if: each layer's statistics are those of the data."""
    keras.utils.set_random_seed(0)
    model = mobilenet_v2(tasks, SHAPE)
    for _ in range(50):  # the statistics are moving averages over ten steps
        model(data, training=True)
    return model


class Exporter:
    """Writes each file under a name of its own; takes half a dozen seconds for each."""

    def __init__(self, folder: Path, quantization: str, data):
        self._folder, self._number = folder, 0
        self._options = {"quantization": quantization, "representative_data": data}

    def __call__(self, model, tasks, **options) -> Path:
        self._number += 1
        path = self._folder / f"{self._number}.tflite"
        export_litert(model, path, tasks=tasks, **self._options, **options)
        return path


class Files:
    """The three ways to deploy some heads."""

    def __init__(self, together: Path, with_signatures: Path, singles: Sequence[Path]):
        self.together, self.with_signatures, self.singles = together, with_signatures, singles

    def rows(self, case: str, task: str, row) -> list[Comparison]:
        seconds = interleave(self._timers(task, row), ROUNDS, warmup=5)
        of = {path: benchmark_litert(path, runs=1, warmup=0) for path in self._paths()}
        rows = [compare(f"{case}, all heads", seconds, ONE, ALL, None)]
        rows.append(compare(f"{case}, one head", seconds, TASK, SINGLE, None))
        for what, field in (("size", "bytes"), ("peak memory", "peak_memory_bytes")):
            mib = {path: getattr(found, field) / MIB for path, found in of.items()}
            values = {
                ONE: [mib[self.together]],
                ALL: [sum(mib[path] for path in self.singles)],
                SIGNATURES: [mib[self.with_signatures]],
                PLAIN: [mib[self.together]],
            }
            rows += [
                compare_values(f"{case}, {what}", values, *pair, None, "MiB")
                for pair in ((ONE, ALL), (SIGNATURES, PLAIN))
            ]
        return rows

    def _timers(self, task, row):
        loaded = [load_litert(path) for path in self.singles]
        runners = {
            ONE: [load_litert(self.together)],
            ALL: loaded,
            TASK: [load_litert(self.with_signatures, signature=task)],
            SINGLE: [loaded[0]],
        }
        (name,) = loaded[0].input_details
        return {
            label: stopwatch(lambda some=some: [runner.run_once({name: row}) for runner in some])
            for label, some in runners.items()
        }

    def _paths(self):
        return (self.together, self.with_signatures, *self.singles)
