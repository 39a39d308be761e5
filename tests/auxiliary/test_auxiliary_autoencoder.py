import keras
import numpy as np
import pytest

from kmtl.auxiliary import AuxiliaryAutoencoder, AuxiliaryTasks
from tests.auxiliary.small import X, Y, small_model

pytestmark = pytest.mark.both_backends


def trained(task, model, x=X, y=Y, epochs=1, learning_rate=0.0):
    helpers = AuxiliaryTasks([task])
    both = helpers.attach(model)
    arguments = helpers.compile_arguments({"price": "mse"}, missing={"price": -9.0})
    both.compile(keras.optimizers.Adam(learning_rate), **arguments)
    history = both.fit(
        *helpers.add_targets((x, y)), batch_size=24, epochs=epochs, shuffle=False, verbose=0
    )
    return both, history.history["rebuilt_loss"]


def test_inputs_are_rebuilt_without_main_labels():
    task = AuxiliaryAutoencoder("rebuilt", keras.layers.Dense(4), "trunk")
    labels = {"price": np.full((24, 1), -9.0)}
    both, losses = trained(task, small_model(), y=labels, epochs=60, learning_rate=0.05)
    assert losses[-1] < 0.1 * losses[0]
    rebuilt = both.predict(X, verbose=0)["rebuilt"]
    assert np.square(rebuilt - X).mean() < 0.1 * np.square(X).mean()


def test_one_of_several_inputs():
    inputs = {name: keras.Input((2,), name=name) for name in ("a", "b")}
    h = keras.layers.Concatenate(name="trunk")(list(inputs.values()))
    model = keras.Model(inputs, {"price": keras.layers.Dense(1)(h)})
    x = {"a": X[:, :2], "b": X[:, 2:]}
    task = AuxiliaryAutoencoder("rebuilt", keras.layers.Dense(2), "trunk", of="b", loss="mae")
    both, losses = trained(task, model, x)
    expected = np.abs(both.predict(x, verbose=0)["rebuilt"] - x["b"]).mean()
    np.testing.assert_allclose(losses[0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"several inputs, \['a', 'b'\]. Received: of=None"):
        AuxiliaryTasks([AuxiliaryAutoencoder("r", keras.layers.Dense(2), "trunk")]).attach(model)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
def test_features_are_a_fixed_aim():
    """Of a layer the loss is that of the difference, and the layer is not drawn to it."""

    def model():
        keras.utils.set_random_seed(2)
        x = keras.Input((4,))
        early = keras.layers.Dense(3, name="early")(x)
        late = keras.layers.Dense(2, name="late")(keras.ops.stop_gradient(early))
        return keras.Model(x, {"price": keras.layers.Dense(1)(late)})

    made = model()
    task = AuxiliaryAutoencoder("rebuilt", keras.layers.Dense(3), "late", of="early")
    both, losses = trained(task, made)
    parts = keras.Model(made.input, {n: made.get_layer(n).output for n in ("early", "late")})
    found = parts.predict(X, verbose=0)
    rebuilt = keras.ops.convert_to_numpy(task.decoder(found["late"]))
    np.testing.assert_allclose(losses[0], np.square(rebuilt - found["early"]).mean(), rtol=1e-5)
    early, late = (made.get_layer(n).get_weights()[0] for n in ("early", "late"))
    task = AuxiliaryAutoencoder("rebuilt", keras.layers.Dense(3), "late", of="early")
    changed = model()
    trained(task, changed, y={"price": np.full((24, 1), -9.0)}, learning_rate=0.05)
    np.testing.assert_array_equal(changed.get_layer("early").get_weights()[0], early)
    assert (changed.get_layer("late").get_weights()[0] != late).any()


def test_a_decoder_of_another_shape():
    with pytest.raises(ValueError, match=r"`decoder` must .* predicts, \(4,\). Received: \(3,\)"):
        task = AuxiliaryAutoencoder("rebuilt", keras.layers.Dense(3), "trunk")
        AuxiliaryTasks([task]).attach(small_model())


def test_an_unknown_layer_of_names_the_argument():
    task = AuxiliaryAutoencoder("rebuilt", keras.layers.Dense(4), "trunk", of="z")
    with pytest.raises(ValueError, match="`of` must name a layer of .*Received: of='z'"):
        AuxiliaryTasks([task]).attach(small_model())
