import keras
import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl.losses import hint_loss

pytestmark = pytest.mark.both_backends

HintLoss = hint_loss.HintLoss
KINDS = {
    "invariance": {},
    "odd": {},
    "monotone": {},
    "range": {"low": -1.0, "high": 2.0},
}
# Answers with each hint, and without, and what the latter cost by hand.
KEPT = {
    "invariance": [[[3.0, 3.0]], [[-1.5, -1.5]]],
    "odd": [[[3.0, -3.0]], [[0.0, 0.0]]],
    "monotone": [[[1.0, 1.0]], [[-2.0, 5.0]]],
    "range": [[-1.0], [2.0]],
}
BROKEN = {
    "invariance": ([[[3.0, 1.0]], [[0.0, -1.0]]], [4.0, 1.0]),
    "odd": ([[[3.0, -1.0]], [[1.0, 1.0]]], [4.0, 4.0]),
    "monotone": ([[[5.0, 2.0]], [[2.0, 5.0]]], [9.0, 0.0]),
    "range": ([[-3.0], [2.5]], [4.0, 0.25]),
}


def gradient(loss, answers):
    answers = ops.convert_to_tensor(answers)

    def value(x):
        return loss(np.zeros(2), x)

    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(value)(answers))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(answers)
        found = value(answers)
    return tape.gradient(found, answers).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_costs_nothing_and_has_no_gradient(kind):
    loss, answers = HintLoss(kind, **KINDS[kind]), np.array(KEPT[kind], "float32")
    assert float(loss(np.zeros(2), answers)) == 0.0
    assert not gradient(loss, answers).any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_hold_costs_its_square(kind):
    answers, expected = BROKEN[kind]
    loss = HintLoss(kind, reduction=None, **KINDS[kind])
    np.testing.assert_allclose(loss(np.zeros(2), np.array(answers, "float32")), expected, rtol=1e-6)


def test_a_monotone_pair_that_rises_has_no_gradient():
    answers = np.array(BROKEN["monotone"][0], "float32")
    # d/da of (a - b)^2 / 2 is a - b.
    expected = [[[3.0, -3.0]], [[0.0, 0.0]]]
    np.testing.assert_allclose(gradient(HintLoss("monotone"), answers), expected, rtol=1e-6)


def test_one_end_and_several_axes():
    answers = np.array([[[-2.0, 5.0], [0.0, 1.0]]], "float32")
    assert float(HintLoss("range", low=0.0)(np.zeros(1), answers)) == 1.0  # 4, over 4 answers
    assert float(HintLoss("range", high=1.0)(np.zeros(1), answers)) == 4.0
    pairs = np.array([[[[1.0, 2.0]], [[5.0, 8.0]]]], "float32")
    assert float(HintLoss("invariance")(np.zeros(1), pairs)) == 5.0
    assert float(HintLoss("odd")(np.zeros(1), np.array([[1.0, 2.0]], "float32"))) == 9.0


def test_errors():
    with pytest.raises(ValueError, match="`kind` must be one of .*kind='even'"):
        HintLoss("even")
    for settings in (
        {"kind": "odd", "low": 0.0},
        {"kind": "range"},
        {"kind": "range", "low": 1.0, "high": 0.0},
    ):
        with pytest.raises(ValueError, match="`low` and `high` must be in this order"):
            HintLoss(**settings)
    with pytest.raises(ValueError, match=r"must be pairs of answers.*Received: shape \(2, 3\)"):
        kmtl.losses.hint_loss.HintLoss("odd")(np.zeros(2), np.zeros((2, 3)))
