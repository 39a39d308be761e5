import keras
import numpy as np
import pytest

import kmtl
from kmtl.analysis.rank_input_or_output import InputOrOutput, rank_input_or_output

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3)).astype("float32")
X[:, 2] = X[:, 0]
Y = {"price": 3 * X[:, :1] + X[:, 1:2]}


def model_fn(read, predicted):
    x = keras.Input((len(read),))
    h = keras.layers.Dense(4)(x)
    heads = {f"column_{c}": keras.layers.Dense(1)(h) for c in predicted}
    model = kmtl.MultiTaskModel(x, {"price": keras.layers.Dense(1)(h), **heads})
    model.compile(keras.optimizers.Adam(0.05), loss="mse", metrics={"price": "mae"})
    return model


def ranked(**kwargs):
    data, validation = (X[:80], {"price": Y["price"][:80]}), (X[80:], {"price": Y["price"][80:]})
    return rank_input_or_output(model_fn, data, validation, main="price", **kwargs)


def test_what_cannot_be_missed_is_an_input():
    found = ranked(columns=[1], epochs=30)
    assert found.best == {1: "input"}
    assert found.scores[1]["input"] < 0.1 < found.scores[1]["ignored"]
    assert found.gains[1] == found.scores[1]["input"] - found.scores[1]["output"] < 0


class Noted:
    """A model that only says what it was given; its score is a random number."""

    calls = []

    def __init__(self, read, predicted):
        self.expected = len(read), [f"column_{c}" for c in predicted]
        self.calls.append((read, predicted))

    def fit(self, x, y, **kwargs):
        assert (x.shape[1], [name for name in y if name != "price"]) == self.expected
        for name in self.expected[1]:
            np.testing.assert_array_equal(y[name], X[:80, [int(name[-1])]])

    def evaluate(self, x, y, **kwargs):
        return {"loss": np.nan, "price_mae": float(np.random.random()), "price_loss": 0.0}


def test_trainings_are_the_variants_and_seeds_repeat():
    data = X[:80], {"price": Y["price"][:80]}

    def run(*seeds):
        return rank_input_or_output(
            Noted, data, data, "price", columns=[0, 2], metric="mae", seeds=seeds
        )

    found, every = run(1, 2), ([0, 1, 2], [])
    variants = [every, ([1, 2], [0]), ([1, 2], []), ([0, 1], [2]), ([0, 1], [])]
    assert Noted.calls == [v for v in variants for _ in range(2)]
    assert found.scores[0]["input"] == found.scores[2]["input"]
    one, two = (run(seed).scores[2]["output"] for seed in (1, 2))
    assert one != two
    assert found.scores[2]["output"] == pytest.approx((one + two) / 2)
    assert found.deviations[2]["output"] == pytest.approx(abs(one - two) / 2)


def test_order_and_print():
    scores = {
        0: {"input": 0.5, "output": 0.75, "ignored": 0.25},
        1: {"input": 0.5, "output": 0.25, "ignored": 0.5},
    }
    zeros = {c: dict.fromkeys(s, 0.0) for c, s in scores.items()}
    found = InputOrOutput(scores, zeros, higher_is_better=True)
    assert list(found.gains.items()) == [(0, 0.25), (1, -0.25)]
    assert found.best == {0: "output", 1: "input"}
    lines = str(found).splitlines()
    assert len(lines) == 3 and "0.75" in lines[1] and lines[1].endswith("output")
    lower = InputOrOutput(scores, zeros, higher_is_better=False)
    assert list(lower.gains) == [1, 0] and lower.best == {0: "ignored", 1: "output"}


def test_errors():
    with pytest.raises(ValueError, match=r"among the 3 of the inputs. Received: columns=\[3\]"):
        ranked(columns=[3])
    with pytest.raises(ValueError, match="`seeds` must hold at least one"):
        ranked(seeds=())
    with pytest.raises(ValueError, match="with the task `main`. Received: main='rent'"):
        rank_input_or_output(model_fn, (X, Y), (X, Y), main="rent")
    one = np.ones((32, 1)), {"price": np.ones((32, 1))}
    with pytest.raises(ValueError, match=r"least two features.*Received: x of shape \(32, 1\)"):
        rank_input_or_output(None, one, one, main="price")  # before a model is made
    with pytest.raises(ValueError, match="`metric` must be one of .*Received: 'accuracy'"):
        ranked(columns=[0], metric="accuracy", epochs=1)
