"""What prepares an input is a part of the file; what the app must do is in its metadata."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import export_litert, inspect_litert, load_litert, quantize_aware
from kmtl.export.runtime.litert_model import RUNTIMES

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

PHOTOS = np.random.default_rng(0).integers(0, 256, size=(24, 20, 24, 3)).astype("uint8")
TASKS = ("zeta", "alpha", "mid")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3), name="image")
    h = layers.Flatten()(layers.Conv2D(6, 3, activation="relu")(x))
    return kmtl.MultiTaskModel(x, {task: layers.Dense(n)(h) for n, task in enumerate(TASKS, 2)})


def steps(dtype="uint8"):
    return keras.Sequential(
        [
            keras.Input((20, 24, 3), dtype=dtype),
            layers.Resizing(8, 8),
            layers.Rescaling(1 / 127.5, offset=-1.0),
        ]
    )


@pytest.mark.parametrize("quantization", ["float32", "dynamic_int8", "int8"])
def test_the_file_takes_what_the_device_has(model, quantization, tmp_path):
    prepare = steps()
    result = export_litert(
        model,
        tmp_path / "m.tflite",
        quantization,
        representative_data=PHOTOS,
        preprocessing={"image": prepare},
        task_signatures=True,
    )
    expected = model.predict(prepare.predict(PHOTOS, verbose=0), verbose=0)
    for runtime in RUNTIMES:
        runner = load_litert(result.path, runtime)
        assert runner.input_details["image"].dtype == "uint8"
        assert runner.input_details["image"].shape == (1, 20, 24, 3)
        for task, answers in runner(PHOTOS).items():
            error = np.linalg.norm(answers - expected[task]) / np.linalg.norm(expected[task])
            assert error < (1e-5 if quantization == "float32" else 0.05)
    written = json.loads(result.metadata_path.read_text())["inputs"]["image"]
    assert (written["mean"], written["std"]) == ([0.0], [1.0])  # fed as it is
    info = inspect_litert(result.path).metadata.inputs["image"]
    assert (info.mean, info.std, info.maximum) == ((0.0,), (1.0,), (255.0,))


def test_a_quantisation_aware_model(model, tmp_path):
    prepare = steps("float32")
    aware = quantize_aware(model, "int8", prepare.predict(PHOTOS, verbose=0))
    with pytest.warns(UserWarning, match="compute in float"):
        result = export_litert(
            aware,
            tmp_path / "m.tflite",
            representative_data=PHOTOS.astype("float32"),
            preprocessing={"image": prepare},
            tolerance=0.01,
        )
    assert result.quantization == "int8"


def test_what_the_app_prepares_is_told(model, tmp_path):
    mean, std = [120.0, 115.0, 100.0], [60.0, 58.0, 57.0]
    result = export_litert(model, tmp_path / "m.tflite", normalization={"image": (mean, std)})
    info = inspect_litert(result.path).metadata.inputs["image"]
    assert (list(info.mean), list(info.std)) == (mean, std)
    written = json.loads(result.metadata_path.read_text())["inputs"]["image"]
    assert (written["mean"], written["std"]) == (mean, std)
    plain = export_litert(model, tmp_path / "plain.tflite")
    assert inspect_litert(plain.path).metadata.inputs["image"].std == ()  # nobody knows


def test_one_input_of_two(tmp_path):
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    heads = {"zeta": layers.Dense(2)(layers.Concatenate()([a, b])), "mid": layers.Dense(1)(b)}
    model = kmtl.MultiTaskModel({"a": a, "b": b}, heads)
    halve = keras.Sequential([keras.Input((8,)), layers.Reshape((4, 2)), layers.Lambda(mean_of)])
    data = {"a": np.ones((4, 8), "float32"), "b": np.ones((4, 3), "float32")}
    data["a"] *= np.arange(4)[:, None]
    result = export_litert(
        model, tmp_path / "m.tflite", representative_data=data, preprocessing={"a": halve}
    )
    expected = model.predict({"a": data["a"][:, :4], "b": data["b"]}, verbose=0)
    np.testing.assert_allclose(load_litert(result.path)(data)["zeta"], expected["zeta"], atol=1e-5)


def mean_of(x):
    return keras.ops.mean(x, axis=-1)


def ending_in(size):
    return keras.Sequential([keras.Input((20, 24, 3)), layers.Resizing(size, size)])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"preprocessing": {"nose": ending_in(8)}},
            r"must name inputs of the model, \['image'\].*'nose'",
        ),
        ({"preprocessing": {"image": ending_in(9)}}, r"takes, \(8, 8, 3\). Received: \(9, 9, 3\)"),
        ({"preprocessing": {"image": layers.Resizing(8, 8)}}, "one input and one output.*'image'"),
        (
            {
                "preprocessing": {
                    "image": keras.Sequential([keras.Input((None, None, 3)), layers.Resizing(8, 8)])
                }
            },
            r"start from one size.*\(None, None, 3\)",
        ),
        (
            {"preprocessing": {"image": ending_in(8)}, "normalization": {"image": (0, 1)}},
            r"must name inputs that the application prepares, \[\]. Received: 'image'",
        ),
        ({"normalization": {"nose": (0, 1)}}, r"prepares, \['image'\]. Received: 'nose'"),
        ({"normalization": {"image": 127.5}}, r"its \(mean, std\). Received: 127.5 for 'image'"),
        (
            {"normalization": {"image": (0.0, -1.0)}},
            r"positive.*\(0.0, -1.0\) for 'image'",
        ),
        ({"normalization": {"image": (None, 1)}}, r"each of 3 channels.*\(None, 1\) for 'image'"),
        ({"normalization": {"image": ([1, 2], 1)}}, r"each of 3 channels.*for 'image'"),
    ],
)
def test_bad_arguments(model, kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "m.tflite", **kwargs)
    assert not list(tmp_path.iterdir())
