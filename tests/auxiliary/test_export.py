"""Every way out leaves the helpers behind."""

import keras
import numpy as np
import pytest

import kmtl.export
from kmtl.auxiliary import AuxiliaryTask, AuxiliaryTasks
from kmtl.export.tfmot.training import Objective
from tests.auxiliary.small import X, Y, small_model

if keras.backend.backend() != "tensorflow":
    pytest.skip("files are written on the TensorFlow backend", allow_module_level=True)


@pytest.fixture
def trained():
    task = AuxiliaryTask(
        "area", lambda x, y: x[:, :2], keras.layers.Dense(2, name="area_head"), "mse", "trunk", 0.3
    )
    helpers = AuxiliaryTasks([task])
    both = helpers.attach(small_model())
    both.compile("adam", **helpers.compile_arguments({"price": "mse"}, loss_weights={"price": 2.0}))
    both.fit(*helpers.add_targets((X, Y)), verbose=0)
    return both


def test_litert(trained, tmp_path):
    result = kmtl.export.export_litert(trained, tmp_path / "a.tflite")
    assert result.tasks == ("price",)
    answers = kmtl.export.load_litert(result.path)(X)
    assert list(answers) == ["price"]
    np.testing.assert_allclose(answers["price"], trained.predict(X)["price"], rtol=1e-4, atol=1e-6)
    assert b"area_head" not in result.path.read_bytes()
    asked = kmtl.export.export_litert(trained, tmp_path / "b.tflite", tasks=["area", "price"])
    assert asked.tasks == ("area", "price")


def test_litert_with_preprocessing_inside(trained, tmp_path):
    steps = keras.Sequential([keras.Input((4,)), keras.layers.Rescaling(0.5)])
    result = kmtl.export.export_litert(
        trained, tmp_path / "a.tflite", preprocessing={"x": steps}, quantization="float16"
    )
    assert result.tasks == ("price",)
    answers = kmtl.export.load_litert(result.path)(2 * X)["price"]
    np.testing.assert_allclose(answers, trained.predict(X)["price"], atol=5e-3)


def test_quantize_aware(trained, tmp_path):
    emulated = kmtl.export.quantize_aware(trained, representative_data=X)
    assert list(emulated.output) == ["price"]
    result = kmtl.export.export_litert(emulated, tmp_path / "a.tflite", representative_data=X)
    assert result.tasks == ("price",)


def test_saved_model_and_trainable_file(trained, tmp_path):
    kmtl.export.export_trainable(trained, tmp_path / "a.tflite", "price", batch_size=4)
    assert list(kmtl.export.load_litert(tmp_path / "a.tflite").tasks) == ["price"]


def test_fine_tuning_has_the_losses_of_what_is_deployed(trained):
    objective = Objective(trained, sorted(kmtl.export.fold(trained).output))
    labels = objective.labels(Y, 24)
    answers = trained.predict(X)["price"]
    expected = 2.0 * np.square(answers - Y["price"]).mean()
    np.testing.assert_allclose(float(objective(labels, [answers])), expected, rtol=1e-5)
