"""What optimizers do on one replica they do on two: clip, accumulate, scale losses, skip."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import kmtl

RNG = np.random.default_rng(0)
X = RNG.normal(size=(44, 8)).astype("float32")
Y = {
    "a": np.where(np.arange(44) % 10 < 5, np.nan, RNG.normal(size=44)).astype("float32"),
    "b": RNG.integers(0, 3, size=44),
}


def build(optimizer, policy="float32", weighting=None, **kwargs):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    try:
        x = keras.Input((8,))
        h = layers.Dense(8, activation="tanh")(x)
        heads = {
            "a": layers.Dense(1, dtype="float32")(h),
            "b": layers.Dense(3, activation="softmax", dtype="float32")(h),
        }
        model = kmtl.MultiTaskModel(x, heads)
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(
        optimizer(),
        loss={"a": "mse", "b": "sparse_categorical_crossentropy"},
        metrics={"b": "accuracy"},
        missing={"a": float("nan")},
        weighting=weighting,
        **kwargs,
    )
    return model


def train(scope, *args, **kwargs):
    """The history and all variables; 5 batches an epoch, the last of 4 rows."""
    with scope:
        model = build(*args, **kwargs)
    history = model.fit(X, Y, batch_size=10, epochs=3, shuffle=False, verbose=0).history
    model.evaluate(X, Y, batch_size=10, verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    return history, {f"{i} {v.path}": np.array(v.numpy()) for i, v in enumerate(variables)}


def sgd(**kwargs):
    return lambda: keras.optimizers.SGD(0.05, momentum=0.9, **kwargs)


def adam(**kwargs):
    return lambda: keras.optimizers.Adam(0.05, **kwargs)


def nightly(*values):
    return pytest.param(*values, marks=pytest.mark.nightly)


@pytest.mark.parametrize(
    ("optimizer", "kwargs"),
    [
        (sgd(clipnorm=0.05), {}),
        (adam(global_clipnorm=0.1), {"weighting": "mgda"}),
        nightly(sgd(gradient_accumulation_steps=2), {}),
        (adam(gradient_accumulation_steps=3, clipnorm=0.1, use_ema=True), {}),
        (sgd(gradient_accumulation_steps=2), {"weighting": "pcgrad"}),
        nightly(sgd(), {"steps_per_execution": 2}),
        (sgd(gradient_accumulation_steps=2), {"steps_per_execution": 3, "weighting": "dwa"}),
    ],
    ids=[
        "clipnorm", "global_clipnorm", "accumulate", "accumulate_clip_ema", "accumulate_pcgrad",
        "steps_per_execution", "steps_per_execution_accumulate",
    ],
)  # fmt: skip
def test_two_replicas_equal_one(optimizer, kwargs, mirrored):
    history, variables = train(contextlib.nullcontext(), optimizer, **kwargs)
    history2, variables2 = train(mirrored.scope(), optimizer, **kwargs)
    for (name, a), b in zip(variables.items(), variables2.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6, err_msg=name)
    for name in history:
        np.testing.assert_allclose(history2[name], history[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "weighting"),
    [
        ({}, None),
        ({"clipnorm": 0.05}, "uncertainty"),
        nightly({"gradient_accumulation_steps": 2}, None),
        nightly({}, "pcgrad"),
    ],
    ids=["plain", "clipnorm_uncertainty", "accumulate", "pcgrad"],
)
def test_ids_that_are_looked_up_more_than_once(arguments, weighting, mirrored):
    ids = RNG.integers(0, 6, size=(44, 5))

    def run(scope):
        keras.utils.set_random_seed(1)
        with scope:
            x = keras.Input((5,), dtype="int32")
            h = layers.Flatten()(layers.Embedding(6, 3)(x))
            model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(h), "b": layers.Dense(3)(h)})
            model.compile(adam(**arguments)(), loss="mse", weighting=weighting)
        y = {"a": Y["b"], "b": X[:, :3]}
        model.fit(ids, y, batch_size=10, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    for a, b in zip(run(contextlib.nullcontext()), run(mirrored.scope()), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulate", [None, 2])
def test_float16_with_a_scaled_loss(accumulate, mirrored):
    optimizer = sgd(gradient_accumulation_steps=accumulate)
    history, variables = train(contextlib.nullcontext(), optimizer, policy="mixed_float16")
    history2, variables2 = train(mirrored.scope(), optimizer, policy="mixed_float16")
    for (name, a), b in zip(variables.items(), variables2.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=0.01, atol=2e-3, err_msg=name)
    assert history2["loss"][-1] < history2["loss"][0]


def test_a_gradient_that_overflows_on_the_second_replica_counts_on_both(mirrored):
    with mirrored.scope():
        model = build(sgd(), policy="mixed_float16")
    x = X[:10].copy()
    x[7] = 60000.0  # rows 5 to 9 are the second replica's
    scale = float(model.optimizer.initial_scale)
    weights = model.get_weights()
    y = {"a": 1e4 * np.ones(10, "float32"), "b": Y["b"][:10]}
    with contextlib.suppress(FloatingPointError):  # losses may overflow, too
        model.fit(x, y, batch_size=10, shuffle=False, verbose=0)
    assert float(model.optimizer.dynamic_scale.numpy()) == scale / 2
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize("weighting", [None, "uncertainty", "pcgrad"])
def test_a_strategy_with_one_replica(weighting):
    """As on a machine with a single GPU."""
    optimizer = sgd(gradient_accumulation_steps=2)
    _, variables = train(contextlib.nullcontext(), optimizer, weighting=weighting)
    one = tf.distribute.MirroredStrategy(["CPU:0"])
    _, variables2 = train(one.scope(), optimizer, weighting=weighting)
    for (name, a), b in zip(variables.items(), variables2.values(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6, err_msg=name)


def test_xla_for_several_replicas_is_refused(mirrored):
    with mirrored.scope(), pytest.raises(ValueError, match="needs a single replica or a TPU"):
        build(sgd(), jit_compile=True)


@pytest.mark.parametrize("weighting", [None, "uncertainty", "pcgrad", "nash_mtl", "gradnorm"])
def test_a_batch_without_any_label(weighting, mirrored):
    labels = {"a": np.full(10, np.nan, "float32"), "b": np.full(10, -1)}
    for scope in (contextlib.nullcontext(), mirrored.scope()):
        with scope:
            model = build(lambda: keras.optimizers.SGD(0.1))
            model.compile(
                keras.optimizers.SGD(0.1),
                loss={"a": "mse", "b": "sparse_categorical_crossentropy"},
                missing={"a": float("nan"), "b": -1},
                weighting=weighting,
            )
        own = {id(v) for v in getattr(model.weighting_state, "variables", [])}
        variables = [v for v in model.trainable_variables if id(v) not in own]
        before = [np.array(v.numpy()) for v in variables]
        logs = model.fit(X[:10], labels, batch_size=10, verbose=0).history
        assert np.all(np.isfinite([logs["a_loss"], logs["b_loss"]]))
        for variable, value in zip(variables, before, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
