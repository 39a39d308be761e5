"""LabelEmbedding: expected vectors, lookups, and what each mode lets through."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kmtl.layers.label_embedding import LabelEmbedding

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(4, 3)).astype("float32")
ONE_HOT = np.eye(4, dtype="float32")[[[2, 0, 2], [3, 1, 1]]]


def made(mode):
    layer = LabelEmbedding(3, mode)
    layer.build((None, None, 4))
    layer.set_weights([VECTORS])
    return layer


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_one_hot_probabilities_are_an_embedding_lookup(mode):
    lookup = layers.Embedding(4, 3)
    lookup.build(None)
    lookup.set_weights([VECTORS])
    expected = lookup(ONE_HOT.argmax(axis=-1))
    np.testing.assert_array_equal(made(mode)(ONE_HOT), expected)


def test_soft_is_the_expected_vector_and_hard_that_of_the_likeliest_class():
    p = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], "float32")
    np.testing.assert_allclose(
        made("soft")(p)[0],
        0.1 * VECTORS[0] + 0.2 * VECTORS[1] + 0.3 * VECTORS[2] + 0.4 * VECTORS[3],
        rtol=1e-5,
    )
    np.testing.assert_array_equal(made("hard")(p), VECTORS[[3, 0]])


@pytest.mark.parametrize(("mode", "reached"), [("soft", True), ("hard", False)])
def test_what_reaches_the_task_below(mode, reached):
    x = keras.Input((5,))
    below = layers.Dense(4, "softmax", name="below")
    model = keras.Model(x, layers.Dense(1)(LabelEmbedding(3, mode)(below(x))))
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    before = [np.copy(w) for w in below.get_weights()]
    model.fit(RNG.normal(size=(8, 5)), np.ones((8, 1)), verbose=0)
    assert reached != np.array_equal(before[0], below.get_weights()[0])


def test_masks_pass():
    x = layers.Embedding(5, 4, mask_zero=True)(np.array([[1, 2, 0]]))
    y = made("soft")(x)
    np.testing.assert_array_equal(ops.convert_to_numpy(y._keras_mask), [[True, True, False]])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dim": 0}, "`dim` must be an integer >= 1. Received: dim=0"),
        ({"dim": 2, "mode": "both"}, "`mode` must be one of .* Received: mode='both'"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LabelEmbedding(**kwargs)
