import keras
import numpy as np
import pytest
from keras import ops

import kmtl

pytestmark = pytest.mark.both_backends


def streams(*shape, tasks=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for _ in range(tasks)]


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (2, 4, 4, 6)])
def test_identity_gives_independent_networks_bit_for_bit(shape):
    x = streams(*shape, tasks=3)
    y = kmtl.layers.CrossStitch(same_init=1.0, different_init=0.0)(x)
    for a, b in zip(x, numpy(y), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_index_the_receiver():
    layer = kmtl.layers.CrossStitch(per_channel=False)
    x = streams(3, 4)
    layer(x)
    layer.raw.assign([[0.0, 1.0], [0.25, 0.5]])
    first, second = numpy(layer(x))
    np.testing.assert_array_equal(first, x[1])
    np.testing.assert_allclose(second, 0.25 * x[0] + 0.5 * x[1], rtol=1e-6)


def test_equal_rows_give_every_tower_the_same_map():
    layer = kmtl.layers.CrossStitch(same_init=0.5)
    first, second = numpy(layer(streams(3, 4)))
    np.testing.assert_array_equal(first, second)


def test_convex_start_on_identical_inputs_returns_the_input():
    x = streams(3, 4)[0]
    for y in numpy(kmtl.layers.CrossStitch(same_init=0.7)([x, x, x])):
        np.testing.assert_allclose(y, x, rtol=1e-6)


def test_start_for_more_than_two_tasks():
    layer = kmtl.layers.CrossStitch(same_init=0.8, per_channel=False, lr_multiplier=10.0)
    layer(streams(2, 3, tasks=3))
    np.testing.assert_allclose(ops.convert_to_numpy(layer.alpha), 0.1 + 0.7 * np.eye(3), rtol=1e-6)


def test_channels_do_not_mix_and_equal_matrices_equal_one():
    x = streams(2, 4, 4, 3)
    per_channel, per_layer = (kmtl.layers.CrossStitch(per_channel=p) for p in (True, False))
    for a, b in zip(numpy(per_channel(x)), numpy(per_layer(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    raw = np.zeros((2, 2, 3), "float32")
    raw[0, 1] = [1.0, 2.0, 3.0]
    per_channel.raw.assign(raw)
    np.testing.assert_allclose(numpy(per_channel(x))[0], x[1] * [1.0, 2.0, 3.0], rtol=1e-6)


def test_channels_first():
    x = streams(2, 3, 4, 5)
    first = kmtl.layers.CrossStitch(axis=1)
    last = kmtl.layers.CrossStitch()
    first(x)
    last([np.moveaxis(a, 1, -1) for a in x])
    raw = np.random.default_rng(1).normal(size=(2, 2, 3))
    first.raw.assign(raw)
    last.raw.assign(raw)
    y = numpy(first(x))
    moved = numpy(last([np.moveaxis(a, 1, -1) for a in x]))
    for a, b in zip(y, moved, strict=True):
        np.testing.assert_allclose(np.moveaxis(a, 1, -1), b, rtol=1e-6)


def test_learning_rate_multiplier():
    """One SGD step moves alpha by the multiplier's square times the plain step."""
    x = streams(8, 3)
    steps = []
    for multiplier in (1.0, 10.0):
        layer = kmtl.layers.CrossStitch(per_channel=False, lr_multiplier=multiplier)
        inputs = [keras.Input((3,)), keras.Input((3,))]
        model = keras.Model(inputs, layer(inputs))
        model.compile(keras.optimizers.SGD(1e-3), loss=["mse", "mse"])
        before = ops.convert_to_numpy(layer.alpha)
        model.fit(x, [np.ones((8, 3))] * 2, batch_size=8, verbose=0)
        steps.append(ops.convert_to_numpy(layer.alpha) - before)
    np.testing.assert_allclose(steps[1], 100.0 * steps[0], rtol=1e-3)


def test_gradients_follow_the_paper():
    """dL/dx_j = sum_i alpha_ij dL/dy_i and dL/dalpha_ij = <dL/dy_i, x_j>, by a step of SGD."""
    layer = kmtl.layers.CrossStitch(per_channel=False, same_init=0.6)
    inputs = [keras.Input((3,)), keras.Input((3,))]
    scales = [feature_scale(1.0), feature_scale(2.0)]
    model = keras.Model(inputs, layer([scale(i) for scale, i in zip(scales, inputs, strict=True)]))
    x, up = streams(1, 3), streams(1, 3, seed=1)
    # The loss sum(up * y) has the chosen upstream gradient.
    model.compile(
        keras.optimizers.SGD(1.0),
        loss=[lambda y, p: ops.sum(y * p, axis=-1)] * 2,
    )
    alpha = ops.convert_to_numpy(layer.alpha)
    before = [scale.get_weights()[0] for scale in scales]
    model.fit(x, up, batch_size=1, verbose=0)
    features = [b * a for a, b in zip(x, before, strict=True)]
    expected = alpha - [[np.sum(up[i] * features[j]) for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(ops.convert_to_numpy(layer.alpha), expected, rtol=1e-5)
    for j in range(2):
        gradient = before[j] - scales[j].get_weights()[0]
        upstream = sum(alpha[i, j] * up[i] for i in range(2))
        np.testing.assert_allclose(gradient, np.sum(upstream * x[j], axis=0), rtol=1e-4, atol=1e-6)


def feature_scale(start):
    """A trainable scale for each feature."""
    return keras.layers.EinsumDense(
        "bd,d->bd", output_shape=3, kernel_initializer=keras.initializers.Constant(start)
    )


def test_unequal_towers():
    with pytest.raises(ValueError, match=r"must have one shape.*\(None, 3\), \(None, 4\)"):
        kmtl.layers.CrossStitch()([keras.Input((3,)), keras.Input((4,))])


def test_wrong_number_of_towers():
    with pytest.raises(ValueError, match="num_tasks=3, 2 inputs"):
        kmtl.layers.CrossStitch(num_tasks=3)([keras.Input((3,)), keras.Input((3,))])


@pytest.mark.parametrize("kwargs", [{"num_tasks": 0}, {"lr_multiplier": 0.0}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match="Received: " + next(iter(kwargs))):
        kmtl.layers.CrossStitch(**kwargs)
