"""LiteRT latency of exported networks against the same networks written by hand in Keras."""

from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np

from benchmarks import networks
from benchmarks.timing import Comparison, compare, interleave, stopwatch
from kmtl.export import export_litert, fold

TARGET = 1.05
QUANTIZATIONS = ("float32", "int8")
ROUNDS = 500
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
        for quantization in QUANTIZATIONS:
            timers = {
                "kmtl": _timer(model, quantization, data),
                "by hand": _timer(plain, quantization, data),
            }
            seconds = interleave(timers, ROUNDS, warmup=20)
            rows.append(compare(f"{name}, {quantization}", seconds, "kmtl", "by hand", TARGET))
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


def _timer(model: keras.Model, quantization: str, data: np.ndarray):
    """A stopwatch for the runtime alone: what a program on a device waits for."""
    from ai_edge_litert.interpreter import Interpreter

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        export_litert(model, path, quantization=quantization, representative_data=data)
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], data[:1])
    once = min(stopwatch(interpreter.invoke)() for _ in range(5))
    return stopwatch(interpreter.invoke, calls=max(1, round(TURN_SECONDS / once)))
