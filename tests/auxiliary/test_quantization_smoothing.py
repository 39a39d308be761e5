import keras
import numpy as np
import pytest

from kmtl.auxiliary import (
    AuxiliaryTasks,
    QuantizationSmoothing,
    cumulative_targets,
    smooth_target,
)
from tests.auxiliary.small import X, Y, small_model

pytestmark = pytest.mark.both_backends


def smoothing(**kwargs):
    head = keras.layers.Dense(1)
    return QuantizationSmoothing("degrees", "temperature", head, features="trunk", **kwargs)


def test_standardised_by_the_training_data_alone():
    task = smoothing()
    train = {"temperature": np.array([[36.0], [38.0], [40.0], [38.0]])}
    task.fit(None, train)
    labels = task.targets(None, train)["degrees"]
    np.testing.assert_allclose([labels.mean(), labels.std()], [0.0, 1.0], atol=1e-6)
    # Mean 38, deviation sqrt(2): other data is measured by the same.
    other = task.targets(None, {"temperature": np.array([[39.0]])})["degrees"]
    np.testing.assert_allclose(other, [[1 / np.sqrt(2)]], rtol=1e-6)


def test_config_brings_the_measured_numbers_back():
    task = smoothing()
    task.fit(None, {"temperature": np.array([1.0, 5.0])})
    again = smoothing(**task.get_config())
    data = {"temperature": np.array([2.0, 7.0])}
    np.testing.assert_array_equal(
        again.targets(None, data)["degrees"], task.targets(None, data)["degrees"]
    )


def test_missing_values_are_not_measured_and_stay_missing():
    task = smoothing(missing=-999.0)
    data = {"temperature": np.array([1.0, -999.0, 5.0])}
    task.fit(None, data)
    assert task.get_config() == {"mean": 3.0, "deviation": 2.0}
    np.testing.assert_array_equal(task.targets(None, data)["degrees"], [-1.0, -999.0, 1.0])


def test_fitted_by_the_first_training_data():
    task = smoothing()
    helpers = AuxiliaryTasks([task])
    labels = {**Y, "temperature": X[:, :1] * 3 + 5}
    with pytest.raises(ValueError, match="call `fit`. Received: 'degrees', not fitted"):
        helpers.add_targets((X, labels), training=False)
    x, y = helpers.add_targets((X, labels))
    assert sorted(y) == ["degrees", "price"] and task.fitted
    measured = task.get_config()
    helpers.add_targets((X, {**labels, "temperature": X[:, 1:2]}))
    assert task.get_config() == measured
    both = helpers.attach(small_model())
    both.compile("sgd", **helpers.compile_arguments({"price": "mse"}))
    history = both.fit(x, y, batch_size=24, verbose=0).history
    assert helpers.compile_arguments({"price": "mse"})["loss_weights"] == {"degrees": 0.1}
    expected = history["price_loss"][0] + 0.1 * history["degrees_loss"][0]
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-6)


def test_smooth_targets_become_hard_ones():
    q = np.array([-3.0, 0.9, 1.0, 1.1, 1e6])
    np.testing.assert_array_equal(smooth_target(q, 1.0, 0.0), [0, 0, 0, 1, 1])
    away = q != 1.0
    np.testing.assert_allclose(
        smooth_target(q, 1.0, 1e-3)[away], smooth_target(q, 1.0, 0.0)[away], atol=1e-6
    )
    # sigmoid(1) and sigmoid(-2) by hand
    np.testing.assert_allclose(
        smooth_target([3.0, -3.0], 1.0, 2.0), [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2))], rtol=1e-6
    )
    assert np.isnan(smooth_target([np.nan], 0.0, 0.0)).all()
    assert np.isnan(smooth_target([np.nan], 0.0, 1.0)).all()


def test_cumulative_targets_fall_and_so_do_logits_with_one_score():
    q = np.array([[0.5, 1.5], [2.5, np.nan]])
    labels = cumulative_targets(q, [1.0, 2.0])
    expected = [[[0, 0], [1, 0]], [[1, 1], [np.nan, np.nan]]]
    np.testing.assert_array_equal(labels, expected)
    thresholds = np.array([-0.7, 0.1, 2.0], "float32")
    x = keras.Input((4,))
    logits = keras.layers.Dense(1)(x) - thresholds
    answers = keras.Model(x, keras.ops.sigmoid(logits)).predict(X, verbose=0)
    assert answers.shape == (24, 3) and (np.diff(answers, axis=1) < 0).all()


def test_errors():
    for bad in ({"mean": 1.0}, {"deviation": 1.0}, {"mean": 1.0, "deviation": 0.0}):
        with pytest.raises(ValueError, match="`mean` and a positive `deviation`"):
            smoothing(**bad)
    with pytest.raises(ValueError, match="only 4.0 for 'degrees'"):
        smoothing().fit(None, {"temperature": np.full(3, 4.0)})
    with pytest.raises(ValueError, match="`scale` must be at least 0. Received: scale=-1"):
        smooth_target([1.0], 0.0, -1)
    for thresholds in ([], [2.0, 1.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="`thresholds` must be numbers that rise"):
            cumulative_targets([1.0], thresholds)
