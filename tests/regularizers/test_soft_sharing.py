import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl import backend

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)


def value(weights, **kwargs):
    penalty = kmtl.regularizers.SoftSharing(1.0, **kwargs)
    return float(penalty(ops.convert_to_tensor(np.asarray(weights, "float32"))))


def gradient(weights, penalty):
    import keras

    variable = keras.Variable(np.asarray(weights, "float32"))
    _, _, pull = backend.linearize(lambda _: ([penalty(variable)], None), [variable])
    return ops.convert_to_numpy(pull([ops.ones(())])[0][0])


def symmetric(tasks):
    matrix = np.abs(RNG.normal(size=(tasks, tasks)))
    return matrix + matrix.T


def test_values_by_hand():
    weights = [[0.0, 2.0, 4.0], [1.0, 1.0, 4.0]]  # means 2 and 2
    affinity = [[9, 1, 0], [1, 9, 3], [0, 3, 9]]  # its diagonal does not count
    assert value(weights) == pytest.approx(4 + 0 + 4 + 1 + 1 + 4)
    assert value(weights, norm="l1") == pytest.approx(2 + 0 + 2 + 1 + 1 + 2)
    assert value(weights, mode="pairwise", affinity=affinity) == pytest.approx(4 + 3 * (4 + 9))
    assert value(weights, mode="pairwise", affinity=affinity, norm="l1") == pytest.approx(
        2 + 3 * (2 + 3)
    )


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("mode", ["mean", "pairwise"])
def test_equal_tasks_cost_nothing_to_the_last_bit(mode, norm):
    weights = np.repeat(RNG.normal(size=(5, 3, 1)).astype("float32"), 7, axis=-1)
    penalty = kmtl.regularizers.SoftSharing(1.0, mode=mode, norm=norm)
    assert value(weights, mode=mode, norm=norm) == 0
    if norm == "l2":
        np.testing.assert_array_equal(gradient(weights, penalty), 0)


def test_all_pairs_are_the_mean_times_the_tasks():
    weights = RNG.normal(size=(4, 3, 6))
    expected = 6 * value(weights)
    assert value(weights, mode="pairwise") == pytest.approx(expected, rel=1e-5)
    ones = np.ones((6, 6))
    assert value(weights, mode="pairwise", affinity=ones) == pytest.approx(expected, rel=1e-5)


def test_pairwise_is_the_laplacian_of_the_graph():
    weights, affinity = RNG.normal(size=(8, 5)), symmetric(5)
    np.fill_diagonal(affinity, 0)
    laplacian = np.diag(affinity.sum(0)) - affinity
    expected = np.trace(weights @ laplacian @ weights.T)
    assert value(weights, mode="pairwise", affinity=affinity) == pytest.approx(expected, rel=1e-5)
    penalty = kmtl.regularizers.SoftSharing(0.5, "pairwise", affinity)
    np.testing.assert_allclose(
        gradient(weights, penalty), weights @ laplacian, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "kwargs", [{}, {"mode": "pairwise", "affinity": symmetric(4)}, {"norm": "l1"}]
)
def test_gradients_of_the_tasks_cancel(kwargs):
    found = gradient(RNG.normal(size=(3, 4)), kmtl.regularizers.SoftSharing(1.0, **kwargs))
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found.sum(axis=-1), 0, atol=1e-5)


def test_descent_ends_at_the_mean_of_the_starts():
    start = RNG.normal(size=(3, 4)).astype("float32")
    weights, penalty = start, kmtl.regularizers.SoftSharing(1.0)
    for _ in range(60):
        weights = weights - 0.2 * gradient(weights, penalty)
    np.testing.assert_allclose(weights, start.mean(axis=-1, keepdims=True).repeat(4, 1), atol=1e-5)


def test_any_axis_of_tasks():
    weights = RNG.normal(size=(4, 3, 5))
    moved = np.moveaxis(weights, -1, 1)
    assert value(moved, task_axis=1) == pytest.approx(value(weights), rel=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strength": -1}, "`strength` must be at least 0. Received: strength=-1"),
        ({"strength": "x"}, "`strength` must be at least 0. Received: strength='x'"),
        ({"mode": "anchor"}, "`mode` must be one of"),
        ({"norm": "l3"}, "`norm` must be one of"),
        ({"affinity": [[0, 1], [1, 0]]}, "must be given with mode"),
        ({"mode": "pairwise", "affinity": [[0, 1]]}, r"square matrix. Received: .* \(1, 2\)"),
        (
            {"mode": "pairwise", "affinity": [[0, 1], [2, 0]]},
            r"must be symmetric. Received: affinity\[0, 1\]=1.0, affinity\[1, 0\]=2.0",
        ),
        ({"mode": "pairwise", "affinity": [[0, -1], [-1, 0]]}, "finite and at least 0"),
        ({"mode": "pairwise", "affinity": [[0, np.nan], [np.nan, 0]]}, "finite and at least 0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        kmtl.regularizers.SoftSharing(**kwargs)


def test_weights_that_do_not_fit():
    with pytest.raises(ValueError, match="2 rows for 3 tasks"):
        value(np.ones((4, 3)), mode="pairwise", affinity=[[0, 1], [1, 0]])
    with pytest.raises(ValueError, match=r"shape \(3,\), task_axis=-1"):
        value(np.ones(3))
