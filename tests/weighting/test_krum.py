"""Krum: scores, Multi-Krum, and what it needs."""

import numpy as np
import pytest

import kmtl

pytestmark = pytest.mark.both_backends


def coefficients(jacobian, **kwargs):
    return np.asarray(kmtl.weighting.Krum(**kwargs).coefficients(jacobian @ jacobian.T))


def reference(jacobian, num_byzantine, num_selected):
    n = len(jacobian)
    scores = []
    for i in range(n):
        others = [np.sum((jacobian[i] - jacobian[j]) ** 2) for j in range(n) if j != i]
        scores.append(sum(sorted(others)[: n - num_byzantine - 2]))
    chosen = np.argsort(scores)[:num_selected]
    return np.isin(np.arange(n), chosen) / num_selected


@pytest.mark.parametrize(("num_byzantine", "num_selected"), [(0, 1), (2, 3), (6, 1), (3, 9)])
def test_scores(num_byzantine, num_selected):
    jacobian = np.random.default_rng(num_selected).normal(size=(9, 4))
    np.testing.assert_allclose(
        coefficients(jacobian, num_byzantine=num_byzantine, num_selected=num_selected),
        reference(jacobian, num_byzantine, num_selected),
        rtol=1e-6,
    )


def test_squared_distances_decide():
    # The two nearest of 0 are 1 and 5 away, those of 40 are 3 and 4: sums 6 and 7, of the squares
    # 26 and 25. All others are further from theirs.
    jacobian = np.array([[0.0], [1.0], [-5.0], [40.0], [43.0], [36.0]])
    np.testing.assert_array_equal(coefficients(jacobian, num_byzantine=2), [0, 0, 0, 1, 0, 0])


def test_corrupt_gradients_are_not_chosen():
    rng = np.random.default_rng(0)
    jacobian = 1.0 + 0.1 * rng.normal(size=(9, 5))
    jacobian[[2, 5, 7]] = 1e4 * rng.normal(size=(3, 5))
    a = coefficients(jacobian, num_byzantine=3, num_selected=6)
    np.testing.assert_allclose(a, np.isin(np.arange(9), [0, 1, 3, 4, 6, 8]) / 6, rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "least"), [({}, 4), ({"num_byzantine": 3}, 6), ({"num_selected": 7}, 7)]
)
def test_too_few_tasks(kwargs, least):
    coefficients(np.eye(least), **kwargs)
    with pytest.raises(ValueError, match=f"needs at least {least} tasks. Received: {least - 1}"):
        coefficients(np.eye(least - 1), **kwargs)


@pytest.mark.parametrize("kwargs", [{"num_byzantine": -1}, {"num_selected": 0}], ids=str)
def test_numbers_out_of_range(kwargs):
    with pytest.raises(
        ValueError, match=f"`{next(iter(kwargs))}` must be a whole number, at least"
    ):
        kmtl.weighting.Krum(**kwargs)


def test_a_task_without_labels_is_never_selected():
    rule = kmtl.weighting.Krum(num_byzantine=0)
    a = np.asarray(rule.coefficients(np.diag([0.0, 1.0, 1.0, 4.0])))
    assert a[0] == 0.0 and a[3] == 0.0 and a.sum() == 1.0
