import keras
import numpy as np
import pytest
import tensorflow as tf

import kmtl.export
from kmtl.auxiliary import AuxiliaryTasks, FutureTasks, future_targets
from tests.auxiliary.small import X, small_model

pytestmark = pytest.mark.both_backends

NAN = np.nan


def future(horizons=(1, 2), **kwargs):
    def head(horizon):
        return keras.layers.Dense(1, name=f"head_{horizon}")

    settings = {"targets": "price", "loss": "mse", "features": "trunk", **kwargs}
    return FutureTasks("price", head=head, horizons=horizons, **settings)


def test_shifted_within_each_series():
    labels = np.arange(8.0)
    series = np.array(["b", "a", "b", "a", "b", "a", "b", "a"])
    found = future_targets(labels, [1, 3], series)
    np.testing.assert_array_equal(found[1], [2, 3, 4, 5, 6, 7, NAN, NAN])
    np.testing.assert_array_equal(found[3], [6, 7, NAN, NAN, NAN, NAN, NAN, NAN])
    rows = np.stack([labels, labels + 10], axis=1)
    np.testing.assert_array_equal(future_targets(rows, [1], series)[1][:6], rows[2:])


def test_rows_that_are_series():
    labels = np.array([[1, 2, 3], [4, 5, 6]])
    found = future_targets(labels, [1, 2], missing=-1, axis=1)
    np.testing.assert_array_equal(found[1], [[2, 3, -1], [5, 6, -1]])
    np.testing.assert_array_equal(found[2], [[3, -1, -1], [6, -1, -1]])
    assert found[1].dtype == labels.dtype


def test_only_later_labels_count():
    """What an output is to say at t depends on the labels at t + k and on nothing before."""
    labels = np.arange(6.0)
    for place in range(6):
        changed = labels.copy()
        changed[place] += 100
        moved = future_targets(changed, [2])[2] - future_targets(labels, [2])[2]
        np.testing.assert_array_equal(
            np.flatnonzero(np.nan_to_num(moved)), [place - 2][: place >= 2]
        )


def test_inputs_and_main_labels_stay():
    helpers = AuxiliaryTasks([future(series="who")])
    labels = {"price": np.arange(24.0)[:, None], "who": np.arange(24) // 12}
    x, y = helpers.add_targets((X, labels))
    assert sorted(y) == ["price", "price_1", "price_2"]
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y["price"], labels["price"])
    np.testing.assert_array_equal(y["price_2"][[9, 10, 11, 12]], [[11], [NAN], [NAN], [14]])


def test_weights_fall_and_missing_labels_count_for_nothing():
    task = future((1, 3), weight=0.5, discount=0.8)
    assert task.weights == pytest.approx({"price_1": 0.5, "price_3": 0.5 * 0.8**2})
    helpers = AuxiliaryTasks([task])
    both = helpers.attach(small_model())
    both.compile(keras.optimizers.SGD(0.0), **helpers.compile_arguments({"price": "mse"}))
    data = helpers.add_targets((X, {"price": np.arange(24.0)[:, None]}))
    logs = both.fit(*data, batch_size=24, verbose=0).history
    answers = both.predict(X, verbose=0)
    expected = np.square(answers["price_3"][:-3] - np.arange(3.0, 24.0)[:, None]).mean()
    np.testing.assert_allclose(logs["price_3_loss"][0], expected, rtol=1e-5)
    total = logs["price_loss"][0] + 0.5 * logs["price_1_loss"][0] + 0.32 * logs["price_3_loss"][0]
    np.testing.assert_allclose(logs["loss"][0], total, rtol=1e-5)
    plain = kmtl.export.fold(both)
    assert list(plain.output) == ["price"]
    assert not [layer for layer in plain.layers if layer.name.startswith("head_")]


def test_batches_where_rows_are_series():
    labels = {"price": np.arange(12.0).reshape(3, 4)}
    data = tf.data.Dataset.from_tensor_slices((np.zeros((3, 4, 2)), labels)).batch(2)
    mapped = AuxiliaryTasks([future(axis=1)]).add_targets(data)
    assert mapped.element_spec[1]["price_1"].shape.as_list() == [None, 4]
    np.testing.assert_array_equal(next(iter(mapped))[1]["price_1"][1], [5, 6, 7, NAN])
    with pytest.raises(ValueError, match="need arrays, .*Received: 'price'"):
        AuxiliaryTasks([future()]).add_targets(data)


def test_errors():
    with pytest.raises(ValueError, match="longer than .*, 2. Received: 2 times in series 'b'"):
        future_targets(np.arange(6.0), [1, 2], "aaaabb")
    with pytest.raises(ValueError, match="Received: 3 times in series 'all rows'"):
        future_targets(np.arange(3.0), [3])
    with pytest.raises(ValueError, match="Received: missing=nan for int64"):
        future_targets(np.arange(3), [1])
    with pytest.raises(ValueError, match="an entry for each of 3 rows. Received: 2"):
        future_targets(np.arange(3.0), [1], "ab")
    with pytest.raises(ValueError, match="`series` must be None"):
        future_targets(np.zeros((2, 3)), [1], "ab", axis=1)
    with pytest.raises(ValueError, match="`axis` must be 0 or 1"):
        future_targets(np.zeros(3), [1], axis=1)
    for axis in (2, -1):
        with pytest.raises(ValueError, match=f"`axis` must be 0 or 1.* Received: axis={axis}"):
            future(axis=axis)
    with pytest.raises(ValueError, match="`head` must be a function of the horizon.*head=<Dense"):
        FutureTasks("price", "price", keras.layers.Dense(1), "mse", "trunk")
    for horizons in ((), (0,), (1, 1), (1.5,), (1, "a"), 3):
        with pytest.raises(ValueError, match="`horizons` must be a list of different whole"):
            future(horizons)
    for discount in (0.0, 1.1):
        with pytest.raises(ValueError, match="`discount` must be above 0"):
            future(discount=discount)
    with pytest.raises(ValueError, match="`weight` must be a number"):
        future(weight=keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5))
    with pytest.raises(ValueError, match="`metrics` must be names or functions"):
        future(metrics=keras.metrics.MeanAbsoluteError())
    with pytest.raises(ValueError, match="must hold 'who', for the auxiliary task 'price'"):
        AuxiliaryTasks([future(series="who")]).add_targets((X, {"price": X[:, :1]}))
