"""Labels of `tf.data` batches are those of the arrays."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmtl.auxiliary import AuxiliaryTask, AuxiliaryTasks
from tests.auxiliary.small import X, Y, small_model

pytestmark = pytest.mark.both_backends


def helpers(targets=lambda x, y: x[:, :2] * y["price"]):
    task = AuxiliaryTask("area", targets, keras.layers.Dense(2), "mse", "trunk", weight=0.3)
    return AuxiliaryTasks([task])


def test_batches_have_the_labels_of_arrays_and_static_shapes():
    data = tf.data.Dataset.from_tensor_slices((X, Y, np.ones(24))).batch(7)
    mapped = helpers().add_targets(data)
    spec = mapped.element_spec
    assert spec[1]["area"] == tf.TensorSpec((None, 2), tf.float32)
    assert spec[0] == data.element_spec[0] and spec[2] == data.element_spec[2]
    _, expected = helpers().add_targets((X, Y))
    batches = list(mapped.as_numpy_iterator())
    for task in ("area", "price"):
        found = np.concatenate([y[task] for _, y, _ in batches])
        np.testing.assert_array_equal(found, expected[task])


def test_a_fixed_batch_size_stays_so():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8, drop_remainder=True)
    assert helpers().add_targets(data).element_spec[1]["area"].shape == (8, 2)


def test_open_lengths_stay_open():
    spec = (tf.TensorSpec((None, None, 4)), {"price": tf.TensorSpec((None, 1))})

    def batches():
        for length in (3, 5):
            yield np.zeros((2, length, 4), "float32"), {"price": np.zeros((2, 1), "float32")}

    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    mapped = helpers(lambda x, y: x[..., 0]).add_targets(data)
    assert mapped.element_spec[1]["area"].shape.as_list() == [None, None]
    assert [y["area"].shape for _, y in mapped] == [(2, 3), (2, 5)]


def test_inputs_by_name():
    data = tf.data.Dataset.from_tensor_slices(({"a": X, "b": X + 1}, Y)).batch(7)
    mapped = helpers(lambda x, y: x["b"] - x["a"]).add_targets(data)
    assert all((y["area"].numpy().round(5) == 1).all() for _, y in mapped)


def test_fit_on_batches_equals_fit_on_arrays():
    weights = []
    for make in (lambda d: tf.data.Dataset.from_tensor_slices(d).batch(12), lambda d: d):
        model, tasks = small_model(), helpers()
        both = tasks.attach(model)
        both.compile("sgd", **tasks.compile_arguments({"price": "mse"}))
        data = tasks.add_targets(make((X, Y)))
        fit = {"batch_size": 12, "shuffle": False} if isinstance(data, tuple) else {}
        both.fit(*(data if isinstance(data, tuple) else [data]), verbose=0, **fit)
        weights.append(both.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_errors():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    with pytest.raises(ValueError, match="at least one batch. Received: none"):
        helpers().add_targets(data.take(0))
    with pytest.raises(ValueError, match="must have batches"):
        helpers().add_targets(data.map(lambda x, y: x))
    task = AuxiliaryTask("area", "price", keras.layers.Dense(2), "mse", "trunk")
    task.by_batch = False
    with pytest.raises(ValueError, match="need arrays, .*Received: 'area'"):
        AuxiliaryTasks([task]).add_targets(data)
    task.fitted = False
    with pytest.raises(ValueError, match="call its `fit`. Received: 'area', not fitted"):
        AuxiliaryTasks([task]).add_targets(data)


def test_two_replicas_equal_one(mirrored):
    def train():
        model, tasks = small_model(), helpers()
        both = tasks.attach(model)
        both.compile(keras.optimizers.SGD(0.1), **tasks.compile_arguments({"price": "mse"}))
        both.fit(*tasks.add_targets((X, Y)), batch_size=12, epochs=3, shuffle=False, verbose=0)
        return both.get_weights()

    one = train()
    with mirrored.scope():
        two = train()
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
