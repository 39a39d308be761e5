"""ConvexStitch: weights that add up to 1."""

import keras
import numpy as np
import pytest
from keras import ops

from kmtl.layers.convex_stitch import ConvexStitch

pytestmark = pytest.mark.both_backends

X = list(np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32"))


def test_starts_as_the_mean():
    np.testing.assert_allclose(ConvexStitch()(X), np.mean(X, axis=0), rtol=1e-5, atol=1e-6)


def test_by_hand():
    stitch = ConvexStitch()
    stitch(X)
    stitch.scores.assign(np.log([1.0, 2.0, 5.0]))
    weights = ops.convert_to_numpy(stitch.weights_of_inputs)
    np.testing.assert_allclose(weights, [0.125, 0.25, 0.625], rtol=1e-6)
    expected = 0.125 * X[0] + 0.25 * X[1] + 0.625 * X[2]
    np.testing.assert_allclose(stitch(X), expected, rtol=1e-5, atol=1e-6)


def test_what_has_no_weight_is_not_in_the_folded_network():
    inputs = [keras.Input((4,)) for _ in X]
    stitch = ConvexStitch()
    stitch(inputs)
    stitch.scores.assign([0.0, 300.0, 0.0])
    assert stitch.fold(inputs) is inputs[1]


def test_the_mask_passes():
    x = keras.layers.Embedding(5, 4, mask_zero=True)(np.array([[1, 0]]))
    y = ConvexStitch()([x, x])
    np.testing.assert_array_equal(ops.convert_to_numpy(y._keras_mask), [[True, False]])


def test_unequal_shapes():
    with pytest.raises(ValueError, match="must have one shape"):
        ConvexStitch()([keras.Input((3,)), keras.Input((4,))])
