"""Logs on their way out of the compiled step."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.models.step import packed_logs

pytestmark = pytest.mark.both_backends

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = {"a": X[:, :1], "b": np.eye(2, dtype="float32")[(X[:, 0] > 0).astype(int)]}


def compiled_model(**kwargs):
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    h = layers.Dense(4)(x)
    b = layers.Dense(2, activation="softmax")(h)
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(h), "b": b})
    losses = {"a": "mse", "b": "categorical_crossentropy"}
    model.compile("sgd", loss=losses, metrics={"a": "mae"}, **kwargs)
    return model


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(logs)


def test_callbacks_see_numbers_by_name():
    model, batches = compiled_model(weighting="pcgrad"), Batches()
    history = model.fit(X, Y, batch_size=4, verbose=0, callbacks=[batches]).history
    names = {"loss", "a_loss", "b_loss", "a_mae", "a_weight", "b_weight"}
    assert set(history) == names
    assert len(batches.seen) == 2 and all(set(logs) == names for logs in batches.seen)
    assert all(isinstance(value, float) for logs in batches.seen for value in logs.values())
    np.testing.assert_allclose(batches.seen[-1]["a_loss"], history["a_loss"][0], rtol=1e-6)


def test_single_batches_return_numbers():
    model = compiled_model()
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert set(logs) == {"loss", "a_loss", "b_loss", "a_mae"}
    np.testing.assert_allclose(logs["loss"], logs["a_loss"] + logs["b_loss"], rtol=1e-5)
    model.reset_metrics()
    shown = model.test_on_batch(X, Y, return_dict=True)
    assert set(shown) == set(logs) and all(np.ndim(value) == 0 for value in shown.values())
    assert len(model.test_on_batch(X, Y)) == 4


def test_vectors_stay_what_they_are():
    model = compiled_model()
    model.compile(
        "sgd",
        loss={"a": None, "b": "categorical_crossentropy"},
        metrics={"b": keras.metrics.F1Score(average=None)},
    )
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert logs["b_f1_score"].shape == (2,)


def test_nothing_is_read_before_somebody_asks():
    names = []
    packed = packed_logs.pack({"x": ops.array(1.5), "y": ops.ones((2,)), "z": 3}, names)
    assert names == ["x", "z"] and set(packed) == {"packed", "y"}
    logs = packed_logs.unpack(packed, names)
    assert logs["x"]._vector._values is None
    assert float(logs["x"]) == 1.5 and np.asarray(logs["z"]) == 3.0 and repr(logs["x"]) == "1.5"
    assert logs["z"]._vector._values is not None
