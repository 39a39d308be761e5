import keras
import numpy as np
import pytest
from keras import ops

import kmtl

pytestmark = pytest.mark.both_backends

LAYERS = [np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]]), np.array([[100.0, 200.0]])]


@pytest.mark.parametrize(
    ("init", "expected"),
    [("balanced", [1 / 3, 1 / 3, 1 / 3]), ("last", [0.05, 0.05, 0.9])],
)
def test_starts(init, expected):
    stitch = kmtl.layers.LayerStitch(init=init)
    y = ops.convert_to_numpy(stitch(LAYERS))
    np.testing.assert_allclose(ops.convert_to_numpy(stitch.beta), expected, rtol=1e-6)
    mixture = sum(b * x for b, x in zip(expected, LAYERS, strict=True))
    np.testing.assert_allclose(y, mixture, rtol=1e-6)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6), (2, 4, 4, 6)])
def test_one_hot_returns_that_layer_bit_for_bit(shape, layer):
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    stitch = kmtl.layers.LayerStitch()
    stitch(list(x))
    stitch.beta.assign(np.eye(3)[layer])
    np.testing.assert_array_equal(ops.convert_to_numpy(stitch(list(x))), x[layer])


def test_weights_are_free():
    stitch = kmtl.layers.LayerStitch()
    stitch(LAYERS)
    stitch.beta.assign([1.0, 1.0, -2.0])
    np.testing.assert_array_equal(ops.convert_to_numpy(stitch(LAYERS)), [[-189.0, -378.0]])


@pytest.mark.parametrize("init", ["balanced", "last"])
def test_one_layer_is_returned(init):
    y = kmtl.layers.LayerStitch(init=init)(LAYERS[:1])
    np.testing.assert_array_equal(ops.convert_to_numpy(y), LAYERS[0])


def test_unequal_layers():
    with pytest.raises(ValueError, match=r"must have one shape.*\(None, 3\), \(None, 4\)"):
        kmtl.layers.LayerStitch()([keras.Input((3,)), keras.Input((4,))])


def test_bad_init():
    with pytest.raises(ValueError, match="'balanced' or 'last'. Received: init='first'"):
        kmtl.layers.LayerStitch(init="first")
