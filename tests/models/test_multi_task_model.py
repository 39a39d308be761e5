import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5)).astype("float32")
Y = {
    "depth": RNG.normal(size=(24, 1)).astype("float32"),
    "seg": RNG.integers(0, 3, size=24),
}
LOSS = {"depth": "mse", "seg": "sparse_categorical_crossentropy"}


def network(cls=kmtl.MultiTaskModel, tasks=("depth", "seg")):
    keras.utils.set_random_seed(1)
    x = keras.Input((5,))
    h = layers.Dense(8, activation="relu", kernel_regularizer="l2")(x)
    heads = {"depth": layers.Dense(1)(h), "seg": layers.Dense(3, activation="softmax")(h)}
    return cls(x, {task: heads[task] for task in tasks})


def fit(model, y=Y, x=X, **kwargs):
    keras.utils.set_random_seed(2)
    return model.fit(x, y, **{"batch_size": 8, "verbose": 0, "shuffle": False, **kwargs}).history


@pytest.mark.parametrize("weights", [None, {"depth": 2.0, "seg": 0.5}])
def test_same_numbers_as_a_keras_model(weights):
    results = []
    for cls in (keras.Model, kmtl.MultiTaskModel):
        model = network(cls)
        model.compile(
            "adam",
            loss=LOSS,
            loss_weights=weights,
            metrics={"depth": ["mae"], "seg": ["accuracy"]},
        )
        history = fit(model, epochs=3, validation_data=(X, Y))
        results.append((history, model.get_weights()))
    (plain, plain_weights), (ours, our_weights) = results
    assert list(ours) == list(plain) or sorted(ours) == sorted(plain)
    for key in plain:
        np.testing.assert_allclose(ours[key], plain[key], rtol=1e-6, err_msg=key)
    for a, b in zip(plain_weights, our_weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_task_equals_a_keras_model_bit_for_bit():
    histories = []
    for cls in (keras.Model, kmtl.MultiTaskModel):
        model = network(cls, tasks=["depth"])
        model.compile("adam", loss={"depth": "mse"}, metrics=["mae"])
        histories.append(fit(model, {"depth": Y["depth"]}, epochs=2))
    assert histories[0] == histories[1]


def test_zero_weight_leaves_a_head_untouched_and_equals_training_without_it():
    both, alone = network(), network(tasks=["seg"])
    head = both.get_layer("dense_1").get_weights()
    both.compile("sgd", loss=LOSS, loss_weights={"depth": 0.0})
    alone.compile("sgd", loss={"seg": LOSS["seg"]})
    fit(both)
    fit(alone, {"seg": Y["seg"]})
    for a, b in zip(head, both.get_layer("dense_1").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(both(X)["seg"], alone(X)["seg"], rtol=1e-6)


def test_a_task_without_labels_has_zero_loss_and_no_effect():
    model, reference = network(), network()
    model.compile("sgd", loss=LOSS, missing={"depth": float("nan")})
    reference.compile("sgd", loss=LOSS, loss_weights={"depth": 0.0})
    history = fit(model, {**Y, "depth": np.full((24, 1), np.nan)})
    fit(reference)
    assert history["depth_loss"] == [0.0]
    for a, b in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("how", ["missing", "sample_weight"])
def test_losses_and_metrics_are_means_over_present_labels(how):
    absent = np.arange(24) % 3 == 0
    y, options, compile_options = {**Y}, {}, {}
    if how == "missing":
        y["seg"] = np.where(absent, -1, Y["seg"])
        y["depth"] = np.where(absent[:, None], np.nan, Y["depth"]).astype("float32")
        compile_options["missing"] = {"seg": -1, "depth": float("nan")}
    else:
        weight = (~absent).astype("float32")
        options["sample_weight"] = {"seg": weight, "depth": weight}
    model = network()
    model.compile(
        "sgd", loss=LOSS, metrics={"seg": ["accuracy"], "depth": ["mae"]}, **compile_options
    )
    logs = model.evaluate(X, y, batch_size=7, verbose=0, return_dict=True, **options)
    outputs = {task: ops.convert_to_numpy(value) for task, value in model(X).items()}
    probabilities = outputs["seg"][np.arange(24), Y["seg"]]
    error = (outputs["depth"] - Y["depth"])[:, 0]
    expected = {
        "seg_loss": np.mean(-np.log(probabilities)[~absent]),
        "seg_accuracy": np.mean((outputs["seg"].argmax(-1) == Y["seg"])[~absent]),
        "depth_loss": np.mean(error[~absent] ** 2),
        "depth_mae": np.mean(np.abs(error[~absent])),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, err_msg=name)


def test_missing_entries_of_dense_labels_are_skipped_one_by_one():
    x = keras.Input((4, 5))
    model = kmtl.MultiTaskModel(x, {"tags": layers.Dense(3, activation="softmax")(x)})
    model.compile("sgd", loss={"tags": "sparse_categorical_crossentropy"}, missing={"tags": -1})
    features = RNG.normal(size=(6, 4, 5)).astype("float32")
    labels = RNG.integers(-1, 3, size=(6, 4))
    loss = model.evaluate(features, {"tags": labels}, verbose=0)
    probabilities = ops.convert_to_numpy(model(features)["tags"])
    present = labels >= 0
    picked = np.take_along_axis(probabilities, np.maximum(labels, 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, np.mean(-np.log(picked[present])), rtol=1e-5)


def test_many_equal_heads_are_computed_together_with_the_same_result():
    x = keras.Input((5,))
    tasks = [f"t{i:02d}" for i in range(12)]
    heads = {task: layers.Dense(1, name=task)(x) for task in tasks}
    y = {task: RNG.normal(size=(24, 1)).astype("float32") for task in tasks}
    y["t03"][:20] = np.nan
    model = kmtl.MultiTaskModel(x, heads)
    model.compile("sgd", loss="mse", missing=float("nan"))
    logs = model.evaluate(X, y, batch_size=24, verbose=0, return_dict=True)
    for task, output in model(X).items():
        error = (ops.convert_to_numpy(output) - y[task]) ** 2
        np.testing.assert_allclose(logs[f"{task}_loss"], np.nanmean(error), rtol=1e-5)


def test_weighted_metrics_use_weights_and_metrics_only_presence():
    model = network(tasks=["depth"])
    model.compile("sgd", loss={"depth": "mse"}, metrics=["mae"], weighted_metrics=["mse"])
    weight = np.array([0.0, 1.0, 3.0] * 8, "float32")
    logs = model.evaluate(
        X, Y["depth"], sample_weight=weight, batch_size=24, verbose=0, return_dict=True
    )
    error = (ops.convert_to_numpy(model(X)["depth"]) - Y["depth"])[:, 0]
    np.testing.assert_allclose(logs["mae"], np.abs(error)[weight > 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["mse"], np.average(error**2, weights=weight), rtol=1e-5)
    np.testing.assert_allclose(
        logs["loss"] - float(sum(model.losses)),
        np.sum(error**2 * weight) / np.sum(weight > 0),
        rtol=1e-5,
    )


def test_stop_reload_go_on_equals_never_stopping(tmp_path):
    def compiled():
        model = network()
        model.compile(
            "adam",
            loss=LOSS,
            metrics={"seg": "accuracy"},
            weighting="uncertainty",
            missing={"depth": -9.0},
        )
        return model

    undisturbed = compiled()
    fit(undisturbed)
    second = fit(undisturbed)
    stopped = compiled()
    fit(stopped)
    stopped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, kmtl.MultiTaskModel)
    assert fit(loaded) == second
    for a, b in zip(loaded.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_recompiling_replaces_the_weighting():
    model = network()
    model.compile("sgd", loss=LOSS, weighting="uncertainty")
    with_rule = len(model.trainable_variables)
    model.compile("sgd", loss=LOSS)
    assert len(model.trainable_variables) == with_rule - 1


def test_names_not_order_carry_meaning():
    logs = []
    for order in (("depth", "seg"), ("seg", "depth")):
        model = network(tasks=order)
        model.compile("sgd", loss=LOSS, weighting="uncertainty")
        logs.append(fit(model, {task: Y[task] for task in reversed(order)}, epochs=2))
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("loss", {"depth": "mse"}),
        ("loss", {**LOSS, "typo": "mse"}),
        ("metrics", {"typo": "mae"}),
        ("missing", {"typo": -1}),
        ("loss_weights", {"typo": 1.0}),
    ],
)
def test_unknown_or_missing_task_names(argument, value):
    with pytest.raises(ValueError, match=rf"`{argument}` must name the model's tasks"):
        network().compile(**{"loss": LOSS, argument: value})


@pytest.mark.parametrize("labels", [{"depth": Y["depth"]}, {**Y, "typo": Y["seg"]}, Y["depth"]])
def test_labels_of_other_tasks(labels):
    model = network()
    model.compile("sgd", loss=LOSS)
    with pytest.raises(ValueError, match=r"(L|l)abels must (name|be a dict)"):
        fit(model, labels)


def test_outputs_must_be_named():
    x = keras.Input((5,))
    with pytest.raises(ValueError, match="`outputs` must be a dict"):
        kmtl.MultiTaskModel(x, [layers.Dense(1)(x)])


def test_weighting_and_static_weights_exclude_each_other():
    with pytest.raises(ValueError, match="cannot be used together"):
        network().compile(loss=LOSS, loss_weights={"seg": 2.0}, weighting="uncertainty")


def test_unknown_weighting_lists_the_known_ones():
    with pytest.raises(ValueError, match="'uncertainty'.*Received: weighting='typo'"):
        network().compile(loss=LOSS, weighting="typo")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_reported_by_task(value):
    model = network()
    model.compile("sgd", loss=LOSS)
    y = {**Y, "depth": np.full((24, 1), value, "float32")}
    with pytest.raises(FloatingPointError, match="the loss of task 'depth'"):
        fit(model, y)


def test_names_in_the_logs_must_differ():
    metric = keras.metrics.MeanAbsoluteError
    with pytest.raises(ValueError, match="name of its own.*'depth_loss'"):
        network().compile(loss=LOSS, metrics={"depth": metric(name="loss")})
    with pytest.raises(ValueError, match="name of its own.*'depth_variance'"):
        network().compile(
            loss=LOSS, metrics={"depth": metric(name="variance")}, weighting="uncertainty"
        )


def test_a_metric_serves_one_task_and_a_weighting_one_model():
    shared = keras.metrics.MeanSquaredError()
    with pytest.raises(ValueError, match="state of one task"):
        network().compile(loss=LOSS, metrics={"depth": shared, "seg": shared})
    rule = kmtl.weighting.UncertaintyWeighting()
    first = network()
    first.compile(loss=LOSS, weighting=rule)
    first.compile(loss=LOSS, weighting=rule)
    with pytest.raises(ValueError, match="state of one model"):
        network().compile(loss=LOSS, weighting=rule)


@pytest.mark.parametrize(("labels", "missing"), [("int32", 0.5), ("uint8", -1)])
def test_a_missing_value_must_be_one_that_labels_can_have(labels, missing):
    model = network()
    model.compile("sgd", loss=LOSS, missing={"seg": missing})
    with pytest.raises(ValueError, match=f"value that labels can have.*type {labels}"):
        fit(model, {**Y, "seg": Y["seg"].astype(labels)})


@pytest.mark.parametrize("task", [1, ""])
def test_task_names_are_strings(task):
    x = keras.Input((5,))
    with pytest.raises(ValueError, match="must be strings that are not empty"):
        kmtl.MultiTaskModel(x, {task: layers.Dense(1)(x)})
