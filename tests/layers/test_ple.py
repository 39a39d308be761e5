import keras
import numpy as np
import pytest
from keras import ops

import kmtl

both_backends = pytest.mark.both_backends  # not of the conversion, which needs TensorFlow

LEVELS = [
    {"shared_experts": 2, "task_experts": [1, 2], "units": 5},
    {"shared_experts": 1, "task_experts": 2, "units": [6, 4]},
]


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomize(layer):
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(0.7 * rng.normal(size=weight.shape))


@both_backends
def test_one_level_is_cgc():
    x = normal(4, 6)
    layer = kmtl.layers.PLE(LEVELS[:1], num_tasks=2, activation="tanh")
    other = kmtl.layers.CGC(**LEVELS[0], num_tasks=2, activation="tanh")
    layer(x), other(x)
    randomize(layer)
    other.set_weights(layer.get_weights())
    for a, b in zip(numpy(layer(x)), numpy(other(x)), strict=True):
        np.testing.assert_array_equal(a, b)


@both_backends
def test_levels_are_cgc_layers_with_a_shared_stream():
    x = normal(2, 3, 6)
    layer = kmtl.layers.PLE(LEVELS, num_tasks=2)
    lower = kmtl.layers.CGC(**LEVELS[0], num_tasks=2, output_shared=True)
    upper = kmtl.layers.CGC(**LEVELS[1], num_tasks=2)
    layer(x), upper(lower(x))
    randomize(layer)
    lower.set_weights(layer.cgc_layers[0].get_weights())
    upper.set_weights(layer.cgc_layers[1].get_weights())
    for a, b in zip(numpy(layer(x)), numpy(upper(lower(x))), strict=True):
        assert a.shape == (2, 3, 4)
        np.testing.assert_array_equal(a, b)


@both_backends
def test_what_a_task_learns_reaches_the_other_from_level_two_on():
    """Through the shared stream, and through nothing else."""
    x = normal(4, 6)
    layer = kmtl.layers.PLE(LEVELS, num_tasks=2)
    layer(x)
    randomize(layer)
    first = layer.cgc_layers[0]
    low, high = numpy(first(x)), numpy(layer(x))
    kernel = first.experts[0].get_weights()[0]
    kernel[..., 0] += 1.0  # the one expert of task 0
    first.experts[0].kernel.assign(kernel)
    new_low, new_high = numpy(first(x)), numpy(layer(x))
    np.testing.assert_array_equal(new_low[1], low[1])
    assert np.abs(new_low[0] - low[0]).max() > 0.1
    assert np.abs(new_low[2] - low[2]).max() > 0.1
    assert np.abs(new_high[1] - high[1]).max() > 1e-3
    # In level two, experts of a task are again its own.
    second = layer.cgc_layers[1]
    kernel = second.experts[0].get_weights()[0]
    kernel[..., :2] += 1.0
    second.experts[0].kernel.assign(kernel)
    last = numpy(layer(x))
    np.testing.assert_array_equal(last[1], new_high[1])
    assert np.abs(last[0] - new_high[0]).max() > 1e-3


@both_backends
def test_without_shared_experts_tasks_are_independent():
    """And no level computes a shared stream, which would have weights without a gradient."""
    levels = [{"shared_experts": 0, "task_experts": 2, "units": 4}] * 2
    layer = kmtl.layers.PLE(levels, num_tasks=2)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss=["mse", "mse"], loss_weights=[1.0, 0.0])
    before = model.get_weights()
    model.fit(normal(8, 6), [np.ones((8, 4))] * 2, batch_size=8, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        half = old.shape[-1] // 2  # experts and gates alike: those of task 0, then of task 1
        np.testing.assert_array_equal(new[..., half:], old[..., half:])
        assert np.abs(new - old)[..., :half].max() > 0


@both_backends
def test_levels_without_shared_experts_pass_the_stream_on_where_it_is_read():
    bare = {"shared_experts": 0, "task_experts": 1, "units": 4}
    levels = [LEVELS[0], bare, LEVELS[1], bare]
    layer = kmtl.layers.PLE(levels, num_tasks=2)
    assert [cgc.output_shared for cgc in layer.cgc_layers] == [True, True, False, False]
    assert [x.shape for x in numpy(layer(normal(3, 6)))] == [(3, 4)] * 2


@both_backends
def test_every_weight_learns():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, kmtl.layers.PLE(LEVELS, num_tasks=2, activation="tanh")(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss=["mse", "mse"])
    before = model.get_weights()
    model.fit(normal(8, 6), [np.ones((8, 4))] * 2, batch_size=8, verbose=0)
    for old, new, weight in zip(before, model.get_weights(), model.weights, strict=True):
        assert np.any(new != old), weight.path


@both_backends
@pytest.mark.parametrize(
    "levels", [[], {"units": 3}, [LEVELS[0], {"units": 3}], [{**LEVELS[0], "gate": "softmax"}]]
)
def test_bad_levels(levels):
    with pytest.raises(ValueError, match=r"`levels` must be a list of dicts.*Received: levels="):
        kmtl.layers.PLE(levels, num_tasks=2)


@both_backends
def test_a_level_that_cgc_refuses():
    with pytest.raises(ValueError, match=r"must have an expert.*task_experts=\[1, 0\]"):
        kmtl.layers.PLE([{**LEVELS[0], "shared_experts": 0, "task_experts": [1, 0]}], num_tasks=2)


@both_backends
def test_several_inputs():
    with pytest.raises(ValueError, match="`PLE` must get one tensor. Received: 2 inputs"):
        kmtl.layers.PLE(LEVELS, num_tasks=2)([keras.Input((6,)), keras.Input((6,))])


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="conversion needs TensorFlow")
@pytest.mark.parametrize("shape", [(6,), (3, 6)])
@pytest.mark.parametrize("gate", ["softmax", "dselect_k"])
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_a_folded_network_in_litert(shape, gate, quantization, tmp_path):
    from kmtl.export import export_litert, inspect_litert, load_litert

    if gate == "dselect_k":
        gate = kmtl.layers.DSelectKGate(num_experts=3, num_selected=2)
    inputs = keras.Input(shape)
    layer = kmtl.layers.PLE(LEVELS, num_tasks=2, gate=gate)
    streams = layer(inputs)
    randomize(layer)
    heads = {name: keras.layers.Dense(2) for name in ("zeta", "alpha")}
    model = kmtl.MultiTaskModel(
        inputs, {name: head(x) for (name, head), x in zip(heads.items(), streams, strict=True)}
    )
    x, path = normal(64, *shape), tmp_path / "model.tflite"
    export_litert(model, path, quantization, representative_data=x)
    for runtime in ("interpreter", "compiled_model"):
        for name, answer in load_litert(path, runtime)(x[:8]).items():
            expected = ops.convert_to_numpy(model(x[:8])[name])
            error = np.linalg.norm(answer - expected) / np.linalg.norm(expected)
            assert error <= (1e-5 if quantization == "float32" else 0.1), (name, error)
    found = inspect_litert(path)
    known = {"ADD", "CONCATENATION", "FULLY_CONNECTED", "MEAN", "MUL", "RESHAPE", "SOFTMAX"}
    known |= {"DEQUANTIZE", "QUANTIZE"}
    assert set(found.ops) <= known
    if quantization == "int8":
        assert set(found.float_ops) <= {"QUANTIZE", "DEQUANTIZE"}
