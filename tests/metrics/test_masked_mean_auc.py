import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn.metrics import roc_auc_score

import kmtl
from kmtl.metrics import MaskedMeanAUC

pytestmark = pytest.mark.both_backends

JIT = keras.backend.backend() == "jax"
NAN = float("nan")
RNG = np.random.default_rng(0)
ROWS, TASKS = 300, 6
SCORES = RNG.random((ROWS, TASKS)).astype("float32")
LABELS = (SCORES + RNG.normal(scale=[0.2, 0.4, 0.6, 1, 2, 1], size=SCORES.shape) > 0.7) * 1.0
LABELS[:, 5] = 0  # a task of one class
Y = np.where(RNG.random(SCORES.shape) < 0.4, NAN, LABELS).astype("float32")


def exact(y, scores):
    """scikit-learn's AUC of each task that has both classes."""
    areas = []
    for t in range(y.shape[1]):
        there = ~np.isnan(y[:, t])
        if len(np.unique(y[there, t])) == 2:
            areas.append(roc_auc_score(y[there, t], scores[there, t]))
    return np.array(areas)


def bins(scores, num_thresholds):
    """The lower end of each score's bin."""
    return np.maximum(np.ceil(scores * np.float32(num_thresholds - 1)) - 1, 0)


def tie_share(y, scores, num_thresholds):
    """Half the share of pairs in one bin: the most by which each task's AUC can be off."""
    shares = []
    for t in range(y.shape[1]):
        places = bins(scores[:, t], num_thresholds)
        one, zero = places[y[:, t] == 1], places[y[:, t] == 0]
        if len(one) and len(zero):
            shares.append(np.mean(one[:, None] == zero[None]) / 2)
    return np.array(shares)


@pytest.mark.parametrize("num_thresholds", [20, 200])
@pytest.mark.parametrize("reduction", ["mean", "median"])
def test_equals_scikit_learn_up_to_the_bins(num_thresholds, reduction):
    metric = MaskedMeanAUC(TASKS, num_thresholds, reduction)
    for rows in np.split(np.arange(ROWS), [100, 170]):
        metric.update_state(Y[rows], SCORES[rows])
    value, reduce = float(metric.result()), getattr(np, reduction)
    binned = exact(Y, bins(SCORES, num_thresholds))
    assert len(binned) == TASKS - 1
    np.testing.assert_allclose(value, reduce(binned), rtol=1e-6)
    off = abs(value - reduce(exact(Y, SCORES)))
    assert 0 < off <= tie_share(Y, SCORES, num_thresholds).max()


def test_equals_keras_for_one_task():
    ours, theirs = MaskedMeanAUC(1, 50), keras.metrics.AUC(50)
    ours.update_state(LABELS[:, :1], SCORES[:, :1])
    theirs.update_state(LABELS[:, :1], SCORES[:, :1])
    np.testing.assert_allclose(float(ours.result()), float(theirs.result()), rtol=1e-6)


def test_ends_of_the_scale_and_logits():
    y, scores = np.array([[0], [0], [1], [1]]), np.array([[0.0], [1.0], [1.0], [0.0]])
    assert float(MaskedMeanAUC(1)(y, scores)) == 0.5
    logits = np.log(SCORES / (1 - SCORES))
    by_logits = MaskedMeanAUC(TASKS, from_logits=True)(Y, logits)
    np.testing.assert_allclose(float(by_logits), float(MaskedMeanAUC(TASKS)(Y, SCORES)), rtol=1e-3)


def test_absent_labels_have_no_part():
    expected = float(MaskedMeanAUC(TASKS)(Y, SCORES))
    other = np.where(np.isnan(Y), RNG.permutation(SCORES), SCORES)
    assert float(MaskedMeanAUC(TASKS)(Y, other)) == expected
    marked = np.nan_to_num(Y, nan=-1).astype("int32")
    assert float(MaskedMeanAUC(TASKS, missing=-1)(marked, SCORES)) == expected


