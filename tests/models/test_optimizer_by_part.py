"""Learning rates by task and part."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = {"new": X[:, :1], "old": X[:, 1:2]}


def network():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    h = layers.Dense(3, activation="tanh", name="trunk")(x)
    heads = {task: layers.Dense(1, name=f"{task}_head")(h) for task in Y}
    return kmtl.MultiTaskModel(x, heads)


def steps_of(model):
    variables = [v for layer in model.layers for v in layer.trainable_variables]
    before = [np.array(v.numpy()) for v in variables]
    model.fit(X, Y, batch_size=16, verbose=0)
    moved = zip(variables, before, strict=True)
    return {v.path: np.abs(v.numpy() - value).max() for v, value in moved}


def sgd(rate):
    return keras.optimizers.SGD(rate)


@pytest.mark.both_backends
@pytest.mark.parametrize("weighting", [None, "uncertainty", "pcgrad"])
def test_each_part_follows_its_own_rate(weighting):
    plain = network()
    plain.compile(sgd(0.1), loss="mse", weighting=weighting)
    expected = steps_of(plain)
    model = network()
    parts = {"new": sgd(0.2), "shared": sgd(0.05), "old_head": sgd(0.0)}
    optimizer = kmtl.models.optimizer_by_part(model, sgd(0.1), parts)
    model.compile(optimizer, loss="mse", weighting=weighting)
    found = steps_of(model)
    factor = {"trunk": 0.5, "new_head": 2.0, "old_head": 0.0}
    for path, step in found.items():
        np.testing.assert_allclose(
            step, factor[path.split("/")[0]] * expected[path], rtol=1e-4, atol=1e-7, err_msg=path
        )


def test_learned_weights_of_tasks_follow_the_default_without_decay():
    model = network()
    parts = {"new": keras.optimizers.AdamW(0.1, weight_decay=0.5)}
    default = keras.optimizers.AdamW(0.0, weight_decay=0.5)
    optimizer = kmtl.models.optimizer_by_part(model, default, parts)
    model.compile(optimizer, loss="mse", weighting="uncertainty")
    learned = model.weighting_state.trainable_variables
    assert learned
    assert not any(default._use_weight_decay(v) for v in learned)


@pytest.mark.parametrize("weighting", [None, "mgda"])
def test_two_replicas_equal_one(weighting, mirrored):
    def train():
        model = network()
        parts = {"new": keras.optimizers.Adam(0.01, clipnorm=0.1), "shared": sgd(0.05)}
        optimizer = kmtl.models.optimizer_by_part(model, sgd(0.1), parts)
        model.compile(optimizer, loss="mse", weighting=weighting)
        model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    one = train()
    with mirrored.scope():
        two = train()
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_it_is_saved_with_the_model(tmp_path):
    model = network()
    optimizer = kmtl.models.optimizer_by_part(model, sgd(0.1), {"new": sgd(0.2)})
    model.compile(optimizer, loss="mse")
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        list(steps_of(again).values()), list(steps_of(model).values()), rtol=1e-5
    )


def test_bad_parts():
    model = network()
    with pytest.raises(ValueError, match="must be a task, 'shared' or a layer. Received: 'head'"):
        kmtl.models.optimizer_by_part(model, sgd(0.1), {"head": sgd(0.2)})
    one = sgd(0.1)
    with pytest.raises(ValueError, match="must have an optimizer of its own"):
        kmtl.models.optimizer_by_part(model, one, {"new": one})
    model.get_layer("new_head").trainable = False
    with pytest.raises(ValueError, match="must hold something to train. Received: 'new'"):
        kmtl.models.optimizer_by_part(model, sgd(0.1), {"new": sgd(0.2)})
    accumulating = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer = kmtl.models.optimizer_by_part(model, sgd(0.1), {"old": accumulating})
    with pytest.raises(ValueError, match="must not accumulate gradients"):
        model.compile(optimizer, loss="mse")
