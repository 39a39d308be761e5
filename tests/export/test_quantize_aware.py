"""Quantisation-aware training: the Keras model predicts what its integer file does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kmtl
from kmtl.export.flatbuffers.graph import read_graph
from kmtl.export.flatbuffers.inspection import inspect_bytes
from kmtl.export.folding.fold import fold
from kmtl.export.folding.simplify import simplify
from kmtl.export.quantization_aware.emulation import from_quantize_aware
from kmtl.export.quantization_aware.fake_quantize import FakeQuantize
from kmtl.export.quantization_aware.float_parts import float_layers
from kmtl.export.quantization_aware.quantize_aware import quantize_aware
from kmtl.export.quantization_aware.quantized_layer import QuantizedLayer
from kmtl.export.quantization_aware.schemes import scheme_of
from kmtl.export.runtime.litert_model import RUNTIMES, LiteRTModel

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8, 8, 2)).astype("float32")
Y = {
    "zeta": np.eye(3, dtype="float32")[(X[:, 0, 0, 0] > 0).astype(int) + (X[:, 1, 1, 1] > 0)],
    "alpha": X[:, :4].mean(axis=(1, 2, 3))[:, None],
    "mid": np.tanh(X[:, 0, :2, 0]),
}
LOSSES = {"zeta": "categorical_crossentropy", "alpha": "mse", "mid": "mse"}


def convolutional():
    """All kinds of operations that LiteRT has integer forms of."""
    x = keras.Input((8, 8, 2), name="image")
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(x)))
    branch = layers.SeparableConv2D(6, 3, padding="same", activation="relu")(h)
    h = layers.Activation("relu")(layers.add([h, branch]))
    h = layers.MaxPooling2D()(h)
    h = layers.BatchNormalization()(layers.Conv2D(4, 2, activation="tanh")(h))
    flat = layers.Flatten()(h)
    pooled = layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(2, activation="relu")(h))
    h = layers.concatenate([pooled, layers.Dense(5, activation="relu")(flat)])
    heads = {
        "zeta": layers.Dense(3, activation="softmax")(h),
        "alpha": layers.Dense(1)(h),
        "mid": layers.Dense(2, activation="tanh")(flat),
    }
    return kmtl.MultiTaskModel(x, heads)


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(1)
    model = convolutional()
    model.compile(keras.optimizers.Adam(0.01), loss=LOSSES)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    return model


def file_of(model):
    return from_quantize_aware(model, scheme_of(model), 1)[0]


def steps_apart(content, model, x, runtime="interpreter"):
    """Task -> differences in steps of the head's own grid."""
    expected, answers = model.predict(x, verbose=0), LiteRTModel(content, runtime)(x)
    return {
        task: np.abs(answers[task] - expected[task]) / head_step(model, task) for task in expected
    }


def head_step(model, task):
    """The step of the last grid that the head's values were computed on."""
    last = model.output[task]._keras_history.operation
    before = last._inbound_nodes[0].input_tensors[0]._keras_history.operation
    if last.ranges == "fixed":  # a table: one step of its input may be several of its own
        last = before._inbound_nodes[0].input_tensors[0]._keras_history.operation
    low, high = last.get_limits()
    return (high - low) / (255 if last.num_bits == 8 else 65534)


@pytest.mark.parametrize("scheme", ["int8", "int4", "int8x16"])
def test_file_equals_the_model_s_own_prediction(trained, scheme):
    model = quantize_aware(trained, scheme, X[:48])
    model.compile(keras.optimizers.Adam(1e-3), loss=LOSSES, weighting="pcgrad")
    before = float(model.evaluate(X, Y, verbose=0, return_dict=True)["loss"])
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    assert float(model.evaluate(X, Y, verbose=0, return_dict=True)["loss"]) < before
    content = file_of(model)
    found = inspect_bytes(content)
    assert set(found.float_ops) <= {"QUANTIZE", "DEQUANTIZE"}
    assert ("INT4" in found.weight_bytes) == (scheme == "int4")
    for runtime in RUNTIMES:
        for task, steps in steps_apart(content, model, X[:32], runtime).items():
            assert np.mean(steps) <= 0.01 and steps.max() <= 1.0 + 1e-3, (runtime, task)


def image(*shape):
    return keras.Input(shape or (8, 8, 6), name="image")


def of_image(call, *shape):
    x = image(*shape)
    return kmtl.MultiTaskModel(x, {"zeta": call(x)})


def some_bias():
    return {"bias_initializer": keras.initializers.RandomNormal(stddev=0.3)}


