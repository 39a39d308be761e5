import keras
import numpy as np
import pytest

import kmtl
from kmtl.auxiliary import AdversarialTask, AuxiliaryTask, AuxiliaryTasks, domain_data
from tests.auxiliary.small import X, small_model

pytestmark = pytest.mark.both_backends


def head(units=1):
    activation = "sigmoid" if units == 1 else "softmax"
    return keras.layers.Dense(units, activation, kernel_initializer="ones")


def one_step(task):
    """How one step on the domain alone moves trunk and head."""
    model, helpers = small_model(), AuxiliaryTasks([task])
    both = helpers.attach(model)
    arguments = helpers.compile_arguments({"price": "mse"}, missing={"price": -1.0})
    both.compile(keras.optimizers.SGD(0.1), **arguments)
    layers = [model.get_layer("trunk"), task.head]
    before = [layer.get_weights()[0] for layer in layers]
    labels = {"price": np.full((24, 1), -1.0), "where": (np.arange(24) % 3 == 0) * 1}
    both.fit(*helpers.add_targets((X, labels)), batch_size=24, verbose=0)
    return [layer.get_weights()[0] - w for layer, w in zip(layers, before, strict=True)]


def test_the_head_learns_and_the_trunk_unlearns():
    plain = AuxiliaryTask("domain", "where", head(), "crossentropy", "trunk", weight=0.5)
    trunk, top = one_step(plain)
    task = AdversarialTask("domain", "where", head(), "trunk", strength=0.25, weight=0.5)
    reversed_trunk, same_top = one_step(task)
    np.testing.assert_allclose(same_top, top, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(reversed_trunk, -0.25 * trunk, rtol=1e-3, atol=1e-7)
    assert np.abs(trunk).max() > 1e-4


def shifted_domains():
    """The label is the sign of column 0; column 1 says it too, but in the source only."""
    rng = np.random.default_rng(5)
    source, target = rng.normal(size=(2, 256, 3)).astype("float32")
    source[:, 1] = np.sign(source[:, 0]) * np.abs(source[:, 1]) + 2.0 * np.sign(source[:, 0])
    target[:, 1] -= 4.0
    return source, target, (source[:, 0] > 0) * 1, (target[:, 0] > 0) * 1


def adapted(strength):
    """Target accuracy and domain accuracy after training."""
    source, target, labels, target_labels = shifted_domains()
    keras.utils.set_random_seed(1)
    x = keras.Input((3,))
    h = keras.layers.Dense(4, name="trunk")(x)
    model = keras.Model(x, {"sign": keras.layers.Dense(1, activation="sigmoid")(h)})
    domain = keras.Sequential([keras.layers.Dense(8, "relu"), head()])
    helpers = AuxiliaryTasks([AdversarialTask("domain", "domain", domain, "trunk", strength)])
    both = helpers.attach(model)
    arguments = helpers.compile_arguments(
        {"sign": "crossentropy"}, metrics={"sign": "accuracy"}, missing={"sign": -1}
    )
    both.compile(keras.optimizers.Adam(0.01), **arguments)
    data = helpers.add_targets(
        domain_data((source, {"sign": labels}), target, missing={"sign": -1})
    )
    many = keras.tree.map_structure(lambda a: np.concatenate([a] * 60), data)
    both.fit(*many, batch_size=64, shuffle=False, verbose=0)
    found = both.evaluate(*data, verbose=0, return_dict=True)
    right = (model.predict(target, verbose=0)["sign"][:, 0] > 0.5) == target_labels
    return right.mean(), found["domain_accuracy"]


def test_hiding_the_domain_helps_where_there_are_no_labels():
    plain_accuracy, seen = adapted(0.0)
    accuracy, hidden = adapted(1.0)
    assert seen > 0.8 and abs(hidden - 0.5) < abs(seen - 0.5)
    assert accuracy > plain_accuracy + 0.05


def test_several_domains():
    x, y = domain_data((X, {"price": X[:, :1]}), X + 1, X - 1, missing={"price": np.nan})
    helpers = AuxiliaryTasks([AdversarialTask("domain", "domain", head(3), "trunk")])
    both = helpers.attach(small_model())
    both.compile("sgd", **helpers.compile_arguments({"price": "mse"}, missing={"price": np.nan}))
    schedule = kmtl.callbacks.GradientReversalSchedule()
    history = both.fit(*helpers.add_targets((x, y)), callbacks=[schedule], verbose=0).history
    assert history["gradient_reversal_strength"][0] > 0
    assert 0 <= history["domain_accuracy"][0] <= 1


def test_domain_data_alternates_and_repeats_the_shorter():
    source = {"a": np.arange(4.0), "b": np.arange(8.0).reshape(4, 2)}
    target = {"a": np.arange(10.0, 13.0), "b": np.zeros((3, 2))}
    labels = {"kind": np.arange(4), "size": np.arange(4.0)}
    missing = {"kind": -1, "size": np.nan}
    x, y = domain_data((source, labels), (target, {"size": np.full(3, 7.0)}), missing=missing)
    np.testing.assert_array_equal(y["domain"], [0, 1] * 4)
    np.testing.assert_array_equal(x["a"][0::2], y["kind"][0::2])  # rows stay together
    np.testing.assert_array_equal(x["b"][0::2, 0], 2 * x["a"][0::2])
    assert sorted(x["a"][0::2]) == [0, 1, 2, 3]
    assert set(x["a"][1:7:2]) == {10, 11, 12} and x["a"][7] in (10, 11, 12)
    np.testing.assert_array_equal(y["kind"][1::2], -1)
    np.testing.assert_array_equal(y["size"][1::2], 7.0)


@pytest.mark.parametrize("training", [True, False])
def test_domains_that_the_head_cannot_tell_apart(training):
    labels = {"price": X[:, :1], "where": np.arange(24) % 3}
    for units in (1, 2):
        helpers = AuxiliaryTasks([AdversarialTask("domain", "where", head(units), "trunk")])
        helpers.attach(small_model())
        with pytest.raises(ValueError, match=r"from 0 to 1, .*Received: \[0, 1, 2\]"):
            helpers.add_targets((X, labels), training)
        some = AdversarialTask("domain", "where", head(units), "trunk", missing=2)
        AuxiliaryTasks([some]).attach(small_model())
        assert some.targets(X, labels)["domain"] is labels["where"]


def test_a_head_without_probabilities():
    logits = keras.layers.Dense(1)
    for top in (logits, keras.Sequential([keras.layers.Dense(2, "relu"), logits])):
        with pytest.raises(ValueError, match="`head` must end in probabilities"):
            AdversarialTask("domain", "domain", top, "trunk")
    constant = AdversarialTask("domain", "domain", keras.layers.Dense(1, "softmax"), "trunk")
    with pytest.raises(ValueError, match="Received: one output with a softmax for 'domain'"):
        AuxiliaryTasks([constant]).attach(small_model())
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    AdversarialTask("domain", "domain", logits, "trunk", loss=loss)


def test_errors():
    with pytest.raises(ValueError, match="`strength` must be at least 0"):
        AdversarialTask("domain", "domain", head(), "trunk", strength=-1.0)
    labelled = (X, {"price": np.arange(24)})
    with pytest.raises(ValueError, match="at least one other domain"):
        domain_data(labelled)
    with pytest.raises(ValueError, match="missing=None, without 'price'"):
        domain_data(labelled, X)
    with pytest.raises(ValueError, match="whole number where labels are. Received: nan"):
        domain_data(labelled, X, missing={"price": np.nan})
    unsigned = (X, {"price": np.arange(24, dtype="uint8")})
    with pytest.raises(ValueError, match="can hold. Received: -1 for 'price', of uint8"):
        domain_data(unsigned, X, missing={"price": -1})
    with pytest.raises(ValueError, match=r"equal shapes. .* in domain 1"):
        domain_data(labelled, X[:, :2], missing={"price": -1})
