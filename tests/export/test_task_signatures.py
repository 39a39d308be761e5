"""One file, many uses: a signature for each task, weights stored once, only what is needed run."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import (
    benchmark_litert,
    export_litert,
    inspect_litert,
    lint_litert,
    load_litert,
    quantize_aware,
)
from kmtl.export.flatbuffers.task_signatures import with_task_signatures
from kmtl.export.runtime.litert_model import RUNTIMES

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
DATA = {
    "image": RNG.normal(size=(24, 8, 8, 2)).astype("float32"),
    "extra": RNG.normal(size=(24, 3)).astype("float32"),
}
TASKS = ("zeta", "alpha", "mid")


@pytest.fixture(scope="module")
def model():
    """`zeta` needs the image, `mid` the other input, `alpha` both."""
    keras.utils.set_random_seed(0)
    image, extra = keras.Input((8, 8, 2), name="image"), keras.Input((3,), name="extra")
    shared = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(image))
    both = layers.Concatenate()([layers.Dense(16, activation="relu")(shared), extra])
    heads = {
        "zeta": layers.Dense(4, activation="softmax")(shared),
        "alpha": layers.Dense(3)(both),
        "mid": layers.Dense(2)(layers.Dense(5, activation="tanh")(extra)),
    }
    return kmtl.MultiTaskModel({"image": image, "extra": extra}, heads)


def export(model, path, *args, **kwargs):
    return export_litert(model, path, *args, representative_data=DATA, **kwargs)


@pytest.mark.parametrize("quantization", ["float32", "int8", "uint8_io", "dynamic_int4"])
def test_a_task_s_signature_gives_its_answers_bit_for_bit(model, quantization, tmp_path):
    one = export(model, tmp_path / "one.tflite", quantization)
    many = export(model, tmp_path / "many.tflite", quantization, task_signatures=True)
    assert many.bytes - one.bytes < 12_000  # graphs and names; no second copy of a kernel
    assert inspect_litert(many.path).weight_bytes == inspect_litert(one.path).weight_bytes
    expected = load_litert(one.path)(DATA)
    for runtime in RUNTIMES:
        assert set(load_litert(many.path, runtime).tasks) == set(TASKS)
        for task in TASKS:
            runner = load_litert(many.path, runtime, signature=task)
            assert runner.tasks == [task]
            inputs = {"zeta": ["image"], "mid": ["extra"], "alpha": ["extra", "image"]}[task]
            assert sorted(runner.input_details) == inputs
            answers = runner({name: DATA[name] for name in inputs})
            np.testing.assert_array_equal(
                answers[task], load_litert(many.path, runtime)(DATA)[task]
            )
            np.testing.assert_allclose(answers[task], expected[task], atol=1e-6)


@pytest.mark.parametrize("quantization", ["float16", "weight_only_int8", "int8", "int8x16"])
def test_any_number_of_rows(model, quantization, tmp_path):
    path = tmp_path / "m.tflite"
    export(model, path, quantization, batch_size=None, task_signatures=True)
    expected = load_litert(path)(DATA)
    runner = load_litert(path, signature="alpha")
    for rows in (3, 1):
        answers = runner({name: array[:rows] for name, array in DATA.items()})["alpha"]
        np.testing.assert_allclose(answers, expected["alpha"][:rows], rtol=1e-5, atol=1e-6)


def test_only_what_a_task_needs_is_in_its_graph(model, tmp_path):
    result = export(model, tmp_path / "m.tflite", task_signatures=True)
    from ai_edge_litert import schema_py_generated as schema

    content = schema.ModelT.InitFromPackedBuf(result.path.read_bytes(), 0)
    counts = {
        entry.signatureKey.decode(): len(content.subgraphs[entry.subgraphIndex].operators)
        for entry in content.signatureDefs
    }
    assert counts["mid"] == 3  # two products and a tanh
    assert counts["mid"] < counts["zeta"] < counts["alpha"] < counts["serving_default"]
    found = inspect_litert(result.path)
    assert [*found.signatures] == ["serving_default", "alpha", "mid", "zeta"]
    assert sum(found.ops.values()) == counts["serving_default"]
    assert json.loads(result.metadata_path.read_text())["task_signatures"] == sorted(TASKS)


def test_a_quantisation_aware_model_and_the_edge_tpu(model, tmp_path):
    aware = quantize_aware(model, "int8", DATA, target="edgetpu")
    result = export(aware, tmp_path / "m.tflite", target="edgetpu", task_signatures=True)
    assert lint_litert(result.path).passed and result.lint.signature == "serving_default"
    expected = load_litert(result.path)(DATA)["mid"]
    answers = load_litert(result.path, signature="mid")({"extra": DATA["extra"]})["mid"]
    np.testing.assert_array_equal(answers, expected)


def test_a_recurrent_task(tmp_path):
    """The body of its loop is a graph that two signatures share."""
    x = keras.Input((5, 3), name="x")
    h = layers.LSTM(4)(x)
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(h), "mid": layers.Flatten()(x)})
    result = export_litert(model, tmp_path / "m.tflite", task_signatures=True)
    data = RNG.normal(size=(3, 5, 3)).astype("float32")
    expected = load_litert(result.path)(data)["zeta"]
    answers = load_litert(result.path, signature="zeta")(data)["zeta"]
    np.testing.assert_array_equal(answers, expected)


def test_unknown_signature(model, tmp_path):
    result = export(model, tmp_path / "m.tflite", task_signatures=True)
    with pytest.raises(ValueError, match=r"`signature` must be one of.*'mid'.*signature='nose'"):
        load_litert(result.path, signature="nose")


def test_a_task_of_the_signature_s_name(tmp_path):
    x = keras.Input((3,), name="x")
    heads = {"serving_default": layers.Dense(2)(x), "mid": layers.Dense(1)(x)}
    with pytest.raises(ValueError, match="no task may have the name.*serving_default"):
        export_litert(kmtl.MultiTaskModel(x, heads), tmp_path / "m.tflite", task_signatures=True)
    assert not list(tmp_path.iterdir())


def test_a_signature_that_answers_otherwise_is_found(model, tmp_path, monkeypatch):
    from ai_edge_litert import schema_py_generated as schema

    from kmtl.export.flatbuffers.packing import repack
    from kmtl.export.litert import export_litert as module

    def swapped(content):
        read = schema.ModelT.InitFromPackedBuf(with_task_signatures(content), 0)
        entries = {entry.signatureKey: entry for entry in read.signatureDefs}
        alpha, zeta = entries[b"alpha"], entries[b"zeta"]
        alpha.outputs[0].name, zeta.outputs[0].name = b"zeta", b"alpha"
        return repack(read, content)

    monkeypatch.setattr(module, "with_task_signatures", swapped)
    with pytest.raises(kmtl.export.VerificationError, match=r"heads \['alpha'\]"):
        export(model, tmp_path / "m.tflite", task_signatures=True)
    assert not list(tmp_path.iterdir())


def test_a_task_s_part_is_measured_alone(model, tmp_path):
    result = export(model, tmp_path / "m.tflite", task_signatures=True)
    whole = benchmark_litert(result.path, runs=3, warmup=1)
    part = benchmark_litert(result.path, runs=3, warmup=1, signature="mid")
    assert 0 < len(part.profile) < len(whole.profile)
    with pytest.raises(ValueError, match=r"`signature` must be one of.*signature='nose'"):
        benchmark_litert(result.path, signature="nose")