SINGLE = {
    "conv": lambda: of_image(layers.Conv2D(8, 3, **some_bias())),
    "groups": lambda: of_image(layers.Conv2D(8, 3, groups=2, **some_bias())),
    "relu6": lambda: of_image(lambda x: layers.ReLU(6.0)(layers.Conv2D(8, 3)(x))),
    "depthwise": lambda: of_image(layers.DepthwiseConv2D(3, depth_multiplier=2, **some_bias())),
    "transposed": lambda: of_image(layers.Conv2DTranspose(5, 3, strides=2, **some_bias())),
    "dense_even": lambda: of_image(layers.Dense(16, **some_bias()), 400),
    "dense_odd": lambda: of_image(layers.Dense(16, **some_bias()), 25),
    "mean": lambda: of_image(layers.GlobalAveragePooling2D()),
    "pool": lambda: of_image(layers.AveragePooling2D(2)),
    "sum": lambda: of_image(lambda x: layers.add([layers.Activation("relu")(x), x])),
    "difference": lambda: of_image(lambda x: layers.subtract([layers.Activation("relu")(x), x])),
    "tanh": lambda: of_image(layers.Activation("tanh")),
    "sigmoid": lambda: of_image(layers.Activation("sigmoid")),
    "softmax": lambda: of_image(layers.Softmax(), 10),
    "joined": lambda: of_image(
        lambda x: layers.concatenate(
            [layers.Conv2D(4, 1, activation="relu")(x), x, layers.Conv2D(3, 1)(x)]
        )
    ),
}
OF_FOUR_BITS = ("conv", "groups", "relu6", "dense_even", "dense_odd", "joined")


@pytest.mark.parametrize(
    ("name", "scheme"), [(n, "int8x16") for n in SINGLE] + [(n, "int4") for n in OF_FOUR_BITS]
)
def test_single_operations_give_the_kernels_integers(name, scheme):
    keras.utils.set_random_seed(6)
    model = SINGLE[name]()
    data = np.random.default_rng(6).normal(size=(48, *model.inputs[0].shape[1:]))
    model = quantize_aware(model, scheme, data.astype("float32"))
    expected = model.predict(data, verbose=0)["zeta"]
    last = model.output["zeta"]._keras_history.operation
    last = last if isinstance(last, FakeQuantize) else model.layers[1]  # pools keep the grid
    low, high = last.get_limits()
    step = max(-low, high) / 32767 if scheme == "int8x16" else (high - low) / 255
    for runtime in RUNTIMES:
        steps = np.abs(LiteRTModel(file_of(model), runtime)(data)["zeta"] - expected) / step
        assert np.mean(steps > 0.5) <= 1e-3 and steps.max() <= 1.01, runtime


def test_simplified_model_computes_the_same(trained):
    plain = simplify(fold(trained))
    kinds = {type(layer).__name__ for layer in plain.layers}
    assert not kinds & {"BatchNormalization", "SeparableConv2D"}
    for task, expected in trained.predict(X, verbose=0).items():
        np.testing.assert_allclose(plain.predict(X, verbose=0)[task], expected, atol=2e-6)


@pytest.mark.parametrize(
    "build",
    [
        kmtl.models.CrossStitchNetwork,
        pytest.param(kmtl.models.SluiceNetwork, marks=pytest.mark.nightly),
        kmtl.models.FactorizedNetwork,
    ],
)
def test_sharing_networks(build):
    keras.utils.set_random_seed(2)
    stages = [layers.Dense(6, activation="relu"), layers.Dense(6, activation="relu")]
    heads = {"zeta": layers.Dense(3, activation="softmax"), "alpha": layers.Dense(1)}
    model = build(stages, heads, inputs=(128,))
    x, y = X.reshape(96, -1), {task: Y[task] for task in heads}
    result = quantize_aware(model, representative_data=x[:48])
    assert float_layers(result) == []
    result.compile("adam", loss={task: LOSSES[task] for task in heads}, weighting="uncertainty")
    result.fit(x, y, batch_size=16, verbose=0)
    content = file_of(result)
    assert set(inspect_bytes(content).float_ops) <= {"QUANTIZE", "DEQUANTIZE"}
    for task, steps in steps_apart(content, result, x[:32]).items():
        assert steps.max() <= 2.0, task


