"""AttentionGate: a mask between 0 and 1 over what a trunk made."""

import keras
import numpy as np
import pytest
from keras import ops

from kmtl.layers.attention_gate import AttentionGate

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
EARLY = RNG.normal(size=(4, 5, 5, 3)).astype("float32")
LATE = RNG.normal(size=(4, 5, 5, 2)).astype("float32")
TASK = RNG.normal(size=(4, 5, 5, 6)).astype("float32")


def saturated(logit, inputs=(EARLY, LATE)):
    """A gate whose mask is the same everywhere."""
    gate = AttentionGate()
    gate(list(inputs))
    gate.kernels[1].assign(np.zeros(gate.kernels[1].shape))
    gate.biases[1].assign(np.full(gate.biases[1].shape, logit))
    return gate


def test_a_mask_of_one_passes_the_trunk_and_one_of_zero_nothing():
    passed = ops.convert_to_numpy(saturated(200.0)([EARLY, LATE]))
    np.testing.assert_array_equal(passed, LATE)
    np.testing.assert_array_equal(saturated(-200.0)([EARLY, LATE]), np.zeros_like(LATE))


@pytest.mark.parametrize("inputs", [(EARLY, LATE), (EARLY, LATE, TASK)], ids=len)
def test_mask_by_hand(inputs):
    gate = AttentionGate(hidden=7)
    gate(list(inputs))
    rng = np.random.default_rng(1)
    for weight in gate.weights:
        values = rng.normal(size=weight.shape)
        weight.assign(np.abs(values) + 0.1 if "variance" in weight.path else values)
    x = np.concatenate([inputs[0], *inputs[2:]], axis=-1)
    for n in range(2):
        kernel, bias = (ops.convert_to_numpy(w[n]) for w in (gate.kernels, gate.biases))
        norm = gate.norms[n]
        gamma, beta, mean, variance = (
            ops.convert_to_numpy(v)
            for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        )
        x = ((x @ kernel + bias) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        x = np.maximum(x, 0.0) if n == 0 else 1.0 / (1.0 + np.exp(-x))
    mask = ops.convert_to_numpy(gate.attention(list(inputs)))
    np.testing.assert_allclose(mask, x, rtol=1e-4, atol=1e-5)
    output = ops.convert_to_numpy(gate(list(inputs)))
    np.testing.assert_allclose(output, mask * LATE, rtol=1e-6)


def test_mask_is_between_zero_and_one():
    mask = ops.convert_to_numpy(AttentionGate()([EARLY, LATE]) / LATE)
    assert np.all((0.0 < mask) & (mask < 1.0)) and np.ptp(mask) > 0.05


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_the_gradient_of_the_trunk_scales_with_the_mask(logit):
    """A bias on `late` gets the mask times the gradient that it would get without a gate."""
    early, late = keras.Input((5, 5, 3)), keras.Input((5, 5, 2))
    bias = keras.layers.EinsumDense("bhwc,cd->bhwd", (5, 5, 2), bias_axes="d", name="trunk")
    gate = saturated(logit)
    gate.trainable = False
    model = keras.Model([early, late], gate([early, bias(late)]))
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, p: ops.mean(y * p, axis=-1))
    before = bias.get_weights()[1]
    up = RNG.normal(size=LATE.shape).astype("float32")
    model.fit([EARLY, LATE], up, batch_size=4, verbose=0)
    gradient = before - bias.get_weights()[1]
    mask = 1.0 / (1.0 + np.exp(-logit / np.sqrt(1.0 + 1e-5)))
    # Means over 4 images, 5 x 5 positions and 2 channels.
    np.testing.assert_allclose(gradient, mask * up.sum(axis=(0, 1, 2)) / 200, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [1, 4])
def test_wrong_number_of_inputs(count):
    with pytest.raises(ValueError, match="two or three tensors.*Received: input_shape="):
        AttentionGate()([keras.Input((5, 5, 2))] * count)


def test_unequal_resolution():
    with pytest.raises(ValueError, match=r"one shape but for their channels.*\(None, 4, 5, 3\)"):
        AttentionGate()([keras.Input((4, 5, 3)), keras.Input((5, 5, 2))])


def test_bad_hidden():
    with pytest.raises(ValueError, match="`hidden` must be .*Received: hidden=0"):
        AttentionGate(hidden=0)
