"""Rules by gradients with micro-batches: the same as with whole batches."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = {
    "a": RNG.normal(size=(24, 1)).astype("float32"),
    "b": RNG.normal(size=(24, 2)).astype("float32"),
}


def build():
    stages = [layers.Dense(6, activation="tanh"), layers.Dense(5, activation="tanh")]
    heads = {"a": layers.Dense(1), "b": layers.Dense(2)}
    return kmtl.models.HardSharing(stages, heads, inputs=(4,))


def train(rule, micro_batches, epochs=2, optimizer=None):
    keras.utils.set_random_seed(5)
    model = build()
    steps = micro_batches if micro_batches > 1 else None
    optimizer = optimizer or keras.optimizers.SGD(
        0.1, momentum=0.9, gradient_accumulation_steps=steps
    )
    model.compile(optimizer, loss="mse", weighting=rule)
    history = model.fit(
        X, Y, batch_size=12 // micro_batches, epochs=epochs, shuffle=False, verbose=0
    )
    return model, history.history


RULES = {
    "PCGrad": lambda: kmtl.weighting.PCGrad(seed=1),
    "PCGrad, parameters": lambda: kmtl.weighting.PCGrad(seed=1, scope="parameters"),
    "MGDA, last_shared": lambda: kmtl.weighting.MGDA(scope="last_shared", normalize="loss"),
    "GradVac": lambda: kmtl.weighting.GradVac(beta=0.5, seed=1),
    "MoCo": lambda: kmtl.weighting.MoCo(),
    "GradDrop, parameters": lambda: kmtl.weighting.GradDrop(scope="parameters", seed=1),
}


@pytest.mark.parametrize("name", RULES)
def test_micro_batches_are_one_batch(name):
    whole, history = train(RULES[name](), 1)
    parts, history2 = train(RULES[name](), 3)
    own = [len(layer.weights) for layer in whole.layers]
    assert sum(own) == 8
    for a, b in zip(whole.layers, parts.layers, strict=True):
        for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
            np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-6)
    for a, b in zip(whole.weighting.state.variables, parts.weighting.state.variables, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(b), ops.convert_to_numpy(a), rtol=1e-4)
    for key in history:
        if key.endswith("_weight"):
            np.testing.assert_allclose(history2[key], history[key], rtol=1e-3, err_msg=key)


def test_saved_between_micro_batches(tmp_path):
    whole, _ = train(RULES["PCGrad"](), 3)
    keras.utils.set_random_seed(5)
    model = build()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=3)
    model.compile(optimizer, loss="mse", weighting=RULES["PCGrad"]())
    model.fit(X[:8], {t: y[:8] for t, y in Y.items()}, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    loaded.fit(X[8:], {t: y[8:] for t, y in Y.items()}, batch_size=4, shuffle=False, verbose=0)
    loaded.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(whole.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(b, a)


def test_a_micro_batch_that_is_not_finite_leaves_the_sums_alone():
    def root(y_true, y_pred):
        return ops.sqrt(ops.mean(ops.square(y_true - y_pred), axis=-1))

    keras.utils.set_random_seed(5)
    model = build()
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model.compile(optimizer, loss={"a": root, "b": "mse"}, weighting="pcgrad")
    x, y = X[:8].copy(), {t: labels[:8].copy() for t, labels in Y.items()}
    x[5], y["a"][5] = 0.0, 0.0  # fresh biases make this output 0, and the loss's slope infinite
    with pytest.warns(UserWarning, match=r"\{'a': 1\}"):
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    sums = [ops.convert_to_numpy(v) for v in model.accumulated_state.variables]
    assert all(np.isfinite(s).all() for s in sums) and np.abs(sums[0]).min() > 0.0


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (kmtl.weighting.PCGrad(scale_heads=True), "`scale_heads`"),
        (kmtl.weighting.DBMTL(), "a rule that scales each loss"),
        (kmtl.weighting.GradDrop(), 'with scope="representation"'),
        (kmtl.weighting.MoDo(), "several parts of a batch"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_exact_is_refused(rule, reason):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model = build()
    with pytest.raises(ValueError, match=f"cannot be used with .*{reason}.*Received: weighting="):
        model.compile(optimizer, loss="mse", weighting=rule)


def test_compiling_without_micro_batches_drops_the_sums():
    model, _ = train("pcgrad", 2, epochs=1)
    assert any("sum_" in v.path for v in model.non_trainable_variables)
    model.compile("sgd", loss="mse", weighting="pcgrad")
    assert not any("sum_" in v.path for v in model.non_trainable_variables)
