import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl

RNG = np.random.default_rng(0)


def features(*shape, dtype="float32"):
    return (3.0 * RNG.normal(size=shape) + 5.0).astype(dtype)


def statistics(layer):
    return [ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]


@pytest.mark.both_backends
@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        ((6,), {}),
        ((5, 4), {"momentum": 0.5, "epsilon": 0.1}),
        ((3, 4, 5), {"axis": 1}),
        ((3, 4, 2), {"center": False}),
        ((3, 4, 2), {"scale": False}),
    ],
    ids=str,
)
def test_one_source_trains_as_batch_normalization(shape, kwargs):
    """Outputs, moving statistics and gradients, by three steps of SGD through the layer."""
    x, y = features(8, *shape), features(8, 2)
    models = []
    for normalization in (
        layers.BatchNormalization(**kwargs),
        kmtl.layers.TaskBatchNormalization(1, **kwargs),
    ):
        keras.utils.set_random_seed(1)
        inputs, source = keras.Input(shape), keras.Input((), dtype="int32")
        ours = isinstance(normalization, kmtl.layers.TaskBatchNormalization)
        h = layers.Dense(shape[-1])(inputs)
        h = normalization([h, source] if ours else h)
        outputs = layers.Dense(2)(layers.Flatten()(layers.Activation("tanh")(h)))
        model = keras.Model([inputs, source], outputs)
        model.compile(keras.optimizers.SGD(0.1), loss="mse")
        model.fit([x, np.zeros(8, "int32")], y, batch_size=8, epochs=3, verbose=0)
        models.append(model)
    plain, ours = models
    for a, b in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(b.reshape(a.shape), a, rtol=1e-4, atol=1e-6)
    new = [features(3, *shape), np.zeros(3, "int32")]
    np.testing.assert_allclose(
        ours.predict(new, verbose=0), plain.predict(new, verbose=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.both_backends
@pytest.mark.parametrize("source_shape", [(-1,), (-1, 1)])
def test_each_source_has_a_batch_normalization_of_its_own(source_shape):
    source = np.array([2, 0, 2, 2, 0, 2, 0])
    x = features(7, 3, 4) + 100.0 * source[:, None, None].astype("float32")
    layer = kmtl.layers.TaskBatchNormalization(4, momentum=0.7)
    y = ops.convert_to_numpy(layer([x, source.reshape(source_shape)], training=True))
    mean, variance = statistics(layer)
    for s in (0, 2):
        alone = layers.BatchNormalization(momentum=0.7)
        expected = ops.convert_to_numpy(alone(x[source == s], training=True))
        np.testing.assert_allclose(y[source == s], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mean[s], statistics(alone)[0], rtol=1e-5)
        np.testing.assert_allclose(variance[s], statistics(alone)[1], rtol=1e-4)
    for s in (1, 3):
        np.testing.assert_array_equal(mean[s], 0.0)
        np.testing.assert_array_equal(variance[s], 1.0)


@pytest.mark.both_backends
def test_masked_timesteps_do_not_count():
    x, source, mask = features(4, 5, 2), np.array([0, 0, 1, 1]), np.ones((4, 5), bool)
    mask[:2, 2:], mask[3] = False, False
    layer = kmtl.layers.TaskBatchNormalization(3)
    plain = layers.BatchNormalization()
    layer([x, source], training=True, mask=[mask, None])
    plain(x[:2, :2], training=True)
    for ours, expected in zip(statistics(layer), statistics(plain), strict=True):
        np.testing.assert_allclose(ours[0], expected, rtol=1e-5)
    np.testing.assert_allclose(statistics(layer)[0][1], 0.01 * x[2].mean(axis=0), rtol=1e-5)
    before = statistics(layer)
    padded = np.where(mask[..., None], x, np.nan).astype("float32")
    layer([padded, np.full(4, 2)], training=True, mask=[mask, None])
    assert all(np.isfinite(x).all() for x in statistics(layer))
    layer([x, source], training=True, mask=[np.zeros_like(mask), None])
    np.testing.assert_array_equal(statistics(layer)[0][:2], before[0][:2])


@pytest.mark.both_backends
def test_the_mask_of_the_features_goes_on():
    tokens, source = keras.Input((None,)), keras.Input((), dtype="int32")
    embedding = layers.Embedding(5, 4, mask_zero=True)
    layer = kmtl.layers.TaskBatchNormalization(2)
    h = layer([embedding(tokens), source])
    model = keras.Model([tokens, source], layers.LSTM(2)(h))
    x, short = np.array([[1, 2, 0, 0]]), np.array([[1, 2]])
    np.testing.assert_allclose(
        model([x, np.array([1])]), model([short, np.array([1])]), rtol=1e-5, atol=1e-6
    )
    embedded = ops.convert_to_numpy(embedding.embeddings)[[1, 2]]
    model.compile("sgd", loss="mse")
    model.fit([x, np.array([1])], np.ones((1, 2)), verbose=0)
    expected = [np.zeros(4), 0.01 * embedded.mean(axis=0)]
    np.testing.assert_allclose(statistics(layer)[0], expected, rtol=1e-5)


def small_model(**kwargs):
    layer = kmtl.layers.TaskBatchNormalization(2, momentum=0.5)
    inputs, source = keras.Input((3,)), keras.Input((), dtype="int32")
    model = keras.Model([inputs, source], layer([inputs, source]))
    model.compile(keras.optimizers.SGD(0.1), loss="mse", **kwargs)
    return model, layer


@pytest.mark.both_backends
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_source_without_rows_keeps_all_that_it_has(jit_compile):
    model, layer = small_model(jit_compile=jit_compile)
    layer.moving_mean.assign(features(2, 3))
    before = [ops.convert_to_numpy(w) for w in layer.weights]
    model.fit([features(4, 3), np.ones(4, "int32")], features(4, 3), verbose=0)
    for a, b in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(b)[0], a[0])
        assert np.isfinite(ops.convert_to_numpy(b)).all()
        assert np.all(ops.convert_to_numpy(b)[1] != a[1])


@pytest.mark.both_backends
@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_unknown_source_shows_and_counts_in_no_statistics(jit_compile):
    model, layer = small_model(jit_compile=jit_compile)
    x, source = features(4, 3), np.array([0, 2, -1, 0], "int32")
    if keras.backend.backend() == "jax" and not jit_compile:  # there are values, not a graph
        with pytest.raises(ValueError, match="`source` must be at least 0"):
            model.predict([x, source], verbose=0)
        return
    y = model.predict([x, source], verbose=0)
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(y).any(axis=1), [False, True, True, False])
    model.fit([x, source], x, verbose=0)
    mean, _ = statistics(layer)
    np.testing.assert_allclose(mean, [0.5 * x[[0, 3]].mean(axis=0), [0, 0, 0]], rtol=1e-5)


