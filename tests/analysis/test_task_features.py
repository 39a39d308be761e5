import numpy as np
import pytest

from kmtl.analysis import js_divergence, pair_features, task_features

pytestmark = pytest.mark.both_backends

DATA = {
    "sentences": [["a", "a", "b"], ["b", "c"]],
    "labels": [["O", "O", "B"], ["B", "I"]],
    "validation_sentences": [["a", "b"]],
    "vocabulary": {"a", "b"},
}
GRADIENTS = [f"loss_gradient_{share}" for share in (10, 20, 30, 50, 70)]


def features(**changes):
    return task_features(**{**DATA, "losses": [1.0, 0.5, 0.25, 0.125], **changes})


def test_data_by_hand():
    found = features()
    assert len(found) == 14
    assert found["num_sentences"] == 2
    assert found["num_labels"] == 3
    # Labels O, B, I: 2, 2 and 1 of 5.
    assert found["label_entropy"] == pytest.approx(0.8 * np.log(2.5) + 0.2 * np.log(5))
    assert found["tokens_per_type"] == pytest.approx(5 / 3)
    assert found["out_of_vocabulary"] == pytest.approx(1 / 5)
    # Counts (2, 1, 0) and (0, 1, 1).
    assert found["bag_of_words_norm"] == pytest.approx(np.sqrt(4 + 1 + 1 + 1))
    expected = js_divergence([2, 2, 1], [1, 1, 0])
    assert found["js_divergence"] == pytest.approx(expected)


def test_entropy_of_uniform_labels():
    assert features(labels=[[0, 1, 2], [3, 4]])["label_entropy"] == pytest.approx(np.log(5))
    assert features(labels=[0, 1])["label_entropy"] == pytest.approx(np.log(2))


def test_the_words_of_training_have_no_divergence_from_themselves():
    found = features(validation_sentences=DATA["sentences"] * 3)
    assert found["js_divergence"] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("count", [3, 7, 50])
def test_gradients_of_a_linear_curve_equal_its_slope(count):
    found = features(losses=2.0 - 1.5 * np.linspace(0.0, 1.0, count))
    assert [found[name] for name in GRADIENTS] == pytest.approx([-1.5] * 5)


def test_gradients_of_a_parabola():
    # Central differences are exact for it: -2 (1 - x).
    x = np.linspace(0.0, 1.0, 11)
    found = features(losses=(1 - x) ** 2)
    assert [found[name] for name in GRADIENTS] == pytest.approx([-1.8, -1.6, -1.4, -1.0, -0.6])


@pytest.mark.parametrize(("b", "c"), [(-0.4, 5.0), (-0.1, 300.0), (0.7, 0.5)])
def test_log_fit_finds_the_curve(b, c):
    x = np.linspace(0.0, 1.0, 40)
    found = features(losses=2.0 + b * np.log(c * x + 1))
    assert found["log_fit_b"] == pytest.approx(b, rel=1e-4)
    assert found["log_fit_c"] == pytest.approx(c, rel=1e-4)


def test_log_fit_is_the_best_for_a_noisy_curve():
    x = np.linspace(0.0, 1.0, 30)
    losses = np.exp(-3 * x) + 0.05 * np.random.default_rng(0).normal(size=30)
    found = features(losses=losses)

    def error(c):
        basis = np.column_stack([np.ones(30), np.log(c * x + 1)])
        return np.linalg.lstsq(basis, losses, rcond=None)[1][0]

    assert error(found["log_fit_c"]) <= min(error(c) for c in np.geomspace(1e-3, 1e4, 500)) + 1e-9
    basis = np.column_stack([np.ones(30), np.log(found["log_fit_c"] * x + 1)])
    weights = np.linalg.lstsq(basis, losses, rcond=None)[0]
    assert found["log_fit_b"] == pytest.approx(weights[1])


def test_constant_curve():
    found = features(losses=[0.5] * 5)
    assert [found[name] for name in (*GRADIENTS, "log_fit_b")] == pytest.approx([0.0] * 6, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sentences": []}, r"`sentences` must have tokens. Received: sentences=\[\]"),
        ({"sentences": ["a b", "c"]}, "`sentences` must be lists of tokens, not strings"),
        ({"validation_sentences": [[]]}, "`validation_sentences` must have tokens"),
        ({"labels": [[0, 1]]}, "one entry for each sentence. Received: 1 for 2 sentences"),
        ({"labels": [[0.5], [0.7]]}, "`labels` must be of classes"),
        ({"losses": [1.0, 0.5]}, r"at least 3 finite numbers. Received: losses=\[1.0, 0.5\]"),
        ({"losses": [1.0, 0.5, np.nan]}, "at least 3 finite numbers"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        features(**changes)


def test_a_pair_has_three_times_the_features_of_a_task():
    tasks = {"pos": features(), "ner": features(labels=[0, 1]), "ccg": features(vocabulary={"c"})}
    pairs = pair_features(tasks)
    assert len(pairs) == 6
    assert all(len(pair) == 3 * len(tasks["pos"]) == 42 for pair in pairs.values())


def test_pairs_by_hand():
    pairs = pair_features({"a": {"x": 3.0, "y": -1.0}, "b": {"x": 2.0, "y": 0.0}})
    assert pairs == {
        ("a", "b"): {
            "main_x": 3.0,
            "auxiliary_x": 2.0,
            "main/auxiliary_x": 1.5,
            "main_y": -1.0,
            "auxiliary_y": 0.0,
            "main/auxiliary_y": 0.0,
        },
        ("b", "a"): {
            "main_x": 2.0,
            "auxiliary_x": 3.0,
            "main/auxiliary_x": pytest.approx(2 / 3),
            "main_y": 0.0,
            "auxiliary_y": -1.0,
            "main/auxiliary_y": 0.0,
        },
    }


@pytest.mark.parametrize("other", [{"y": 1.0}, {"x": np.nan}, {"x": 1.0, "y": 1.0}])
def test_pairs_of_different_features(other):
    with pytest.raises(ValueError, match=r"the same for all tasks. Received: features\['b'\]="):
        pair_features({"a": {"x": 1.0}, "b": other})


def test_pairs_of_one_task():
    with pytest.raises(ValueError, match=r"of at least two tasks. Received: \['a'\]"):
        pair_features({"a": {"x": 1.0}})
