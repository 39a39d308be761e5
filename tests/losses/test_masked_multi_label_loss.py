import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl import backend
from kmtl.losses import MaskedMultiLabelLoss, class_balance_weights

pytestmark = pytest.mark.both_backends

JIT = keras.backend.backend() == "jax"
NAN = float("nan")
RNG = np.random.default_rng(0)
ROWS, TASKS, FEATURES = 24, 5, 6
X = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
PRESENT = RNG.random((ROWS, TASKS)) < [0.9, 0.6, 0.5, 0.3, 0.0]  # the last task has no label
LABELS = (RNG.random((ROWS, TASKS)) < 0.4).astype("float32")
Y = np.where(PRESENT, LABELS, NAN).astype("float32")
LOGITS = RNG.normal(size=(ROWS, TASKS)).astype("float32")
WEIGHTS = [2.0, 0.5, 3.0, 1.0, 7.0]


def by_hand(y, logits, weights=(1.0,) * TASKS, normalize="per_task"):
    """Each task filtered to its labels, then averaged."""
    y, logits = y.astype("float64"), logits.astype("float64")
    sums, counts = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for t in range(y.shape[1]):
        there = ~np.isnan(y[:, t])
        label, z = y[there, t], logits[there, t]
        losses = weights[t] * label * np.log1p(np.exp(-z)) + (1 - label) * np.log1p(np.exp(z))
        sums[t], counts[t] = losses.sum(), there.sum()
    if normalize == "global":
        return sums.sum() / counts.sum()
    return np.mean(sums / np.maximum(counts, 1))


def with_gradient(loss, y, logits):
    """The loss and its gradient by the logits, as NumPy arrays."""

    def function(tensors):
        return [loss(y, tensors[0])], None

    (value,), _, pull = backend.linearize(function, [], [ops.convert_to_tensor(logits)])
    _, (gradient,) = pull([ops.ones_like(value)])
    return float(value), ops.convert_to_numpy(gradient)


def assays_model(weights=None, normalize="per_task", base=kmtl.MultiTaskModel, **compile_args):
    x = keras.Input((FEATURES,))
    model = base(x, {"assays": layers.Dense(TASKS, kernel_initializer="ones")(x)})
    loss = MaskedMultiLabelLoss(weights, normalize=normalize)
    compile_args = {"jit_compile": JIT, **compile_args}
    model.compile(keras.optimizers.SGD(0.5), loss={"assays": loss}, **compile_args)
    return model


