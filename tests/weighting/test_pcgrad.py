"""PCGrad: the published example, and what the algorithm promises."""

import numpy as np
import pytest

import kmtl

pytestmark = pytest.mark.both_backends


def combine(jacobian, **kwargs):
    return np.asarray(kmtl.weighting.PCGrad(**kwargs).combine(jacobian))


def test_golden_value():
    np.testing.assert_allclose(combine(np.array([[1.0, 0.0], [-1.0, 1.0]])), [0.5, 1.5], rtol=1e-6)


def test_without_conflict_it_is_the_plain_sum():
    jacobian = np.abs(np.random.default_rng(0).normal(size=(5, 7)))
    np.testing.assert_allclose(combine(jacobian), jacobian.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        combine(jacobian, reduction="mean"), jacobian.mean(axis=0), rtol=1e-5
    )


def test_two_tasks_leave_the_random_order_no_choice():
    jacobian = np.random.default_rng(1).normal(size=(2, 6))
    jacobian[1] -= 2 * jacobian[0]
    for seed in range(5):
        np.testing.assert_array_equal(combine(jacobian, seed=seed), combine(jacobian, seed=9))


def reference(jacobian, order):
    """Algorithm 1, on the gradients themselves."""
    total = np.zeros(jacobian.shape[1])
    for i, g in enumerate(jacobian):
        g = g.copy()
        for j in order[i]:
            product = g @ jacobian[j]
            if j != i and product < 0:
                g -= product / (jacobian[j] @ jacobian[j]) * jacobian[j]
        total += g
    return total


def test_the_order_is_random_and_moves_on():
    jacobian = np.random.default_rng(2).normal(size=(6, 4))
    rule, orders = kmtl.weighting.PCGrad(seed=3), []
    for _ in range(3):
        update = np.asarray(rule.combine(jacobian))
        orders.append(np.asarray(rule.state.get_weights()[0]).tolist())
        np.testing.assert_allclose(update, reference(jacobian, orders[-1]), rtol=1e-4, atol=1e-5)
        rule.draw()
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(row) == list(range(6)) for row in orders[-1])


def test_unknown_reduction():
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        kmtl.weighting.PCGrad(reduction="max")
