import keras
import numpy as np
import pytest

import kmtl
import kmtl.export
from kmtl.layers.training_only import TrainingOnly
from kmtl.testing import check_layer

pytestmark = pytest.mark.both_backends


def model(marked=("lanes",)):
    x = keras.Input((4,))
    h = keras.layers.Dense(8, activation="relu")(x)
    heads = {}
    for task, units in {"lanes": 2, "steering": 1}.items():
        head = keras.layers.Dense(units, name=task)(h)
        heads[task] = TrainingOnly()(head) if task in marked else head
    return kmtl.MultiTaskModel(x, heads)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_layer_like_others():
    check_layer(TrainingOnly, {}, (5, 4), (5, 4))


def test_masks_pass():
    x = np.array([[[1.0], [0.0]]], "float32")
    y = TrainingOnly()(keras.layers.Masking()(x))
    np.testing.assert_array_equal(kmtl.backend.get_mask(y), [[True, False]])


def test_left_out_unless_asked_for():
    network = model()
    assert list(kmtl.export.fold(network).output) == ["steering"]
    assert list(kmtl.export.fold(network, "lanes").output) == ["lanes"]
    assert list(kmtl.export.fold(network, ["lanes", "steering"]).output) == ["lanes", "steering"]
    x = np.ones((2, 4), "float32")
    lanes = kmtl.export.fold(network, "lanes").predict(x, verbose=0)["lanes"]
    np.testing.assert_allclose(lanes, network.predict(x, verbose=0)["lanes"], rtol=1e-5)


def test_inside_of_another_model():
    inner = model()
    x = keras.Input((4,))
    outer = keras.Model(x, inner(x))
    assert list(kmtl.export.fold(outer).output) == ["steering"]
    marked = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1), TrainingOnly()])
    outer = keras.Model(x, {"a": marked(x), "b": keras.layers.Dense(1)(x)})
    assert list(kmtl.export.fold(outer).output) == ["b"]


def test_all_marked():
    with pytest.raises(ValueError, match=r"tasks=None with \['lanes', 'steering'\]"):
        kmtl.export.fold(model(("lanes", "steering")))
