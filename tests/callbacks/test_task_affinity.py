"""TaskAffinity: what a step for one task does to another, and that it leaves no trace."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
import kmtl.backend
from kmtl.callbacks.task_affinity import TaskAffinity

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3)).astype("float32")
TARGET = np.sum(X, axis=1, keepdims=True)


def scaled(factor):
    return lambda y, p: factor * ops.mean(ops.square(y - p), axis=-1)


def build(tasks="ab", loss="mse", optimizer=None, dropout=False, **kwargs):
    keras.utils.set_random_seed(1)
    trunk = [layers.Dense(4, activation="tanh", name="low"), layers.Dense(3, name="high")]
    if dropout:
        trunk += [layers.BatchNormalization(name="norm"), layers.Dropout(0.5, name="drop")]
    heads = {task: layers.Dense(1, kernel_initializer="ones", name=task) for task in tasks}
    model = kmtl.models.HardSharing(trunk, heads, inputs=(3,))
    model.compile(optimizer or keras.optimizers.SGD(0.0), loss=loss, **kwargs)
    return model


def measure(model, y, data=None, epochs=1, every=1, learning_rate=1e-3):
    """Of a model that the optimizer leaves where it is, unless another is given."""
    affinity = TaskAffinity((X, y) if data is None else data, every, learning_rate)
    model.fit(X, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=[affinity])
    return affinity


def test_by_hand():
    """One shared weight w and heads fixed at 1: all steps and losses can be written down."""
    x, y = np.array([[2.0]]), {"a": np.array([[5.0]]), "b": np.array([[1.0]])}
    trunk = [layers.Dense(1, use_bias=False, kernel_initializer="ones")]
    heads = {t: layers.Dense(1, kernel_initializer="ones", trainable=False) for t in "ab"}
    model = kmtl.models.HardSharing(trunk, heads, inputs=(1,))
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    affinity = TaskAffinity((x, y), every=1, learning_rate=0.05)
    model.fit(x, y, verbose=0, callbacks=[affinity])
    # Outputs are 2: L_a = 9 with gradient -12, L_b = 1 with gradient 4; w is 1.6 or 0.8 then.
    expected = [[1 - 1.8**2 / 9, 1 - 2.2**2], [1 - 3.4**2 / 9, 1 - 0.6**2]]
    np.testing.assert_allclose(affinity.matrix, expected, rtol=1e-4)
    assert affinity.affinity["b"]["a"] == affinity.matrix[1, 0]


def test_first_order_and_the_task_itself():
    """affinity[i][j] is about learning_rate * g_i . g_j / L_j, and above 0 for i = j."""
    model, y = build(), {"a": TARGET, "b": 2 - TARGET}
    gradients = model.task_gradients(X, y)
    flat = np.concatenate([g.reshape(2, -1) for g in gradients.values()], axis=1)
    logs = model.evaluate(X, y, batch_size=16, verbose=0, return_dict=True)
    losses = np.array([logs["a_loss"], logs["b_loss"]])
    matrix = measure(model, y, learning_rate=1e-3).matrix
    np.testing.assert_allclose(matrix, 1e-3 * flat @ flat.T / losses, rtol=0.1, atol=1e-4)
    assert np.all(np.diagonal(matrix) > 0) and matrix[0, 1] < 0


def test_a_multiple_of_a_loss_gains_what_the_loss_itself_does():
    y = {"a": TARGET, "b": TARGET}
    matrix = measure(build(loss={"a": "mse", "b": scaled(7.0)}), y).matrix
    np.testing.assert_allclose(matrix[0, 1], matrix[0, 0], rtol=1e-3)
    np.testing.assert_allclose(matrix[1, 0], matrix[1, 1], rtol=1e-3)
    assert matrix[1, 0] > 5 * matrix[0, 0]  # its step is seven times as long


def test_tasks_with_nothing_in_common_leave_each_other_alone():
    """Towers behind a cross-stitch unit that is fixed at the identity."""
    heads = {"a": layers.Dense(1), "b": layers.Dense(1)}
    model = kmtl.models.CrossStitchNetwork(
        [layers.Dense(4)], heads, same_init=1.0, different_init=0.0, inputs=(3,)
    )
    model.get_layer("cross_stitch_0").trainable = False
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    matrix = measure(model, {"a": TARGET, "b": -TARGET}).matrix
    assert matrix[0, 1] == matrix[1, 0] == 0.0 and np.all(np.diagonal(matrix) > 0)


def state_of(model):
    """Weights, statistics, random states and the optimizer."""
    kmtl.backend.bring_up_to_date(model)
    return [ops.convert_to_numpy(v) for v in [*model.variables, *model.optimizer.variables]]


class Before(keras.callbacks.Callback):
    """What is there when a step has ended, and callbacks after this one have not run."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(state_of(self.model))


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_measurement_leaves_everything_as_it_was_to_the_bit(optimizer):
    made = {
        "adam": keras.optimizers.Adam(0.01),
        "momentum": keras.optimizers.SGD(0.01, momentum=0.9),
    }[optimizer]
    model = build(dropout=True, optimizer=made)
    before, after = Before(), Before()
    affinity = TaskAffinity((X, {"a": TARGET, "b": -TARGET}), every=2)
    model.fit(
        X,
        {"a": TARGET, "b": -TARGET},
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=[before, affinity, after],
    )
    assert [entry["step"] for entry in affinity.history] == [2, 4, 6, 8]
    for step in (1, 7):
        for a, b in zip(before.states[step], after.states[step], strict=True):
            np.testing.assert_array_equal(b, a)
    assert any(np.any(a != b) for a, b in zip(before.states[1], before.states[2], strict=True))