@pytest.mark.both_backends
def test_statistics_are_float32_in_mixed_precision():
    x = features(64, 3, dtype="float16") * np.float16(100)  # squares overflow
    layer = kmtl.layers.TaskBatchNormalization(1, dtype="mixed_float16")
    y = layer([x, np.zeros(64, "int32")], training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    mean, variance = statistics(layer)
    np.testing.assert_allclose(mean[0], 0.01 * x.astype("float64").mean(axis=0), rtol=1e-5)
    expected = 0.99 + 0.01 * x.astype("float64").var(axis=0)
    np.testing.assert_allclose(variance[0], expected, rtol=1e-5)


@pytest.mark.both_backends
def test_shared_gamma_and_beta():
    layer = kmtl.layers.TaskBatchNormalization(2, epsilon=1e-9, shared_affine=True)
    x = np.array([[1.0], [3.0], [100.0], [500.0]], "float32")
    layer.build([(None, 1), (None,)])
    layer.gamma.assign([[2.0]])
    layer.beta.assign([[7.0]])
    y = layer([x, np.array([0, 0, 1, 1])], training=True)
    np.testing.assert_allclose(np.ravel(y), [5.0, 9.0, 5.0, 9.0], rtol=1e-5)


@pytest.mark.both_backends
def test_a_frozen_layer_uses_and_keeps_its_moving_statistics():
    layer = kmtl.layers.TaskBatchNormalization(2, trainable=False)
    x, source = features(4, 3), np.array([0, 1, 1, 0])
    y = layer([x, source], training=True)
    np.testing.assert_array_equal(y, layer([x, source], training=False))
    np.testing.assert_array_equal(statistics(layer)[0], 0.0)


def multi_task_model():
    keras.utils.set_random_seed(3)
    x, source = keras.Input((4, 4, 2), name="x"), keras.Input((), dtype="int32", name="source")
    h = layers.Conv2D(3, 3, padding="same")(x)
    h = kmtl.layers.TaskBatchNormalization(3, momentum=0.8)([h, source])
    h = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(h))
    outputs = {"a": layers.Dense(1, name="a")(h), "b": layers.Dense(2, name="b")(h)}
    return kmtl.MultiTaskModel({"x": x, "source": source}, outputs)


