import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl import backend
from kmtl.layers.crf import CRF
from kmtl.losses.crf_loss import CRFLoss
from kmtl.metrics.crf_accuracy import CRFAccuracy
from kmtl.ops.linear_chain import log_normalizer, sequence_score, split_outputs

pytestmark = pytest.mark.both_backends

JIT = keras.backend.backend() == "jax"
NAN = float("nan")
RNG = np.random.default_rng(0)
ROWS, STEPS, TAGS, FEATURES = 12, 5, 3, 4
X = RNG.normal(size=(ROWS, STEPS, FEATURES)).astype("float32")
LENGTHS = np.array([5, 3, 1, 0, 5, 4, 2, 0, 5, 1, 3, 5])
PADDED = np.arange(STEPS) >= LENGTHS[:, None]
TRUE = RNG.integers(0, TAGS, size=(ROWS, STEPS))
Y = np.where(PADDED, -1, TRUE)
OUTPUTS = RNG.normal(size=(ROWS, STEPS + TAGS + 2, TAGS)).astype("float32")


def by_hand(outputs, weights=1.0):
    """The mean over labelled sequences with a weight."""
    weights = np.broadcast_to(weights, ROWS)
    potentials = split_outputs(outputs)
    values = log_normalizer(*potentials, LENGTHS) - sequence_score(*potentials, TRUE, LENGTHS)
    counted = (LENGTHS > 0) & (weights != 0)
    return np.sum(ops.convert_to_numpy(values) * weights * counted) / np.sum(counted)


def with_gradient(loss, y, outputs):
    def function(tensors):
        return [loss(y, tensors[0])], None

    (value,), _, pull = backend.linearize(function, [], [ops.convert_to_tensor(outputs)])
    return float(value), ops.convert_to_numpy(pull([ops.ones_like(value)])[1][0])


def tagger(base=kmtl.MultiTaskModel, steps=STEPS, missing=-1, **compile_args):
    keras.utils.set_random_seed(1)
    x = keras.Input((steps, FEATURES))
    model = base(x, {"tags": CRF(TAGS, transition_initializer="glorot_uniform")(x)})
    compile_args = {"jit_compile": JIT, **compile_args}
    model.compile(keras.optimizers.SGD(0.5), loss={"tags": CRFLoss(missing)}, **compile_args)
    return model


def test_number_of_sequences():
    # With scores of zero all sequences are equally likely.
    value = CRFLoss()(Y, np.zeros_like(OUTPUTS))
    labelled = LENGTHS[LENGTHS > 0]
    np.testing.assert_allclose(float(value), np.log(3) * labelled.mean(), rtol=1e-6)


@pytest.mark.parametrize("missing", [-1, NAN, -7.5])
def test_mean_over_labelled_sequences(missing):
    y = np.where(PADDED, missing, TRUE)
    np.testing.assert_allclose(float(CRFLoss(missing)(y, OUTPUTS)), by_hand(OUTPUTS), rtol=1e-5)
    for base in (keras.Model, kmtl.MultiTaskModel):
        model = tagger(base, missing=missing)
        expected = by_hand(model.predict(X, verbose=0)["tags"])
        logs = model.evaluate(X, {"tags": y}, batch_size=ROWS, verbose=0, return_dict=True)
        np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_what_is_missing_has_no_part():
    loss = CRFLoss()
    value, gradient = with_gradient(loss, Y, OUTPUTS)
    other = OUTPUTS.copy()
    other[:, :STEPS][PADDED] = np.nan
    other[LENGTHS == 0] = 50.0
    again, same = with_gradient(loss, Y, other)
    np.testing.assert_allclose(again, value, rtol=1e-6)
    np.testing.assert_allclose(same, gradient, rtol=1e-5, atol=1e-7)
    assert (gradient[LENGTHS == 0] == 0).all() and (gradient[:, :STEPS][PADDED] == 0).all()
    assert (gradient[:, :STEPS][~PADDED] != 0).all()
    value, gradient = with_gradient(loss, np.full_like(Y, -1), OUTPUTS)
    assert value == 0 and (gradient == 0).all()


