"""TaskWiseEarlyStopping: its rule, and what stopping a task does."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.callbacks import TaskWiseEarlyStopping

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4)).astype("float32")
Y = {"main": X[:, :1], "noise": RNG.normal(size=(16, 1)).astype("float32")}


def compiled(weighting=None, **kwargs):
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    h = layers.Dense(3, activation="tanh", name="trunk")(x)
    heads = {task: layers.Dense(1, name=task)(h) for task in Y}
    model = kmtl.MultiTaskModel(x, heads)
    model.compile(keras.optimizers.SGD(0.1), loss="mse", weighting=weighting, **kwargs)
    return model


def with_losses(losses, window, **kwargs):
    callback = TaskWiseEarlyStopping(["noise"], window=window)
    callback.set_model(compiled(**kwargs))
    callback._losses = {"noise": losses}
    return callback


def test_criterion_by_hand():
    # sum 15, median 3, window 4: 12 / (15 - 12) = 4; gap (6 - 1) / (0.5 * 1) = 10
    callback = with_losses([5.0, 4.0, 3.0, 2.0, 1.0], 4, loss_weights={"noise": 0.5})
    assert callback.criterion("noise", 6.0) == pytest.approx(40.0)
    # Constant losses: the trend is the window itself.
    assert with_losses([2.0] * 4, 3).criterion("noise", 4.0) == pytest.approx(3 * (4 - 2) / 2)
    assert with_losses([2.0] * 4, 3).criterion("noise", 2.0) == 0.0
    assert with_losses([2.0] * 3, 3).criterion("noise", 9.0) == 0.0  # too early to tell
    assert with_losses([0.0, 0.0, 0.0, 0.0], 3).criterion("noise", 1.0) == float("inf")


@pytest.mark.both_backends
@pytest.mark.parametrize("weighting", [None, "uncertainty", "pcgrad"])
def test_the_trunk_no_longer_follows_a_stopped_task(weighting):
    model = compiled(weighting)
    model.fit(X, Y, verbose=0)
    model.stop_task("noise")
    head = np.array(model.get_layer("noise").kernel.numpy())
    logs = model.fit(X, Y, epochs=2, shuffle=False, verbose=0).history
    np.testing.assert_array_equal(model.get_layer("noise").kernel.numpy(), head)
    assert all(value > 0 for value in logs["noise_loss"])  # it is still shown
    if weighting is None:
        np.testing.assert_allclose(logs["loss"], logs["main_loss"], rtol=1e-6)
    trunk = np.array(model.get_layer("trunk").kernel.numpy())
    other = {"main": Y["main"], "noise": 100.0 * Y["noise"]}
    weights = model.get_weights()
    model.fit(X, Y, shuffle=False, verbose=0)
    one = np.array(model.get_layer("trunk").kernel.numpy())
    assert np.abs(one - trunk).max() > 0
    model.set_weights(weights)
    model.fit(X, other, shuffle=False, verbose=0)
    np.testing.assert_array_equal(model.get_layer("trunk").kernel.numpy(), one)


@pytest.mark.both_backends
def test_a_task_that_overfits_stops_once_and_for_good():
    model = compiled()
    stopping = TaskWiseEarlyStopping(["noise"], window=2, threshold=0.01)
    validation = (X, {"main": Y["main"], "noise": 5.0 * RNG.normal(size=(16, 1))})
    model.fit(X, Y, epochs=6, verbose=0, validation_data=validation, callbacks=[stopping])
    assert stopping.stopped_epochs == {"noise": 2}
    assert model.stopped_tasks == ["noise"]


def test_a_task_that_generalises_never_stops():
    model = compiled()
    stopping = TaskWiseEarlyStopping(["noise"], window=2, threshold=0.01)
    validation = (X, {"main": Y["main"], "noise": model.predict(X, verbose=0)["noise"]})
    model.fit(X, Y, epochs=4, verbose=0, validation_data=validation, callbacks=[stopping])
    assert model.stopped_tasks == []


def test_stopped_tasks_are_saved(tmp_path):
    model = compiled("dwa")
    model.fit(X, Y, verbose=0)
    model.stop_task("noise")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.stopped_tasks == ["noise"]
    head = np.array(again.get_layer("noise").kernel.numpy())
    again.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(again.get_layer("noise").kernel.numpy(), head)
    again.compile("sgd", loss="mse")
    assert again.stopped_tasks == []


def test_errors():
    with pytest.raises(ValueError, match="`tasks` must be a list of task names"):
        TaskWiseEarlyStopping("noise")
    with pytest.raises(ValueError, match="`window` must be at least 1. Received: window=0"):
        TaskWiseEarlyStopping(["noise"], window=0)
    with pytest.raises(ValueError, match="`threshold` must be positive. Received: threshold=0"):
        TaskWiseEarlyStopping(["noise"], threshold=0)
    model = compiled()
    for tasks in (["nois"], ["noise", "main"]):
        with pytest.raises(ValueError, match="some of those that the model trains"):
            model.fit(X, Y, verbose=0, callbacks=[TaskWiseEarlyStopping(tasks)])
    with pytest.raises(ValueError, match="call `fit` with `validation_data`"):
        model.fit(X, Y, verbose=0, callbacks=[TaskWiseEarlyStopping(["noise"])])
    with pytest.raises(ValueError, match="A task to stop must be one that has a loss"):
        model.stop_task("nois")
    model.stop_task("noise")
    with pytest.raises(ValueError, match="beside another that goes on"):
        model.stop_task("main")
