import keras
import numpy as np
import pytest
from keras import ops

import kmtl.export
from kmtl.auxiliary import AuxiliaryTasks, Hint
from tests.auxiliary.small import X, Y, small_model

pytestmark = pytest.mark.both_backends


def mirrored_inputs(x):
    return x * np.array([1.0, 1.0, -1.0, 1.0], "float32")


def attached(model, weighting=None, **kwargs):
    helpers = AuxiliaryTasks([Hint("hint", **kwargs)])
    both = helpers.attach(model)
    arguments = helpers.compile_arguments({"price": "mse"}, weighting=weighting)
    both.compile(keras.optimizers.SGD(0.05), **arguments)
    return both, helpers.add_targets((X, Y))


def hint_loss(both, data):
    return both.evaluate(*data, verbose=0, return_dict=True)["hint_loss"]


def test_losses_are_those_of_the_model_on_both_examples():
    model = small_model()

    def g(x):
        return model.predict(x, verbose=0)["price"]

    both, data = attached(model, kind="invariance", transform=mirrored_inputs)
    expected = np.square(g(X) - g(mirrored_inputs(X))).mean()
    np.testing.assert_allclose(hint_loss(both, data), expected, rtol=1e-5)
    both, data = attached(model, kind="odd")
    np.testing.assert_allclose(hint_loss(both, data), np.square(g(X) + g(-X)).mean(), rtol=1e-5)
    both, data = attached(model, kind="monotone", transform=lambda x: x + 1.0)
    expected = np.square(np.maximum(g(X) - g(X + 1), 0)).mean()
    np.testing.assert_allclose(hint_loss(both, data), expected, rtol=1e-5)
    both, data = attached(model, kind="range", low=0.0, high=0.5)
    outside = np.maximum(-g(X), 0) + np.maximum(g(X) - 0.5, 0)
    np.testing.assert_allclose(hint_loss(both, data), np.square(outside).mean(), rtol=1e-5)
    both, data = attached(model, kind="range", low=0.0, transform=lambda x: 3.0 * x)
    expected = np.square(np.maximum(-g(3 * X), 0)).mean()
    np.testing.assert_allclose(hint_loss(both, data), expected, rtol=1e-5)


@pytest.mark.parametrize("weighting", [None, "uncertainty", "pcgrad"])
def test_the_function_takes_the_hint(weighting):
    model = small_model()
    both, data = attached(model, weighting, kind="invariance", transform=mirrored_inputs)
    before = hint_loss(both, data)
    both.fit(*data, batch_size=24, epochs=60, verbose=0)
    assert hint_loss(both, data) < 0.5 * before
    if weighting is None:
        assert len(both.trainable_variables) == len(model.trainable_variables)
    plain = kmtl.export.fold(both)
    assert list(plain.output) == ["price"] and plain.count_params() == model.count_params()


def test_gradients_of_both_answers():
    """One step equals the step by hand of `mse + (g(x) - g(x'))^2`."""
    model = small_model()
    both, data = attached(model, kind="invariance", transform=mirrored_inputs)
    again = small_model()

    def loss():
        first, second = again(X)["price"], again(mirrored_inputs(X))["price"]
        return ops.mean(ops.square(first - Y["price"])) + ops.mean(ops.square(first - second))

    variables = again.trainable_variables
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return loss()

        gradients = jax.grad(stateless)([v.value for v in variables])
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, [v.value for v in variables])
    expected = [
        np.asarray(v) - 0.05 * np.asarray(g) for v, g in zip(variables, gradients, strict=True)
    ]
    both.fit(*data, batch_size=24, verbose=0)
    for variable, value in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(np.asarray(variable), value, rtol=1e-4, atol=1e-6)


def test_several_inputs_and_tasks():
    inputs = {name: keras.Input((2,), name=name) for name in ("a", "b")}
    h = keras.layers.Concatenate()(list(inputs.values()))
    heads = {task: keras.layers.Dense(1, name=task)(h) for task in ("price", "area")}
    model = keras.Model(inputs, heads)
    swapped = Hint("swap", "invariance", "area", lambda x: {"a": x["b"], "b": x["a"]})
    both = AuxiliaryTasks([swapped]).attach(model)
    x = {"a": X[:, :2], "b": X[:, 2:]}
    found = both.predict(x, verbose=0)["swap"]
    other = model.predict({"a": x["b"], "b": x["a"]}, verbose=0)["area"]
    np.testing.assert_allclose(found[..., 1], other, rtol=1e-5)
    for output in (None, "rent"):
        with pytest.raises(ValueError, match=rf"tasks \['area', 'price'\].*output={output!r}"):
            AuxiliaryTasks([Hint("odd", "odd", output)]).attach(model)


def test_saved_and_loaded(tmp_path):
    both, _ = attached(small_model(), kind="invariance", transform=mirrored_inputs)
    both.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for task, answer in both.predict(X, verbose=0).items():
        np.testing.assert_array_equal(again.predict(X, verbose=0)[task], answer)


def test_errors():
    for kind in ("invariance", "monotone"):
        with pytest.raises(ValueError, match="`transform` must be given with kind"):
            Hint("hint", kind)
    with pytest.raises(ValueError, match="`kind` must be one of"):
        Hint("hint", "even")
