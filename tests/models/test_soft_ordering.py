"""SoftOrdering: the same layers in a learned order, and its limits."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kmtl.layers.convex_stitch import ConvexStitch
from kmtl.models import HardSharing
from kmtl.models.soft_ordering import SoftOrdering

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype("float32")
DEPTH = 3


def core(count=DEPTH):
    return [
        layers.Dense(4, activation="tanh", bias_initializer="normal", name=f"phi_{k}")
        for k in range(count)
    ]


def heads():
    return {"zeta": layers.Dense(2, name="zeta"), "alpha": layers.Dense(1, name="alpha")}


def set_order(model, task, order):
    """Puts all of a task's weight at depth l on layer `order[l]`."""
    for depth, k in enumerate(order):
        model.get_layer(f"{task}_order_{depth}").scores.assign(300.0 * np.eye(DEPTH)[k])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 1)])
def test_a_hard_order_is_a_chain_of_layers(order):
    model = SoftOrdering(core(), heads(), inputs=(4,))
    set_order(model, "zeta", order)
    set_order(model, "alpha", (0, 1, 2))  # as in parallel sharing
    for task, own in {"zeta": order, "alpha": (0, 1, 2)}.items():
        y = X
        for k in own:
            y = model.get_layer(f"phi_{k}")(y)
        np.testing.assert_array_equal(model(X)[task], model.get_layer(task)(y))


def test_the_diagonal_is_hard_sharing_with_its_gradients():
    phi = core()
    model = SoftOrdering(phi, heads(), inputs=(4,))
    for task in ("zeta", "alpha"):
        set_order(model, task, range(DEPTH))
    plain = HardSharing(core(), heads(), inputs=(4,))
    for layer in plain.layers[1:]:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    y = {"zeta": np.ones((6, 2)), "alpha": np.zeros((6, 1))}
    for one in (model, plain):
        one.compile(keras.optimizers.SGD(0.1), loss="mse")
        one.fit(X, y, batch_size=6, verbose=0)
    for layer in plain.layers[1:]:
        pairs = zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_equal_scores_and_equal_layers_are_one_layer_again_and_again():
    phi = core()
    model = SoftOrdering(phi, heads(), inputs=(4,))
    for layer in phi[1:]:
        layer.set_weights(phi[0].get_weights())
    expected = model.get_layer("zeta")(phi[0](phi[0](phi[0](X))))
    np.testing.assert_allclose(model(X)["zeta"], expected, rtol=1e-5, atol=1e-6)


def test_first_depth_by_hand():
    model = SoftOrdering(core(2), {"a": layers.Identity()}, inputs=(4,))
    scores = np.log([[1.0, 3.0], [1.0, 1.0]])
    for depth in range(2):
        model.get_layer(f"a_order_{depth}").scores.assign(scores[depth])
    phi = [model.get_layer(f"phi_{k}") for k in range(2)]
    y = 0.25 * phi[0](X) + 0.75 * phi[1](X)
    np.testing.assert_allclose(model(X)["a"], 0.5 * (phi[0](y) + phi[1](y)), rtol=1e-5, atol=1e-6)


def test_every_task_and_depth_has_scores_and_layers_are_not_copied():
    phi = core()
    model = SoftOrdering(phi, heads(), layers.Dense(4), inputs=(5,))
    stitches = [layer for layer in model.layers if isinstance(layer, ConvexStitch)]
    assert len(stitches) == 2 * DEPTH and all(s.scores.shape == (DEPTH,) for s in stitches)
    assert all(layer in model.layers for layer in phi)
    assert sum("phi" in layer.name for layer in model.layers) == DEPTH


def test_encoders_by_task():
    encoders = {"alpha": layers.Dense(4, name="left"), "zeta": [layers.Dense(4, name="right")]}
    model = SoftOrdering(core(), heads(), encoders, inputs=(5,))
    assert model.get_layer("left") is not encoders["alpha"]
    x = RNG.normal(size=(3, 5)).astype("float32")
    before = {task: ops.convert_to_numpy(y) for task, y in model(x).items()}
    model.get_layer("left").bias.assign(np.ones(4))
    after = model(x)
    np.testing.assert_array_equal(after["zeta"], before["zeta"])
    assert not np.allclose(after["alpha"], before["alpha"])


@pytest.mark.parametrize(
    ("core", "encoders", "message"),
    [
        ([], None, "`core` must be a list of at least one layer"),
        (layers.Dense(4), None, "`core` must be a list of at least one layer"),
        (
            [layers.Dense(4), layers.Dense(5, name="wide")],
            None,
            r"return the shape that it gets. Received: \(None, 4\), made \(None, 5\) by 'wide'",
        ),
        (core(), {"alpha": layers.Dense(4)}, r"`encoders` must name .*missing \['zeta'\]"),
    ],
    ids=["none", "no_list", "shape", "tasks"],
)
def test_errors(core, encoders, message):
    with pytest.raises(ValueError, match=message):
        SoftOrdering(core, heads(), encoders, inputs=(4,))