@pytest.mark.parametrize("normalize", ["per_task", "global"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_equals_per_task_filtered_losses(weights, normalize):
    expected = by_hand(Y, LOGITS, weights or [1.0] * TASKS, normalize)
    loss = MaskedMultiLabelLoss(weights, normalize=normalize)
    np.testing.assert_allclose(float(loss(Y, LOGITS)), expected, rtol=1e-5)
    probabilities = 1 / (1 + np.exp(-LOGITS))
    loss = MaskedMultiLabelLoss(weights, from_logits=False, normalize=normalize)
    np.testing.assert_allclose(float(loss(Y, probabilities)), expected, rtol=1e-5)
    for base in (keras.Model, kmtl.MultiTaskModel):
        model = assays_model(weights, normalize, base)
        logits = ops.convert_to_numpy(model(X)["assays"])
        logs = model.evaluate(X, {"assays": Y}, batch_size=ROWS, verbose=0, return_dict=True)
        expected = by_hand(Y, logits, weights or [1.0] * TASKS, normalize)
        np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


def test_normalizations_differ_on_tasks_of_unequal_density():
    values = [by_hand(Y, LOGITS, normalize=n) for n in ("per_task", "global")]
    assert abs(values[0] - values[1]) > 0.05


def test_equals_named_heads():
    # The mean over tasks of what as many outputs of one label each give.
    x = keras.Input((FEATURES,))
    heads = {f"t{t}": layers.Dense(1, kernel_initializer="ones")(x) for t in range(TASKS)}
    named = kmtl.MultiTaskModel(x, heads)
    bce = keras.losses.BinaryCrossentropy(from_logits=True)
    named.compile(loss=bce, missing=NAN, jit_compile=JIT)
    labels = {f"t{t}": Y[:, t] for t in range(TASKS)}
    expected = named.evaluate(X, labels, batch_size=ROWS, verbose=0, return_dict=True)["loss"]
    logs = assays_model().evaluate(X, {"assays": Y}, batch_size=ROWS, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"] * TASKS, expected, rtol=1e-5)


@pytest.mark.parametrize("normalize", ["per_task", "global"])
def test_absent_labels_have_no_part(normalize):
    value, gradient = with_gradient(MaskedMultiLabelLoss(normalize=normalize), Y, LOGITS)
    assert np.isfinite(value) and (gradient[~PRESENT] == 0).all()
    assert (gradient[PRESENT] != 0).all()
    # Whatever is predicted where no label is, or stands in its place.
    other = np.where(PRESENT, LOGITS, 100 * RNG.permutation(LOGITS)).astype("float32")
    marked = np.where(PRESENT, LABELS, -7).astype("float32")
    for loss, y in (
        (MaskedMultiLabelLoss(normalize=normalize), Y),
        (MaskedMultiLabelLoss(normalize=normalize, missing=-7), marked),
    ):
        assert with_gradient(loss, y, other)[0] == value
        np.testing.assert_array_equal(with_gradient(loss, y, other)[1], gradient)


@pytest.mark.parametrize("normalize", ["per_task", "global"])
def test_nothing_present_is_zero_loss_and_zero_gradient(normalize):
    loss = MaskedMultiLabelLoss(normalize=normalize)
    value, gradient = with_gradient(loss, np.full_like(Y, NAN), LOGITS)
    assert value == 0 and (gradient == 0).all()
    # A row without labels only: nothing from it, and it does not dilute the others.
    rows = np.concatenate([Y, np.full((1, TASKS), NAN, "float32")])
    longer, gradient = with_gradient(loss, rows, np.concatenate([LOGITS, LOGITS[:1]]))
    np.testing.assert_allclose(longer, by_hand(Y, LOGITS, normalize=normalize), rtol=1e-5)
    assert (gradient[-1] == 0).all()


def test_balanced_weights_sum_equal_per_class():
    y = np.where(RNG.random((200, 3)) < 0.5, NAN, RNG.random((200, 3)) < [0.03, 0.2, 0.7])
    weights = class_balance_weights(y)
    np.testing.assert_allclose(
        weights * (y == 1).sum(axis=0), (y == 0).sum(axis=0).astype(float), rtol=1e-12
    )
    np.testing.assert_array_equal(class_balance_weights(np.nan_to_num(y, nan=-1), -1), weights)
    # At logits of 0 each label costs log(2) by its weight: both classes cost the same.
    zeros = np.zeros((200, 3), "float32")
    _, gradient = with_gradient(MaskedMultiLabelLoss(weights), y.astype("float32"), zeros)
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-6)
    assert np.abs(gradient).sum() > 0.1


def test_rows_of_weight_0_count_as_missing():
    weight = np.where(np.arange(ROWS) % 3 == 0, 0, 1).astype("float32")
    kept = np.where(weight[:, None] == 0, NAN, Y)
    for normalize in ("per_task", "global"):
        model = assays_model(normalize=normalize)
        logs = model.evaluate(
            X, {"assays": Y}, sample_weight=weight, batch_size=ROWS, verbose=0, return_dict=True
        )
        expected = by_hand(kept, ops.convert_to_numpy(model(X)["assays"]), normalize=normalize)
        np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("normalize", ["per_task", "global"])
def test_two_replicas_equal_one_with_labels_spread_unevenly(normalize, mirrored):
    y = Y.copy()
    y[np.arange(ROWS) % 10 < 5, 1] = NAN  # the first replica sees none of task 1
    y[np.arange(ROWS) % 10 >= 5, 2] = NAN

    def train(base, rows):
        model = assays_model(WEIGHTS, normalize, base)
        history = model.fit(
            X[:rows], {"assays": y[:rows]}, batch_size=10, epochs=3, shuffle=False, verbose=0
        )
        return history.history["loss"], *model.get_weights()

    # 24 rows leave a last batch of 4; Keras itself is right for equal shares only.
    for base, rows in ((kmtl.MultiTaskModel, 24), (kmtl.MultiTaskModel, 23), (keras.Model, 20)):
        one = train(base, rows)
        with mirrored.scope():
            two = train(base, rows)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_weightings_and_gradient_rules_take_it():
    x = keras.Input((FEATURES,))
    h = layers.Dense(4, activation="tanh")(x)
    outputs = {"assays": layers.Dense(TASKS)(h), "mass": layers.Dense(1)(h)}
    labels = {"assays": Y, "mass": X[:, :1]}
    for weighting in ("uncertainty", "pcgrad"):
        model = kmtl.MultiTaskModel(x, outputs)
        model.compile(
            "adam",
            loss={"assays": MaskedMultiLabelLoss(), "mass": "mse"},
            missing={"mass": -1.0},
            weighting=weighting,
            jit_compile=JIT,
        )
        history = model.fit(X, labels, batch_size=8, epochs=4, verbose=0).history
        assert history["assays_loss"][-1] < history["assays_loss"][0]


def test_a_thousand_sparse_tasks():
    rng = np.random.default_rng(1)
    rows, tasks = 64, 1000
    x = rng.normal(size=(rows, 16)).astype("float32")
    y = (x @ rng.normal(size=(16, tasks)) > 0).astype("float32")
    y[rng.random((rows, tasks)) < 0.99] = NAN
    labelled = ~np.isnan(y).all(axis=0)
    assert 0.2 < labelled.mean() < 0.8
    inputs = keras.Input((16,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    model = kmtl.MultiTaskModel(inputs, {"assays": layers.Dense(tasks, name="head")(hidden)})
    model.compile(
        keras.optimizers.SGD(50.0), loss={"assays": MaskedMultiLabelLoss()}, jit_compile=JIT
    )
    kernel, bias = (ops.convert_to_numpy(w) for w in model.get_layer("head").weights)
    losses = model.fit(x, {"assays": y}, batch_size=rows, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0]
    # Tasks without a label have exactly no gradient, so that they stay where they were.
    new_kernel, new_bias = (ops.convert_to_numpy(w) for w in model.get_layer("head").weights)
    moved = (new_kernel != kernel).any(axis=0) & (new_bias != bias)
    np.testing.assert_array_equal(moved, labelled)


def test_saved_and_loaded(tmp_path):
    loss = MaskedMultiLabelLoss(np.array(WEIGHTS), normalize="global", missing=-1, name="assay_ce")
    config = json.loads(json.dumps(loss.get_config()))
    assert MaskedMultiLabelLoss.from_config(config).get_config() == loss.get_config()
    model = assays_model(WEIGHTS)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before, after = (
        m.evaluate(X, {"assays": Y}, verbose=0, return_dict=True) for m in (model, loaded)
    )
    np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalize": "batch"}, r"`normalize` must be one of.*Received: normalize='batch'"),
        ({"missing": 0}, r"`missing` must be NaN or a number that is no label.*missing=0"),
        ({"missing": True}, r"Received: missing=True"),
        ({"missing": None}, r"Received: missing=None"),
        ({"positive_weight": [1.0, 0.0]}, r"a weight > 0 for each task.*\[1.0, 0.0\]"),
        ({"positive_weight": [1.0, NAN]}, r"a weight > 0 for each task.*nan"),
        ({"positive_weight": 3.0}, r"a weight > 0 for each task.*3.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskedMultiLabelLoss(**arguments)


@pytest.mark.parametrize(
    ("y", "missing", "message"),
    [
        ([[0, 1], [1, 2]], NAN, "must be 0, 1 or missing=nan.*1 others.* 2 in row 1 of task 1"),
        ([[0, 1], [-1, 0]], NAN, "must be 0, 1 or missing=nan.* -1 in row 1 of task 0"),
        ([[0, 1], [NAN, 0]], -1, "must be 0, 1 or missing=-1.* nan in row 1 of task 0"),
        ([[0, NAN, 1], [1, NAN, 1]], NAN, r"no 1 for tasks \[1\], no 0 for tasks \[1, 2\]"),
        ([0, 1], NAN, r"`y` must be of shape \(rows, tasks\).*\(2,\)"),
    ],
)
def test_wrong_labels_are_named(y, missing, message):
    with pytest.raises(ValueError, match=message):
        class_balance_weights(y, missing)


def test_wrong_labels_stop_training():
    wrong = np.where(np.isnan(Y), -1, Y)
    assert np.isnan(float(MaskedMultiLabelLoss()(wrong, LOGITS)))
    with pytest.raises(FloatingPointError, match="finite losses"):
        assays_model().fit(X, {"assays": wrong}, verbose=0)


def test_wrong_shapes_and_markers_are_named():
    with pytest.raises(ValueError, match=r"one shape.*labels \(24, 4\), predictions \(24, 5\)"):
        MaskedMultiLabelLoss()(Y[:, :4], LOGITS)
    with pytest.raises(ValueError, match=r"one shape.*labels \(24,\), predictions \(24, 5\)"):
        MaskedMultiLabelLoss()(Y[:, 0], LOGITS)
    with pytest.raises(ValueError, match=r"a weight for each task.*2 weights.*\(24, 5\)"):
        MaskedMultiLabelLoss([1.0, 2.0])(Y, LOGITS)
    with pytest.raises(ValueError, match=r"its own argument `missing`.*missing=-1 for task 'assa"):
        assays_model(missing={"assays": -1})