def test_sequences_of_weight_0_count_as_missing_and_others_are_weighted():
    weights = np.where(np.arange(ROWS) % 3 == 0, 0, 1 + np.arange(ROWS) / 4).astype("float32")
    model = tagger()
    logs = model.evaluate(
        X, {"tags": Y}, sample_weight=weights, batch_size=ROWS, verbose=0, return_dict=True
    )
    expected = by_hand(model.predict(X, verbose=0)["tags"], weights)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_a_certain_sequence_has_no_negative_loss():
    outputs = np.round(3e4 * OUTPUTS) / 7
    best = CRF.decode_numpy(outputs)
    values, _ = CRFLoss().per_label(best, ops.convert_to_tensor(outputs))
    values = ops.convert_to_numpy(values)
    assert (values >= 0).all() and values.max() < 0.1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_trains_with_any_number_of_steps(jit_compile):
    steps = STEPS if jit_compile else None
    model = tagger(steps=steps, jit_compile=JIT or jit_compile, metrics={"tags": CRFAccuracy()})
    losses = [model.fit(X, {"tags": Y}, verbose=0, epochs=2).history["loss"][-1] for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]
    if steps is None:  # from the second number of steps on, TensorFlow has one graph for all
        rows = LENGTHS == 1
        values = [
            model.evaluate(X[rows, :n], {"tags": Y[rows, :n]}, verbose=0) for n in (STEPS, 3, 1)
        ]
        np.testing.assert_allclose(values, [values[0]] * 3, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["uncertainty", "pcgrad"])
def test_beside_another_task_with_a_weighting(weighting, tmp_path):
    x = keras.Input((STEPS, FEATURES))
    h = layers.Dense(8, activation="tanh")(x)
    mass = layers.Dense(1)(layers.GlobalAveragePooling1D()(h))
    model = kmtl.MultiTaskModel(x, {"tags": CRF(TAGS)(h), "mass": mass})
    model.compile(
        keras.optimizers.Adam(0.01),
        loss={"tags": CRFLoss(), "mass": "mse"},
        metrics={"tags": [CRFAccuracy()]},
        missing={"mass": -1.0},
        weighting=weighting,
        jit_compile=JIT,
    )
    labels = {"tags": Y, "mass": X.mean(axis=(1, 2))[:, None]}
    history = model.fit(X, labels, batch_size=ROWS, epochs=5, verbose=0).history
    assert history["tags_loss"][-1] < history["tags_loss"][0]
    assert 0 < history["tags_crf_accuracy"][-1] <= 1
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before, after = (m.evaluate(X, labels, verbose=0, return_dict=True) for m in (model, loaded))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, err_msg=name)


def test_two_replicas_equal_one(mirrored):
    def train():
        model = tagger()
        history = model.fit(X, {"tags": Y}, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return history.history["loss"], *model.get_weights()

    one = train()
    with mirrored.scope():
        two = train()
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            [0, 1, 3, 0, 0],
            "whole numbers from 0 to 2, or missing=-1.*1 others.* 3 in row 1, step 2",
        ),
        ([0, -2, 1, 0, 0], "whole numbers.* -2 in row 1, step 1"),
        ([0, 0.5, 1, 0, 0], "whole numbers.* 0.5 in row 1, step 1"),
        ([0, NAN, 1, 0, 0], "whole numbers.* nan in row 1, step 1"),
        ([0, -1, 1, 2, -1], "first missing=-1 there must be no more labels.* 1 in row 1, step 2"),
        ([-1, 0, 1, 2, 2], "first missing=-1 there must be no more labels.* 0 in row 1, step 1"),
    ],
)
def test_labels_that_are_not_allowed(row, message):
    y = np.array([[0, 1, 2, -1, -1], row, [0, 0, 0, 0, 0]])
    for check in (CRFLoss(), CRFAccuracy()):
        with pytest.raises(ValueError, match=message):
            check(y, OUTPUTS[:3])
    with pytest.raises(FloatingPointError, match="finite losses.*loss"):
        tagger().fit(X[:3], {"tags": y}, verbose=0)

    tensors = ops.convert_to_tensor(y.astype("float32")), ops.convert_to_tensor(OUTPUTS[:3])
    (values, present), _ = backend.compiled(CRFLoss().per_label, [], by_xla=False)(*tensors)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])
    assert ops.convert_to_numpy(present).all()


