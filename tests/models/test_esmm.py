"""ESMM: two towers, one product, no loss for the conversion rate itself."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.models.esmm import ESMM

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
CLICK = RNG.integers(0, 2, size=(32, 1))
BOUGHT = RNG.integers(0, 2, size=(32, 1))
Y = {"ctr": CLICK, "ctcvr": CLICK * BOUGHT}


def build(scale=1.0):
    start = keras.initializers.RandomNormal(stddev=scale)
    embedding = [layers.Dense(5, activation="tanh", name="embedding")]
    towers = [layers.Dense(1, kernel_initializer=start, name=name) for name in ("ctr", "cvr")]
    return ESMM(embedding, *towers, inputs=(4,))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-ops.convert_to_numpy(x).astype("float64")))


def moved(model, before):
    """Names of the layers whose weights a step has moved."""
    return {
        layer.name
        for layer in model.layers
        if any(np.any(a != b) for a, b in zip(before[layer.name], layer.get_weights(), strict=True))
    }


def step(model, y, weight=None, loss=None):
    model.compile(keras.optimizers.SGD(0.1), loss=loss)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    model.fit(X, y, sample_weight=weight, batch_size=32, verbose=0)
    return moved(model, before)


def test_the_product_of_two_rates_is_below_both():
    rates = {task: sigmoid(logit) for task, logit in build(scale=3.0)(X).items()}
    np.testing.assert_allclose(rates["ctcvr"], rates["ctr"] * rates["cvr"], rtol=1e-5)
    assert np.all(rates["ctcvr"] <= rates["ctr"]) and np.all(rates["ctcvr"] < rates["cvr"])


def test_loss_is_that_of_the_paper():
    model = build()
    model.compile("sgd")
    logs = model.evaluate(X, Y, batch_size=32, verbose=0, return_dict=True)
    outputs = model(X)
    pctr, pcvr = sigmoid(outputs["ctr"]), sigmoid(outputs["cvr"])

    def bce(y, p):
        return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))

    expected = bce(Y["ctr"], pctr) + bce(Y["ctcvr"], pctr * pcvr)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    assert model.trained_tasks == ["ctcvr", "ctr"]


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_the_conversion_tower_learns_through_the_product_only():
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    clicks_only = {"ctr": logits, "cvr": None, "ctcvr": None}
    assert step(build(), {"ctr": CLICK}, loss=clicks_only) == {"embedding", "ctr"}
    product_only = {"ctr": None, "cvr": None, "ctcvr": logits}
    assert step(build(), {"ctcvr": Y["ctcvr"]}, loss=product_only) == {"embedding", "ctr", "cvr"}


def test_rows_without_a_click_train_the_conversion_tower():
    """Its gradient there is pCTCVR (1 - pCVR) / (1 - pCTCVR), of the logit b, for a label of 0."""
    model, nothing = build(), np.zeros((32, 1))
    outputs, before = model(X), model.get_layer("cvr").get_weights()[1]
    pcvr = sigmoid(outputs["cvr"])
    product = sigmoid(outputs["ctr"]) * pcvr
    step(model, {"ctr": nothing, "ctcvr": nothing})
    gradient = (before - model.get_layer("cvr").get_weights()[1]) / 0.1
    expected = np.mean(product * (1 - pcvr) / (1 - product))
    np.testing.assert_allclose(gradient, expected, rtol=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_loss_and_weights_stay_finite_where_rates_round_to_0_or_1(sign):
    model = build()
    for task in ("ctr", "cvr"):
        model.get_layer(task).bias.assign([200.0 * sign])
    model.compile(keras.optimizers.SGD(1e-3))
    history = model.fit(X, Y, batch_size=32, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][0] > 20.0
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_saving_keeps_the_loss_and_other_losses_can_be_given(tmp_path):
    model = build()
    model.compile("sgd", weighting="uncertainty")
    model.fit(X, Y, batch_size=32, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, kmtl.MultiTaskModel) and loaded.trained_tasks == ["ctcvr", "ctr"]
    np.testing.assert_array_equal(loaded(X)["ctcvr"], model(X)["ctcvr"])
    again = loaded.evaluate(X, Y, batch_size=32, verbose=0)
    np.testing.assert_allclose(again, model.evaluate(X, Y, batch_size=32, verbose=0), rtol=1e-6)


@pytest.mark.parametrize(("ctr", "cvr", "wrong"), [(2, 1, "ctr"), (1, 3, "cvr")])
def test_towers_that_do_not_match(ctr, cvr, wrong):
    with pytest.raises(ValueError, match=rf"`{wrong}_tower` must return one logit.*\(None, [23]\)"):
        ESMM([layers.Dense(3)], layers.Dense(ctr), layers.Dense(cvr), inputs=(4,))


@pytest.mark.parametrize("kind", ["layer", "list", "model"])
def test_towers_that_end_in_an_activation(kind):
    rate = layers.Dense(1, activation="sigmoid")
    model = keras.Sequential([layers.Dense(2, "relu"), rate])
    tower = {"layer": rate, "list": [layers.Dense(2, "relu"), rate], "model": model}[kind]
    with pytest.raises(ValueError, match="`cvr_tower` must .* Received: .*activation='sigmoid'"):
        ESMM([layers.Dense(3)], layers.Dense(1), tower, inputs=(4,))


def test_two_replicas_equal_one(mirrored):
    def trained():
        keras.utils.set_random_seed(3)
        model = build()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        model.fit(X, Y, batch_size=20, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    one = trained()
    with mirrored.scope():
        for a, b in zip(trained(), one, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
