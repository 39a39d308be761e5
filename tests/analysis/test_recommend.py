"""recommend: both methods on tasks whose relations are known, and what the result shows."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.analysis.recommend import recommend
from kmtl.analysis.recommendation import Recommendation
from kmtl.analysis.validation_losses import validation_losses

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 6)).astype("float32")
SUM = X[:, :1] + X[:, 1:2]
# Two tasks want what the other two want the opposite of.
Y = {"a": SUM, "b": SUM + 0.1, "c": 3 - SUM, "d": 3.1 - SUM}


def rows(start, stop, tasks="abcd"):
    return X[start:stop], {task: Y[task][start:stop] for task in tasks}


def named(*tasks):
    return X, dict.fromkeys((*tasks, "z"), SUM)


TRAIN, HELD_OUT, MANY = rows(0, 96), rows(96, 160), named(*map(str, range(15)))


def model_fn(tasks):
    heads = {t: layers.Dense(1, kernel_initializer="ones", trainable=False) for t in tasks}
    model = kmtl.models.HardSharing([layers.Dense(3, name="low")], heads, inputs=(6,))
    model.compile(keras.optimizers.SGD(0.02), loss="mse")
    return model


def matrix(recommendation):
    return np.array([list(row.values()) for row in recommendation.affinity.values()])


@pytest.fixture(scope="module")
def found():
    return recommend(model_fn, TRAIN, HELD_OUT, budget=2, every=2, epochs=2, verbose=False)


def test_related_tasks_go_together(found):
    assert isinstance(found, Recommendation) and found.method == "affinity"
    assert set(found.groups.groups) == {"a+b", "c+d"}
    assert found.affinity["a"]["b"] > 0 > found.affinity["a"]["c"]


def test_evidence(found):
    assert found.evidence["measurements"] == 3
    assert set(found.evidence["labels"]) == set("abcd")
    assert found.evidence["labels"]["a"]["count"] == 96
    cosines = found.evidence["cosines"]
    assert cosines["a"]["b"] > 0.5 and cosines["a"]["c"] < 0 and 0 < found.evidence["conflict_rate"]


def test_print(found):
    lines = str(found).split("\n")
    assert lines[0].startswith("2 networks at a cost of 2")
    assert lines[3] == "Why, by 3 measurements in one training:"
    assert lines[4].startswith("  a: b does most for it (+") and "96 labels" in lines[4]
    assert "Pairs of tasks whose gradients point apart" in lines[-1]


def test_plot(found):
    pytest.importorskip("matplotlib")
    affinity, cosines = (axes for axes in found.plot().axes if axes.get_title())
    assert affinity.get_title() == "Affinity of tasks"
    assert cosines.get_title() == "Cosines of gradients"
    # Frames around what a task is trained with, and nothing else.
    corners = {tuple(int(round(c + 0.48)) for c in box.get_xy()) for box in affinity.patches}
    assert corners == {(0, 1), (1, 0), (2, 3), (3, 2)}


def test_the_seed_decides(found):
    np.random.seed(99)
    options = {"budget": 2, "every": 2, "epochs": 2, "verbose": False}
    again, other = (matrix(recommend(model_fn, TRAIN, HELD_OUT, seed=s, **options)) for s in (0, 1))
    # Not to the bit: TensorFlow adds up floats in an order of its own.
    np.testing.assert_allclose(again, matrix(found), rtol=1e-3)
    assert np.abs(other / again - 1).max() > 0.05


def test_validation_data_train_nothing():
    """With other labels held out, the joint model ends where it did; only the choice moves."""
    ends, results = [], []
    opposite = (HELD_OUT[0], {**HELD_OUT[1], "b": HELD_OUT[1]["c"]})
    for held_out in (HELD_OUT, opposite):
        models = []

        def keeping(tasks, models=models):
            models.append(model_fn(tasks))
            return models[-1]

        results.append(recommend(keeping, TRAIN, held_out, 2, every=2, verbose=False))
        ends.append(models[-1].get_weights())
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.abs(matrix(results[0]) - matrix(results[1])).max() > 0.01


def test_company_that_does_not_help_is_left():
    found = recommend(
        model_fn, rows(0, 96, "ac"), rows(96, 160, "ac"), 2, every=2, epochs=1, verbose=False
    )
    assert set(found.groups.groups) == {"a", "c"}


def test_trained_pairs(capsys):
    tasks = "abc"
    found = recommend(model_fn, rows(0, 96, tasks), rows(96, 160, tasks), 2, method="train")
    losses = found.evidence["losses"]
    assert set(losses) == {"a", "b", "c", "a+b", "a+c", "b+c"}
    assert found.affinity["b"]["a"] == pytest.approx(1 - losses["a+b"]["a"] / losses["a"]["a"])
    assert found.affinity["c"]["a"] < 0  # opposite targets on one trunk
    assert set(found.groups.groups) <= {"a+b", "c", "a", "b"}
    assert "by the validation losses of 6 networks" in str(found)
    printed = capsys.readouterr().out
    assert "Training network 6 of 6: b, c" in printed and "Chosen: " in printed
    pytest.importorskip("matplotlib")
    assert [axes.get_title() for axes in found.plot().axes][0] == "Affinity of tasks"


def test_validation_losses_are_those_of_evaluate():
    """With unequal batches, missing labels and sample weights."""
    model = model_fn("ab")
    model.compile("sgd", loss="mse", missing={"b": float("nan")}, loss_weights={"a": 3.0, "b": 1.0})
    x, y = rows(0, 30, "ab")
    y["b"] = np.where(np.arange(30)[:, None] < 12, np.nan, y["b"])
    weights = {task: RNG.uniform(size=30).astype("float32") for task in "ab"}
    logs = model.evaluate(x, y, sample_weight=weights, batch_size=8, verbose=0, return_dict=True)
    losses = validation_losses(model, (x, y, weights), 8)
    np.testing.assert_allclose(
        [losses["a"], losses["b"]], [logs["a_loss"], logs["b_loss"]], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "guess"}, "`method` must be one of .*Received: method='guess'"),
        ({"dataset": [1, 2]}, "`dataset` must be .*Received: dataset of type list"),
        ({"dataset": rows(0, 96, "a")}, r"two tasks. Received: dataset of tasks \['a'\]"),
        (
            {"validation_data": rows(0, 9, "ab")},
            r"`validation_data` must have labels.*\['a', 'b'\]",
        ),
        ({"model_fn": lambda tasks: model_fn("ab")}, r"`model_fn` must return.*\['a', 'b'\]"),
        ({"model_fn": lambda tasks: None}, "a compiled `kmtl.MultiTaskModel`. Received: NoneType"),
        ({"model_fn": lambda tasks: keras.Sequential()}, "MultiTaskModel`. Received: Sequential"),
    ],
)
def test_errors(arguments, message):
    refused(arguments, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 4}, "at least `every` batches.*Received: every=4, 3 batches"),
        ({"budget": 0}, "`budget` must be an integer, at least 1. Received: budget=0"),
        ({"budget": 0, "method": "train"}, "`budget` must be an integer, at least 1"),
        ({"dataset": named("a+b"), "validation_data": named("a+b")}, r'must not contain "\+"'),
        ({"dataset": MANY, "validation_data": MANY}, "At most 14 tasks"),
    ],
)
def test_errors_before_a_training(arguments, message):
    refused({"model_fn": None, **arguments}, message)  # no model is made


def refused(arguments, message):
    given = {
        "model_fn": model_fn,
        "dataset": TRAIN,
        "validation_data": HELD_OUT,
        "budget": 2,
        "every": 2,
        "epochs": 1,
        "verbose": False,
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        recommend(**given)
