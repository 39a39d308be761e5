import keras
import numpy as np
import pytest
import tensorflow as tf

import kmtl
import kmtl.export
from kmtl.auxiliary import AuxiliaryTasks, InputsAsOutputs
from kmtl.auxiliary.column_noise import ColumnNoise
from kmtl.testing import check_layer
from tests.auxiliary.small import X, Y

pytestmark = pytest.mark.both_backends


def as_outputs(columns=(1,), head=1, **kwargs):
    task = InputsAsOutputs("noisy", columns, keras.layers.Dense(head), features="trunk", **kwargs)
    return AuxiliaryTasks([task])


def reader(width):
    keras.utils.set_random_seed(7)
    x = keras.Input((width,), name="x")
    h = keras.layers.Dense(6, activation="tanh", name="trunk")(x)
    return keras.Model(x, {"price": keras.layers.Dense(1)(h)})


def test_columns_become_labels_and_reach_the_model_no_more():
    x, y = as_outputs([3, 1], 2).add_targets((X, Y))
    np.testing.assert_array_equal(x, X[:, [0, 2]])
    np.testing.assert_array_equal(y["noisy"], X[:, [3, 1]])
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(6, drop_remainder=True)
    mapped = as_outputs([3, 1], 2).add_targets(batches)
    assert mapped.element_spec[0] == tf.TensorSpec((6, 2), tf.float32)
    x, y = next(iter(mapped))
    np.testing.assert_array_equal(x, X[:6, [0, 2]])
    np.testing.assert_array_equal(y["noisy"], X[:6, [3, 1]])


def test_main_answers_do_not_depend_on_the_columns():
    helpers = as_outputs()
    both = helpers.attach(reader(3))
    both.compile("sgd", **helpers.compile_arguments({"price": "mse"}))
    both.fit(*helpers.add_targets((X, Y)), verbose=0)
    changed = X.copy()
    changed[:, 1] += 100.0
    first, second = (both.predict(helpers.tasks[0].inputs(x), verbose=0) for x in (X, changed))
    np.testing.assert_array_equal(second["price"], first["price"])
    plain = kmtl.export.fold(both)
    assert plain.inputs[0].shape == (None, 3) and list(plain.output) == ["price"]


def test_entries_of_a_dict():
    x = {"a": X[:, :2], "b": X[:, 2], "c": X[:, 3:]}
    found, y = as_outputs(["b", "c"], 2).add_targets((x, Y))
    assert list(found) == ["a"]
    np.testing.assert_array_equal(y["noisy"], X[:, 2:])


def noisy_answers(columns, names=None):
    """The trunk's inputs in training, of inputs that are 0."""
    helpers = as_outputs(columns, len(columns), mode="both", noise=2.0)
    inputs = (
        keras.Input((4,), name="x") if names is None else [keras.Input((2,), name=n) for n in names]
    )
    joined = inputs if names is None else keras.layers.Concatenate()(inputs)
    trunk = keras.layers.Dense(4, kernel_initializer="identity", name="trunk")(joined)
    given = inputs if names is None else dict(zip(names, inputs, strict=True))
    both = helpers.attach(keras.Model(given, {"price": trunk}))
    zeros = np.zeros((4000, 4)) if names is None else {n: np.zeros((4000, 2)) for n in names}
    outside = keras.ops.convert_to_numpy(both(zeros, training=False)["price"])
    assert not outside.any() and helpers.tasks[0].inputs(zeros) is zeros
    assert not [x for x in kmtl.export.fold(both).layers if "noise" in x.name]
    return keras.ops.convert_to_numpy(both(zeros, training=True)["price"])


def test_both_reads_the_columns_with_noise():
    answers = noisy_answers([1, 3])
    assert not answers[:, [0, 2]].any()
    np.testing.assert_allclose(answers[:, [1, 3]].std(axis=0), 2.0, rtol=0.1)
    answers = noisy_answers(["b"], names=["a", "b"])
    assert not answers[:, :2].any()
    np.testing.assert_allclose(answers[:, 2:].std(axis=0), 2.0, rtol=0.1)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_noise_layer():
    check_layer(ColumnNoise, {"columns": [0, 2], "stddev": 0.5, "seed": 3}, (5, 4), (5, 4))


def test_noisy_copies_of_the_answer_work_better_as_outputs():
    """The other columns tell the answer exactly: to read the copies is only to fit their noise."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(460, 15)).astype("float32")
    answer = x[:, :10] @ rng.normal(size=(10, 1)) / np.sqrt(10)
    x[:, 10:] = answer + 2.0 * x[:, 10:]
    train, test = np.tile(np.arange(60), 400), slice(60, None)  # 400 steps in one epoch
    labels = {"price": (answer + rng.normal(size=answer.shape))[train]}
    errors = {}
    for mode, width in {"in": 15, "out": 10}.items():
        helpers = as_outputs(range(10, 15), 5, weight=0.25)
        inputs = keras.Input((width,))
        h = keras.layers.Dense(1, name="trunk")(inputs)
        model = keras.Model(inputs, {"price": keras.layers.Dense(1)(h)})
        if mode == "out":
            split = helpers.tasks[0].inputs
            trained, data = helpers.attach(model), helpers.add_targets((x[train], labels))
            arguments = helpers.compile_arguments({"price": "mse"})
        else:
            trained, data, split = (
                kmtl.MultiTaskModel(inputs, model.output),
                (x[train], labels),
                None,
            )
            arguments = {"loss": {"price": "mse"}}
        trained.compile(keras.optimizers.Adam(0.03), **arguments)
        trained.fit(*data, batch_size=60, shuffle=False, verbose=0)
        found = model.predict(split(x[test]) if split else x[test], verbose=0)["price"]
        errors[mode] = np.square(found - answer[test]).mean()
    assert errors["out"] < 0.7 * errors["in"]


def test_errors():
    with pytest.raises(ValueError, match="`mode` must be one of .*mode='in'"):
        as_outputs(mode="in")
    for settings in ({"noise": 1.0}, {"noise": -1.0, "mode": "both"}):
        with pytest.raises(ValueError, match="`noise` must be at least 0"):
            as_outputs(**settings)
    for columns in ([], [1, 1], [1, "a"]):
        with pytest.raises(ValueError, match="`columns` must hold different positions"):
            as_outputs(columns)
    with pytest.raises(ValueError, match=r"among those of the data's inputs, \[0, 1, 2, 3\]"):
        as_outputs([4]).add_targets((X, Y))
    with pytest.raises(ValueError, match=r"inputs, \['a'\]. Received: columns=\['b'\]"):
        as_outputs(["b"]).add_targets(({"a": X}, Y))


@pytest.mark.parametrize("mode", ["out", "both"])
def test_a_head_that_is_too_narrow(mode):
    message = r"`head` must give the shape of what it predicts, \(2,\). Received: \(1,\)"
    with pytest.raises(ValueError, match=message):
        as_outputs([0, 1], mode=mode).attach(reader(4))
    helpers = as_outputs(["b"], mode=mode)
    helpers.attach(reader(4))
    with pytest.raises(ValueError, match=message):
        helpers.add_targets(({"a": X[:, :2], "b": X[:, 2:]}, Y))
