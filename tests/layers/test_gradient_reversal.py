import keras
import numpy as np
import pytest
from keras import ops

import kmtl

pytestmark = pytest.mark.both_backends

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
UPSTREAM = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")


def gradient(function, x=X, upstream=UPSTREAM, jit=False):
    """Gradient of `sum(upstream * function(x))` with respect to `x`."""

    def loss(x):
        return ops.sum(upstream * function(x))

    if keras.backend.backend() == "jax":
        import jax

        derivative = jax.grad(loss)
        return np.asarray((jax.jit(derivative) if jit else derivative)(ops.convert_to_tensor(x)))

    import tensorflow as tf

    def derivative(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(x)
        return tape.gradient(value, x)

    derivative = tf.function(derivative, jit_compile=True) if jit else derivative
    return derivative(tf.convert_to_tensor(x)).numpy()


def reversal(strength=1.0, **kwargs):
    layer = kmtl.layers.GradientReversal(strength, **kwargs)
    layer.build((None, 4))
    return lambda x: layer(x, training=True)


def test_forward_is_the_input_bit_for_bit():
    x = np.concatenate([X, [[np.inf, -np.inf, -0.0, 1e-45]]]).astype("float32")
    for training in (True, False):
        y = kmtl.layers.GradientReversal(0.3)(x, training=training)
        assert ops.convert_to_numpy(y).tobytes() == x.tobytes()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.3, 2.5])
def test_gradient_is_minus_strength_times_upstream(strength, jit):
    expected = -np.float32(strength) * UPSTREAM
    np.testing.assert_array_equal(gradient(reversal(strength), jit=jit), expected)


def test_two_reversals_restore_the_gradient():
    first, second = reversal(), reversal()
    np.testing.assert_array_equal(gradient(lambda x: second(first(x))), UPSTREAM)


def test_zero_strength_blocks_the_gradient_with_zeros():
    np.testing.assert_array_equal(gradient(reversal(0.0)), np.zeros((3, 4)))


def test_not_training_leaves_input_and_gradient_alone():
    layer = kmtl.layers.GradientReversal()
    x = ops.convert_to_tensor(X)
    assert layer(x, training=False) is x
    np.testing.assert_array_equal(gradient(lambda x: layer(x, training=False)), UPSTREAM)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(dtype):
    reverse = reversal(0.5, dtype=dtype)
    half = ops.cast(UPSTREAM, dtype.removeprefix("mixed_"))

    def function(x):
        y = reverse(x)
        assert keras.backend.standardize_dtype(y.dtype) == dtype.removeprefix("mixed_")
        return ops.cast(y, "float32")

    expected = -0.5 * ops.convert_to_numpy(ops.cast(half, "float32"))
    np.testing.assert_array_equal(gradient(function), expected)


def adversary(between):
    trunk = keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")
    head = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    inputs = keras.Input((4,))
    return keras.Model(inputs, head(between(trunk(inputs)))), trunk, head


def test_one_descent_trains_the_head_and_untrains_the_trunk():
    """The head descends at full rate; the trunk ascends, `strength` times as fast."""
    steps = []
    for between in (keras.layers.Identity(), kmtl.layers.GradientReversal()):
        model, *layers = adversary(between)
        model.compile(keras.optimizers.SGD(0.1), loss="mse")
        before = [layer.get_weights()[0] for layer in layers]
        x, y = np.zeros((3, 4)), np.ones((3, 1))
        model.fit(x, y, batch_size=3, verbose=0)  # compiles the step; the gradient is zero
        if isinstance(between, kmtl.layers.GradientReversal):
            between.strength_variable.assign(0.25)
        model.fit(X, y, batch_size=3, verbose=0)
        steps.append([layer.get_weights()[0] - w for layer, w in zip(layers, before, strict=True)])
    (trunk, head), (reversed_trunk, reversed_head) = steps
    np.testing.assert_allclose(reversed_head, head, rtol=1e-5)
    np.testing.assert_allclose(reversed_trunk, -0.25 * trunk, rtol=1e-4, atol=1e-7)


def test_strength_in_force_is_saved(tmp_path):
    reverse = kmtl.layers.GradientReversal(name="reverse")
    model, *_ = adversary(reverse)
    reverse.strength_variable.assign(0.75)
    model.save(tmp_path / "model.keras")
    layer = keras.saving.load_model(tmp_path / "model.keras").get_layer("reverse")
    assert float(layer.strength_variable) == 0.75
    assert layer.strength == 1.0


def test_negative_strength():
    with pytest.raises(ValueError, match="`strength` must be at least 0. Received: strength=-1"):
        kmtl.layers.GradientReversal(-1.0)