# Batches of 8: the second replica has no row of source 0 or the first none of 1; no row of 2 at
# all; one of each.
SOURCE = np.array([0, 0, 0, 0, 1, 1, 2, 1] + [0, 1, 1, 0, 1, 0, 0, 0] + [2, 0, 0, 2, 1, 1, 1, 1])
X = {"x": features(24, 4, 4, 2) + SOURCE[:, None, None, None], "source": SOURCE.astype("int32")}


@pytest.mark.parametrize("weighting", [None, "pcgrad"])
def test_two_replicas_equal_one(weighting, mirrored):
    y = {"a": features(24, 1) * 0.1, "b": features(24, 2) * 0.1}

    def trained():
        model = multi_task_model()
        model.compile(
            keras.optimizers.SGD(0.1),
            loss="mse",
            weighting=kmtl.weighting.PCGrad(seed=1) if weighting else None,
        )
        model.fit(X, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    one = trained()
    with mirrored.scope():
        two = trained()
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


@pytest.mark.both_backends
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_sources": 0}, "`num_sources` must be an integer >= 1. Received: num_sources=0"),
        ({"num_sources": 2, "axis": 0}, "`axis` must not be 0, the axis of rows. Received: axis=0"),
    ],
    ids=str,
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        kmtl.layers.TaskBatchNormalization(**kwargs)


@pytest.mark.both_backends
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            [np.ones((2, 3)), np.array([0, 3])],
            r"less than `num_sources`.*num_sources=2, source \[3",
        ),
        ([np.ones((2, 3)), np.array([[-1], [0]])], r"must be at least 0 .*source \[-1\]"),
        ([np.ones((2, 3)), np.array([0.0, 1.0])], "must be of an integer type.*Received: float"),
        ([np.ones((2, 3)), np.ones((2, 2), int)], r"must have shape .*Received: shape \(2, 2\)"),
        ([np.ones(2), np.ones(2, int)], r"features must have .*shape \(2,\), axis=-1"),
        (np.ones((2, 3)), "takes a list of two tensors, features and `source`"),
    ],
    ids=["too large", "negative", "float", "shape", "no channels", "no source"],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        kmtl.layers.TaskBatchNormalization(2)(inputs)


@pytest.mark.both_backends
def test_a_floating_source_is_found_when_the_model_is_made():
    with pytest.raises(ValueError, match="`source` must be of an integer type.*float32"):
        kmtl.layers.TaskBatchNormalization(2)([keras.Input((3,)), keras.Input(())])
