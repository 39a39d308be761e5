"""Files for the Edge TPU: what its compiler is known to want, or an error that names the layer."""

import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import export_litert, lint_litert, load_litert, quantize_aware
from kmtl.export.flatbuffers.graph import read_graph

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

X = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
TASKS = ("zeta", "alpha", "mid")


def network(kind):
    """Three convolutional towers, shared in one of four ways."""
    keras.utils.set_random_seed(0)
    build = getattr(kmtl.models, kind)
    tower = [
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.Conv2D(4, 3, padding="same", activation="relu"),
    ]
    heads = {t: [layers.Flatten(), layers.Dense(n)] for n, t in enumerate(TASKS, 2)}
    return build(tower, heads, inputs=(8, 8, 1))


@pytest.mark.parametrize("quantization", [None, "uint8_io"])
@pytest.mark.parametrize(
    "kind", ["HardSharing", "CrossStitchNetwork", "SluiceNetwork", "FactorizedNetwork"]
)
def test_every_network_maps_as_a_whole(kind, quantization, tmp_path):
    model = network(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = export_litert(
            model, tmp_path / "m.tflite", quantization, representative_data=X, target="edgetpu"
        )
    found = lint_litert(result.path)
    assert found.passed and result.lint == found
    assert result.lint.head_shares == dict.fromkeys(TASKS, 1.0)
    written = json.loads(result.metadata_path.read_text())["target"]
    assert written == {"name": "edgetpu", "share": 1.0, "head_shares": found.head_shares}
    runner, expected = load_litert(result.path), model.predict(X, verbose=0)
    dtype = "uint8" if quantization else "int8"
    assert {info.dtype for info in runner.output_details.values()} == {dtype}
    for task, answers in runner(X).items():
        error = np.linalg.norm(answers - expected[task]) / np.linalg.norm(expected[task])
        assert error < 0.05


def test_dense_kernels_have_one_scale_and_convolutions_one_for_each_channel(tmp_path):
    model = network("HardSharing")
    scales = {}
    for target in (None, "edgetpu"):
        path = tmp_path / f"{target}.tflite"
        export_litert(model, path, "int8_io", representative_data=X, target=target)
        with read_graph(path.read_bytes()) as graph:
            scales[target] = {op.name: op.inputs[1].channels for op in graph.operations[-4:]}
    assert scales[None]["FULLY_CONNECTED"] > 1
    assert scales["edgetpu"]["FULLY_CONNECTED"] == 1


def test_a_quantisation_aware_model(tmp_path):
    model = quantize_aware(network("CrossStitchNetwork"), "int8", X, target="edgetpu")
    result = export_litert(
        model, tmp_path / "m.tflite", representative_data=X, target="edgetpu", tolerance=0.01
    )
    assert result.quantization == "int8_io" and result.lint.passed
    expected = model.predict(X, verbose=0)
    for task, answers in load_litert(result.path)(X).items():
        np.testing.assert_allclose(
            answers, expected[task], atol=1.01 * result_step(result.path, task)
        )


def result_step(path, task):
    return load_litert(path).output_details[task].scale


def test_a_quantisation_aware_model_for_other_scales(tmp_path):
    model = quantize_aware(network("HardSharing"), "int8", X)
    with pytest.raises(ValueError, match="dense kernel must have one scale.*: a scale for each"):
        export_litert(model, tmp_path / "m.tflite", representative_data=X, target="edgetpu")


def heads_on(layer, shape=(8, 8, 1)):
    x = keras.Input(shape, name="x")
    h = layer(x)
    flat = layers.Flatten()(h)
    return kmtl.MultiTaskModel(x, {t: layers.Dense(2, name=f"{t}_logits")(flat) for t in TASKS})


def test_what_falls_to_the_cpu_is_a_warning_that_names_the_layer(tmp_path):
    x, ids = keras.Input((6,), name="x"), keras.Input((2,), dtype="int32", name="ids")
    words = layers.Flatten()(layers.Embedding(9, 3, name="words")(ids))
    heads = {t: layers.Dense(2, name=f"{t}_logits")(x) for t in ("zeta", "mid")}
    heads["alpha"] = layers.Dense(2)(words)
    model = kmtl.MultiTaskModel({"x": x, "ids": ids}, heads)
    data = {"x": X[:, 0, :6, 0], "ids": np.arange(128).reshape(64, 2) % 9}
    message = "alpha 0.0%, mid 100.0%, zeta 100.0%. LESS in layer words: LESS is not"
    with pytest.warns(UserWarning, match=message):
        result = export_litert(
            model, tmp_path / "m.tflite", representative_data=data, target="edgetpu"
        )
    assert result.lint.head_shares == {"alpha": 0.0, "mid": 1.0, "zeta": 1.0}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: heads_on(layers.LSTM(3, name="memory"), (5, 2)),
            "runs no loops.*Received: WHILE in layer memory",
        ),
        (
            lambda: heads_on(layers.Activation("gelu", name="bend"), (6,)),
            "must know every operation.*GELU in layer bend: GELU is newer",
        ),
        (
            lambda: heads_on(layers.Activation("exponential", name="bend"), (6,)),
            "8-bit form.*float in EXP in layer bend$",
        ),
    ],
)
def test_a_layer_that_cannot_be_served_is_named(build, message, tmp_path):
    model = build()
    data = np.random.default_rng(1).normal(size=(16, *model.inputs[0].shape[1:]))
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "m.tflite", representative_data=data, target="edgetpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"target": "npu"}, r"`target` must be one of \('edgetpu',\), or None. Received: 'npu'"),
        ({"quantization": "int8"}, "computes in 8-bit integers only.*quantization='int8'"),
        ({"quantization": "float16"}, "computes in 8-bit.*quantization='float16'"),
        ({"overrides": {"mid": "int8x16"}}, "may have a type of its own.*'mid': 'int8x16'"),
        ({"batch_size": None}, "every size must be constant. Received: batch_size=None"),
        ({"batch_size": 4}, "something must run on it.*three innermost dimensions"),
    ],
)
def test_bad_arguments(kwargs, message, tmp_path):
    kwargs = {"target": "edgetpu", "representative_data": X, **kwargs}
    with pytest.raises(ValueError, match=message):
        export_litert(network("HardSharing"), tmp_path / "m.tflite", **kwargs)
    assert not list(tmp_path.iterdir())
