import numpy as np
import pytest

from kmtl.analysis import js_divergence

pytestmark = pytest.mark.both_backends


def test_equal_distributions_have_none():
    assert js_divergence({"a": 1, "b": 3}, {"b": 6, "a": 2}) == pytest.approx(0.0, abs=1e-15)
    p = np.random.default_rng(0).random((3, 4))
    assert js_divergence(p, 5 * p) == pytest.approx(0.0, abs=1e-15)


def test_nothing_in_common_is_log_2():
    assert js_divergence({"a": 7}, {"b": 2, "c": 1}) == pytest.approx(np.log(2), abs=1e-15)


def test_by_hand():
    # m = (1/4, 3/4): (1/2 log 2 + 1/2 log 2/3) / 2 + (log 4/3) / 2
    expected = (0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2 + np.log(4 / 3) / 2
    assert js_divergence([0.5, 0.5], [0.0, 1.0]) == pytest.approx(expected, abs=1e-15)
    assert js_divergence({"a": 2, "b": 2}, {"b": 5}) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_symmetric_and_between_0_and_log_2(seed):
    p, q = np.random.default_rng(seed).exponential(size=(2, 6)) ** 4
    value = js_divergence(p, q)
    assert 0.0 <= value <= np.log(2)
    assert value == pytest.approx(js_divergence(q, p))


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], r"arrays of one shape. Received: shapes \(2,\) and \(3,\)"),
        ([1.0, -0.1], [1.0, 1.0], r"nowhere negative.*Received: p=\[1.0, -0.1\]"),
        ([1.0, 1.0], [0.0, 0.0], "`q` must be finite, nowhere negative and somewhere positive"),
        ([1.0, np.nan], [1.0, 1.0], "`p` must be finite"),
        ({}, {"a": 1}, "`p` must be finite"),
        ({"a": 1}, [1.0], "`p` must be finite"),
    ],
)
def test_errors(p, q, message):
    with pytest.raises(ValueError, match=message):
        js_divergence(p, q)
