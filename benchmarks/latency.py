"""LiteRT latency of exported networks against the same networks written by hand in Keras."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np

from benchmarks import networks
from benchmarks.timing import Comparison, compare, interleave, stopwatch
from kmtl.export import export_litert, fold, load_litert

TARGET = 1.02
TARGETS = {"PLE": 1.05}  # where it is another
QUANTIZATIONS = ("float32", "int8")
ROUNDS = 500
LOADS = 10
TURN_SECONDS = 0.002  # longer than the clock is coarse, shorter than a slice of the scheduler


def run() -> list[Comparison]:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(32, *networks.SHAPE)).astype("float32")
    rows = []
    for name, (ours, by_hand) in networks.PAIRS.items():
        model = ours()
        for weight in model.weights:  # equal or zero numbers would let the converter drop work
            weight.assign(rng.uniform(-0.2, 0.2, size=weight.shape))
        plain = by_hand(model)
        _copy_weights(fold(model), plain)
        _check_equal(model(data), plain(data))
        target = TARGETS.get(name, TARGET)
        for quantization in QUANTIZATIONS:
            with TemporaryDirectory() as folder:
                paths = {
                    "kmtl": _export(model, f"{folder}/kmtl.tflite", quantization, data),
                    "by hand": _export(plain, f"{folder}/by_hand.tflite", quantization, data),
                }
                seconds = time_files(paths, data[:1], ROUNDS)
            rows.append(compare(f"{name}, {quantization}", seconds, "kmtl", "by hand", target))
    return rows


def _copy_weights(folded: keras.Model, plain: keras.Model) -> None:
    """Copies the weights of the layers that have the same name in both."""
    for layer in plain.layers:
        if layer.weights:
            layer.set_weights(folded.get_layer(layer.name).get_weights())


def _check_equal(ours, by_hand) -> None:
    """Latencies compare only where both networks compute the same."""
    for task, expected in ours.items():
        np.testing.assert_allclose(by_hand[task], expected, rtol=1e-3, atol=1e-3)


def _export(model: keras.Model, path: str, quantization: str, data: np.ndarray) -> Path:
    return export_litert(model, path, quantization, representative_data=data).path


def time_files(
    paths: Mapping[str, Path], row: np.ndarray, rounds: int, num_threads: int = 1
) -> dict[str, list[float]]:
    """Seconds of the runtime for one row, by file, one for each round; files take turns.

    All are loaded anew several times: where their memory lies is chance, costs or gains a few
    percent, and would stay so.

    Args:
        paths: Name -> a LiteRT file with one input, for one row.
        row: The input, in real values.
        rounds: Turns of each file.
        num_threads: CPU threads. Defaults to `1`.
    """
    seconds = {name: [] for name in paths}
    loads = min(LOADS, rounds)
    for load in range(loads):
        names = list(paths)[:: -1 if load % 2 else 1]
        timers = {name: _timer(paths[name], row, num_threads) for name in names}
        more = interleave(timers, rounds // loads, warmup=5)
        seconds = {name: [*values, *more[name]] for name, values in seconds.items()}
    return seconds


def _timer(path: Path, row: np.ndarray, num_threads: int) -> Callable[[], float]:
    """A stopwatch for the runtime alone: what a program on a device waits for."""
    from ai_edge_litert.interpreter import Interpreter

    (values,) = load_litert(path).in_file_types(row).values()
    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=num_threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)
    once = min(stopwatch(interpreter.invoke)() for _ in range(5))
    return stopwatch(interpreter.invoke, calls=max(1, round(TURN_SECONDS / once)))
