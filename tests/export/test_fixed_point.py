"""Rounding as LiteRT's kernels do it, against the same in whole numbers."""

import keras
import numpy as np
import pytest
from keras import ops

from kmtl import backend
from kmtl.export.quantization_aware.fixed_point import as_kernels_do, exact_product, power_of_two
from kmtl.export.quantization_aware.tables import TableActivation

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)


def kernel(rule, channels, **changes):
    plain = {"first": 0, "count": 1, "low": None, "high": None}
    return {**plain, "rule": rule, "channels": channels, **changes}


def halved(x, shift, up):
    """`x / 2**shift` as a whole number, halves upwards or away from 0."""
    if shift == 0:
        return x
    sign = 1 if up or x >= 0 else -1
    return sign * ((sign * x + (1 << (shift - 1))) >> shift)


def by_kernel(rule, total, m, count=1):
    """What the kernel makes of a sum, in whole numbers."""
    q, e = np.frexp(m)
    q, shift = round(float(q) * 2**31), -int(e)
    if rule == "once":
        return halved(total * q, 31 + shift, up=True)
    if rule == "reduced":
        return halved(total * min((q + 2**15) >> 16, 2**15 - 1), 15 + shift, up=True)
    halvings = count.bit_length() - 1
    once = halved(total * ((q << halvings) // count), 31, up=False)
    return halved(once, shift + halvings, up=rule == "twice_up")


@pytest.mark.parametrize("rule", ["once", "twice_up", "twice_away", "reduced"])
def test_rules_give_the_whole_numbers_of_kernels(rule):
    most, limit = (2**14, 127) if rule == "twice_up" else (2**21, 32767)
    scale, step = np.float32(0.0123), np.float32(0.0345)
    parts = np.float32(limit / most * scale / step) * RNG.uniform(0.3, 0.9, 6).astype("float32")
    totals = RNG.integers(-most, most, size=(400, 6))
    units, lost = exact_product(ops.array(step), ops.array(parts))
    steps = ops.stack([units, lost])[None]
    x = ops.array(totals.astype("float32")) * units
    y = as_kernels_do(x, ops.array(scale), [kernel(rule, 6)], [steps])
    y = np.asarray(ops.round(y / scale)).astype(int)
    m = np.float64(step) * parts.astype("float64") / np.float64(scale)
    expected = [[by_kernel(rule, int(t), f) for t, f in zip(row, m, strict=True)] for row in totals]
    assert np.mean(y != expected) <= (1e-3 if rule == "twice_away" else 0.0)
    plain = np.floor(totals * m + 0.5).astype(int)
    assert rule == "once" or np.mean(plain != expected) > 1e-3  # the rule makes a difference


def test_means_are_of_count_values():
    grid, scale = ops.array([[0.5, 0.0]]), 0.3
    totals = RNG.integers(-2000, 2000, size=(200, 1))
    x = ops.array(totals * 0.5 / 12, "float32")
    y = as_kernels_do(x, ops.array(scale), [kernel("twice_away", 1, count=12)], [grid])
    expected = [[by_kernel("twice_away", int(t), 0.5 / scale, 12)] for (t,) in totals]
    np.testing.assert_array_equal(np.round(np.asarray(y) / scale).astype(int), expected)


@pytest.mark.parametrize(
    ("rule", "low", "expected"),
    [("sum", None, [2, -2, 1]), ("sum", 0.0, [2, 0, 1]), ("difference", None, [-1, 1, 0])],
)
def test_halves_of_sums_go_away_from_zero(rule, low, expected):
    """Integers 1, -1, 1 and 2, -2, 1 of one scale, to one that is twice as large."""
    grid = ops.array([[0.25, 0.0]])
    a, b = ops.array([[0.25], [-0.25], [0.25]]), ops.array([[0.5], [-0.5], [0.25]])
    x = ops.maximum(a + b, 0.0) if low == 0.0 else a + b if rule == "sum" else a - b
    terms = [a, grid, b, grid]
    y = as_kernels_do(x, ops.array(0.5), [kernel(rule, 1, low=low)], [terms])
    np.testing.assert_array_equal(np.asarray(y)[:, 0] / 0.5, expected)


def test_limits_of_a_relu_stay_where_they_are():
    scale, units = ops.array(6.0 / 32767), ops.array([[[1e-7], [0.0]]])
    x = ops.array([[0.0], [5.9999], [6.0]])
    limits = kernel("reduced", 1, low=0.0, high=6.0)
    y = np.asarray(as_kernels_do(x, scale, [limits], [units]))
    assert y[0] == 0.0 and y[1] <= 6.0 and y[2] == 6.0


def test_channels_of_no_kernel_and_gradients_stay():
    x = ops.array(RNG.normal(size=(5, 4)), "float32")
    steps = ops.array([[[1e-4] * 2, [0.0] * 2]], "float32")

    def function(tensors):
        rule = kernel("reduced", 2, first=1)
        return [ops.sum(as_kernels_do(tensors[0], ops.array(1e-3), [rule], [steps]))], None

    y = np.asarray(as_kernels_do(x, ops.array(1e-3), [kernel("reduced", 2, first=1)], [steps]))
    np.testing.assert_array_equal(y[:, [0, 3]], np.asarray(x)[:, [0, 3]])
    assert np.abs(y[:, 1:3] - np.asarray(x)[:, 1:3]).max() > 1e-5
    _, _, pull = backend.linearize(function, [], [x])
    np.testing.assert_array_equal(pull([ops.array(1.0)])[1][0], np.ones((5, 4)))


def test_powers_and_products_are_exact():
    x = np.exp(RNG.uniform(-20, 20, 200)).astype("float32")
    np.testing.assert_array_equal(power_of_two(ops.array(x)), np.ldexp(1.0, np.frexp(x)[1]))
    a, b = x[:100], x[100:]
    rounded, lost = (np.asarray(v, "float64") for v in exact_product(ops.array(a), ops.array(b)))
    np.testing.assert_allclose(rounded + lost, a.astype("float64") * b, rtol=1e-14)
    assert np.any(lost != 0.0)


@pytest.mark.parametrize("function", ["sigmoid", "softmax", "tanh"])
def test_tables(function):
    layer, exact = TableActivation(function), keras.activations.get(function)
    x = ops.array(RNG.integers(-32767, 32768, size=(300, 4)) * 2.0**-12, "float32")
    grid = ops.array([[2.0**-12, 0.0]] * 300, "float32")
    y = np.asarray(layer(x, grid)) * 2**15
    np.testing.assert_array_equal(y, np.round(y))
    apart = np.abs(y - np.asarray(exact(x)) * 2**15)
    assert 0.5 < apart.max() < 8.0  # the kernels' own error
    np.testing.assert_array_equal(layer(x, grid, training=True), exact(x))
    again = TableActivation.from_config(layer.get_config())
    np.testing.assert_array_equal(np.asarray(again(x, grid)) * 2**15, y)
    without_range = ops.array([[1e-9, 0.0]] * 300, "float32")
    np.testing.assert_array_equal(layer(x, without_range), exact(x))
