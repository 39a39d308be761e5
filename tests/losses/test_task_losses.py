import keras
import numpy as np
import pytest
from keras import layers, losses, ops

import kmtl
from kmtl.losses.task_losses import TaskLosses

pytestmark = pytest.mark.both_backends

# XLA takes seconds to compile and has tests of its own; JAX without it is slower still.
JIT = keras.backend.backend() == "jax"


def compute(loss, y, y_pred, sample_weight=None, missing=None):
    """The loss of one task: its total over its divisor."""
    weights = {} if sample_weight is None else {"a": np.array(sample_weight, "float32")}
    task_losses = TaskLosses({"a": loss}, {"a": missing})
    totals, divisors = task_losses({"a": np.array(y)}, {"a": ops.array(y_pred)}, weights)
    return float(totals[0]) / (1.0 if task_losses.summed[0] else float(divisors[0]))


Y = [[1.0], [2.0], [5.0]]
PREDICTION = [[1.0], [4.0], [1.0]]  # squared errors 0, 4, 16


@pytest.mark.parametrize(
    ("reduction", "weights", "value"),
    [
        ("sum_over_batch_size", None, 20 / 3),
        ("mean", None, 20 / 3),
        ("sum", None, 20.0),
        ("mean_with_sample_weight", None, 20 / 3),
        ("sum_over_batch_size", [1.0, 2.0, 0.5], 16 / 3),
        ("sum", [1.0, 2.0, 0.5], 16.0),
        ("mean_with_sample_weight", [1.0, 2.0, 0.5], 16 / 3.5),
        # A weight of 0 means that there is no label.
        ("sum_over_batch_size", [1.0, 0.0, 0.5], 4.0),
        ("sum", [1.0, 0.0, 0.5], 8.0),
        ("mean_with_sample_weight", [1.0, 0.0, 0.5], 8 / 1.5),
    ],
)
def test_reductions(reduction, weights, value):
    loss = losses.MeanSquaredError(reduction=reduction)
    np.testing.assert_allclose(compute(loss, Y, PREDICTION, weights), value, rtol=1e-6)
    if weights is None or 0.0 not in weights:
        keras_value = loss(ops.array(Y), ops.array(PREDICTION), weights and ops.array(weights))
        np.testing.assert_allclose(float(keras_value), value, rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean_with_sample_weight"])
def test_reductions_over_present_labels_in_a_model(reduction):
    x = keras.Input((1,))
    outputs = {"a": layers.Identity()(x), "b": layers.Identity()(x)}
    model = kmtl.MultiTaskModel(x, outputs)
    loss = losses.MeanSquaredError(reduction=reduction)
    model.compile(loss=loss, missing={"a": -1.0}, jit_compile=JIT)
    y = {"a": np.array([[1.0], [-1.0], [5.0]]), "b": np.array(Y)}
    weight = np.array([1.0, 2.0, 0.5], "float32")
    logs = model.evaluate(
        np.array(PREDICTION), y, sample_weight=weight, verbose=0, return_dict=True
    )
    expected = {"sum": (8.0, 16.0), "mean_with_sample_weight": (8 / 1.5, 16 / 3.5)}[reduction]
    np.testing.assert_allclose((logs["a_loss"], logs["b_loss"]), expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", [None, "none"])
def test_a_loss_must_have_a_reduction(reduction):
    loss = losses.MeanSquaredError(reduction=reduction)
    with pytest.raises(ValueError, match=r"must have a reduction.*Received: .*task 'a'"):
        TaskLosses({"a": loss}, {})


def test_crossentropy_finds_the_form_of_the_labels():
    one_unit, three_units = [[0.2], [0.9]], [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]
    binary = -(np.log(0.8) + np.log(0.9)) / 2
    several = -(np.log(0.5) + np.log(0.1)) / 2
    np.testing.assert_allclose(compute("crossentropy", [[0], [1]], one_unit), binary, rtol=1e-5)
    np.testing.assert_allclose(compute("crossentropy", [0, 1], one_unit), binary, rtol=1e-5)
    np.testing.assert_allclose(compute("crossentropy", [1, 2], three_units), several, rtol=1e-5)
    np.testing.assert_allclose(compute("ce", [[1], [2]], three_units), several, rtol=1e-5)
    one_hot = [[0, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(compute("crossentropy", one_hot, three_units), several, rtol=1e-5)


def test_functions_are_losses_and_labels_without_a_last_axis_fit():
    def cubed(y_true, y_pred):
        return ops.mean(ops.abs(y_true - y_pred) ** 3, axis=-1)

    np.testing.assert_allclose(compute(cubed, Y, PREDICTION), 72 / 3, rtol=1e-6)
    np.testing.assert_allclose(compute(cubed, [1.0, 2.0, 5.0], PREDICTION), 72 / 3, rtol=1e-6)
    np.testing.assert_allclose(
        compute(cubed, [1.0, np.nan, 5.0], PREDICTION, missing=float("nan")), 64 / 2, rtol=1e-6
    )


def scalar(y_true, y_pred):
    return ops.sum(ops.square(y_true - y_pred))


def test_a_scalar_loss_serves_until_labels_are_missing():
    np.testing.assert_allclose(compute(scalar, Y, PREDICTION), 20.0, rtol=1e-6)
    for options in ({"missing": -1}, {"sample_weight": [1.0, 1.0, 0.0]}):
        with pytest.raises(ValueError, match=r"one value for each sample.*task 'a'"):
            compute(scalar, Y, PREDICTION, **options)


def test_losses_with_other_parameters_are_not_computed_together():
    by_task = {
        "a": losses.Huber(delta=1.0),
        "b": losses.Huber(delta=3.0),
        "c": losses.Huber(delta=1.0),
    }
    y = {task: ops.array([[0.0], [0.0]]) for task in by_task}
    predictions = {
        "a": ops.array([[2.0], [2.0]]),
        "b": ops.array([[2.0], [2.0]]),
        "c": ops.array([[0.5], [0.5]]),
    }
    totals, divisors = TaskLosses(by_task, {})(y, predictions, {})
    means = ops.convert_to_numpy(totals) / ops.convert_to_numpy(divisors)
    np.testing.assert_allclose(means, [1.5, 2.0, 0.125], rtol=1e-6)


def test_tasks_with_other_missing_values_are_not_computed_together():
    y = {"a": ops.array([[-1.0], [1.0]]), "b": ops.array([[-1.0], [1.0]])}
    predictions = {"a": ops.array([[0.0], [0.0]]), "b": ops.array([[0.0], [0.0]])}
    totals, divisors = TaskLosses({"a": "mse", "b": "mse"}, {"a": -1.0, "b": -9.0})(
        y, predictions, {}
    )
    np.testing.assert_allclose(ops.convert_to_numpy(totals), [1.0, 2.0])
    np.testing.assert_allclose(ops.convert_to_numpy(divisors), [1.0, 2.0])


TOKENS = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [1, 2, 3, 4]])
LABELS = np.arange(12.0).reshape(3, 4, 1).astype("float32")


def masked_mean(model, task):
    error = (ops.convert_to_numpy(model(TOKENS)[task]) - LABELS)[..., 0] ** 2
    return error[TOKENS > 0].mean()


def evaluate(model):
    model.compile("sgd", loss="mse", jit_compile=JIT)
    y = {task: LABELS for task in model.task_names}
    return model.evaluate(TOKENS, y, verbose=0, return_dict=True)


def test_masked_steps_do_not_count():
    x = keras.Input((4,), dtype="int32")
    h = layers.Embedding(5, 3, mask_zero=True)(x)
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(h), "b": layers.Dense(1)(h)})
    logs = evaluate(model)
    for task in ("a", "b"):
        np.testing.assert_allclose(logs[f"{task}_loss"], masked_mean(model, task), rtol=1e-5)


