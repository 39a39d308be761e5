"""Anchor: the penalty, its gradient, and anchors that are saved."""

import keras
import numpy as np
import pytest

import kmtl
from kmtl.regularizers import AcrossTasks
from kmtl.regularizers.anchor import Anchor, move_anchors

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)


def anchored(strength=0.5):
    x = keras.Input((4,))
    h = keras.layers.Bidirectional(keras.layers.LSTM(3), name="low")(
        keras.layers.Reshape((2, 2))(x)
    )
    model = kmtl.MultiTaskModel(x, {"a": keras.layers.Dense(1, name="head")(h)})
    penalties = [
        AcrossTasks(Anchor(strength), "low", weight)
        for weight in ("kernel", "recurrent_kernel", "bias")
    ]
    model.compile(keras.optimizers.SGD(0.1), loss={"a": "mse"}, penalties=penalties)
    move_anchors(penalties)
    return model, penalties


def test_it_is_zero_at_the_anchors_and_the_squared_way_from_there():
    model, penalties = anchored()
    assert sum(float(p()) for p in penalties) == 0.0
    ways, weights = [], model.get_layer("low").weights
    assert len(weights) == 6  # both directions
    for weight in weights:
        ways.append(RNG.normal(size=weight.shape).astype("float32"))
        weight.assign_add(ways[-1])
    expected = 0.5 * sum(np.sum(way**2) for way in ways)
    np.testing.assert_allclose(sum(float(p()) for p in penalties), expected, rtol=1e-5)


def test_the_gradient_is_twice_the_strength_times_the_way():
    """One step of SGD with and without; the loss's own gradient is the same in both."""
    steps, start, ways = {}, None, None
    for strength in (0.0, 0.7):
        keras.utils.set_random_seed(1)
        model, _ = anchored(strength)
        variables = model.get_layer("low").weights
        if start is None:
            ways = [RNG.normal(size=v.shape).astype("float32") for v in variables]
            start = [
                v + way for v, way in zip(model.get_layer("low").get_weights(), ways, strict=True)
            ]
        for v, value in zip(variables, start, strict=True):
            v.assign(value)
        model.fit(np.ones((4, 4)), {"a": np.ones((4, 1))}, verbose=0)
        steps[strength] = model.get_layer("low").get_weights()
    for without, held, way in zip(steps[0.0], steps[0.7], ways, strict=True):
        np.testing.assert_allclose(held - without, -0.1 * 2 * 0.7 * way, rtol=1e-3, atol=1e-6)


def test_anchors_are_saved_with_the_model(tmp_path):
    model, penalties = anchored()
    for weight in model.get_layer("low").weights:
        weight.assign_add(np.ones(weight.shape))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    before, after = (
        [keras.ops.convert_to_numpy(w) for state in m.penalty_states for w in state.weights]
        for m in (model, loaded)
    )
    assert len(after) == 6 and any(a.any() for a in after)
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_errors():
    with pytest.raises(ValueError, match="`strength` must be at least 0. Received: strength=-1"):
        Anchor(-1)
