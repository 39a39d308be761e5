"""Every way of sharing through every way of deploying: names, order and values of the heads.

The heads are called so that neither the order of their making nor that of the alphabet is
another's by accident, and two have one width: swapped, they would fit.
"""

import importlib.util
import math

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl import export
from kmtl.export.quantization.recipes import QUANTIZATIONS
from kmtl.export.runtime.verify import tolerance_of
from kmtl.export.tfmot import legacy

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 6, 6, 2)).astype("float32")
WIDTHS = {"zeta": 4, "alpha": 3, "mid": 4}
Y = {
    task: np.argmax(X.reshape(len(X), -1) @ RNG.normal(size=(72, width)), axis=-1)
    for task, width in WIDTHS.items()
}
NETWORKS = ("CrossStitchNetwork", "SluiceNetwork", "FactorizedNetwork", "HardSharing")
TESTED = X[:32]


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    keras.utils.set_random_seed(3)
    tower = [
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
    ]
    heads = {
        task: [layers.Flatten(), layers.Dense(width, activation="softmax")]
        for task, width in WIDTHS.items()
    }
    x = keras.Input((6, 6, 2), name="image")
    model = getattr(kmtl.models, request.param)(tower, heads, inputs=x)
    model.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=8, batch_size=32, verbose=0)
    return model


@pytest.fixture(scope="module")
def expected(model):
    return model.predict(TESTED, verbose=0)


def lite(result, **options):
    return export.load_litert(result.path, **options)(TESTED)


def uniform(quantization):
    def path(model, folder):
        result = export.export_litert(
            model, folder / "m.tflite", quantization, representative_data=X
        )
        assert result.tasks == tuple(sorted(WIDTHS))
        return lite(result, runtime="compiled_model"), tolerance_of(quantization)

    return path


def trained_for(scheme):
    def path(model, folder):
        aware = export.quantize_aware(model, scheme, X)
        aware.compile(
            keras.optimizers.Adam(1e-4), loss="sparse_categorical_crossentropy", weighting="pcgrad"
        )
        aware.fit(X, Y, epochs=1, batch_size=32, verbose=0)
        result = export.export_litert(aware, folder / "m.tflite", representative_data=X)
        own = aware.predict(TESTED, verbose=0)
        for task, answers in lite(result).items():
            assert np.mean(np.abs(answers - own[task])) < 0.02, task
        return lite(result), 0.3

    return path


def kept_in_float(model, folder):
    aware = export.quantize_aware(model, "int8", X, keep_float=["mid"])
    with pytest.warns(UserWarning, match="compute in float"):
        result = export.export_litert(aware, folder / "m.tflite", representative_data=X)
    return lite(result), tolerance_of("int8")


def tfmot(model, folder):
    methods = ("prune", "cluster", "quantize")
    result = export.tfmot.compress(
        model, folder / "m.tflite", X, Y, methods, sparsity=0.3, clusters=32, epochs=1
    )
    return lite(result), 0.5


def autotuned(model, folder):
    found = export.autotune(
        model, folder / "m.tflite", X, Y, "accuracy", {"zeta": 0.0, "alpha": 2.0, "mid": math.inf},
        types=["float32", "dynamic_int8", "dynamic_int4"],
    )  # fmt: skip
    assert all(found.losses[task] <= most for task, most in found.budget.items())
    return lite(found.export), 0.5


def task_by_task(model, folder):
    result = export.export_litert(
        model, folder / "m.tflite", "int8", representative_data=X, task_signatures=True
    )
    return {task: lite(result, signature=task)[task] for task in WIDTHS}, tolerance_of("int8")


def prepared_inside(model, folder):
    steps = keras.Sequential([keras.Input((6, 6, 2)), layers.Rescaling(0.5)])
    labels = {task: [f"{task} {i}" for i in range(width)] for task, width in WIDTHS.items()}
    result = export.export_litert(
        model, folder / "m.tflite", preprocessing={"image": steps}, labels=labels
    )
    assert export.inspect_litert(result.path).metadata.labels == {
        task: tuple(names) for task, names in labels.items()
    }
    return export.load_litert(result.path)(2 * TESTED), 1e-5


