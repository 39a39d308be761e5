import itertools

import numpy as np
import pytest

from kmtl.analysis import TaskGainPredictor, pair_features

pytestmark = pytest.mark.both_backends


def random_pairs(count, seed, num_features=2):
    """Pairs of tasks, with gains that features tell in part."""
    rng = np.random.default_rng(seed)
    tasks = {
        f"task{t}": {f"x{k}": float(v) for k, v in enumerate(rng.normal(size=num_features))}
        for t in range(count)
    }
    pairs = pair_features(tasks)
    gains = {
        (main, aux): tasks[aux]["x0"] - tasks[main]["x1"] + float(rng.normal())
        for main, aux in pairs
    }
    return pairs, gains


def binary_pairs():
    """Feature 0: one of four gains. Feature 1: three of four."""
    pairs, gains = {}, {}
    for index, (x, gain) in enumerate([(0, 1)] + 3 * [(0, -1)] + 3 * [(1, 1)] + [(1, -1)]):
        pairs[f"main{index}", "aux"] = {"x": x}
        gains[f"main{index}", "aux"] = 0.1 * gain
    return pairs, gains


def test_one_binary_feature_by_hand():
    pairs, gains = binary_pairs()
    predictor = TaskGainPredictor(penalty=None).fit(pairs, gains)
    # Log odds log(1/3) and log(3).
    assert predictor.intercept == pytest.approx(-np.log(3))
    assert predictor.coefficients == pytest.approx({"x": 2 * np.log(3)})
    probabilities = predictor.predict_probability(pairs)
    assert probabilities["main0", "aux"] == pytest.approx(0.25)
    assert probabilities["main7", "aux"] == pytest.approx(0.75)
    assert predictor.predict(pairs) == {pair: pairs[pair]["x"] == 1 for pair in pairs}


def test_features_are_scaled():
    pairs, gains = binary_pairs()
    expected = TaskGainPredictor().fit(pairs, gains)
    shifted = {pair: {"x": 1000 * features["x"] - 30} for pair, features in pairs.items()}
    predictor = TaskGainPredictor().fit(shifted, gains)
    assert predictor.coefficients == pytest.approx(expected.coefficients)
    # Beyond the range of the training pairs the scale goes on.
    outside = predictor.predict_probability({("new", "aux"): {"x": 1970.0}})
    logit = predictor.intercept + 2 * predictor.coefficients["x"]
    assert outside["new", "aux"] == pytest.approx(1 / (1 + np.exp(-logit)))


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_equals_scikit_learn(strength):
    linear_model = pytest.importorskip("sklearn.linear_model")
    pairs, gains = random_pairs(6, seed=0, num_features=3)
    predictor = TaskGainPredictor(strength=strength).fit(pairs, gains)
    names, keys = sorted(pairs["task0", "task1"]), sorted(pairs)
    x = np.array([[pairs[key][name] for name in names] for key in keys])
    x = (x - x.min(axis=0)) / np.ptp(x, axis=0)
    other = linear_model.LogisticRegression(C=1 / strength, tol=1e-12, max_iter=100_000)
    other.fit(x, [gains[key] > 0 for key in keys])
    found = [predictor.coefficients[name] for name in names]
    np.testing.assert_allclose(found, other.coef_[0], atol=1e-5)
    assert predictor.intercept == pytest.approx(other.intercept_[0], abs=1e-5)
    probabilities = list(predictor.predict_probability(pairs).values())
    np.testing.assert_allclose(probabilities, other.predict_proba(x)[:, 1], atol=1e-6)


