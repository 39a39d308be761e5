"""What the page on types of numbers says of its targets."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from benchmarks.deployment import COMPARED, paired
from benchmarks.deployment_page import targets
from benchmarks.digit_networks import TASKS
from benchmarks.file_floor import floor_bytes
from kmtl.export import export_litert

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)


def test_the_floor_is_weights_biases_and_both_their_scales(tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 2), name="x")
    h = layers.Conv2D(6, 3, activation="relu", bias_initializer="normal")(x)
    h = layers.Flatten()(layers.MaxPooling2D(2)(h))
    heads = {t: layers.Dense(n, bias_initializer="normal")(h) for t, n in (("zeta", 4), ("mid", 3))}
    data = np.random.default_rng(0).normal(size=(32, 8, 8, 2)).astype("float32")
    model = kmtl.MultiTaskModel(x, heads)
    path = export_litert(model, tmp_path / "m.tflite", "int8", representative_data=data).path
    kernels = 3 * 3 * 2 * 6 + 54 * 4 + 54 * 3
    # A bias of 4 bytes for each channel, its scale and that of the channel's weights.
    assert floor_bytes(path.read_bytes()) == kernels + (4 + 4 + 4) * (6 + 4 + 3)


def found(trainings, lost, change, error):
    return {
        "rows": {"float32": {"bytes": 1000}, "int8": {"bytes": 280}},
        "bytes_target": 0.27,
        "int8_floor": 269.7,
        "trainings": trainings,
        "lost": {label: dict.fromkeys(TASKS, lost) for label in COMPARED},
        "change": {scheme: dict.fromkeys(TASKS, (change, error)) for scheme in ("int8", "int4")},
    }


@pytest.mark.parametrize(
    ("trainings", "change", "error", "verdict"),
    [
        (5, 0.12, 0.07, "worse by 0.12 ± 0.07: within the noise of 5 trainings"),
        (5, 0.12, 0.05, "worse by 0.12 ± 0.05: missed"),
        (5, -0.12, 0.05, "better by 0.12 ± 0.05: met"),
        (1, 0.12, 0.07, "worse by 0.12 ± 0.07: within the noise of the test images"),
    ],
)
def test_verdicts(trainings, change, error, verdict):
    size, *lines = targets(found(trainings, [0.0, 0.2], change, error)).splitlines()
    assert size.endswith("missed; of these, weights, biases and scales alone take 0.2697")
    assert len(lines) == 4
    assert all("+0.10 points lost" in line and line.endswith(verdict) for line in lines)


def test_the_error_is_that_over_trainings_where_there_are_several():
    def training(*right):
        return {"int8": {"left": np.ones(100, bool)}, "aware": {"left": np.arange(100) < right}}

    lost, error = paired([training(98), training(96), training(97)], "int8", "aware", "left")
    assert lost == pytest.approx(3.0) and error == pytest.approx(1 / 3**0.5)
    lost, error = paired([training(97)], "int8", "aware", "left")
    assert lost == pytest.approx(3.0) and error == pytest.approx((0.03 * 0.97 / 99) ** 0.5 * 100)
