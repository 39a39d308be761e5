"""Orders are permutations, and look random."""

import numpy as np
import pytest
import tensorflow as tf

from kmtl.data.hashing import hashed, uniform
from kmtl.data.permutation import permuted

pytestmark = pytest.mark.both_backends


def orders(size, count, seed=0):
    """`count` permutations of `size` numbers, for passes 0, 1, .."""
    keys = hashed(seed, tf.constant(0, tf.int64), tf.range(count, dtype=tf.int64))
    index = tf.tile(tf.range(size, dtype=tf.int64), [count])
    result = permuted(index, size * tf.ones_like(index), tf.repeat(keys, size))
    return tf.reshape(result, [count, size]).numpy()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 65_537])
def test_they_are_permutations(size):
    for order in orders(size, 2):
        np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_all_orders_of_four_come_up_equally_often():
    _, counts = np.unique(orders(4, 4800), axis=0, return_counts=True)
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom exceeds 49.7 once in a thousand times.
    assert np.sum((counts - 200) ** 2 / 200) < 49.7


def test_neighbours_and_passes_have_nothing_in_common():
    size, count = 1000, 300
    found = orders(size, count)
    neighbours = [np.corrcoef(order[:-1], order[1:])[0, 1] for order in found]
    passes = [np.corrcoef(a, b)[0, 1] for a, b in zip(found[:-1], found[1:], strict=True)]
    for correlations in (neighbours, passes):
        # Means of some 300 numbers with the deviation 1 / sqrt(size).
        assert abs(np.mean(correlations)) < 4 / np.sqrt(size * count)
        np.testing.assert_allclose(np.std(correlations), 1 / np.sqrt(size), rtol=0.2)


def test_seeds_give_other_orders():
    assert not np.array_equal(orders(1000, 1, seed=0), orders(1000, 1, seed=1))


def test_uniform_numbers_are_even():
    n = 100_000
    v = uniform(3, tf.constant(-1, tf.int64), tf.range(n, dtype=tf.int64)).numpy()
    assert 0 <= v.min() and v.max() < 1
    counts = np.histogram(v, 100, (0, 1))[0]
    # Chi-squared with 99 degrees of freedom exceeds 148.2 once in a thousand times.
    assert np.sum((counts - n / 100) ** 2 / (n / 100)) < 148.2