@pytest.mark.parametrize(
    ("labels", "outputs", "message"),
    [
        (Y[:, :4], OUTPUTS, r"labels \(12, 4\), outputs \(12, 10, 3\)"),
        (Y[:, :1], OUTPUTS, r"labels \(12, 1\)"),
        (Y[:3], OUTPUTS, r"labels \(3, 5\)"),
        (Y[:, :, None], OUTPUTS, r"labels \(12, 5, 1\)"),
        (Y, OUTPUTS[:, 0], r"outputs \(12, 3\)"),
    ],
)
def test_shapes_that_do_not_fit(labels, outputs, message):
    for check in (CRFLoss(), CRFAccuracy()):
        with pytest.raises(ValueError, match="Labels must be of shape.*" + message):
            check(labels, outputs)


@pytest.mark.parametrize("missing", [0, 2, 2.0, True, None, "pad"])
def test_a_marker_that_could_be_a_tag(missing):
    for cls in (CRFLoss, CRFAccuracy):
        with pytest.raises(ValueError, match=f"`missing` must be NaN.*missing={missing}"):
            cls(missing=missing)


def test_the_marker_is_no_argument_of_compile():
    x = keras.Input((STEPS, FEATURES))
    model = kmtl.MultiTaskModel(x, {"tags": CRF(TAGS)(x)})
    with pytest.raises(ValueError, match="its own argument `missing`.*missing=-1 for task 'tags"):
        model.compile(loss={"tags": CRFLoss()}, missing={"tags": -1})


def test_accuracy_by_hand():
    outputs = np.zeros((3, 4 + 2 + 2, 2), "float32")
    outputs[:, :4] = [[1, 0], [0, 1], [0, 1], [1, 0]]  # without transitions: 0, 1, 1, 0
    y = np.array([[0, 1, 0, 1], [0, 0, -1, -1], [-1, -1, -1, -1]])  # 2 of 4 right, 1 of 2
    accuracy = CRFAccuracy()
    np.testing.assert_allclose(float(accuracy(y, outputs)), 3 / 6)
    np.testing.assert_allclose(float(accuracy(y[1:], outputs[1:])), 4 / 8)
    accuracy.reset_state()
    assert float(accuracy.result()) == 0
    # Changes of tag cost more than they bring: 1, 1, 1, 1 and 1, 1.
    outputs[:, 4:6] = [[0, -5], [-5, 0]]
    outputs[:, 6, 1] = 0.5
    np.testing.assert_allclose(float(accuracy(y, outputs)), 2 / 6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([2.0, 0.0, 5.0], 2 / 4),
        ([[1.0, 0.0, 0.0, 1.0], [1.0, 3.0, 1.0, 1.0], [0.0] * 4], 2 / 6),
    ],
)
def test_weighted_accuracy(weights, expected):
    outputs = np.zeros((3, 4 + 2 + 2, 2), "float32")
    outputs[:, :4] = [[1, 0], [0, 1], [0, 1], [1, 0]]
    y = np.array([[0, 1, 0, 1], [0, 0, -1, -1], [-1, -1, -1, -1]])
    accuracy = CRFAccuracy()(y, outputs, np.array(weights))
    np.testing.assert_allclose(float(accuracy), expected)


def test_accuracy_shows_labels_that_are_not_allowed():
    y = np.array([[0, 1, 2, -1, -1], [0, 1, 3, 0, 0]])
    model = tagger(metrics={"tags": CRFAccuracy()})
    logs = model.evaluate(X[:2], {"tags": y}, verbose=0, return_dict=True)
    assert np.isnan(logs["crf_accuracy"]) and np.isnan(logs["loss"])


@pytest.mark.parametrize("cls", [CRFLoss, CRFAccuracy])
def test_config(cls):
    made = cls(missing=-3, name="other")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is cls and again.missing == -3 and again.name == "other"
    assert again.get_config() == made.get_config()
