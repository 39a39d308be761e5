"""BackupAndResume: what it restores, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.callbacks import BackupAndResume, TaskWiseEarlyStopping, backup_files

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype("float32")
Y = {"a": X[:, :1] + 0.1, "b": (X[:, 1] > 0).astype("int32")}
EPOCHS = 3


class Stop(Exception):
    pass


class StopAfter(keras.callbacks.Callback):
    """Raises after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left, self.seen = batches, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)
        self.left -= 1
        if self.left == 0:
            raise Stop


def mixture(seed=4, **kwargs):
    return kmtl.data.TaskMixture({"all": (X, Y)}, batch_size=8, seed=seed, **kwargs)  # 5 steps


def build(weighting="dwa", accumulate=None, steps=1, units=6):
    keras.utils.set_random_seed(1)
    x = keras.Input((5,))
    h = layers.Dropout(0.3)(layers.Dense(units, activation="relu")(x))
    h = layers.BatchNormalization()(h)
    heads = {"a": layers.Dense(1)(h), "b": layers.Dense(2, activation="softmax")(h)}
    model = kmtl.MultiTaskModel(x, heads)
    model.compile(
        keras.optimizers.Adam(0.01, gradient_accumulation_steps=accumulate),
        loss={"a": "mse", "b": "sparse_categorical_crossentropy"},
        metrics={"b": "accuracy"},
        weighting=weighting,
        steps_per_execution=steps,
    )
    return model


def fit(model, folder, every=2, callbacks=(), data=None, epochs=EPOCHS, **kwargs):
    backup = BackupAndResume(folder, every=every)
    data = mixture() if data is None else data
    return model.fit(data, epochs=epochs, verbose=0, callbacks=[backup, *callbacks], **kwargs)


def state(model):
    return [np.array(v.numpy()) for v in [*model.variables, *model.optimizer.variables]]


