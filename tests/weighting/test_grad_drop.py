"""GradDrop: one sign for each coordinate, at the right rate, anew in each step."""

import keras
import numpy as np
import pytest

import kmtl

pytestmark = pytest.mark.both_backends


def combine(jacobian, **kwargs):
    return np.asarray(kmtl.weighting.GradDrop(**kwargs).combine(jacobian))


def test_where_signs_agree_it_is_the_plain_sum():
    jacobian = np.abs(np.random.default_rng(0).normal(size=(4, 2000)))
    jacobian[:, ::2] *= -1.0
    jacobian[:, 7] = 0.0
    np.testing.assert_allclose(combine(jacobian), jacobian.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("leak", [0.0, 0.25, 1.0])
def test_one_sign_with_the_probability_of_its_purity(leak):
    column = np.array([3.0, 1.0, -1.0, 0.0])
    update = combine(np.tile(column[:, None], 20_000), leak=leak, seed=4)
    up, down = 4.0 - leak, 4.0 * leak - 1.0
    assert (np.isclose(update, up) | np.isclose(update, down)).all()
    if leak < 1.0:
        # purity = 0.5 * (1 + 3 / 5) = 0.8; five standard deviations of the share are 0.014.
        assert abs(np.isclose(update, up).mean() - 0.8) < 0.014


def test_a_leak_for_each_task():
    rule = kmtl.weighting.GradDrop(leak={"b": 0.5}, seed=0)
    rule.bind(dict.fromkeys(["b", "a"], keras.losses.MeanSquaredError()))
    update = np.asarray(rule.combine(np.tile([[2.0], [-2.0]], 50)))  # in the order a, b
    # Kept a and half of b, or kept b and nothing of a.
    assert set(update.round(5)) == {1.0, -2.0}


def test_a_step_draws_anew_and_looking_does_not():
    jacobian = np.tile([[1.0], [-1.0]], 64)
    rule = kmtl.weighting.GradDrop(seed=3)
    first, again = np.asarray(rule.combine(jacobian)), np.asarray(rule.combine(jacobian))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, combine(jacobian, seed=3))
    rule.draw()
    second = np.asarray(rule.combine(jacobian))
    assert 10 < np.sum(first != second) < 54
    assert (combine(jacobian, seed=4) != first).any()


@pytest.mark.parametrize("scope", ["representation", "parameters"])
def test_signs_change_from_step_to_step_in_training(scope):
    # Two tasks that disagree in everything: each step adds lr * x to a weight or takes it off.
    x = keras.Input((1,))
    ten = keras.initializers.Constant(10.0)  # the features stay positive
    shared = keras.layers.Dense(200, use_bias=False, kernel_initializer=ten, name="shared")
    h = shared(x)
    outputs = {
        task: keras.layers.Dense(1, use_bias=False, trainable=False, kernel_initializer="ones")(h)
        for task in ("a", "b")
    }
    model = kmtl.MultiTaskModel(x, outputs)
    model.compile(
        keras.optimizers.SGD(0.5),
        loss={"a": lambda y, p: p, "b": lambda y, p: -p},
        weighting=kmtl.weighting.GradDrop(scope=scope, seed=0),
    )
    ones = np.ones((3, 1))
    model.fit(ones, {"a": ones, "b": ones}, batch_size=1, epochs=1, verbose=0)
    moved = (np.asarray(shared.kernel)[0] - 10.0) / 0.5
    # A fixed draw would leave only -3 and 3; three steps reach all four sums of three signs.
    assert set(moved.round(5)) == {-3.0, -1.0, 1.0, 3.0}


def test_a_feature_has_one_sign_in_the_whole_batch():
    # Task "a" pulls every feature up, in every sample, and task "b" down twice as much. Half of
    # the features are negative: times their sign, gradients of one task are opposite there.
    rule = kmtl.weighting.GradDrop(seed=0)
    x = keras.Input((1,))
    signs = np.where(np.arange(100) % 2, 1.0, -1.0)[None]
    shared = keras.layers.Dense(100, use_bias=False, name="shared")
    h = shared(x)
    outputs = {
        task: keras.layers.Dense(1, use_bias=False, trainable=False, kernel_initializer="ones")(h)
        for task in ("a", "b")
    }
    model = kmtl.MultiTaskModel(x, outputs)
    shared.set_weights([10.0 * signs])
    model.compile(
        keras.optimizers.SGD(1.0),
        loss={"a": lambda y, p: -p, "b": lambda y, p: 2.0 * p},
        weighting=rule,
    )
    ones = np.ones((4, 1))
    model.fit(ones, {"a": ones, "b": ones}, batch_size=4, epochs=1, verbose=0)
    moved = (np.asarray(shared.kernel) - 10.0 * signs)[0]
    # Samples that drew for themselves would mix 1 and -2.
    assert set(moved.round(4)) == {1.0, -2.0}
    assert 0.5 < np.mean(moved < 0) < 0.8  # the purity gives "b" two features of three


@pytest.mark.parametrize("leak", [-0.1, 1.1, {"a": 2.0}], ids=str)
def test_leak_out_of_range(leak):
    with pytest.raises(ValueError, match="`leak` must be between 0 and 1. Received: leak="):
        kmtl.weighting.GradDrop(leak=leak)


def test_leak_of_another_task():
    rule = kmtl.weighting.GradDrop(leak={"c": 0.5})
    with pytest.raises(ValueError, match="`leak` must name tasks among"):
        rule.bind({"a": keras.losses.MeanSquaredError()})


def test_the_last_shared_layers_do_not_do():
    with pytest.raises(ValueError, match="`scope` of GradDrop must be one of"):
        kmtl.weighting.GradDrop(scope="last_shared")