def test_what_has_no_integer_form_stays_in_float_and_is_listed():
    keras.utils.set_random_seed(3)
    x = keras.Input((10, 4), name="series")
    h = layers.Dense(6, activation="leaky_relu")(layers.LSTM(5, unroll=True)(x))
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(h), "alpha": layers.Dense(1)(h)})
    data = RNG.normal(size=(32, 10, 4)).astype("float32")
    result = quantize_aware(model, representative_data=data)
    assert float_layers(result) == ["lstm", "dense_leaky_relu"]
    content = file_of(result)
    found = inspect_bytes(content)
    assert found.float_ops["LEAKY_RELU"] == 1 and found.float_ops["FULLY_CONNECTED"] > 10
    for task, steps in steps_apart(content, result, data).items():
        assert steps.max() <= 2.0, task
    with pytest.raises(ValueError, match=r"With `strict` every layer .*lstm.*dense_leaky_relu"):
        quantize_aware(model, strict=True)


def test_saving_keeps_the_grid(trained, tmp_path):
    model = quantize_aware(trained, "int4", X[:48])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, kmtl.MultiTaskModel) and scheme_of(loaded) == "int4"
    for task, expected in model.predict(X, verbose=0).items():
        np.testing.assert_array_equal(loaded.predict(X, verbose=0)[task], expected)
    assert file_of(loaded) == file_of(model)


def test_calibration_takes_the_extremes(trained):
    model = quantize_aware(trained, representative_data=X[:48])
    first = next(layer for layer in model.layers if isinstance(layer, FakeQuantize))
    assert first.get_limits() == (float(X[:48].min()), float(X[:48].max()))


def test_learned_ranges_move():
    keras.utils.set_random_seed(4)
    x = keras.Input((128,))
    h = layers.Dense(4, activation="relu")(x)
    heads = {"zeta": layers.Dense(3, activation="softmax")(h), "alpha": layers.Dense(1)(h)}
    model = quantize_aware(
        kmtl.MultiTaskModel(x, heads), representative_data=X.reshape(96, -1), ranges="learned"
    )
    model.compile(keras.optimizers.SGD(0.1), loss={task: LOSSES[task] for task in heads})
    before = {v.path: float(v.numpy()) for v in model.trainable_variables if v.shape == ()}
    model.fit(X.reshape(96, -1), {task: Y[task] for task in heads}, verbose=0)
    after = {v.path: float(v.numpy()) for v in model.trainable_variables if v.shape == ()}
    assert before and any(before[path] != after[path] for path in before)


