"""Scheduled weights: the schedule's value at each step, whatever stops in between."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers.schedules import ExponentialDecay, PolynomialDecay

import kmtl
from kmtl.weighting import ScheduledWeights

pytestmark = pytest.mark.both_backends

TASKS = dict.fromkeys(["seg", "depth", "normals"], keras.losses.MeanSquaredError())
LOSSES = ops.array([5.0, 0.0, 1e8])


def test_ple_loss_weights():
    """lambda_k = lambda_k0 * gamma_k ** step, tasks in sorted order."""
    rule = ScheduledWeights({"seg": ExponentialDecay(2.0, 1, 0.5), "depth": 3})
    rule.bind(TASKS)
    for step in range(4):
        np.testing.assert_allclose(rule.weights(LOSSES), [3.0, 1.0, 2.0 * 0.5**step], rtol=1e-6)
        rule.update(LOSSES)


def model_and_data():
    x = keras.Input((3,))
    h = keras.layers.Dense(4, activation="tanh")(x)
    model = kmtl.MultiTaskModel(x, {task: keras.layers.Dense(1)(h) for task in ("main", "helper")})
    rule = ScheduledWeights({"helper": PolynomialDecay(1.0, 4, 0.0)})
    model.compile("sgd", loss="mse", weighting=rule)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 3)).astype("float32")
    return model, x, {task: rng.normal(size=(32, 1)) for task in ("main", "helper")}


def test_logs_show_the_weight_and_a_task_of_weight_zero_no_longer_trains():
    model, x, y = model_and_data()
    first, second = (
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history for _ in range(2)
    )
    assert first["helper_weight"] == pytest.approx([(1.0 + 0.75 + 0.5 + 0.25) / 4])
    assert second["helper_weight"] == [0.0]
    head = model.get_layer(model.output["helper"]._keras_history.operation.name)
    before = head.get_weights()
    model.fit(x, y, batch_size=8, verbose=0)
    for a, b in zip(before, head.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_saved_model_goes_on_at_its_step(tmp_path):
    model, x, y = model_and_data()
    model.fit(x[:16], y={t: v[:16] for t, v in y.items()}, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded):
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("weights", [{"seg": -1.0}, {"seg": lambda step: 1.0}, {"seg": "1"}, [1.0]])
def test_what_is_no_weight(weights):
    with pytest.raises(ValueError, match="`task_weights` must map .* or to schedules. Received: "):
        ScheduledWeights(weights)


def test_weights_for_other_tasks():
    with pytest.raises(ValueError, match=r"`task_weights` must name tasks among \['depth'.*edges"):
        ScheduledWeights({"edges": ExponentialDecay(1.0, 1, 0.5)}).bind(TASKS)


def test_loss_weights_say_where_schedules_go():
    model, _, _ = model_and_data()
    with pytest.raises(ValueError, match="`loss_weights` must be numbers; .*ScheduledWeights"):
        model.compile("sgd", "mse", loss_weights={"main": ExponentialDecay(1.0, 1, 0.5)})