def check_equal(model, history, expected, expected_history):
    for a, b in zip(state(model), state(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    assert history == expected_history


# First and last batches of epochs, backups at them and between; the others in the nightly run.
@pytest.mark.parametrize(
    "batches",
    [1, *(pytest.param(n, marks=pytest.mark.nightly) for n in (2, 4, 8, 14)), 5, 10, 15],
)
def test_going_on_is_never_having_stopped(batches, tmp_path):
    expected = build()
    expected_history = fit(expected, tmp_path / "expected").history
    with pytest.raises(Stop):
        fit(build(), tmp_path / "stopped", callbacks=[StopAfter(batches)])
    model, counter = build(), StopAfter(100)
    history = fit(model, tmp_path / "stopped", callbacks=[counter]).history
    check_equal(model, history, expected, expected_history)
    assert counter.seen[0] == 2 * ((batches - 1) % 5 // 2)  # where the last backup was made


def test_stopped_twice_in_one_epoch(tmp_path):
    expected = build("uncertainty")
    expected_history = fit(expected, tmp_path / "expected").history
    for batches in (7, 2):
        with pytest.raises(Stop):
            fit(build("uncertainty"), tmp_path / "stopped", callbacks=[StopAfter(batches)])
    model = build("uncertainty")
    history = fit(model, tmp_path / "stopped").history
    check_equal(model, history, expected, expected_history)


def test_accumulated_gradients_and_several_steps_at_a_time(tmp_path):
    expected = build(None, accumulate=3, steps=2)
    expected_history = fit(expected, tmp_path / "expected", every=1).history
    with pytest.raises(Stop):
        fit(
            build(None, accumulate=3, steps=2),
            tmp_path / "stopped",
            every=1,
            callbacks=[StopAfter(5)],
        )
    model = build(None, accumulate=3, steps=2)
    history = fit(model, tmp_path / "stopped", every=1).history
    check_equal(model, history, expected, expected_history)


def test_epochs_of_other_data(tmp_path):
    def train(folder, callbacks=()):
        model = build()
        backup = BackupAndResume(folder)
        arguments = {"batch_size": 8, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
        history = model.fit(X, Y, callbacks=[backup, *callbacks], **arguments).history
        return model, history

    expected = train(tmp_path / "expected")
    with pytest.raises(Stop):
        train(tmp_path / "stopped", [StopAfter(12)])
    check_equal(*train(tmp_path / "stopped"), *expected)


def test_callbacks_go_on_too(tmp_path):
    def callbacks():
        return [
            TaskWiseEarlyStopping(["a"], window=1, threshold=1e-9),
            keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0),
        ]

    validation = X, {"a": Y["a"] + 50.0, "b": Y["b"]}
    expected = build(None)
    arguments = {"validation_data": validation, "epochs": 5}
    history = fit(expected, tmp_path / "expected", callbacks=callbacks(), **arguments).history
    assert expected.stopped_tasks == ["a"] and history["learning_rate"][-1] < 0.01
    with pytest.raises(Stop):
        fit(
            build(None),
            tmp_path / "stopped",
            callbacks=[*callbacks(), StopAfter(18)],
            **arguments,
        )
    model = build(None)
    again = fit(
        model, tmp_path / "stopped", callbacks=[*callbacks(), StopAfter(100)], **arguments
    ).history
    check_equal(model, again, expected, history)


def test_nothing_left_to_do(tmp_path):
    model = build()
    history = fit(model, tmp_path).history
    again, counter = build(), StopAfter(100)
    found = fit(again, tmp_path, callbacks=[counter]).history
    check_equal(again, found, model, history)
    assert counter.seen == []
    assert len(fit(build(), tmp_path, epochs=4).history["loss"]) == 4


def test_an_unreadable_backup_is_passed_over(tmp_path):
    expected = build()
    history = fit(expected, tmp_path).history
    newest = max(tmp_path.glob("step-*.npz"))
    newest.write_bytes(newest.read_bytes()[:-500])
    model = build()
    with pytest.warns(UserWarning, match=f"passed over: {newest.name}"):
        found = fit(model, tmp_path).history
    check_equal(model, found, expected, history)
    for path in tmp_path.glob("step-*.npz"):
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        for i in range(middle, middle + 200):  # more than a header that nothing depends on
            content[i] ^= 255
        path.write_bytes(content)
    with pytest.raises(ValueError, match="A backup must be readable; remove these"):
        fit(build(), tmp_path)


def test_writing_never_harms_the_one_before(tmp_path, monkeypatch):
    backup_files.write(tmp_path, 3, {"x": np.arange(3)}, {"epoch": 0}, keep=1)
    (tmp_path / ".step-000000000009.npz.999999999.part").write_bytes(b"of a process long gone")

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            backup_files.write(tmp_path, 4, {"x": np.arange(4)}, {"epoch": 1}, keep=1)
    arrays, meta = backup_files.read_newest(tmp_path)
    assert arrays["x"].tolist() == [0, 1, 2] and meta == {"epoch": 0}
    backup_files.write(tmp_path, 5, {"x": np.arange(5)}, {"epoch": 2}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000005.npz"]


def test_only_the_newest_are_kept(tmp_path):
    model = build()
    backup = BackupAndResume(tmp_path, every=1, keep=3)
    model.fit(mixture(), epochs=2, verbose=0, callbacks=[backup])
    numbers = sorted(int(path.stem.removeprefix("step-")) for path in tmp_path.iterdir())
    assert numbers == [8, 9, 10]


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="`every` must be"):
        BackupAndResume(tmp_path, every=0)
    with pytest.raises(ValueError, match="`keep` must be at least 1. Received: keep=0"):
        BackupAndResume(tmp_path, keep=0)
    with pytest.raises(ValueError, match="must be a `kmtl.data.TaskMixture`"):
        fit(build(), tmp_path, data=X, y=Y)
    with pytest.raises(ValueError, match="takes labels, weights, batches and steps from"):
        fit(build(), tmp_path, batch_size=4)
    fit(build(), tmp_path, epochs=1)
    with pytest.raises(ValueError, match="Data must be those that the backup was made with"):
        fit(build(), tmp_path, data=mixture(seed=5))
    with pytest.raises(ValueError, match="must be those that the backup was made with"):
        fit(build(units=7), tmp_path)
    with pytest.raises(ValueError, match="must be those that the backup was made with"):
        fit(build(weighting=None), tmp_path)
    x = keras.Input((5,))
    plain = keras.Model(x, layers.Dense(1)(x))
    plain.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="needs a `kmtl.MultiTaskModel`"):
        plain.fit(X, Y["a"], verbose=0, callbacks=[BackupAndResume(tmp_path / "plain")])


def validated(folder, stop_after=None, patience=99, epochs=4):
    """With Keras's early stopping, by a score that is best after the first epoch."""
    model = build()
    best = keras.callbacks.EarlyStopping(
        "val_loss", mode="max", patience=patience, restore_best_weights=True
    )
    callbacks = [best, BackupAndResume(folder)]
    if stop_after:
        callbacks.append(StopAfter(stop_after))
    options = {"validation_data": (X, Y), "shuffle": False, "batch_size": 8, "verbose": 0}
    model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)
    return model


def assert_same_weights(model, expected):
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_early_stopping_restores_weights_from_before_the_stop(tmp_path):
    whole = validated(tmp_path / "whole")
    with pytest.raises(Stop):
        validated(tmp_path / "stopped", stop_after=13)
    assert_same_weights(validated(tmp_path / "stopped"), whole)
    assert_same_weights(validated(tmp_path / "stopped"), whole)  # no epoch is left


def test_what_stopped_early_has_nothing_left_to_do(tmp_path):
    model = validated(tmp_path, patience=1)
    updates = int(model.optimizer.iterations)
    again = validated(tmp_path, patience=1)
    assert int(again.optimizer.iterations) == updates < 20
    assert_same_weights(again, model)


def test_other_steps_per_execution(tmp_path):
    with pytest.raises(Stop):
        fit(build(), tmp_path, every=1, callbacks=[StopAfter(2)])
    with pytest.raises(ValueError, match="`steps_per_execution` must be .* 4, in the backup 1"):
        fit(build(steps=4), tmp_path, every=1)
