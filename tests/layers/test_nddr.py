"""NDDR: what it starts as, what it equals, and what folding makes of it."""

import keras
import numpy as np
import pytest
from keras import ops

from kmtl.layers import CrossStitch
from kmtl.layers.nddr import NDDR

pytestmark = pytest.mark.both_backends


def streams(*shape, tasks=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for _ in range(tasks)]


def numpy(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def randomize(layer):
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        values = rng.normal(size=weight.shape)
        weight.assign(np.abs(values) + 0.1 if "variance" in weight.path else values)


@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (2, 4, 4, 6)])
def test_scalar_blocks_alone_are_cross_stitch(shape):
    x = streams(*shape, tasks=3)
    nddr = NDDR(0.7, 0.2, activation=None, batch_norm=False)
    cross = CrossStitch(same_init=0.7, different_init=0.2, per_channel=False)
    for a, b in zip(numpy(nddr(x)), numpy(cross(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rest_of_the_start_is_divided_among_the_other_tasks():
    layer = NDDR(same_init=0.8, batch_norm=False)
    layer(streams(2, 2, tasks=3))
    kernel = ops.convert_to_numpy(layer.kernel)
    expected = np.kron(0.1 + 0.7 * np.eye(3), np.eye(2))
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def test_a_new_layer_leaves_warm_towers_as_they_are_but_for_the_mixing():
    """Before training, normalisation is the identity."""
    x = [np.abs(s) for s in streams(4, 6)]
    mixed = NDDR()(x)
    np.testing.assert_allclose(numpy(mixed)[0], 0.9 * x[0] + 0.1 * x[1], rtol=2e-5)


def test_by_hand():
    """Any channel of a tower feeds any of another: relu(scale * (joined @ kernel) + offset)."""
    x = streams(5, 3)
    layer = NDDR()
    layer(x)
    randomize(layer)
    kernel, norm = ops.convert_to_numpy(layer.kernel), layer.norm
    gamma, beta, mean, variance = numpy(
        [norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance]
    )
    y = np.concatenate(x, axis=-1) @ kernel
    y = np.maximum((y - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0.0)
    for a, b in zip(numpy(layer(x)), np.split(y, 2, axis=-1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_training_normalises_each_channel_and_moves_the_statistics():
    x = [3.0 + s for s in streams(64, 4)]
    layer = NDDR(activation=None)
    first, second = numpy(layer(x, training=True))
    np.testing.assert_allclose(first.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(second.std(axis=0), 1.0, rtol=1e-3)
    mean = (0.9 * x[0] + 0.1 * x[1]).mean(axis=0)
    moved = ops.convert_to_numpy(layer.norm.moving_mean)[:4]
    np.testing.assert_allclose(moved, 0.05 * mean, rtol=1e-4)


def test_masked_steps_count_in_no_statistics():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3, 4, 2)).astype("float32")
    mask = np.arange(4)[None] < np.array([[4], [2], [1]])
    spoilt = np.where(mask[..., None], x, 1e3).astype("float32")
    means = []
    for values in (x, spoilt):
        layer = NDDR(activation=None)
        layer([values, values], training=True, mask=[ops.convert_to_tensor(mask)] * 2)
        means.append(ops.convert_to_numpy(layer.norm.moving_mean))
    np.testing.assert_allclose(means[0], means[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(means[0][:2], 0.05 * x[mask].mean(axis=0), rtol=1e-4, atol=1e-6)


def test_towers_that_a_task_does_not_use_are_not_in_its_folded_network():
    layer = NDDR(same_init=1.0, different_init=0.0)
    inputs = [keras.Input((4, 4, 3)), keras.Input((4, 4, 3))]
    layer(inputs)
    alone = layer.fold(inputs)[1]
    model = keras.Model(inputs[1], alone)  # raises where it needs the other input
    assert [type(x) for x in model.layers[1:]] == [keras.layers.Conv2D]


def test_errors():
    with pytest.raises(ValueError, match=r"must have one shape.*\(None, 3\), \(None, 4\)"):
        NDDR()([keras.Input((3,)), keras.Input((4,))])
    with pytest.raises(ValueError, match="known number of channels. Received"):
        NDDR()([keras.Input((None,)), keras.Input((None,))])
    with pytest.raises(ValueError, match="list of tensors"):
        NDDR()(keras.Input((3,)))
