"""From a network to verified files: every type, both runtimes, every head under its name."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.export import VerificationError, export_litert, inspect_litert, load_litert
from kmtl.export.litert import post_training
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8, 8, 2)).astype("float32")
WIDTHS = {"zeta": 4, "alpha": 3, "mid": 4}  # two heads of one width: swapped, they would fit
NETWORKS = ["hard_sharing", "cross_stitch", "sluice", "factorized"]
# Relative error of a head that these networks stay well below; a swapped head has about 1.
CLOSE = {
    "float32": 1e-5,
    "float16": 2e-3,
    "dynamic_int8": 0.05,
    "dynamic_int4": 0.4,
    "int8": 0.1,
    "uint8_io": 0.1,
    "int8x16": 0.03,
}


def build(name):
    keras.utils.set_random_seed(5)
    stages = [
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        [layers.BatchNormalization(), layers.Conv2D(4, 3, padding="same", activation="relu")],
    ]
    heads = {
        task: [
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(width, bias_initializer="normal"),
        ]
        for task, width in WIDTHS.items()
    }
    if name == "hard_sharing":
        return HardSharing([stages[0], *stages[1]], heads, inputs=(8, 8, 2))
    if name == "cross_stitch":
        return CrossStitchNetwork(stages, heads, inputs=(8, 8, 2))
    if name == "sluice":
        return SluiceNetwork(stages, heads, inputs=(8, 8, 2))
    return FactorizedNetwork([stages[0], *stages[1]], heads, inputs=(8, 8, 2))


def relative_error(answer, reference):
    return np.linalg.norm(answer - reference) / np.linalg.norm(reference)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return build(request.param)


@pytest.fixture(scope="module")
def hard_sharing():
    return build("hard_sharing")


@pytest.mark.parametrize("quantization", CLOSE)
def test_three_tasks_come_back_from_every_type_and_both_runtimes(network, quantization, tmp_path):
    path = tmp_path / "model.tflite"
    result = export_litert(network, path, quantization, representative_data=X)
    assert result.tasks == ("alpha", "mid", "zeta")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.tflite"]
    expected = {task: ops.convert_to_numpy(y) for task, y in network(X[:7], training=False).items()}
    assert relative_error(expected["zeta"], expected["mid"]) > 0.5
    for runtime in ("interpreter", "compiled_model"):
        answers = load_litert(path, runtime)(X[:7])
        assert sorted(answers) == ["alpha", "mid", "zeta"]
        for task, reference in expected.items():
            assert answers[task].shape == (7, WIDTHS[task])
            assert answers[task].dtype == np.float32
            error = relative_error(answers[task], reference)
            assert error <= CLOSE[quantization], (runtime, task, error)
            if quantization != "float32":
                assert error > 0  # it is quantised
    found = inspect_litert(path)
    assert not [op for op in found.ops if op.startswith(("CUSTOM", "Flex", "DELEGATE"))]
    if quantization in ("int8", "uint8_io", "int8x16"):
        assert set(found.float_ops) <= {"QUANTIZE", "DEQUANTIZE"}
        assert "INT8" in found.weight_bytes
    kinds = {"float32": "FLOAT32", "float16": "FLOAT16", "dynamic_int4": "INT4"}
    assert kinds.get(quantization, "INT8") in found.weight_bytes


def test_the_json_file_says_what_the_file_is(hard_sharing, tmp_path):
    labels = {"alpha": ["car", "tree", "sky"]}
    result = export_litert(hard_sharing, tmp_path / "m.tflite", labels=labels, tolerance=1e-4)
    assert result.metadata_path == tmp_path / "m.json"
    data = json.loads(result.metadata_path.read_text())
    assert data["quantization"] == "float32"
    assert data["recipe"] == result.recipe == []
    assert data["bytes"] == result.bytes == (tmp_path / "m.tflite").stat().st_size
    assert data["kmtl_version"] == kmtl.__version__
    (input_info,) = data["inputs"].values()
    assert input_info == {"shape": [1, 8, 8, 2], "dtype": "float32"}
    assert sorted(data["tasks"]) == ["alpha", "mid", "zeta"]
    assert data["tasks"]["alpha"]["labels"] == ["car", "tree", "sky"]
    assert data["tasks"]["zeta"]["labels"] is None
    for task, width in WIDTHS.items():
        assert data["tasks"][task]["shape"] == [1, width]
        assert data["tasks"][task]["dtype"] == "float32"
        assert data["tasks"][task]["errors"] == result.errors[task]
        assert 0 <= result.errors[task]["relative_error"] <= 1e-5
        assert result.errors[task]["mean_abs_error"] <= result.errors[task]["max_abs_error"] < 1e-4
    assert data["verified"]["runtimes"] == ["interpreter", "compiled_model"]
    assert data["verified"]["data"] == "noise"
    assert data["verified"]["tolerance"] == 1e-4


def test_a_recipe_is_recorded(hard_sharing, tmp_path):
    result = export_litert(hard_sharing, tmp_path / "m.tflite", "dynamic_int8")
    assert result.recipe
    assert json.loads(result.metadata_path.read_text())["recipe"] == result.recipe


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_four_rows_at_a_time(hard_sharing, quantization, tmp_path):
    path = tmp_path / "m.tflite"
    export_litert(hard_sharing, path, quantization, representative_data=X, batch_size=4)
    expected = ops.convert_to_numpy(hard_sharing(X[:6])["mid"])
    for runtime in ("interpreter", "compiled_model"):
        model = load_litert(path, runtime)
        assert model.batch_size == 4
        answers = model(X[:6])["mid"]  # 4 rows, then 2 that are filled up
        assert answers.shape == (6, 4)
        assert relative_error(answers, expected) <= CLOSE[quantization]


def test_one_task_of_three(hard_sharing, tmp_path):
    result = export_litert(hard_sharing, tmp_path / "m.tflite", tasks="mid")
    assert result.tasks == ("mid",)
    assert sorted(load_litert(result.path)(X[:1])) == ["mid"]
    assert inspect_litert(result.path).ops["FULLY_CONNECTED"] == 1


def test_two_inputs_by_name_and_integers(tmp_path):
    tokens, size = keras.Input((4,), dtype="int32", name="tokens"), keras.Input((2,), name="size")
    h = layers.Flatten()(layers.Embedding(9, 3)(tokens))
    joined = layers.Concatenate()([h, size])
    outputs = {"zeta": layers.Dense(2)(joined), "alpha": layers.Dense(2)(size)}
    model = kmtl.MultiTaskModel({"tokens": tokens, "size": size}, outputs)
    data = {
        "size": RNG.normal(size=(20, 2)).astype("float32"),
        "tokens": RNG.integers(0, 9, size=(20, 4)).astype("int32"),
    }
    path = tmp_path / "m.tflite"
    export_litert(model, path, representative_data=data)
    expected = model(data)
    for runtime in ("interpreter", "compiled_model"):
        for task, y in load_litert(path, runtime)(data).items():
            np.testing.assert_allclose(y, expected[task], rtol=1e-5, atol=1e-6)


def test_heads_that_compute_the_same_are_refused(tmp_path):
    x = keras.Input((3,))
    h = layers.Dense(2, kernel_initializer="ones")(x)
    twin = layers.Dense(2, kernel_initializer="ones")(x)
    model = kmtl.MultiTaskModel(x, {"zeta": h, "alpha": twin, "mid": layers.Dense(2)(x)})
    path = tmp_path / "m.tflite"
    with pytest.raises(VerificationError, match="(?s)heads that compute the same.*alpha"):
        export_litert(model, path)
    assert not list(tmp_path.iterdir())


def test_an_overwrite_replaces_both_files(hard_sharing, tmp_path):
    path = tmp_path / "m.tflite"
    export_litert(hard_sharing, path)
    first = path.read_bytes()
    export_litert(hard_sharing, path, "float16")
    assert path.read_bytes() != first
    assert json.loads(path.with_suffix(".json").read_text())["quantization"] == "float16"


@pytest.mark.parametrize("sabotage", ["other_weights", "swapped_heads", "lost_head", "nan"])
def test_a_wrong_file_is_caught_and_not_written(sabotage, tmp_path, monkeypatch):
    x = keras.Input((3,))
    heads = {"zeta": layers.Dense(2), "mid": layers.Dense(2)}
    model = kmtl.MultiTaskModel(x, {task: head(x) for task, head in heads.items()})
    other = {
        "other_weights": lambda: {task: layers.Dense(2)(x) for task in heads},
        "swapped_heads": lambda: {"zeta": heads["mid"](x), "mid": heads["zeta"](x)},
        "lost_head": lambda: {"zeta": heads["zeta"](x)},
        "nan": lambda: {task: head(x) for task, head in heads.items()},
    }[sabotage]()
    wrong = kmtl.export.fold(kmtl.MultiTaskModel(x, other))
    if sabotage == "nan":
        wrong.weights[0].assign(np.full((3, 2), np.nan))
    content = post_training.to_flatbuffer(wrong, 1)
    monkeypatch.setattr(post_training, "to_flatbuffer", lambda *args, **kwargs: content)
    path = tmp_path / "m.tflite"
    path.write_bytes(b"earlier")
    message = r"must have the heads \['mid', 'zeta'\]" if sabotage == "lost_head" else "tolerance="
    with pytest.raises(RuntimeError, match=message) as caught:
        export_litert(model, path)
    assert type(caught.value).__name__ == "VerificationError"
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]
    assert path.read_bytes() == b"earlier"


def test_the_tolerance_decides(hard_sharing, tmp_path):
    with pytest.raises(RuntimeError, match=r"at most tolerance=1e-09. Received: .*zeta"):
        export_litert(hard_sharing, tmp_path / "m.tflite", "float16", tolerance=1e-9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "m.lite"}, r"`path` must end in .tflite.*Received: path="),
        ({"quantization": "int3"}, r"`quantization` must be one of.*Received: .*'int3'"),
        ({"batch_size": 0}, r"`batch_size` must be at least 1.*Received: batch_size=0"),
        ({"tasks": "typo"}, r"among the model's tasks"),
        ({"labels": {"typo": ["a"]}}, r"`labels` must name exported tasks.*Received: 'typo'"),
        ({"labels": {"alpha": ["a"]}}, r"each of the 3 outputs of task 'alpha'.*Received: 1"),
    ],
)
def test_arguments_out_of_range(hard_sharing, options, message, tmp_path):
    path = tmp_path / options.pop("path", "m.tflite")
    with pytest.raises(ValueError, match=message):
        export_litert(hard_sharing, path, **options)
    assert not list(tmp_path.iterdir())


def test_exporting_prints_nothing(hard_sharing, tmp_path, capfd):
    export_litert(hard_sharing, tmp_path / "m.tflite", "int8", representative_data=X[:8])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["two words", "class"])
def test_an_input_s_name_that_no_signature_can_have(name, tmp_path):
    x = keras.Input((3,), name=name)
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(x), "mid": layers.Dense(1)(x)})
    with pytest.raises(ValueError, match=f"signature's inputs must have names.*: {name}"):
        export_litert(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_names_that_are_no_identifiers(tmp_path):
    inputs = {name: keras.Input((3,), name=name) for name in ("1", "1-b")}
    h = layers.Subtract()([inputs["1"], inputs["1-b"]])
    heads = {name: layers.Dense(2)(h) for name in ("2", "class", "two words")}
    model = kmtl.MultiTaskModel(inputs, heads)
    export_litert(model, tmp_path / "m.tflite")
    x = {name: X[:4, 0, :3, 0] * k for k, name in enumerate(inputs, start=2)}
    expected = model.predict(x, verbose=0)
    for task, answers in load_litert(tmp_path / "m.tflite")(x).items():
        np.testing.assert_allclose(answers, expected[task], rtol=1e-4, atol=1e-6)
