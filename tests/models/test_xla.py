"""Every network trains under XLA, with the loss that it has without."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork
from tests.distribution.cases import rule

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 6, 6, 1)).astype("float32")
# Labels are absent from whole samples of one task and from a part of the other's.
Y = {
    "depth": np.where(np.arange(8) < 4, np.nan, RNG.normal(size=8)).astype("float32"),
    "seg": np.where(np.arange(8) % 3 == 0, -1, RNG.integers(0, 3, size=8)),
}


def network(name):
    keras.utils.set_random_seed(3)
    stages = [
        layers.Conv2D(4, 3, padding="same", activation="tanh"),
        [layers.GlobalAveragePooling2D(), layers.Dense(4, activation="tanh")],
    ]
    heads = {"depth": layers.Dense(1), "seg": layers.Dense(3, activation="softmax")}
    trunk = [stages[0], *stages[1]]
    if name == "hard_sharing":
        return HardSharing(trunk, heads, inputs=(6, 6, 1))
    if name == "cross_stitch":
        return CrossStitchNetwork(stages, heads, inputs=(6, 6, 1))
    if name == "sluice":
        pooled = [*stages[1], layers.Reshape((1, 1, 4))]
        readout = layers.GlobalAveragePooling2D
        return SluiceNetwork([stages[0], pooled], heads, readout=readout, inputs=(6, 6, 1))
    return FactorizedNetwork(trunk, heads, inputs=(6, 6, 1))


@pytest.mark.parametrize("name", ["hard_sharing", "cross_stitch", "sluice", "factorized"])
def test_one_step_compiled_by_xla_equals_one_without(name):
    losses, weights = [], []
    for jit_compile in (False, True):
        model = network(name)
        model.compile(
            keras.optimizers.SGD(0.1),
            loss={"depth": "mse", "seg": "sparse_categorical_crossentropy"},
            weighting="uncertainty",
            missing={"depth": float("nan"), "seg": -1},
            jit_compile=jit_compile,
        )
        assert model.jit_compile is jit_compile
        history = model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        losses.append(history["loss"])
        weights.append(model.get_weights())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][0] != losses[0][1]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


NAMED = {rule.__name__ for rule in kmtl.weighting.NAMES.values()}
RULES = sorted({"ScheduledWeights", "StaticWeights"} | NAMED)


@pytest.mark.nightly
@pytest.mark.parametrize("name", RULES)
def test_every_rule_compiles(name):
    """What can be shown of TPUs here: the whole step, in XLA, on static shapes."""
    weights = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(3)
        trunk = [layers.Flatten(), layers.Dense(4, activation="tanh")]
        heads = {"depth": layers.Dense(1), "seg": layers.Dense(3, activation="softmax")}
        heads["edge"] = layers.Dense(1)
        model = HardSharing(trunk, heads, inputs=(6, 6, 1))
        model.compile(
            keras.optimizers.SGD(0.1),
            loss={"depth": "mse", "edge": "mse", "seg": "sparse_categorical_crossentropy"},
            weighting=rule(name),
            missing={"depth": float("nan"), "seg": -1},
            jit_compile=jit_compile,
        )
        labels = {**Y, "edge": X[:, 0, 0, 0]}
        model.fit(X, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    assert all(np.isfinite(w).all() for w in weights[1])
    if not hasattr(model.weighting, "seed"):  # XLA draws other random numbers from the same seed
        for a, b in zip(*weights, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)
