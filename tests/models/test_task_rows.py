"""Rows of dense heads without computing them: the same numbers as from copies."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.models.step.parting import Parting
from kmtl.models.step.task_rows import DenseRows, Rows

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
SIZES = (3, 1, 4)  # signals of each task
MEMBERSHIP = np.repeat(np.eye(3), SIZES, axis=0).astype("float32")


def example(membership=MEMBERSHIP):
    signals = RNG.normal(size=(10, len(membership))).astype("float32")
    kernel = RNG.normal(size=(5, len(membership))).astype("float32")
    return DenseRows(ops.array(signals), ops.array(kernel), membership, (2, 5, 5))


def test_gramian_and_combination_are_those_of_the_rows():
    dense = example()
    rows = Rows(dense.tensor)
    assert tuple(rows.tensor.shape) == (3, 2, 5, 5)
    np.testing.assert_allclose(dense.gramian(), rows.gramian(), rtol=1e-4)
    weights = ops.array([0.5, -1.0, 2.0])
    np.testing.assert_allclose(dense.combine(weights), rows.combine(weights), rtol=1e-4, atol=1e-4)


def test_signals_of_untrained_tasks_are_left_out():
    dense = example(MEMBERSHIP[:, [0, 2]])
    np.testing.assert_allclose(dense.gramian(), Rows(dense.tensor).gramian(), rtol=1e-4)


def test_the_last_signals_of_an_untrained_task_are_left_out():
    dense = example(np.eye(3, 2, dtype="float32"))
    np.testing.assert_allclose(dense.gramian(), Rows(dense.tensor).gramian(), rtol=1e-4)


def test_what_is_not_finite_stays_with_its_task():
    signals = RNG.normal(size=(10, 8)).astype("float32")
    signals[4, 1] = np.nan  # of the first task
    kernel = ops.array(RNG.normal(size=(5, 8)), "float32")
    gramian = np.asarray(DenseRows(ops.array(signals), kernel, MEMBERSHIP, (10, 5)).gramian())
    assert np.isnan(gramian[0]).all() and np.isfinite(gramian[1:, 1:]).all()


def small_heads():
    x = keras.Input((4,))
    h = layers.Dense(16, activation="tanh", name="trunk")(x)
    outputs = {
        "a": layers.Dense(1, activation="sigmoid")(h),
        "b": layers.Dense(3)(layers.Dense(2, activation="relu", activity_regularizer="l2")(h)),
        "untrained": layers.Dense(2)(h),
    }
    return x, outputs


def wide_head():
    """So many signals that the rows are cheaper."""
    x = keras.Input((4,))
    h = layers.Dense(3, activation="tanh", name="trunk")(x)
    return x, {"a": layers.Dense(1)(layers.Dense(40)(h)), "b": layers.Dense(3)(h)}


def sequence():
    """Heads on every step of a sequence."""
    x = keras.Input((4,))
    h = layers.LSTM(6, return_sequences=True, name="trunk")(layers.Reshape((4, 1))(x))
    pool = layers.GlobalAveragePooling1D()
    return x, {"a": pool(layers.Dense(1)(h)), "b": pool(layers.Dense(3)(h))}


def stacked():
    x = keras.Input((4,))
    h = layers.Dense(16, activation="tanh", name="trunk")(x)
    first = kmtl.layers.TaskStackedDense(3, 3, activation="tanh")(h)
    return x, dict(zip(("b", "untrained", "a"), first, strict=True))


@pytest.mark.parametrize("graph", [small_heads, wide_head, sequence, stacked])
def test_taps_train_as_copies_do(graph, monkeypatch):
    x = RNG.normal(size=(16, 4)).astype("float32")
    y = {"b": RNG.normal(size=(16, 3))}
    results = []
    for copies in (False, True):
        keras.utils.set_random_seed(1)
        model = kmtl.MultiTaskModel(*graph())
        y["a"] = np.ones((16, model(x)["a"].shape[-1]))
        assert Parting(model).dense_readers(Parting(model).tensors[0]) or copies
        if copies:
            monkeypatch.setattr(Parting, "dense_readers", lambda self, tensor: None)
        rule = kmtl.weighting.CAGrad()
        losses = {task: None if task == "untrained" else "mse" for task in model.task_names}
        model.compile("sgd", loss=losses, weighting=rule)
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def test_a_tensor_that_others_read_too_is_copied():
    x = keras.Input((4,))
    h = layers.Dense(3, name="trunk")(x)
    model = kmtl.MultiTaskModel(
        x, {"a": layers.Dense(1)(h), "b": layers.Dense(1)(layers.BatchNormalization()(h))}
    )
    parting = Parting(model)
    assert parting.dense_readers(parting.tensors[0]) is None