def test_sample_weights():
    kept = np.arange(ROWS) % 3 > 0
    expected = float(MaskedMeanAUC(TASKS)(Y[kept], SCORES[kept]))
    weights = kept.astype("float32")
    assert float(MaskedMeanAUC(TASKS)(Y, SCORES, sample_weight=weights)) == expected
    by_label = np.repeat(weights[:, None], TASKS, axis=1)
    assert float(MaskedMeanAUC(TASKS)(Y, SCORES, sample_weight=by_label)) == expected
    twice = MaskedMeanAUC(TASKS)(np.repeat(Y, 2, axis=0), np.repeat(SCORES, 2, axis=0))
    np.testing.assert_allclose(float(twice), float(MaskedMeanAUC(TASKS)(Y, SCORES)), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "median"])
def test_without_both_classes_the_result_is_nan(reduction):
    metric = MaskedMeanAUC(TASKS, reduction=reduction)
    assert np.isnan(float(metric.result()))
    metric.update_state(np.where(Y == 1, NAN, Y), SCORES)
    assert np.isnan(float(metric.result()))
    metric.update_state(Y, SCORES)
    assert np.isfinite(float(metric.result()))
    metric.reset_state()
    assert np.isnan(float(metric.result()))


def model_with_metric(base=kmtl.MultiTaskModel):
    keras.utils.set_random_seed(1)
    x = keras.Input((TASKS,))
    model = base(x, {"assays": layers.Dense(TASKS, "sigmoid")(x)})
    model.compile(
        "adam",
        loss={"assays": kmtl.losses.MaskedMultiLabelLoss(from_logits=False)},
        metrics={"assays": [MaskedMeanAUC(TASKS)]},
        jit_compile=JIT,
    )
    return model


def logged(model):
    logs = model.evaluate(SCORES, {"assays": Y}, batch_size=70, verbose=0, return_dict=True)
    (value,) = (value for name, value in logs.items() if name.endswith("masked_mean_auc"))
    return value


@pytest.mark.parametrize("base", [keras.Model, kmtl.MultiTaskModel])
def test_in_a_model(base):
    model = model_with_metric(base)
    expected = MaskedMeanAUC(TASKS)(Y, ops.convert_to_numpy(model(SCORES)["assays"]))
    np.testing.assert_allclose(logged(model), float(expected), rtol=1e-5)
    model.fit(SCORES, {"assays": Y}, epochs=1, verbose=0)


def test_two_replicas_equal_one(mirrored):
    expected = logged(model_with_metric())
    with mirrored.scope():
        assert logged(model_with_metric()) == expected


def test_saved_and_loaded(tmp_path):
    metric = MaskedMeanAUC(3, 50, "median", True, -1)
    config = json.loads(json.dumps(metric.get_config()))
    assert MaskedMeanAUC.from_config(config).get_config() == metric.get_config()
    model = model_with_metric()
    model.save(tmp_path / "model.keras")
    assert logged(keras.saving.load_model(tmp_path / "model.keras")) == logged(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tasks": 0}, "`num_tasks` must be an integer >= 1. Received: num_tasks=0"),
        ({"num_thresholds": 2}, "`num_thresholds` must be an integer >= 3.*num_thresholds=2"),
        ({"reduction": "max"}, "`reduction` must be one of.*Received: reduction='max'"),
        ({"missing": 1}, "`missing` must be NaN or a number that is no label.*missing=1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskedMeanAUC(**{"num_tasks": TASKS, **arguments})


def test_wrong_labels_and_shapes_show():
    wrong = Y.copy()
    wrong[0, 0] = 3
    assert np.isnan(float(MaskedMeanAUC(TASKS)(wrong, SCORES)))
    with pytest.raises(ValueError, match=r"one shape.*labels \(300, 5\), predictions \(300, 6\)"):
        MaskedMeanAUC(TASKS)(Y[:, :5], SCORES)
    with pytest.raises(ValueError, match=r"the 7 tasks of `num_tasks`.*\(300, 6\)"):
        MaskedMeanAUC(7)(Y, SCORES)
