"""MTAN: one trunk, and what each task attends to."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.layers.attention_gate import AttentionGate
from kmtl.models.mtan import MTAN

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 8, 8, 2)).astype("float32")


def conv(filters, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", activation="relu", **kwargs)


def build():
    stages = [(conv(3, name="u0"), conv(4, name="p0")), (conv(5, name="u1"), [conv(6, name="p1")])]
    heads = {"seg": layers.Conv2D(3, 1, name="seg"), "depth": layers.Conv2D(1, 1, name="depth")}
    pooling = layers.MaxPooling2D(name="pool")
    return MTAN(stages, heads, between=[pooling], inputs=(8, 8, 2))


def test_parts():
    model = build()
    assert isinstance(model, kmtl.MultiTaskModel)
    assert {task: y.shape for task, y in model.output.items()} == {
        "seg": (None, 4, 4, 3),
        "depth": (None, 4, 4, 1),
    }
    gates = [layer.name for layer in model.layers if isinstance(layer, AttentionGate)]
    assert sorted(gates) == ["depth_attention_0", "depth_attention_1"] + [
        "seg_attention_0",
        "seg_attention_1",
    ]
    # The second gate reads u1 (5 channels) and the task's own features (4).
    assert model.get_layer("seg_attention_1").kernels[0].shape == (9, 6)
    # One refining convolution a stage, for both tasks.
    names = [layer.name for layer in model.layers]
    assert names.count("refine_0") == names.count("refine_1") == 1


def set_masks(model, task, logit):
    for layer in model.layers:
        if isinstance(layer, AttentionGate) and layer.name.startswith(task):
            layer.kernels[1].assign(np.zeros(layer.kernels[1].shape))
            layer.biases[1].assign(np.full(layer.biases[1].shape, logit))


def test_with_open_masks_a_task_reads_the_trunk():
    model = build()
    set_masks(model, "seg", 200.0)
    trunk = X
    for name in ("u0", "p0", "pool", "u1", "p1"):
        trunk = model.get_layer(name)(trunk)
    expected = trunk
    for name in ("refine_1", "refine_1_norm", "refine_1_relu", "seg"):
        expected = model.get_layer(name)(expected)
    expected = ops.convert_to_numpy(expected)
    np.testing.assert_allclose(model(X)["seg"], expected, rtol=1e-5, atol=1e-6)


def test_with_closed_masks_a_task_sees_nothing_and_others_go_on():
    model = build()
    model.get_layer("refine_1").bias.assign(np.full(6, 0.5))  # biases are all that is left
    before = model(X)
    set_masks(model, "seg", -200.0)
    after, of_others = model(X), model(3.0 * X)
    np.testing.assert_array_equal(after["seg"], of_others["seg"])
    np.testing.assert_array_equal(after["depth"], before["depth"])
    assert np.ptp(before["seg"]) > 0.01 and np.ptp(after["seg"][0, :, :, 0]) == 0.0


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_a_step_for_one_task_leaves_the_others_gates():
    model = build()
    model.compile(keras.optimizers.SGD(0.1), loss={"seg": "mse", "depth": None})
    before = {layer.name: layer.get_weights() for layer in model.layers}
    gate = model.get_layer("depth_attention_0")
    start = {v.path: ops.convert_to_numpy(v) for v in gate.trainable_variables}
    model.fit(X, {"seg": np.ones((4, 4, 4, 3), "float32")}, verbose=0)

    def moved(name):
        pairs = zip(before[name], model.get_layer(name).get_weights(), strict=True)
        return any(np.any(a != b) for a, b in pairs)

    assert all(moved(name) for name in ("u0", "p1", "seg_attention_0", "refine_0", "seg"))
    # Its gates normalise in training as all do, which moves statistics, but train nothing.
    trained = {v.path: ops.convert_to_numpy(v) for v in gate.trainable_variables}
    assert len(trained) == 8
    for path, value in trained.items():
        np.testing.assert_array_equal(value, start[path])
    assert not moved("depth")


@pytest.mark.parametrize("weighting", ["uncertainty", "pcgrad"])
def test_trains_with_weightings_of_both_kinds(weighting):
    model = build()
    model.compile(keras.optimizers.Adam(0.01), loss="mse", weighting=weighting)
    y = {task: np.ones((4, 4, 4, n), "float32") for task, n in (("seg", 3), ("depth", 1))}
    losses = model.fit(X, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_vectors_are_refined_by_dense_layers():
    dense = [(layers.Dense(5), layers.Dense(4)), (layers.Dense(3), layers.Dense(6))]
    model = MTAN(dense, {"a": layers.Dense(1)}, inputs=(7,))
    assert isinstance(model.get_layer("refine_0"), layers.Dense)
    assert model(np.ones((2, 7)))["a"].shape == (2, 1)


@pytest.mark.parametrize(
    ("stages", "between", "message"),
    [
        ([], None, "list of pairs"),
        ([conv(3)], None, "list of pairs"),
        ([(conv(3), conv(3))] * 2, [], "one entry less than `stages`. Received: 0 for 2"),
        ([(conv(3), conv(3))] * 2, [conv(3)], "without weights.*Received: weights in"),
        (
            [(conv(3), [conv(3), layers.MaxPooling2D()])],
            None,
            r"one shape but for their channels.*\(None, 8, 8, 3\), \(None, 4, 4, 3\)",
        ),
    ],
    ids=["none", "no_pair", "between", "weights", "resolution"],
)
def test_errors(stages, between, message):
    with pytest.raises(ValueError, match=message):
        MTAN(stages, {"a": layers.Conv2D(1, 1)}, between, inputs=(8, 8, 3))