def test_training_goes_on_as_without_it():
    """Also with what a step draws at random."""
    y, ends = {"a": TARGET, "b": -TARGET}, []
    for watched in (False, True):
        model = build(dropout=True, optimizer=keras.optimizers.Adam(0.01))
        callbacks = [TaskAffinity((X, y), every=1)] if watched else []
        model.fit(X, y, batch_size=4, shuffle=False, verbose=0, callbacks=callbacks)
        ends.append(state_of(model))
    for without, watched in zip(*ends, strict=True):
        np.testing.assert_allclose(watched, without, rtol=1e-4, atol=1e-6)


def test_measuring_draws_no_random_numbers():
    y = {"a": TARGET, "b": -TARGET}
    affinity = measure(build(dropout=True), y, epochs=2)
    one, other = (entry["affinity"] for entry in affinity.history)
    # Statistics of normalisation move between the two, dropout would change far more.
    assert np.all(np.isfinite(one)) and np.abs(one - other).max() < 0.2 * np.abs(one).max()


def test_two_kinds_of_tasks_are_found():
    tasks = {"a": TARGET, "b": TARGET + 0.1, "c": 4 - TARGET, "d": 4.1 - TARGET}
    affinity = measure(build(tasks), tasks)
    groups = kmtl.grouping.select_task_groups(affinity.affinity, budget=2)
    assert groups.groups == {"a+b": ("a", "b"), "c+d": ("c", "d")}


def test_batches_are_taken_in_turn_and_averaged():
    y = {"a": TARGET, "b": -TARGET}
    data = [(X[:8], {t: v[:8] for t, v in y.items()}), (X[8:], {t: v[8:] for t, v in y.items()})]
    affinity = measure(build(), y, data=data, epochs=4)
    first, second, again, _ = (entry["affinity"] for entry in affinity.history)
    assert np.abs(first - second).max() > 1e-5
    np.testing.assert_allclose(first, again, rtol=1e-3)
    np.testing.assert_allclose(affinity.matrix, (first + second) / 2, rtol=1e-6)


def test_a_task_without_labels_in_a_batch_is_not_measured_there():
    y = {"a": TARGET, "b": np.where(np.arange(16)[:, None] < 8, np.nan, TARGET)}
    data = [(X[:8], {t: v[:8] for t, v in y.items()}), (X[8:], {t: v[8:] for t, v in y.items()})]
    affinity = measure(build(missing={"b": float("nan")}), y, data=data, epochs=2)
    first, second = (entry["affinity"] for entry in affinity.history)
    np.testing.assert_array_equal(np.isnan(first), [[False, True], [True, True]])
    np.testing.assert_array_equal(affinity.matrix[:, 1], second[:, 1])


def test_tasks_that_have_stopped_are_not_measured_any_more():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_task("c")

    y = {"a": TARGET, "b": -TARGET, "c": TARGET}
    affinity = TaskAffinity((X, y), every=1, learning_rate=1e-3)
    build("abc").fit(X, y, batch_size=16, epochs=2, verbose=0, callbacks=[Stop(), affinity])
    before, after = (np.isfinite(entry["affinity"]) for entry in affinity.history)
    assert before.all()
    np.testing.assert_array_equal(after, np.outer([1, 1, 0], [1, 1, 0]).astype(bool))


def test_the_optimizer_s_learning_rate_is_the_default():
    y = {"a": TARGET, "b": -TARGET}
    given = measure(build(optimizer=keras.optimizers.SGD(1e-2)), y, learning_rate=1e-2)
    found = measure(build(optimizer=keras.optimizers.SGD(1e-2)), y, learning_rate=None)
    np.testing.assert_allclose(found.matrix, given.matrix, rtol=1e-3)


def test_plot():
    pytest.importorskip("matplotlib")
    affinity = measure(build("abc"), {"a": TARGET, "b": -TARGET, "c": TARGET + 1})
    axes = affinity.plot().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert np.all(np.isnan(np.diagonal(drawn)))
    assert drawn[0, 1] == affinity.matrix[0, 1]
    others = affinity.matrix[~np.eye(3, dtype=bool)]
    assert axes.images[0].get_clim()[1] == pytest.approx(np.abs(others).max())


def test_replicas(mirrored):
    y = {"a": TARGET, "b": 2 - TARGET}
    alone = measure(build(), y).matrix
    with mirrored.scope():
        model = build()
    np.testing.assert_allclose(measure(model, y).matrix, alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "`every` must be an integer >= 1. Received: every=0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive. Received: learning_rate=0.0"),
        ({"data": (X,)}, r"`data` must be `\(x, y\)`.*Received: data of type tuple"),
        ({"data": None}, r"`data` must be `\(x, y\)`.*Received: data of type NoneType"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskAffinity(**{"data": (X, TARGET), **arguments})


def test_models_and_data_that_cannot_be_measured():
    with pytest.raises(ValueError, match="at least two tasks.*'a'"):
        measure(build("a"), {"a": TARGET})
    with pytest.raises(ValueError, match="must have batches"):
        measure(build(), {"a": TARGET, "b": TARGET}, data=[])
    with pytest.raises(ValueError, match="needs at least one measurement"):
        measure(build(), {"a": TARGET, "b": TARGET}, every=5).affinity  # noqa: B018