def test_masks_of_a_masking_layer_and_missing_labels_add_up():
    x = keras.Input((4, 1))
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(layers.Masking()(x))})
    model.compile("sgd", loss="mse", missing={"a": -1.0}, jit_compile=JIT)
    features = (TOKENS[..., None]).astype("float32")
    labels = np.where(LABELS == 8.0, -1.0, LABELS)
    loss = model.evaluate(features, {"a": labels}, verbose=0)
    error = (ops.convert_to_numpy(model(features)["a"]) - LABELS)[..., 0] ** 2
    counted = (TOKENS > 0) & (LABELS[..., 0] != 8.0)
    np.testing.assert_allclose(loss, error[counted].mean(), rtol=1e-5)


@pytest.mark.parametrize("between", ["cross_stitch", "sluice", "reversal", "stacked", "factorized"])
def test_masks_pass_through_the_layers_of_kmtl(between):
    x = keras.Input((4,), dtype="int32")
    h = layers.Embedding(5, 4, mask_zero=True)(x)
    if between == "reversal":
        streams = [kmtl.layers.GradientReversal()(h), h]
    elif between == "stacked":
        streams = kmtl.layers.TaskStackedDense(4, 2)(h)
    elif between == "factorized":
        streams = kmtl.layers.FactorizedDense(4, 2)(h)
    elif between == "sluice":
        streams = kmtl.layers.SluiceUnit()([h, h])
    else:
        streams = kmtl.layers.CrossStitch()([h, h])
    model = kmtl.MultiTaskModel(
        x, {"a": layers.Dense(1)(streams[0]), "b": layers.Dense(1)(streams[1])}
    )
    logs = evaluate(model)
    for task in ("a", "b"):
        np.testing.assert_allclose(logs[f"{task}_loss"], masked_mean(model, task), rtol=1e-5)
