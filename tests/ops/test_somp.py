"""SOMP: by hand, its limits, and that it gets no worse with more filters."""

import itertools

import numpy as np
import pytest

from kmtl.ops.somp import residual, somp_filters

W = np.random.default_rng(0).normal(size=(7, 5))


def error(chosen):
    return np.linalg.norm(residual(W, list(chosen)))


def test_by_hand():
    """Correlations with the unit rows are 1 + 0.1, 5.9 and 1.1: the longer direction wins."""
    filters = np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 2.9], [0.1, 0.0]])
    assert somp_filters(filters, 1).tolist() == [1]
    assert somp_filters(filters, 2).tolist() == [1, 0]
    left = residual(filters, [1])
    np.testing.assert_allclose(left, [[1, 0], [0, 0], [0, 0], [0.1, 0]], atol=1e-12)


def test_each_step_takes_the_row_of_largest_correlation_with_what_is_left():
    chosen = somp_filters(W, 4).tolist()
    for n in range(4):
        left = W - W @ np.linalg.pinv(W[chosen[:n]]) @ W[chosen[:n]] if n else W
        totals = [sum(abs(r @ w) for r in left) / np.linalg.norm(w) for w in W]
        others = [totals[j] for j in range(7) if j not in chosen[:n]]
        assert totals[chosen[n]] == pytest.approx(max(others))


def test_errors_fall_to_zero():
    errors = [error(somp_filters(W, n)) for n in range(1, 8)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(errors))
    assert errors[0] > 0.1 and errors[4] < 1e-9 and errors[6] < 1e-9  # W has rank 5


def test_all_filters_are_a_permutation_and_fewer_come_first():
    everything = somp_filters(W, 7).tolist()
    assert sorted(everything) == list(range(7))
    assert somp_filters(W, 3).tolist() == everything[:3]


def test_filters_of_zeros_come_last():
    assert somp_filters(np.array([[0.0, 0.0], [1.0, 2.0]]), 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("filters", "count", "message"),
    [
        (np.ones(3), 1, r"`filters` must be a matrix.* Received: filters of shape \(3,\)"),
        (np.full((2, 2), np.nan), 1, "`filters` must be a matrix of finite numbers"),
        (W, 0, "`count` must be from 1 to 7. Received: count=0"),
        (W, 8, "`count` must be from 1 to 7. Received: count=8"),
    ],
)
def test_errors(filters, count, message):
    with pytest.raises(ValueError, match=message):
        somp_filters(filters, count)
