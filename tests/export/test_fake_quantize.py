"""Activations and kernels on an integer grid."""

import keras
import numpy as np
import pytest
from keras import ops

from kmtl import backend
from kmtl.export.quantization_aware.fake_quantize import (
    FakeQuantize,
    RoundToGrid,
    fake_quantize,
    fake_quantize_kernel,
)
from kmtl.export.quantization_aware.quantized_layer import QuantizedLayer

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)


def test_golden_values():
    # Steps of 0.5 from -32 to 95.5, moved so that 0 is on the grid: it is already.
    x = ops.array([-40.0, -31.8, -0.24, 0.0, 0.26, 95.4, 200.0])
    y, step, zero = fake_quantize(x, -32.0, 95.5, 8)
    assert float(step) == 0.5 and float(zero) == 64 - 128
    np.testing.assert_allclose(y, [-32.0, -32.0, 0.0, 0.0, 0.5, 95.5, 95.5])


@pytest.mark.parametrize("limits", [(-3.0, 5.0), (0.5, 2.0), (-4.0, -1.0), (-0.1, 1000.0)])
def test_grid_is_that_of_tensorflow(limits):
    import tensorflow as tf

    x = RNG.normal(size=(200,)).astype("float32") * 3
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    expected = tf.quantization.fake_quant_with_min_max_args(x, low, high)
    step = (high - low) / 255
    ours = np.asarray(fake_quantize(ops.array(x), *limits, 8)[0])
    assert np.mean(np.abs(ours - expected) > 1e-3 * step) < 0.01  # a half may go either way
    assert np.abs(ours - expected).max() < 1.01 * step


def test_sixteen_bits_are_symmetric():
    y = np.asarray(fake_quantize(ops.array([-2.0, -0.5, 0.0, 0.7, 1.0]), -0.25, 1.0, 16)[0])
    np.testing.assert_allclose(y, [-1.0, -0.5, 0.0, 0.7, 1.0], atol=1.6e-5)
    np.testing.assert_allclose(np.round(y * 32767), y * 32767, atol=1e-2)


def test_gradient_passes_inside_and_limits_get_that_of_the_outside():
    x = ops.array([-2.0, 0.3, 0.7, 4.0])

    def function(tensors):
        x, low, high = tensors
        return [ops.sum(fake_quantize(x, low, high, 8)[0])], None

    _, _, pull = backend.linearize(function, [], [x, ops.array(-1.0), ops.array(1.0)])
    by_x, by_low, by_high = pull([ops.array(1.0)])[1]
    np.testing.assert_allclose(by_x, [0.0, 1.0, 1.0, 0.0])
    assert float(by_low) == pytest.approx(1.0, abs=0.01)
    assert float(by_high) == pytest.approx(1.0, abs=0.01)


def test_kernel_has_a_scale_for_each_channel():
    kernel = ops.array([[1.27, 0.003], [-0.504, -0.0127]])
    rounded = np.asarray(fake_quantize_kernel(kernel, 8, [1])[0])
    np.testing.assert_allclose(rounded, [[1.27, 0.003], [-0.5, -0.0127]], atol=1e-6)
    four_bits, steps = fake_quantize_kernel(kernel, 4, [1])
    four_bits = np.asarray(four_bits)
    np.testing.assert_allclose(steps, [[1.27 / 7, 0.0127 / 7]], rtol=1e-5)
    np.testing.assert_allclose(four_bits[:, 0], [1.27, -3 * 1.27 / 7], atol=1e-6)


def test_range_follows_the_extremes_and_then_stands_still():
    layer = FakeQuantize(decay=0.5, freeze_after=2)
    first = ops.array([[-1.0, 3.0]])
    np.testing.assert_array_equal(layer(first)[0], first)  # nothing seen yet: not rounded
    layer(first, training=True)
    assert layer.get_limits() == (-1.0, 3.0)
    layer(ops.array([[-2.0, 1.0]]), training=True)
    assert layer.get_limits() == (-1.5, 2.0)
    layer(ops.array([[-100.0, 100.0]]), training=True)
    layer(ops.array([[-100.0, 100.0]]))
    assert layer.get_limits() == (-1.5, 2.0)


def test_zero_is_always_in_the_range():
    layer = FakeQuantize()
    layer(ops.array([[2.0, 3.0]]), training=True)
    assert layer.get_limits() == (0.0, 3.0)
    np.testing.assert_allclose(layer(ops.array([[0.0]]))[0], [[0.0]])


def test_fixed_ranges_round_in_inference_only():
    layer = FakeQuantize(ranges="fixed", limits=(0.0, 255 / 256))
    x = ops.array([[0.001, 0.5]])
    np.testing.assert_array_equal(layer(x, training=True)[0], x)
    np.testing.assert_allclose(layer(x)[0], [[0.0, 0.5]])


@pytest.mark.parametrize(
    ("inner", "shape"),
    [
        (keras.layers.Dense(3, activation="relu"), (5,)),
        (keras.layers.Conv2D(3, 2), (4, 4, 2)),
        (keras.layers.DepthwiseConv2D(2, depth_multiplier=2), (4, 4, 2)),
        (keras.layers.Conv2DTranspose(3, 2), (4, 4, 2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layer_computes_with_the_rounded_kernel(inner, shape):
    keras.utils.set_random_seed(0)
    layer, x = QuantizedLayer(inner, 4), ops.array(RNG.normal(size=(2, *shape)), "float32")
    y = layer(x)
    kernel = ops.convert_to_numpy(layer.kernel)
    rounded = ops.convert_to_numpy(layer.rounded_kernel()[0])
    assert np.abs(rounded - kernel).max() > 1e-3
    layer.kernel.assign(rounded)
    np.testing.assert_allclose(layer(x), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inner(x), y, rtol=1e-5, atol=1e-6)
    _, _, pull = backend.linearize(lambda _: ([ops.sum(layer(x))], None), [layer.kernel])
    assert np.abs(pull([ops.array(1.0)])[0][0]).max() > 0.0


def test_bias_is_rounded_by_the_steps_of_input_and_kernel():
    layer = QuantizedLayer(keras.layers.Dense(1))
    layer.build((None, 1))
    layer.layer.set_weights([np.array([[1.27]]), np.array([0.0263])])
    y = layer(ops.zeros((2, 1)), grid=ops.array([[0.5, -3.0]] * 2))
    np.testing.assert_allclose(y, [[0.025], [0.025]], rtol=1e-5)  # 5 steps of 0.5 * 0.01


@pytest.mark.parametrize(
    ("away_from_zero", "expected"), [(False, [3.0, -2.0, 1.5]), (True, [3.0, -2.5, 1.5])]
)
def test_means_are_rounded_by_the_integers_halves(away_from_zero, expected):
    """The zero point tells on which side of 0 a half of the integers is: here 0.5, -9.5, -1.75."""
    x = ops.array([[2.75, -2.25, 1.625]])
    grid = ops.array([[0.5, -5.0]])
    y = RoundToGrid(away_from_zero)(x, grid)
    np.testing.assert_allclose(y[0], expected)