def edge_tpu(model, folder):
    result = export.export_litert(
        model, folder / "m.tflite", representative_data=X, target="edgetpu"
    )
    assert export.lint_litert(result.path).head_shares == dict.fromkeys(WIDTHS, 1.0)
    return lite(result), tolerance_of("int8_io")


def served(model, folder):
    import tensorflow as tf

    result = export.export_saved_model(model, folder / "served")
    assert set(WIDTHS) < set(result.signatures)
    loaded = tf.saved_model.load(str(result.path))
    answers = loaded.signatures["serving_default"](image=tf.constant(TESTED))
    for task in WIDTHS:
        (own,) = loaded.signatures[task](image=tf.constant(TESTED)).values()
        np.testing.assert_allclose(own, answers[task], atol=1e-6)
    return {task: y.numpy() for task, y in answers.items()}, 1e-5


def onnx(model, folder):
    pytest.importorskip("onnxruntime", reason='needs pip install "kmtl[onnx]"')
    import onnxruntime

    result = export.export_onnx(model, folder / "m.onnx")
    session = onnxruntime.InferenceSession(str(result.path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": TESTED}), strict=True)), 1e-4


def ahead_of_time(model, folder):
    result = export.export_litert(model, folder / "m.tflite", "int8", representative_data=X)
    with pytest.raises(ImportError, match="pip install"):  # no vendor's kit is here
        export.compile_aot(result.path, "Qualcomm_SM8750")
    return lite(result), tolerance_of("int8")


def trained_on_the_device(model, folder):
    result = export.export_trainable(model, folder / "m.tflite", "mid", optimizer="sgd")
    device = export.load_trainable(result.path)
    before = device.infer(TESTED)
    first = device.train(X[:16], Y["mid"][:16])
    for _ in range(20):
        last = device.train(X[:16], Y["mid"][:16])
    assert last < first
    for task in ("zeta", "alpha"):
        np.testing.assert_array_equal(device.infer(TESTED)[task], before[task])
    return before, 1e-5


def reported(model, folder):
    found = export.report(model, folder / "page.html", X, Y, "accuracy", ["float32", "int8"])
    assert found.tasks == tuple(sorted(WIDTHS)) and set(found.files) == {"float32", "int8"}
    result = export.export_litert(model, folder / "m.tflite")
    measured = export.benchmark_litert(result.path, runs=5, warmup=1)
    assert measured.latency_ms["p50"] > 0
    return lite(result), 1e-5


PATHS = {
    **{quantization: uniform(quantization) for quantization in QUANTIZATIONS},
    **{f"trained_for_{scheme}": trained_for(scheme) for scheme in ("int8", "int4", "int8x16")},
    "kept_in_float": kept_in_float,
    "tfmot": tfmot,
    "autotuned": autotuned,
    "task_by_task": task_by_task,
    "prepared_inside": prepared_inside,
    "edge_tpu": edge_tpu,
    "served": served,
    "onnx": onnx,
    "ahead_of_time": ahead_of_time,
    "trained_on_the_device": trained_on_the_device,
    "reported": reported,
}


@pytest.mark.parametrize("path", PATHS)
def test_heads_keep_their_names_and_values(model, expected, path, tmp_path):
    if path == "tfmot" and any(importlib.util.find_spec(n) is None for n in legacy.NEEDED):
        pytest.skip('needs pip install "kmtl[tfmot]"')
    answers, tolerance = PATHS[path](model, tmp_path)
    assert set(answers) == set(WIDTHS)
    for task, values in answers.items():
        error = np.linalg.norm(values - expected[task]) / np.linalg.norm(expected[task])
        assert error <= tolerance, task
        others = [t for t in WIDTHS if t != task and WIDTHS[t] == WIDTHS[task]]
        for other in others:  # nearer to its own head than to another that would fit
            wrong = np.linalg.norm(values - expected[other]) / np.linalg.norm(expected[other])
            assert error < 0.5 * wrong, (task, other)
