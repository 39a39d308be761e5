"""LogitProduct against float64, and where probabilities themselves would round."""

import keras
import numpy as np
import pytest
from keras import ops

from kmtl.layers.logit_product import LogitProduct

pytestmark = pytest.mark.both_backends


def product(a, b):
    columns = [np.asarray(x, "float32")[:, None] for x in (a, b)]
    return ops.convert_to_numpy(LogitProduct()(columns))[:, 0]


def test_equals_the_product_of_probabilities():
    a, b = np.random.default_rng(0).normal(scale=3.0, size=(2, 200))
    p = 1 / (1 + np.exp(-a)) / (1 + np.exp(-b))
    np.testing.assert_allclose(product(a, b), np.log(p / (1 - p)), rtol=1e-5, atol=2e-6)


def test_extremes_by_their_limits():
    """Both unlikely: logits add up. One certain: the other is left. Both certain: the smaller."""
    a = [-200.0, 300.0, -7.0, 90.0, 90.0]
    b = [-100.0, -5.0, 300.0, 90.0, 40.0]
    expected = [-300.0, -5.0, -7.0, 90.0 - np.log(2.0), 40.0]
    np.testing.assert_allclose(product(a, b), expected, rtol=1e-5, atol=5e-5)


def test_is_never_above_the_first():
    a, b = np.random.default_rng(1).normal(scale=20.0, size=(2, 5000)).astype("float32")
    assert np.all(product(a, b) <= a)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1,)], "two tensors of one logit"),
        ([(2,), (2,)], r"two tensors of one logit.*\(None, 2\)"),
        ([(1,), (3, 1)], "must have one shape"),
    ],
)
def test_bad_inputs(shapes, message):
    with pytest.raises(ValueError, match=message):
        LogitProduct()([keras.Input(shape) for shape in shapes])
