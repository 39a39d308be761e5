import numpy as np
import pytest

from kmtl.auxiliary.choose_pivots import _information_gain, choose_pivots

pytestmark = pytest.mark.both_backends

# Sentences with label 1 that hold word 2: 4 of 4; word 3: 1; word 4: 2; word 5: 0; word 6: 2.
# Label 0:                          word 2: 1 of 4; word 3: 4; word 4: 0; word 5: 2; word 6: 2.
POSITIVE = [[2, 3, 4, 4, 0], [2, 4, 6, 0, 0], [2, 6, 1, 0, 0], [2, 2, 2, 0, 0]]
NEGATIVE = [[2, 3, 5, 6, 0], [3, 5, 6, 0, 0], [3, 1, 0, 0, 0], [3, 0, 0, 0, 0]]
X, LABELS = np.array(POSITIVE + NEGATIVE), np.array([1, 1, 1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("method", ["weighted_log_likelihood", "information_gain"])
def test_words_that_speak_for_a_label(method):
    assert choose_pivots(X, LABELS, 9, method=method, min_count=1) == ([2, 4], [3, 5])
    assert choose_pivots(X, 1 - LABELS, 9, method=method, min_count=1) == ([3, 5], [2, 4])
    assert choose_pivots(X, LABELS, 1, method=method, min_count=1) == ([2], [3])


def test_the_methods_weigh_frequency_differently():
    # Word 2 in 10 and 5 of 10 sentences, word 3 in 4 and 0.
    x = np.zeros((20, 3), int)
    x[:15, 0] = 2
    x[:4, 1] = 3
    x[15:, 2] = 4  # for the other label
    labels = np.repeat([1, 0], 10)
    # 11/12 * log(11 / 6) = 0.56 of word 2, 5/12 * log(5 / 1) = 0.67 of word 3
    assert choose_pivots(x, labels, 2, min_count=1)[0] == [3, 2]
    # log(2) - 3/4 H(2/3) = 0.22 of word 2, log(2) - 4/5 H(3/8) = 0.16 of word 3
    found = choose_pivots(x, labels, 2, method="information_gain", min_count=1)
    assert found == ([2, 3], [4])


def test_scores():
    counts, totals = np.array([[5, 0], [10, 4]]), np.array([[10.0], [10.0]])
    gains = _information_gain(counts, totals)

    def entropy(p):
        return -p * np.log(p) - (1 - p) * np.log(1 - p)

    expected = [np.log(2) - entropy(2 / 3) * 3 / 4, np.log(2) - entropy(3 / 8) * 4 / 5]
    np.testing.assert_allclose(gains, [[0, 0], expected], rtol=1e-12)


def test_of_equal_words_the_smaller_id_is_first():
    x = [[9, 4], [4, 9], [7, 2], [2, 7]]
    assert choose_pivots(x, [1, 1, 0, 0], 2, min_count=1) == ([4, 9], [2, 7])


def test_rare_words_and_what_is_no_word():
    assert choose_pivots(X, LABELS, 9, min_count=4) == ([2], [3])
    assert choose_pivots(X, LABELS, 9, min_count=1, ignore=(0, 1, 2, 3)) == ([4], [5])


def test_pivots_are_frequent_in_the_other_domain_too():
    target = np.array([[2, 5, 9], [2, 5, 3], [9, 9, 9]])
    assert choose_pivots(X, LABELS, 9, target, min_count=2) == ([2], [5])


def test_errors():
    with pytest.raises(ValueError, match="`method` must be one of .*Received: method='chi'"):
        choose_pivots(X, LABELS, 1, method="chi")
    with pytest.raises(ValueError, match="`number` must be at least 1. Received: number=0"):
        choose_pivots(X, LABELS, 0)
    for name, ids in (("x", X * 1.0), ("x", X[0]), ("x", X - 9), ("target", {"words": X})):
        with pytest.raises(ValueError, match=f"`{name}` must be word ids: integers >= 0 of shape"):
            choose_pivots(**{"x": X, name: ids}, labels=LABELS, number=1)
    for labels in (LABELS[:3], np.ones(8), LABELS + 1):
        with pytest.raises(ValueError, match="`labels` must be 0 or 1 for each sentence"):
            choose_pivots(X, labels, 1)
    with pytest.raises(ValueError, match="Received: 0 for 1 and 0 for 0, with min_count=8"):
        choose_pivots(X, LABELS, 1, min_count=8)
