"""Products of the gradients by shared weights: those of the gradients themselves."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.models.step.parting import Parting
from kmtl.weighting import GradientWeighting

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 4)).astype("float32")
Y = {"a": RNG.normal(size=(8, 1)).astype("float32"), "b": RNG.normal(size=(8, 2)).astype("float32")}


@keras.saving.register_keras_serializable(package="kmtl_tests")
class Seen(GradientWeighting):
    """The plain sum; keeps the last Gramian that it saw."""

    def create_state(self, losses):
        self.seen = self.state.add_weight(
            name="seen",
            shape=(2, 2),
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def solve(self, gramian, losses):
        return ops.ones_like(losses)

    def update(self, gramian, losses):
        self.seen.assign(gramian)


def with_heads(x, h):
    return kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(h), "b": layers.Dense(2)(h)})


def more_inputs_than_samples():
    x = keras.Input((4,))
    h = layers.Dense(16, activation="tanh", name="first")(x)
    return with_heads(x, layers.Dense(12, activation="tanh", name="second")(h))


def without_bias():
    x = keras.Input((4,))
    h = layers.Dense(16, activation="tanh", name="first", use_bias=False)(x)
    return with_heads(x, layers.Dense(3, activation="tanh", name="second", use_bias=False)(h))


def used_twice():
    x = keras.Input((4,))
    twice = layers.Dense(4, activation="tanh")
    return with_heads(x, layers.Dense(3, activation="tanh", name="second")(twice(twice(x))))


def convolution():
    x = keras.Input((4,))
    h = layers.Conv1D(3, 2, activation="tanh")(layers.Reshape((4, 1))(x))
    h = layers.Dense(5, activation="tanh")(h)  # on each step of a sequence
    return with_heads(x, layers.Dense(3, activation="tanh", name="second")(layers.Flatten()(h)))


def more_rows_than_samples():
    x = keras.Input((4,))
    h = layers.Dense(6, activation="tanh", name="first")(x)
    h = layers.Dense(6, activation="tanh")(ops.reshape(h, (-1, 2)))
    return with_heads(x, ops.reshape(h, (-1, 18)))


def partly_frozen():
    x = keras.Input((4,))
    h = layers.Dense(16, activation="tanh", trainable=False)(x)
    return with_heads(x, layers.Dense(3, activation="tanh", name="second")(h))


def frozen_bias():
    x = keras.Input((4,))
    first = layers.Dense(16, activation="tanh", name="first")
    h = first(x)
    first.bias.trainable = False
    return with_heads(x, layers.Dense(3, activation="tanh", name="second")(h))


def frozen_kernel():
    x = keras.Input((4,))
    first = layers.Dense(16, activation="tanh", name="first")
    h = first(x)
    first.kernel.trainable = False
    return with_heads(x, layers.Dense(3, activation="tanh", name="second")(h))


def tied_kernels():
    """One kernel of two layers: the products of its gradients have cross terms."""
    x = keras.Input((4,))
    first = layers.Dense(4, activation="tanh", name="first")
    second = layers.Dense(4, activation="tanh", name="second")
    h = second(first(x))
    second._tracker.unlock()
    second._kernel = first._kernel
    second._tracker.lock()
    return with_heads(x, h)


def two_inputs_to_the_heads():
    x = keras.Input((4,))
    first = layers.Dense(16, activation="tanh", name="first")(x)
    second = layers.Dense(16, activation="tanh", name="second")(first)
    tensors = {"a": layers.Dense(1)(second), "b": layers.Dense(2)(layers.add([first, second]))}
    return kmtl.MultiTaskModel(x, tensors)


@pytest.mark.parametrize("scope", ["parameters", "last_shared"])
@pytest.mark.parametrize(
    ("build", "tapped"),
    [
        (more_inputs_than_samples, ["first", "second"]),
        (without_bias, ["first", "second"]),
        (used_twice, ["second"]),
        (convolution, ["second"]),
        (more_rows_than_samples, ["first"]),
        (partly_frozen, ["second"]),
        (frozen_bias, ["first", "second"]),
        (frozen_kernel, ["first", "second"]),
        (two_inputs_to_the_heads, ["first", "second"]),
    ],
)
def test_gramian_is_that_of_the_gradients(build, tapped, scope):
    assert_gramian_is_exact(build, tapped, scope)


def assert_gramian_is_exact(build, tapped, scope):
    keras.utils.set_random_seed(3)
    model, rule = build(), Seen(scope=scope)
    model.compile(keras.optimizers.SGD(0.0), loss="mse", weighting=rule)
    model.fit(X, Y, batch_size=8, verbose=0)
    parting = Parting(model)
    names = [layer.name for layer in parting.dense_layers() if layer.trainable]
    assert names == tapped
    of = parting.last_variables if scope == "last_shared" else parting.trunk_variables
    gradients = model.task_gradients(X, Y)
    jacobian = np.concatenate([gradients[v.path].reshape(2, -1) for v in of], axis=1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(rule.seen), jacobian @ jacobian.T, rtol=1e-4, atol=1e-7
    )


def test_tied_kernels():
    assert_gramian_is_exact(tied_kernels, ["first", "second"], "parameters")
