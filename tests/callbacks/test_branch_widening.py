"""BranchWidening: what `fit` grows, that it is as by hand, on replicas, and after a stop."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.callbacks import BackupAndResume
from kmtl.callbacks.branch_widening import BranchWidening
from kmtl.models import BranchingModel

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
# So few different inputs that wrong labels, which are the difficult ones, cannot be learned.
X = RNG.choice([-1.0, 1.0], size=(1024, 4)).astype("float32")
HARD = RNG.random((2, 1024)) < 0.25  # labels of these samples are turned round
GROUPS = [["a", "c"], ["b", "d"]]


def flipped(feature, hard):
    return ((X[:, feature] > 0) != HARD[hard]).astype("float32")


# Tasks of a group have their wrong labels at the same samples.
Y = {"a": flipped(0, 0), "b": flipped(1, 1), "c": flipped(2, 0), "d": flipped(3, 1)}


class Stop(Exception):
    pass


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.left = epochs

    def on_epoch_begin(self, epoch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise Stop


def build(weighting=None, optimizer=None, dropout=0.0, norm=True, **kwargs):
    keras.utils.set_random_seed(1)
    stages = [
        [layers.Dense(8, activation="tanh", name="low"), layers.Dropout(dropout, name="drop")],
        [layers.Dense(6, activation="tanh", name="high")],
    ]
    if norm:
        stages[1].append(layers.BatchNormalization(name="norm"))
    heads = {task: layers.Dense(1, activation="sigmoid", name=task) for task in Y}
    model = BranchingModel(stages, heads, inputs=(4,))
    model.compile(
        optimizer or keras.optimizers.Adam(0.05),
        loss="binary_crossentropy",
        weighting=weighting,
        metrics={"a": ["accuracy"]},
        **kwargs,
    )
    return model


def fit(model, *callbacks, epochs=6, batch_size=64):
    return model.fit(
        X, Y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks]
    )


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [ops.convert_to_numpy(ops.convert_to_tensor(v)) for v in variables]


def nightly(*values):
    return [pytest.param(value, marks=pytest.mark.nightly) for value in values]


@pytest.mark.parametrize("jit_compile", [False, *nightly(True)])
@pytest.mark.parametrize("weighting", [*nightly(None, "uncertainty"), "mgda"])
def test_it_widens_during_fit(weighting, jit_compile):
    model = build(weighting, jit_compile=jit_compile)
    widening = BranchWidening((X, Y), every=4)
    history = fit(model, widening, epochs=9).history
    first, second = widening.history
    assert [first["epoch"], second["epoch"]] == [3, 7]
    assert [first["stage"], second["stage"]] == [1, 0]
    assert first["grouping"] == GROUPS
    assert first["affinity"]["a"]["c"] > 0.9 > 0.7 > first["affinity"]["a"]["b"]
    names = {layer.name for layer in model.layers}
    assert {"high", "high_1"} <= names and "high_2" not in names
    assert int(model.optimizer.iterations) == 9 * 16
    assert len(history["loss"]) == len(history["a_accuracy"]) == 9
    high, copy = (model.get_layer(name).get_weights()[0] for name in ("high", "high_1"))
    assert np.abs(high - copy).max() > 1e-4


def test_it_is_the_steps_by_hand():
    """Also of the losses: one `fit` is the same as several, with the model widened in between."""
    one, widening = build(), BranchWidening((X, Y), every=2)
    history = fit(one, widening, epochs=5).history
    other, losses = build(), []
    for epochs in (2, 2, 1):
        losses += fit(other, epochs=epochs).history["loss"]
        if other.tree.active is not None:
            other.widen(other.propose(other.affinity((X, Y))))
    assert one.tree == other.tree
    for a, b in zip(values(one), values(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)


def test_widening_does_not_show_in_the_loss():
    """The same steps at a learning rate of 0, where only widening could change anything."""
    model = build(optimizer=keras.optimizers.SGD(0.0))
    model.get_layer("norm").momentum = 1.0
    history = fit(model, BranchWidening((X, Y), separation_weight=1e6), epochs=3).history["loss"]
    assert model.tree.active is None
    np.testing.assert_allclose(history, history[:1] * 3, rtol=1e-5)


def test_it_ends_where_no_branch_pays():
    model, widening = build(), BranchWidening((X, Y), separation_weight=0.5)
    fit(model, widening, epochs=3)
    assert [entry["grouping"] for entry in widening.history] == [[["a", "b", "c", "d"]]]
    assert model.tree.active is None and "high_1" not in {x.name for x in model.layers}


def test_validation_and_earlier_functions_see_the_new_model():
    model, widening = build(), BranchWidening((X, Y), every=1)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    history = model.fit(
        X, Y, epochs=4, verbose=0, callbacks=[widening], validation_data=(X, Y)
    ).history
    assert len(history["val_loss"]) == 4
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)["loss"]
    assert history["val_loss"][-1] == pytest.approx(expected, rel=1e-5)
    assert history["val_loss"][-1] < history["val_loss"][0]
    predicted = model.predict(X, verbose=0)["c"]
    np.testing.assert_allclose(predicted, model(X)["c"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epochs", [*nightly(1, 5), 3])
def test_going_on_is_never_having_stopped(epochs, tmp_path):
    """Stopped before the first widening, between two, and after the last."""

    def run(folder, model, *callbacks):
        widening = BranchWidening((X, Y), every=2)
        backup = BackupAndResume(tmp_path / folder)
        history = fit(model, backup, widening, *callbacks)
        return history.history, widening.history

    def fresh():
        return build("uncertainty", dropout=0.3)

    expected = fresh()
    expected_histories = run("expected", expected)
    with pytest.raises(Stop):
        run("stopped", fresh(), StopAfter(epochs))
    model = fresh()
    histories = run("stopped", model)
    assert histories == expected_histories
    assert model.tree == expected.tree
    for a, b in zip(values(model), values(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("weighting", [*nightly(None, "uncertainty"), "pcgrad"])
def test_two_replicas_equal_one(weighting, mirrored):
    def run():
        model = build(weighting, keras.optimizers.SGD(0.3, momentum=0.9), norm=False)
        widening = BranchWidening((X, Y), every=4)
        history = fit(model, widening, epochs=5, batch_size=100).history
        return widening.history, history, values(model)

    (decisions, history, weights) = run()
    with mirrored.scope():
        decisions2, history2, weights2 = run()
    groupings = [entry["grouping"] for entry in decisions]
    assert [entry["grouping"] for entry in decisions2] == groupings == [GROUPS]
    for a, b in zip(weights, weights2, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    for name in history:
        np.testing.assert_allclose(history2[name], history[name], rtol=1e-4, err_msg=name)


def test_other_models():
    model = kmtl.models.HardSharing([layers.Dense(2)], {"a": layers.Dense(1)}, inputs=(4,))
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="needs a `kmtl.models.BranchingModel`. Received: Multi"):
        model.fit(X, {"a": Y["a"]}, verbose=0, callbacks=[BranchWidening((X, Y))])


def test_tasks_without_a_loss():
    model = build()
    model.compile("sgd", loss={"a": "mse", "b": "mse", "c": None, "d": None})
    with pytest.raises(ValueError, match=r"needs a loss for every task.*losses of \['a', 'b'\]"):
        model.fit(X, Y, verbose=0, callbacks=[BranchWidening((X, Y))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": None}, r"`data` must be `\(x, y\)`.*Received: data of type NoneType"),
        ({"data": (X,)}, "Received: data of type tuple"),
        ({"every": 0}, "`every` must be an integer >= 1. Received: every=0"),
        ({"unit_cost": -1.0}, "`unit_cost` must be at least 0. Received: unit_cost=-1.0"),
        ({"separation_weight": float("nan")}, "`separation_weight` must be at least 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        BranchWidening(**{"data": (X, Y), **arguments})


@pytest.mark.parametrize("batch", [(X, {"a": Y["a"]}), (X, {**Y, "e": Y["a"]}), (X, Y["a"])])
def test_data_without_the_tasks_are_refused_before_a_step(batch):
    for data in (batch, [batch]):
        model = build()
        with pytest.raises(
            ValueError, match=r"`data` must have labels of .*, \['a', 'b', 'c', 'd'"
        ):
            fit(model, BranchWidening(data))
        assert int(model.optimizer.iterations) == 0


def test_batches_that_can_be_read_once_are_not_read_early():
    widening = BranchWidening(iter([(X, Y)]), every=1)
    fit(build(), widening, epochs=1)
    assert len(widening.history) == 1
