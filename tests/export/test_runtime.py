"""Running files by task name, and looking into them."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import export_litert, inspect_litert, load_litert

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
A = RNG.normal(size=(5, 3)).astype("float32")
B = RNG.normal(size=(5, 2)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(6)
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = layers.Concatenate()([a, b])
    return kmtl.MultiTaskModel(
        {"a": a, "b": b}, {"zeta": layers.Dense(4)(joined), "mid": layers.Dense(4)(joined)}
    )


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return export_litert(model, tmp_path_factory.mktemp("runtime") / "m.tflite", batch_size=2).path


@pytest.fixture(params=["interpreter", "compiled_model"])
def runner(request, path):
    return load_litert(path, request.param)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_number_of_rows(runner, model, rows):
    inputs = {"a": A[:rows], "b": B[:rows]}
    expected = model(inputs)
    answers = runner(inputs)
    assert runner.tasks == sorted(answers) == ["mid", "zeta"]
    for task, y in answers.items():
        assert y.shape == (rows, 4)
        np.testing.assert_allclose(y, expected[task], rtol=1e-5, atol=1e-6)


def test_answers_of_an_earlier_call_stay(runner):
    first = runner({"a": A[:2], "b": B[:2]})["mid"]
    kept = first.copy()
    runner({"a": A[2:4], "b": B[2:4]})
    np.testing.assert_array_equal(first, kept)
    once = runner.run_once({"a": A[:2], "b": B[:2]})["mid"]
    runner.run_once({"a": A[2:4], "b": B[2:4]})
    np.testing.assert_allclose(once, kept, rtol=1e-6)


def test_lists_doubles_and_any_order_of_names(runner):
    straight = runner({"a": A, "b": B})["zeta"]
    twisted = runner({"b": B.astype("float64"), "a": np.asfortranarray(A).tolist()})["zeta"]
    np.testing.assert_array_equal(twisted, straight)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (A, r"must be a dict with the inputs \['a', 'b'\]"),
        ({"a": A}, r"missing \['b'\]"),
        ({"a": A, "b": B, "c": A}, r"unknown \['c'\]"),
        ({"a": A[:, :2], "b": B}, r"'a' must have the shape \(samples, 3\).*Received: \(5, 2\)"),
        ({"a": A[0], "b": B}, r"'a' must have the shape \(samples, 3\).*Received: \(3,\)"),
        ({"a": A[:0], "b": B[:0]}, r"'a' must hold at least one sample"),
        ({"a": A * np.nan, "b": B}, r"'a' must be finite.*Received: 15 values"),
        ({"a": A[:3], "b": B}, r"same number of (rows|samples)"),
    ],
)
def test_wrong_inputs(runner, inputs, message):
    with pytest.raises(ValueError, match=message):
        runner(inputs)


def test_arguments_out_of_range(path):
    with pytest.raises(ValueError, match=r"`runtime` must be one of.*Received: runtime='gpu'"):
        load_litert(path, "gpu")
    with pytest.raises(ValueError, match=r"`num_threads` must be at least 1.*num_threads=0"):
        load_litert(path, num_threads=0)
    with pytest.raises(FileNotFoundError):
        load_litert(path.with_name("absent.tflite"))


def test_two_threads_and_two_models_at_once(path):
    one = load_litert(path, "compiled_model", num_threads=2)
    two = load_litert(path, "compiled_model")
    inputs = {"a": A, "b": B}
    np.testing.assert_allclose(one(inputs)["mid"], two(inputs)["mid"], rtol=1e-6)


def test_the_file_may_vanish_after_loading(path, tmp_path):
    copy = tmp_path / "copy.tflite"
    copy.write_bytes(path.read_bytes())
    runners = [load_litert(copy, runtime) for runtime in ("interpreter", "compiled_model")]
    copy.unlink()
    for runner in runners:
        assert runner({"a": A, "b": B})["mid"].shape == (5, 4)


def test_an_inspection_lists_heads_types_operations_and_bytes(path):
    found = inspect_litert(path)
    assert found.bytes == path.stat().st_size
    assert {n: (t.shape, t.dtype) for n, t in found.signature.inputs.items()} == {
        "a": ((2, 3), "float32"),
        "b": ((2, 2), "float32"),
    }
    assert {n: (t.shape, t.dtype) for n, t in found.signature.outputs.items()} == {
        "mid": ((2, 4), "float32"),
        "zeta": ((2, 4), "float32"),
    }
    assert found.ops == {"CONCATENATION": 1, "FULLY_CONNECTED": 2}
    assert found.float_ops == found.ops
    # Two kernels of 5 x 4; biases of zeros may be left out by the converter.
    assert found.weight_bytes["FLOAT32"] >= 2 * 5 * 4 * 4