def test_two_replicas_equal_one(mirrored):
    def train(strategy):
        keras.utils.set_random_seed(5)
        with strategy.scope():
            x = keras.Input((128,))
            h = layers.Dense(4, activation="relu")(x)
            heads = {"zeta": layers.Dense(3)(h), "alpha": layers.Dense(1)(h)}
            model = quantize_aware(kmtl.MultiTaskModel(x, heads))
            model.compile(keras.optimizers.SGD(0.1), loss="mse")
        data = {task: Y[task] for task in heads}
        model.fit(X.reshape(96, -1), data, batch_size=32, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    one = train(tf.distribute.get_strategy())
    two = train(mirrored)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_layers_are_found_by_their_kind(trained):
    model = quantize_aware(trained, "int4")
    bits = {
        type(layer.layer).__name__: layer.num_bits
        for layer in model.layers
        if isinstance(layer, QuantizedLayer)
    }
    assert bits == {"Conv2D": 4, "Dense": 4, "DepthwiseConv2D": 8}


@pytest.mark.parametrize("tasks", [None, ["mid", "zeta"]])
def test_export_writes_and_verifies_the_file(trained, tmp_path, tasks):
    model = quantize_aware(trained, "int8", X[:48])
    result = kmtl.export.export_litert(
        model, tmp_path / "model.tflite", representative_data=X[:48], tasks=tasks, tolerance=1e-3
    )
    assert result.quantization == "int8" and result.tasks == tuple(tasks or sorted(LOSSES))
    answers = kmtl.export.load_litert(result.path)(X)
    expected = model.predict(X, verbose=0)
    for task in result.tasks:
        assert np.mean(np.abs(answers[task] - expected[task])) < 1e-3


@pytest.mark.parametrize("quantization", ["int8_io", "uint8_io"])
def test_the_file_s_ends_may_be_integers(trained, tmp_path, quantization):
    model = quantize_aware(trained, "int8", X[:48])
    result = kmtl.export.export_litert(
        model, tmp_path / "m.tflite", quantization, representative_data=X[:48], tolerance=0.01
    )
    runner = kmtl.export.load_litert(result.path)
    dtype = quantization.removesuffix("_io")
    details = [*runner.input_details.values(), *runner.output_details.values()]
    assert {info.dtype for info in details} == {dtype}


def kinds_in_float(content):
    return {k: n for k, n in inspect_bytes(content).float_ops.items() if "QUANTIZE" not in k}


def test_a_head_that_is_kept_in_float(trained):
    model = quantize_aware(trained, "int8", X[:48], keep_float=["zeta"])
    content = file_of(model)
    assert kinds_in_float(content) == {"FULLY_CONNECTED": 1, "SOFTMAX": 1}
    expected, answers = model.predict(X, verbose=0), LiteRTModel(content)(X)
    np.testing.assert_allclose(answers["zeta"], expected["zeta"], atol=1e-3)
    # It is not on a grid: many values, where int8 has 256 steps of 1/256.
    assert np.abs(expected["zeta"] * 256 % 1 - 0.5).min() < 0.05
    apart = steps_apart(content, quantize_aware(trained, "int8", X[:48]), X)
    assert apart["alpha"].max() < 1.01 and apart["mid"].max() < 1.01


@pytest.mark.parametrize("name", ["first", "middle", "joined", "act"])
def test_a_layer_that_is_kept_in_float(name):
    """Between integers: read by integer layers, by a head, by a concatenation."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="x")
    h = layers.Dense(8, name="first")(x)
    h = layers.Activation("relu", name="act")(h)
    m = layers.Dense(8, activation="relu", name="middle")(h)
    j = layers.Concatenate(name="joined")([h, m])
    model = kmtl.MultiTaskModel(
        x, {"zeta": layers.Dense(2)(m), "alpha": layers.Dense(3)(j), "mid": layers.Dense(1)(h)}
    )
    data = RNG.normal(size=(64, 6)).astype("float32")
    aware = quantize_aware(model, "int8", data, keep_float=[name])
    content = file_of(aware)
    count = sum(kinds_in_float(content).values())
    assert count == 1  # `first` and `act` are one operation
    for apart in steps_apart(content, aware, data).values():
        assert apart.max() < 1.01
    expected = {"first": ["first", "act"], "act": ["first", "act"]}.get(name, [name])
    assert float_layers(aware) == expected
    with pytest.raises(ValueError, match=r"`quantization` of \('int8',\)"):
        kmtl.export.export_litert(aware, "m.tflite", "int8_io")


def test_dense_kernels_with_one_scale(trained):
    model = quantize_aware(trained, "int8", X[:48], target="edgetpu")
    content = file_of(model)
    for apart in steps_apart(content, model, X).values():
        assert apart.max() < 1.01
    with read_graph(content) as graph:
        scales = {op.name: op.inputs[1].channels for op in graph.operations if len(op.inputs) == 3}
    assert scales["FULLY_CONNECTED"] == 1 and scales["CONV_2D"] > 1


def test_data_that_leaves_a_layer_constant(trained):
    x = keras.Input((3,), name="x")
    dead = layers.Dense(2, activation="relu", bias_initializer="zeros", name="dead")
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(dead(x)), "mid": layers.Dense(1)(x)})
    dead.set_weights([-np.ones((3, 2)), np.zeros(2)])
    data = np.abs(RNG.normal(size=(8, 3))).astype("float32")
    with pytest.raises(ValueError, match="must not be empty.*: dead: always 0; dense: always 0$"):
        quantize_aware(model, "int8", data)
    quantize_aware(model, "int8", data, keep_float=["dead", "zeta"])


def test_ranges_that_no_file_can_have(trained, tmp_path):
    model = quantize_aware(trained, "int8")
    with pytest.raises(ValueError, match="must have ranges before it is exported.*image"):
        kmtl.export.export_litert(model, tmp_path / "m.tflite", representative_data=X)
    model = quantize_aware(trained, "int8", X[:48])
    ranges = [layer for layer in model.layers if isinstance(layer, FakeQuantize)]
    ranges[2].set_limits(-1.0, np.inf)
    with pytest.raises(ValueError, match=r"must be finite.*Received: .*depthwise_range/high"):
        kmtl.export.export_litert(model, tmp_path / "m.tflite", representative_data=X)
    assert not list(tmp_path.iterdir())


def test_calibration_takes_streams(trained):
    batches = tf.data.Dataset.from_tensor_slices((X[:48], X[:48])).batch(16)
    arrays, streamed = (
        quantize_aware(trained, "int8", X[:48]),
        quantize_aware(trained, "int8", batches),
    )
    for a, b in zip(arrays.weights, streamed.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("kwargs", [{"quantization": "int4"}, {"overrides": {"mid": "float32"}}])
def test_export_of_another_type_than_trained(trained, tmp_path, kwargs):
    model = quantize_aware(trained, "int8", X[:48])
    with pytest.raises(ValueError, match="as it was trained.*`quantization` of .*'int8_io'"):
        kmtl.export.export_litert(model, tmp_path / "model.tflite", **kwargs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scheme": "int2"}, r"`scheme` must be one of .*'int8'.*Received: scheme='int2'"),
        ({"ranges": "guessed"}, r"`ranges` must be one of .*Received: ranges='guessed'"),
        ({"ranges": "learned"}, r"`representative_data` must be given.*Received: None"),
        ({"keep_float": ["nose"]}, r"`keep_float` must name layers, .*'mid'.*Received: nose"),
        ({"freeze_after": -1}, "`freeze_after` must be at least 0, or None.*freeze_after=-1"),
        ({"target": "npu"}, r"`target` must be None, or one of \('edgetpu',\).*target='npu'"),
        ({"target": "edgetpu", "scheme": "int4"}, r"`target` must be None.*scheme='int4'"),
    ],
)
def test_bad_arguments(trained, kwargs, message):
    with pytest.raises(ValueError, match=message):
        quantize_aware(trained, **kwargs)


def pooled_by_means():
    x = keras.Input((8, 8, 2), name="image")
    h = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    h = layers.AveragePooling2D(2)(h)
    return kmtl.MultiTaskModel(x, {"zeta": layers.Conv2D(2, 2)(h), "mid": layers.Flatten()(h)})


def enlarged():
    x = keras.Input((8, 8, 2), name="image")
    h = layers.Conv2D(4, 3, padding="same", strides=2, activation="relu")(x)
    up = layers.UpSampling2D(2, interpolation="bilinear")(h)
    return kmtl.MultiTaskModel(
        x, {"zeta": layers.Conv2D(2, 3)(up), "mid": layers.Dense(1)(layers.Flatten()(h))}
    )


@pytest.mark.parametrize("build", [pooled_by_means, enlarged])
def test_means_of_values_on_a_grid_are_rounded_to_it(build):
    keras.utils.set_random_seed(1)
    model = quantize_aware(build(), "int8", X[:48], strict=True)
    content = file_of(model)
    assert set(inspect_bytes(content).float_ops) <= {"QUANTIZE", "DEQUANTIZE"}
    for runtime in RUNTIMES:
        expected, answers = model.predict(X, verbose=0), LiteRTModel(content, runtime)(X)
        for task in expected:
            np.testing.assert_allclose(answers[task], expected[task], atol=1e-6, err_msg=task)


IDS = RNG.integers(1, 9, size=(48, 6)).astype("int32")


def embedded(mask_zero):
    ids = keras.Input((6,), dtype="int32", name="ids")
    h = layers.Embedding(9, 4, mask_zero=mask_zero, name="words")(ids)
    pooled = layers.GlobalAveragePooling1D(name="pooled")(h)
    return kmtl.MultiTaskModel(
        ids, {"zeta": layers.Dense(2)(pooled), "mid": layers.Dense(1)(layers.Flatten()(h))}
    )


@pytest.mark.parametrize("mask_zero", [False, True])
def test_embeddings(mask_zero):
    model = quantize_aware(embedded(mask_zero), "int8", IDS)
    assert float_layers(model) == (["not_equal", "pooled"] if mask_zero else [])
    content = file_of(model)
    expected = model.predict(IDS, verbose=0)
    for task, answers in LiteRTModel(content)(IDS).items():
        np.testing.assert_allclose(answers, expected[task], atol=2e-3)
    if mask_zero:
        with pytest.raises(ValueError, match="integer form. Received: .*'pooled'"):
            quantize_aware(embedded(mask_zero), "int8", IDS, strict=True)


def test_loops_are_refused_before_training():
    x = keras.Input((5, 3), name="x")
    h = layers.Bidirectional(layers.GRU(4), name="both")(x)
    heads = {"zeta": layers.LSTM(2, name="memory")(x), "mid": layers.Dense(1)(h)}
    with pytest.raises(ValueError, match="where nothing loops.*Received: both, memory"):
        quantize_aware(kmtl.MultiTaskModel(x, heads), "int8")


def test_a_model_that_is_quantisation_aware_already(trained):
    with pytest.raises(ValueError, match="must be trained in float.*Received: "):
        quantize_aware(quantize_aware(trained, "int8"), "int4")


def test_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        keras.utils.set_random_seed(1)
        model = quantize_aware(pooled_by_means(), "int8", X[:48])
        assert {layer.compute_dtype for layer in model.layers} == {"float32"}
        model.predict(X[:8], verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
