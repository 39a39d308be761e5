"""A folded model computes the same with Keras's own layers only."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.export import fold
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork
from kmtl.testing import assert_plain

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(5, 8, 8, 2)).astype("float32")
VECTORS = RNG.normal(size=(5, 6)).astype("float32")


def stages():
    return [
        [
            layers.Conv2D(
                4, 3, padding="same", kernel_regularizer="l2", kernel_constraint="unit_norm"
            ),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.SpatialDropout2D(0.2),
            layers.GaussianNoise(0.3),
        ],
        [
            layers.MaxPooling2D(),
            layers.Conv2D(4, 3, activation="tanh"),
            layers.ActivityRegularization(l2=0.1),
        ],
    ]


def heads():
    return {
        "zeta": [layers.Flatten(), layers.Dropout(0.5), layers.Dense(2)],
        "alpha": [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")],
        "mid": [layers.Flatten(), kmtl.layers.GradientReversal(), layers.Dense(2)],
    }


def pooled():
    return layers.GlobalAveragePooling2D(keepdims=True)


def network(name):
    trunk = [layer for stage in stages() for layer in stage]
    if name == "hard_sharing":
        return HardSharing(trunk, heads(), inputs=(8, 8, 2))
    if name == "factorized":
        trunk = [
            x for x in trunk if not isinstance(x, layers.Conv2D) or x.kernel_regularizer is None
        ]
        return FactorizedNetwork(trunk, heads(), inputs=(8, 8, 2))
    if name == "cross_stitch":
        return CrossStitchNetwork(stages(), heads(), inputs=(8, 8, 2))
    own = [[layer for layer in stage if layer.__class__ is not layers.Conv2D] for stage in stages()]
    own[0].insert(0, layers.Conv2D(4, 3, padding="same"))
    own[1].insert(1, layers.Conv2D(4, 3, activation="tanh"))
    return SluiceNetwork(own, heads(), readout=pooled, inputs=(8, 8, 2))


def randomize(model):
    """Weights as after training; variances of batch normalisation stay positive."""
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(
                0.3 * RNG.normal(size=weight.shape) ** (2 if "variance" in weight.path else 1)
            )
    return model


def assert_equal(plain, model, x):
    expected, outputs = model(x, training=False), plain(x)
    assert set(outputs) <= set(expected)
    for task, y in outputs.items():
        reference = ops.convert_to_numpy(expected[task]).astype("float64")
        error = np.linalg.norm(ops.convert_to_numpy(y) - reference) / np.linalg.norm(reference)
        assert error <= 1e-5, f"{task}: {error}"


NETWORKS = ["hard_sharing", "cross_stitch", "sluice", "factorized"]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_folds_to_an_equal_one_without_training_parts(name):
    model = randomize(network(name))
    plain = fold(model)
    assert sorted(plain.output) == ["alpha", "mid", "zeta"]
    assert_equal(plain, model, IMAGES)
    assert_plain(plain)
    kinds = {type(layer).__name__ for layer in plain.layers}
    gone = {"SpatialDropout2D", "GaussianNoise", "Dropout", "ActivityRegularization"}
    assert not kinds & gone
    assert not plain.losses
    assert not [v.path for v in plain.variables if "seed" in v.path]
    for layer in plain.layers:
        assert getattr(layer, "kernel_regularizer", None) is None
        assert getattr(layer, "kernel_constraint", None) is None


def test_the_trained_model_is_left_alone():
    model = randomize(network("cross_stitch"))
    before = model.get_weights()
    plain = fold(model)
    for weight in plain.weights:
        weight.assign(ops.zeros_like(weight))
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_mixed_precision_folds_to_the_float32_network_of_the_same_weights(name):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = randomize(network(name))
    finally:
        keras.config.set_dtype_policy("float32")
    full = network(name)
    full.set_weights(half.get_weights())
    plain = fold(half)
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
    assert_equal(plain, full, IMAGES)


def test_mixed_precision_inside_of_wrappers_becomes_float32_too():
    def recurrent(policy):
        keras.config.set_dtype_policy(policy)
        try:
            x = keras.Input((5, 6))
            h = layers.TimeDistributed(layers.Dense(6))(x)
            h = layers.Bidirectional(layers.LSTM(4))(h)
            return kmtl.MultiTaskModel(x, {"a": layers.Dense(2, dtype="float32")(h)})
        finally:
            keras.config.set_dtype_policy("float32")

    half, full = recurrent("mixed_bfloat16"), recurrent("float32")
    full.set_weights(randomize(half).get_weights())
    plain = fold(half)
    inside = list(plain._flatten_layers(include_self=False))
    assert {layer.compute_dtype for layer in inside} == {"float32"}
    assert_equal(plain, full, RNG.normal(size=(3, 5, 6)).astype("float32"))


def test_every_layer_of_kmtl_in_one_model():
    x = keras.Input((6,))
    a, b = kmtl.layers.FactorizedDense(8, 2, method="tt", activation="tanh")(x)
    a, b = kmtl.layers.CrossStitch(per_channel=False)([a, b])
    a, b = kmtl.layers.CrossStitch(per_channel=True)([a, b])
    a, b = kmtl.layers.SluiceUnit(num_subspaces=4)([a, b])
    a = kmtl.layers.LayerStitch()([a, layers.Dense(8)(a)])
    b = kmtl.layers.GradientReversal()(b)
    a, b = kmtl.layers.TaskStackedDense(3, 2, activation="sigmoid")([a, b])
    model = randomize(kmtl.MultiTaskModel(x, {"a": a, "b": b}))
    plain = fold(model)
    assert_plain(plain)
    assert_equal(plain, model, VECTORS)


def test_convolutions_with_odd_options_fold_too():
    x = keras.Input((8, 8, 2))
    options = {"padding": "same", "dilation_rate": 2, "method": "laf"}
    streams = kmtl.layers.FactorizedConv2D(3, 3, 2, **options)(x)
    streams = kmtl.layers.FactorizedConv2D(3, (2, 3), 2, strides=2, use_bias=False)(streams)
    model = randomize(kmtl.MultiTaskModel(x, dict(zip("ab", streams, strict=True))))
    plain = fold(model)
    assert_plain(plain)
    assert_equal(plain, model, IMAGES)


@pytest.mark.parametrize(
    "augmentation",
    [
        lambda: layers.RandomFlip(),
        lambda: layers.RandomRotation(0.2),
        lambda: layers.RandomContrast(0.5),
        lambda: layers.RandAugment(value_range=(0, 1)),
        lambda: layers.MixUp(),
    ],
)
def test_augmentation_is_gone(augmentation):
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(2, 3)(augmentation()(x))
    model = kmtl.MultiTaskModel(x, {"a": layers.Flatten()(h)})
    plain = fold(model)
    assert [type(layer).__name__ for layer in plain.layers] == ["InputLayer", "Conv2D", "Flatten"]
    images = RNG.uniform(size=(4, 8, 8, 3)).astype("float32")
    assert_equal(plain, model, images)


def test_an_adapted_normalization_keeps_its_statistics():
    normalization = layers.Normalization()
    normalization.adapt(3.0 + 5.0 * VECTORS)
    x = keras.Input((6,))
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(2)(normalization(x))})
    assert_equal(fold(model), model, VECTORS)


def test_layers_whose_behaviour_hangs_on_arguments_of_the_call():
    x = keras.Input((6, 4))
    attended = layers.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True)
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(2)(attended)})
    assert_equal(fold(model), model, RNG.normal(size=(3, 6, 4)).astype("float32"))


def test_masks_reach_recurrent_layers_after_folding():
    x = keras.Input((4,), dtype="int32")
    h = layers.Embedding(5, 3, mask_zero=True)(x)
    h = kmtl.layers.GradientReversal()(layers.Dropout(0.5)(h))
    model = kmtl.MultiTaskModel(x, {"a": layers.LSTM(3)(h)})
    tokens = np.array([[1, 2, 0, 0], [3, 0, 0, 0]])
    assert_equal(fold(model), model, tokens)


@pytest.mark.parametrize(
    ("tasks", "kept"), [("mid", ["mid"]), (["zeta", "alpha"], ["alpha", "zeta"])]
)
def test_chosen_tasks_bring_only_what_they_need(tasks, kept):
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    both = layers.Concatenate()([layers.Dense(2, name="of_a")(a), layers.Dense(2, name="of_b")(b)])
    heads = {
        "zeta": layers.Dense(2, name="head_zeta")(layers.Dense(2, name="of_zeta")(a)),
        "alpha": layers.Dense(3, name="head_alpha")(a),
        "mid": layers.Dense(2, name="head_mid")(both),
    }
    model = kmtl.MultiTaskModel({"a": a, "b": b}, heads)
    plain = fold(model, tasks)
    assert sorted(plain.output) == kept
    names = {layer.name for layer in plain.layers if not isinstance(layer, layers.InputLayer)}
    if tasks == "mid":
        assert names == {"of_a", "of_b", "concatenate", "head_mid"}
        assert sorted(x.name for x in plain.inputs) == ["a", "b"]
        assert_equal(plain, model, {"a": VECTORS[:, :3], "b": VECTORS[:, :4]})
    else:
        assert names == {"of_zeta", "head_zeta", "head_alpha"}
        assert [x.name for x in plain.inputs] == ["a"]
        expected = model({"a": VECTORS[:, :3], "b": VECTORS[:, :4]})
        np.testing.assert_allclose(plain(VECTORS[:, :3])["zeta"], expected["zeta"], rtol=1e-6)


def test_one_task_of_a_stitched_network_keeps_the_towers_that_feed_it():
    stitched = randomize(network("cross_stitch"))
    assert_equal(fold(stitched, "mid"), stitched, IMAGES)
    for name in ("cross_stitch_0", "cross_stitch_1"):
        layer = stitched.get_layer(name)
        layer.raw.assign(np.eye(3)[..., None] * np.ones(4))
    apart = fold(stitched, "mid")
    assert_equal(apart, stitched, IMAGES)
    convolutions = [x for x in apart.layers if type(x) is layers.Conv2D]
    assert len(convolutions) == 2  # the other towers are gone


def test_nested_models_and_layers_used_twice():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6), layers.Dropout(0.5)], name="inner"
    )
    deeper_in = keras.Input((6,))
    reversed_ = kmtl.layers.GradientReversal()(inner(deeper_in))
    deeper = keras.Model(deeper_in, inner(reversed_), name="deeper")
    x = keras.Input((6,))
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(2)(deeper(x)), "b": ops.tanh(inner(x)) + 1.0})
    plain = fold(randomize(model))
    assert_plain(plain)
    assert_equal(plain, model, VECTORS)
    assert sum(type(layer) is layers.Dense for layer in plain.layers) == 2


def test_kmtl_layers_used_twice():
    x, z = (keras.Input((5, 6), name=name) for name in ("x", "z"))
    mix, embed = kmtl.layers.CrossStitch(), kmtl.layers.LabelEmbedding(3)
    hidden = kmtl.layers.GradientReversal()
    a, b = mix([x, z])
    a, b = mix([b, a])
    model = keras.Model([x, z], {"a": embed(hidden(a)), "b": embed(hidden(b))})
    plain = fold(model)
    assert_plain(plain)
    inputs = [RNG.normal(size=(4, 5, 6)).astype("float32") for _ in range(2)]
    expected, found = model(inputs), plain({"x": inputs[0], "z": inputs[1]})
    for task in ("a", "b"):
        np.testing.assert_allclose(found[task], expected[task], atol=1e-6)
    assert sum(isinstance(layer, layers.Dense) for layer in plain.layers) == 1  # weights once


def test_lambda_layers_of_your_own_are_kept():
    x = keras.Input((6,))
    model = kmtl.MultiTaskModel(x, {"a": layers.Lambda(lambda x: 2 * x, output_shape=(6,))(x)})
    assert_equal(fold(model), model, VECTORS)


@keras.saving.register_keras_serializable(package="tests")
class Doubled(layers.Layer):
    def call(self, x):
        return 2.0 * x


@keras.saving.register_keras_serializable(package="tests")
class Tripled(layers.Layer):
    def call(self, x):
        return 3.0 * x

    def fold(self, x):
        return layers.Rescaling(3.0, name=self.name)(x)


def test_a_custom_layer_is_kept_and_one_with_fold_is_replaced():
    x = keras.Input((6,))
    model = kmtl.MultiTaskModel(x, {"a": Doubled()(x), "b": Tripled(name="tripled")(x)})
    plain = fold(model)
    assert {type(layer) for layer in plain.layers[1:]} == {Doubled, layers.Rescaling}
    assert_equal(plain, model, VECTORS)


def test_a_kmtl_layer_inside_of_a_wrapper_is_refused():
    x = keras.Input((5, 6))
    wrapped = layers.TimeDistributed(kmtl.layers.GradientReversal(), name="outer")(x)
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(wrapped)})
    with pytest.raises(ValueError, match=r"'outer' holds kmtl>GradientReversal.*cannot be folded"):
        fold(model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(value):
    x = keras.Input((6,))
    model = kmtl.MultiTaskModel(
        x, {"a": layers.Dense(2, name="broken")(x), "b": layers.Dense(1)(x)}
    )
    model.get_layer("broken").bias.assign([0.0, value])
    with pytest.raises(ValueError, match=r"must be finite.*Received: .*broken/bias$"):
        fold(model)


@pytest.mark.parametrize("tasks", ["typo", ["a", "typo"], []])
def test_unknown_tasks(tasks):
    x = keras.Input((6,))
    with pytest.raises(ValueError, match=r"among the model's tasks \['a'\].*Received: tasks="):
        fold(kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(x)}), tasks)


def test_outputs_must_be_named():
    x = keras.Input((6,))
    with pytest.raises(ValueError, match=r"functional with a dict of task name"):
        fold(keras.Model(x, layers.Dense(1)(x)))


def test_a_folded_model_folds_to_itself_and_a_plain_keras_model_folds_too():
    model = randomize(network("sluice"))
    plain = fold(model)
    again = fold(plain)
    assert [type(x) for x in again.layers] == [type(x) for x in plain.layers]
    assert_equal(again, model, IMAGES)


def test_folded_models_load_where_there_is_no_kmtl(tmp_path):
    for name in NETWORKS:
        model = randomize(network(name))
        fold(model).save(tmp_path / f"{name}.keras")
        outputs = {task: ops.convert_to_numpy(y) for task, y in model(IMAGES).items()}
        np.savez(tmp_path / f"{name}.npz", **outputs)
    np.save(tmp_path / "x.npy", IMAGES)
    script = """
