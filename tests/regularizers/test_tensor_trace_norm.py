import keras
import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl import backend

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)


def value_and_gradient(weights, **kwargs):
    penalty = kmtl.regularizers.TensorTraceNorm(1.0, **kwargs)
    variable = keras.Variable(np.asarray(weights, "float32"))
    (value,), _, pull = backend.linearize(lambda _: ([penalty(variable)], None), [variable])
    return float(value), ops.convert_to_numpy(pull([ops.ones(())])[0][0])


def value(weights, **kwargs):
    return value_and_gradient(weights, **kwargs)[0]


def nuclear(matrix):
    return np.linalg.svd(matrix, compute_uv=False).sum()


def test_identical_tasks():
    """A matrix of rank one: sqrt(T) times the norm of a task's weights."""
    one = RNG.normal(size=(4, 3, 1))
    expected = np.sqrt(5) * np.linalg.norm(one)
    assert value(one.repeat(5, axis=-1)) == pytest.approx(expected, rel=1e-5)


def test_orthogonal_tasks():
    columns = np.linalg.qr(RNG.normal(size=(12, 5)))[0] * [1, 2, 3, 4, 5]
    assert value(columns.reshape(4, 3, 5)) == pytest.approx(15, rel=1e-5)


def test_matrices_have_one_trace_norm():
    weights = RNG.normal(size=(6, 4))
    expected = nuclear(weights)
    for kwargs in ({}, {"method": "tucker", "mode_weights": [0.5, 0.5]}, {"method": "tt"}):
        assert value(weights, **kwargs) == pytest.approx(expected, rel=1e-4)


def test_terms_of_each_method():
    weights = RNG.normal(size=(4, 3, 5))
    first = nuclear(weights.reshape(4, -1))
    middle = nuclear(np.moveaxis(weights, 1, 0).reshape(3, -1))
    last = nuclear(weights.reshape(-1, 5))
    tucker = value(weights, method="tucker", mode_weights=[1, 10, 100])
    assert tucker == pytest.approx(first + 10 * middle + 100 * last, rel=1e-4)
    assert value(weights, method="tucker") == pytest.approx((first + middle + last) / 3, rel=1e-4)
    tt = value(weights, method="tt", mode_weights=[1, 10])
    assert tt == pytest.approx(first + 10 * last, rel=1e-4)
    moved = np.moveaxis(weights, -1, 0)
    assert value(moved, task_axis=0) == pytest.approx(last, rel=1e-4)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_gradient_is_that_of_the_singular_vectors(shape):
    weights = RNG.normal(size=shape)
    u, _, v = np.linalg.svd(weights, full_matrices=False)
    _, gradient = value_and_gradient(weights)
    np.testing.assert_allclose(gradient, u @ v, atol=1e-4)


@pytest.mark.parametrize("method", ["laf", "tucker", "tt"])
def test_gradient_against_central_differences(method):
    weights, direction = RNG.normal(size=(2, 4, 3, 5))
    _, gradient = value_and_gradient(weights, method=method)
    h = 1e-2
    slope = (
        value(weights + h * direction, method=method)
        - value(weights - h * direction, method=method)
    ) / (2 * h)
    assert np.sum(gradient * direction) == pytest.approx(slope, rel=2e-3)


def test_deficient_and_zero_weights():
    """Where the norm has a corner, a subgradient: finite, and 0 for the directions of no size."""
    one = np.outer(RNG.normal(size=6), np.ones(4))
    _, gradient = value_and_gradient(one)
    np.testing.assert_allclose(gradient, one / np.linalg.norm(one), atol=1e-4)
    zero, gradient = value_and_gradient(np.zeros((6, 4)))
    assert zero == 0
    np.testing.assert_array_equal(gradient, 0)


def test_convex_along_segments():
    a, b = RNG.normal(size=(2, 5, 4))
    for share in (0.25, 0.5, 0.75):
        between = value(share * a + (1 - share) * b)
        assert between <= share * value(a) + (1 - share) * value(b) + 1e-5


def test_descent_lowers_the_rank():
    weights = RNG.normal(size=(8, 5)).astype("float32")
    smallest = float(np.linalg.svd(weights, compute_uv=False)[-1])
    for _ in range(20):
        weights = weights - smallest / 20 * value_and_gradient(weights)[1]
    assert np.linalg.svd(weights, compute_uv=False)[-1] < 0.1 * smallest


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strength": -1}, "`strength` must be at least 0"),
        ({"method": "cp"}, "`method` must be one of"),
        ({"mode_weights": [1.0]}, '`mode_weights` must be finite, at least 0, and for "tucker"'),
        ({"method": "tt", "mode_weights": [-1.0]}, "`mode_weights` must be finite, at least 0"),
        ({"tolerance": 0}, r"`tolerance` must be in \(0, 1\). Received: tolerance=0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        kmtl.regularizers.TensorTraceNorm(**kwargs)


def test_wrong_number_of_mode_weights():
    with pytest.raises(ValueError, match="must have 3 entries for weights of 3 axes"):
        value(np.ones((2, 3, 4)), method="tucker", mode_weights=[1, 1])