def test_largest_coefficients_come_first():
    pairs, gains = random_pairs(6, seed=2)
    sizes = [abs(value) for value in TaskGainPredictor().fit(pairs, gains).coefficients.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_strong_penalty_leaves_the_share_of_gains():
    pairs, gains = random_pairs(5, seed=1)
    predictor = TaskGainPredictor(strength=1e9).fit(pairs, gains)
    share = np.mean([gain > 0 for gain in gains.values()])
    for probability in predictor.predict_probability(pairs).values():
        assert probability == pytest.approx(share, abs=1e-6)


def test_a_constant_feature_has_no_say():
    pairs, gains = binary_pairs()
    expected = TaskGainPredictor().fit(pairs, gains)
    constant = {pair: {**features, "same": 7.0} for pair, features in pairs.items()}
    predictor = TaskGainPredictor().fit(constant, gains)
    assert predictor.coefficients == pytest.approx({**expected.coefficients, "same": 0.0})
    other = predictor.predict_probability({("new", "aux"): {"x": 1, "same": -5.0}})
    assert other["new", "aux"] == pytest.approx(
        expected.predict_probability({("new", "aux"): {"x": 1}})["new", "aux"]
    )


def test_order_carries_no_meaning():
    pairs, gains = random_pairs(5, seed=3)
    backward = {k: dict(reversed(pairs[k].items())) for k in reversed(list(pairs))}
    expected = TaskGainPredictor().fit(pairs, gains)
    predictor = TaskGainPredictor().fit(backward, dict(reversed(gains.items())))
    assert predictor.coefficients == expected.coefficients


def test_cross_validation_knows_neither_task_of_a_pair():
    pairs, gains = random_pairs(6, seed=4)
    validation = TaskGainPredictor(strength=0.5).cross_validate(pairs, gains)
    assert sorted(validation.probabilities) == sorted(pairs)
    for a, b in itertools.combinations(sorted({main for main, _ in pairs}), 2):
        others = [pair for pair in pairs if a not in pair and b not in pair]
        fold = TaskGainPredictor(strength=0.5)
        fold.fit({pair: pairs[pair] for pair in others}, {pair: gains[pair] for pair in others})
        for pair in ((a, b), (b, a)):
            expected = fold.predict_probability({pair: pairs[pair]})[pair]
            assert validation.probabilities[pair] == pytest.approx(expected)

    told = np.array([validation.probabilities[pair] > 0.5 for pair in gains])
    truth = np.array([gain > 0 for gain in gains.values()])
    assert validation.accuracy == pytest.approx(np.mean(told == truth))
    assert validation.baseline == pytest.approx(max(truth.mean(), 1 - truth.mean()))
    precision, recall = np.mean(truth[told]), np.mean(told[truth])
    assert validation.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_cross_validation_sees_no_skill_where_there_is_none():
    # Each main task gains always or never, by chance, and its features are noise. Folds of
    # pairs would recognise the tasks; 64 pairs of features tell them apart.
    rng = np.random.default_rng(0)
    tasks = {f"t{t}": {f"x{k}": float(rng.normal()) for k in range(8)} for t in range(9)}
    pairs = pair_features(tasks)
    sign = {f"t{t}": -1.0 if t % 2 else 1.0 for t in range(9)}
    gains = {(main, aux): sign[main] for main, aux in pairs}
    predictor = TaskGainPredictor(strength=0.1).fit(pairs, gains)
    told = predictor.predict(pairs)
    assert np.mean([told[pair] == (gains[pair] > 0) for pair in pairs]) == 1.0
    assert predictor.cross_validate(pairs, gains).accuracy < 0.7


def test_folds_of_one_sign():
    pairs, _ = random_pairs(4, seed=5)
    gains = {
        pair: 1.0 if pair in [("task0", "task1"), ("task1", "task0")] else -1.0 for pair in pairs
    }
    validation = TaskGainPredictor().cross_validate(pairs, gains)
    assert validation.probabilities["task2", "task3"] == 1.0
    assert validation.probabilities["task0", "task1"] == 0.0
    assert (validation.accuracy, validation.f1) == (pytest.approx(8 / 12), 0.0)


def test_cross_validation_of_three_tasks():
    pairs, gains = random_pairs(3, seed=0)
    with pytest.raises(ValueError, match=r"Received: none without \('task0', 'task1'\)"):
        TaskGainPredictor().cross_validate(pairs, gains)


def test_separable_gains_need_a_penalty():
    pairs, gains = binary_pairs()
    gains = {pair: 1.0 if pairs[pair]["x"] else -1.0 for pair in gains}
    with pytest.raises(
        ValueError, match='separate gains.*`penalty="l2"` is needed.*1 features of 8'
    ):
        TaskGainPredictor(penalty=None).fit(pairs, gains)
    assert TaskGainPredictor().fit(pairs, gains).predict(pairs) == {p: gains[p] > 0 for p in pairs}


def test_arguments_are_attributes():
    predictor = TaskGainPredictor(penalty=None, strength=2.0)
    assert (predictor.penalty, predictor.strength) == (None, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"penalty": "l1"}, "`penalty` must be \"l2\" or None. Received: penalty='l1'"),
        ({"strength": 0.0}, "`strength` must be finite and positive. Received: strength=0.0"),
        ({"strength": np.inf}, "`strength` must be finite and positive"),
    ],
)
def test_errors_of_the_constructor(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskGainPredictor(**arguments)


AB, BA = ("a", "b"), ("b", "a")


@pytest.mark.parametrize(
    ("pairs", "gains", "message"),
    [
        ({}, {}, "of at least one"),
        ({AB: {"x": 1.0}}, {BA: 1.0}, r"only in one of them: \[\('a', 'b'\), \('b', 'a'\)\]"),
        ({AB: {"x": 1.0}}, {AB: np.nan}, "`gains` must be finite"),
        ({AB: {"x": 1.0}, BA: {"x": 2.0}}, {AB: 1.0, BA: 2.0}, "Received: 2 of 2 above 0"),
        ({AB: {"x": 1.0}, BA: {"y": 2.0}}, {AB: 1.0, BA: -1.0}, r"same finite features, \['x'\]"),
        ({AB: {"x": 1.0}, BA: {"x": np.inf}}, {AB: 1.0, BA: -1.0}, "the same finite features"),
    ],
)
def test_errors_of_fit(pairs, gains, message):
    with pytest.raises(ValueError, match=message):
        TaskGainPredictor().fit(pairs, gains)


def test_errors_of_predict():
    pairs, gains = binary_pairs()
    predictor = TaskGainPredictor()
    with pytest.raises(ValueError, match="Call `fit` before"):
        predictor.predict(pairs)
    with pytest.raises(ValueError, match=r"the same finite features, \['x'\]"):
        predictor.fit(pairs, gains).predict({("a", "b"): {"z": 1.0}})