import sys
sys.modules["kmtl"] = None  # an import would raise
import pathlib
import keras, numpy as np
x = np.load("x.npy")
for path in sorted(pathlib.Path(".").glob("*.keras")):
    outputs = keras.saving.load_model(path)(x)
    for task, expected in np.load(path.with_suffix(".npz")).items():
        error = np.linalg.norm(np.array(outputs[task]) - expected) / np.linalg.norm(expected)
        assert error <= 1e-5, (path, task, error)
    print(path.stem)
assert not [m for m in sys.modules if m.startswith("kmtl.")]
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == sorted(NETWORKS)


def test_folded_layers_do_not_take_the_names_of_others():
    shared = kmtl.layers.FactorizedDense(3, num_tasks=3, name="dense")
    x = keras.Input((4,))
    first, second, third = shared(x)
    heads = {"zeta": first, "alpha": keras.layers.Dense(2, name="dense_1")(second), "mid": third}
    model = kmtl.MultiTaskModel(x, heads)
    folded = kmtl.export.fold(model)
    inputs = np.ones((2, 4), "float32")
    for task, expected in model.predict(inputs, verbose=0).items():
        np.testing.assert_allclose(folded.predict(inputs, verbose=0)[task], expected, rtol=1e-5)


FACTOR = 3.0


def test_a_lambda_keeps_its_globals():
    x = keras.Input((3,))
    scaled = layers.Lambda(lambda v: ops.square(v) * FACTOR)(x)
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(scaled), "b": scaled})
    data = np.full((2, 3), 2.0, "float32")
    np.testing.assert_array_equal(fold(model)(data)["b"], np.full((2, 3), 12.0))
