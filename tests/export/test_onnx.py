"""From a network to an ONNX file whose heads keep their names; errors without the packages."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.export import VerificationError, export_onnx
from kmtl.export.targets import onnx as module
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf  # noqa: E402

pytestmark = pytest.mark.slow


def lacks(*names):
    return [name for name in names if importlib.util.find_spec(name) is None]


needs_onnx = pytest.mark.skipif(
    bool(lacks(*module.NEEDED, module.RUNTIME)), reason='needs pip install "kmtl[onnx]"'
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 8, 8, 2)).astype("float32")
WIDTHS = {"zeta": 4, "alpha": 3, "mid": 4}  # two heads of one width: swapped, they would fit
NETWORKS = {
    "hard_sharing": HardSharing,
    "cross_stitch": CrossStitchNetwork,
    "sluice": SluiceNetwork,
    "factorized": FactorizedNetwork,
}


@keras.saving.register_keras_serializable(package="test_onnx")
class Bessel(layers.Layer):
    def call(self, x):
        return tf.math.bessel_i0(x)

    def compute_output_shape(self, shape):
        return shape


def build(name):
    keras.utils.set_random_seed(5)
    tower = [
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.Conv2D(4, 3, padding="same", activation="relu"),
    ]
    heads = {
        task: [
            layers.BatchNormalization(name=f"{task}_scale"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(width, bias_initializer="normal", name=f"to_{task}"),
        ]
        for task, width in WIDTHS.items()
    }
    return NETWORKS[name](tower, heads, inputs=keras.Input((8, 8, 2), name="image"))


def run(path, **inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [x.name for x in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def relative_error(answer, reference):
    return np.linalg.norm(answer - reference) / np.linalg.norm(reference)


@pytest.fixture(scope="module")
def small():
    x = keras.Input((3,), name="x")
    return kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(x), "mid": layers.Dense(2)(x)})


@needs_onnx
@pytest.mark.parametrize("name", NETWORKS)
def test_three_tasks_come_back_by_name(name, tmp_path):
    network = build(name)
    result = export_onnx(network, tmp_path / "m.onnx")
    assert result.tasks == ("alpha", "mid", "zeta") and result.verified
    assert result.bytes == (tmp_path / "m.onnx").stat().st_size and result.opset >= 13
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    expected = {task: ops.convert_to_numpy(y) for task, y in network(X, training=False).items()}
    assert relative_error(expected["zeta"], expected["mid"]) > 0.5
    for rows in (1, 6):
        answers = run(tmp_path / "m.onnx", image=X[:rows])
        assert set(answers) == set(WIDTHS)
        for task, answer in answers.items():
            assert answer.shape == (rows, WIDTHS[task]) and answer.dtype == np.float32
            assert relative_error(answer, expected[task][:rows]) <= 1e-5
            assert 0 <= result.errors[task]["relative_error"] <= 1e-5


@needs_onnx
def test_two_inputs_by_name_and_one_task_of_two(tmp_path):
    tokens, size = keras.Input((4,), dtype="int32", name="tokens"), keras.Input((2,), name="size")
    h = layers.Concatenate()([layers.Flatten()(layers.Embedding(9, 3)(tokens)), size])
    outputs = {"zeta": layers.Dense(2)(h), "alpha": layers.Dense(2)(size)}
    model = kmtl.MultiTaskModel({"tokens": tokens, "size": size}, outputs)
    data = {
        "size": RNG.normal(size=(5, 2)).astype("float32"),
        "tokens": RNG.integers(0, 9, size=(5, 4)).astype("int32"),
    }
    export_onnx(model, tmp_path / "m.onnx", representative_data=data)
    expected = model(data)
    for task, answer in run(tmp_path / "m.onnx", **data).items():
        np.testing.assert_allclose(answer, expected[task], rtol=1e-5, atol=1e-6)
    assert export_onnx(model, tmp_path / "m.onnx", tasks="alpha").tasks == ("alpha",)
    assert list(run(tmp_path / "m.onnx", size=data["size"])) == ["alpha"]


@needs_onnx
def test_without_onnxruntime_the_result_says_so(small, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RUNTIME", "no_such_package")
    result = export_onnx(small, tmp_path / "m.onnx")
    assert (result.verified, result.errors) == (False, None)
    assert set(run(tmp_path / "m.onnx", x=np.ones((2, 3), "float32"))) == {"zeta", "mid"}


@needs_onnx
@pytest.mark.parametrize("sabotage", ["swapped_heads", "lost_head"])
def test_a_wrong_file_is_caught_and_not_written(small, sabotage, tmp_path, monkeypatch):
    def wrong(plain, real=module._convert):
        outputs = {"zeta": plain.output["mid"], "mid": plain.output["zeta"]}
        if sabotage == "lost_head":
            del outputs["mid"]
        return real(keras.Model(plain.inputs, outputs))

    monkeypatch.setattr(module, "_convert", wrong)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"earlier")
    message = r"heads \['mid', 'zeta'\]" if sabotage == "lost_head" else "tolerance=1e-05.*zeta"
    with pytest.raises(VerificationError, match=message):
        export_onnx(small, path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"] and path.read_bytes() == b"earlier"


@needs_onnx
def test_an_operation_without_an_onnx_form_names_the_layer(tmp_path):
    x = keras.Input((3,))
    model = kmtl.MultiTaskModel(x, {"zeta": Bessel(name="odd")(x), "mid": layers.Dense(2)(x)})
    with pytest.raises(ValueError, match="ONNX form. Received: BesselI0 in .*/odd"):
        export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_exporting_prints_nothing(small, tmp_path, capfd, recwarn):
    export_onnx(small, tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    shown = [w for w in recwarn.list if not issubclass(w.category, DeprecationWarning)]
    assert not [str(warning) for warning in shown]


@pytest.mark.parametrize("missing", [["onnx"], ["tf2onnx"], ["onnx", "tf2onnx"]])
def test_a_missing_package_names_the_install_command(small, missing, tmp_path, monkeypatch):
    def find_spec(name, *_, real=importlib.util.find_spec):
        return None if name in missing else object() if name in module.NEEDED else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    message = rf'pip install "kmtl\[onnx\]".*Received: no {", ".join(missing)}$'
    with pytest.raises(ImportError, match=message):
        export_onnx(small, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "tolerance", "message"),
    [
        ("m.tflite", 1e-5, r"`path` must end in .onnx.*Received: path=.*m.tflite"),
        ("m.onnx", 0.0, r"`tolerance` must be positive.*Received: tolerance=0.0"),
    ],
)
def test_arguments_out_of_range(small, path, tolerance, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_onnx(small, tmp_path / path, tolerance=tolerance)
    assert not list(tmp_path.iterdir())
