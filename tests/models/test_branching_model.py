"""BranchingModel: widening changes no output, keeps the optimizer, is saved, drawn, exported."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.models import BranchingModel

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6, 6, 1)).astype("float32")
TASKS = ("apple", "bear", "cat", "dog")
Y = {task: RNG.normal(size=(24, 1)).astype("float32") for task in TASKS}
PAIRS = [["apple", "dog"], ["bear", "cat"]]


def build(compiled=True, weighting=None, optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    stages = [
        [layers.Conv2D(3, 3, padding="same", name="conv"), layers.MaxPooling2D(name="pool")],
        [layers.Flatten(), layers.Dense(4, name="dense"), layers.BatchNormalization(name="norm")],
        keras.Sequential([layers.Dense(3, activation="tanh", name="top")]),
    ]
    heads = {task: layers.Dense(1, name=task) for task in TASKS}
    model = BranchingModel(stages, heads, inputs=(6, 6, 1))
    if compiled:
        optimizer = optimizer or keras.optimizers.Adam(0.01)
        model.compile(optimizer, loss="mse", weighting=weighting, **kwargs)
    return model


def train(model, epochs=2, **kwargs):
    return model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **kwargs)


def outputs(model, x=X):
    return {task: ops.convert_to_numpy(y) for task, y in model(x).items()}


def widen_to_the_input(model):
    model.widen(PAIRS)
    model.widen(PAIRS)
    model.widen([["apple", "dog"], ["cat", "bear"]])


def slots(model):
    """Path of a slot -> its value."""
    return {v.path: ops.convert_to_numpy(v) for v in model.optimizer.variables}


def test_outputs_stay_as_they_are():
    model = build()
    train(model)
    before = outputs(model)
    counts = []
    for grouping in (PAIRS, PAIRS, PAIRS):
        model.widen(grouping)
        counts.append(model.count_params())
        after = outputs(model)
        for task in TASKS:
            np.testing.assert_allclose(after[task], before[task], rtol=1e-5, atol=1e-6)
        predicted = model.predict(X, verbose=0)
        np.testing.assert_allclose(predicted["cat"], before["cat"], rtol=1e-5, atol=1e-6)
    # 30 of the convolution, 112 + 16 of dense and norm, 15 of the top, 4 of each head.
    assert counts == [
        30 + 128 + 2 * 15 + 16,
        30 + 2 * 128 + 2 * 15 + 16,
        2 * 30 + 2 * 128 + 2 * 15 + 16,
    ]


def test_branches_learn_apart():
    model = build()
    widen_to_the_input(model)
    before = outputs(model)
    conv = model.get_layer("conv_1")
    conv.set_weights([w + 1.0 for w in conv.get_weights()])
    after = outputs(model)
    np.testing.assert_array_equal(after["dog"], before["dog"])
    assert np.abs(after["bear"] - before["bear"]).max() > 1e-3
    model.fit(X, {t: Y[t] for t in TASKS}, verbose=0)
    assert np.abs(conv.get_weights()[0] - model.get_layer("conv").get_weights()[0]).max() > 0.1


def test_the_tree_and_its_ancestors():
    model = build(compiled=False)
    model.widen([["apple"], ["bear", "cat"], ["dog"]])
    model.widen([["apple", "dog"], ["bear", "cat"]])
    assert [[branch.tasks for branch in stage] for stage in model.tree.stages] == [
        [("apple", "bear", "cat", "dog")],
        [("apple", "dog"), ("bear", "cat")],
        [("apple",), ("bear", "cat"), ("dog",)],
    ]
    assert model.tree.active == 0
    assert str(model.tree).startswith("stage_0: apple, bear, cat, dog\n  stage_1: apple, dog\n")
    graph = keras.Model(model.input, {"cat": model.output["cat"], "bear": model.output["bear"]})
    assert {x.name for x in graph.layers} & {"dense", "dense_1"} == {"dense_1"}


def test_a_single_group_ends_it():
    model = build()
    model.widen([TASKS])
    assert model.tree.active is None and model.count_params() == 30 + 128 + 15 + 16
    with pytest.raises(ValueError, match="and no further. Received: a tree with nothing left"):
        model.widen(PAIRS)
    with pytest.raises(ValueError, match="and no further"):
        model.propose(np.eye(4))


def test_the_optimizer_goes_on():
    """Copies have what their originals have, and the rest what it had."""
    model = build()
    train(model)
    before, steps = slots(model), int(model.optimizer.iterations)
    model.optimizer.learning_rate = 0.005
    model.widen(PAIRS)
    after = slots(model)
    assert steps == 6 == int(model.optimizer.iterations)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == np.float32(0.005)
    assert len(after) == len(before) + 4  # two slots for kernel and bias of the copy
    for path, value in before.items():
        if "learning_rate" not in path:
            np.testing.assert_array_equal(after[path], value)
    for slot in ("momentum", "velocity"):
        of_copy, of_original = (
            next(v for k, v in after.items() if f"/{name}_kernel_{slot}" in k)
            for name in ("top_1", "top")
        )
        assert np.abs(of_original).max() > 0
        np.testing.assert_array_equal(of_copy, of_original)


def test_one_step_after_widening_by_hand():
    """With momentum: the copy's step is of its own tasks' gradients on the old momentum."""
    model = build(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    train(model, epochs=1)
    momentum = next(v for k, v in slots(model).items() if "top_kernel_momentum" in k)
    gradients = model.task_gradients(X, Y)["top/kernel"]
    kernel = model.get_layer("top").kernel.numpy()
    model.get_layer("norm").trainable = False  # as in task_gradients, which run as in predict
    model.compile(model.optimizer, loss="mse")
    model.widen(PAIRS)
    model.fit(X, Y, batch_size=24, verbose=0)
    for name, tasks in (("top", (0, 3)), ("top_1", (1, 2))):
        expected = kernel + 0.9 * momentum - 0.1 * gradients[list(tasks)].sum(axis=0)
        found = model.get_layer(name).kernel.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighting", ["uncertainty", "dwa", "mgda"])
def test_weightings_keep_their_state(weighting):
    model = build(weighting=weighting)
    train(model, epochs=3)
    before = [ops.convert_to_numpy(v) for v in model.weighting_state.variables]
    model.widen(PAIRS)
    after = [ops.convert_to_numpy(v) for v in model.weighting_state.variables]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    train(model, epochs=1)


def test_a_weighting_by_gradients_needs_something_shared():
    model = build(weighting="mgda")
    apart = [[task] for task in TASKS]
    for _ in range(2):
        model.widen(apart)
    assert model.propose(np.eye(4), separation_weight=1e9) == [list(TASKS)]
    with pytest.raises(ValueError, match="needs layers that several tasks share"):
        model.widen(apart)


def test_saved_and_loaded(tmp_path):
    model = build(metrics={"cat": ["mae"]}, weighting="uncertainty")
    train(model, epochs=1)
    model.widen(PAIRS)
    train(model, epochs=1)
    model.widen(PAIRS)
    train(model, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.tree == model.tree and loaded.tree.active == 0
    for mine, its in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(mine, its, err_msg=its.path)
    mine, its = slots(loaded), slots(model)
    assert mine.keys() == its.keys()
    for path in its:
        np.testing.assert_array_equal(mine[path], its[path], err_msg=path)
    for one in (model, loaded):
        one.widen(PAIRS)
        train(one, epochs=1)
    mine, its = outputs(loaded), outputs(model)
    for task in TASKS:
        np.testing.assert_allclose(mine[task], its[task], rtol=1e-5, atol=1e-6)


def test_affinity_and_proposal():
    """Outputs fixed at 0: margins are the targets, and what is difficult can be written down."""
    stages = [layers.Dense(2, kernel_initializer="zeros")]
    model = BranchingModel(stages, {t: layers.Dense(1) for t in "abc"}, inputs=(3,))
    model.compile("sgd", loss="mse", missing={"c": -1.0})
    y = {
        "a": np.array([[5.0], [1.0], [4.0], [0.0]]),
        "b": np.array([[9.0], [3.0], [8.0], [9.0]]),
        "c": np.array([[0.5], [2.0], [-1.0], [3.0]]),
    }
    # Difficult: [1, 0, 1, 0], [1, 0, 1, 1] and [0, 1, missing, 1].
    expected = {"a": {"a": 1.0, "b": 0.75, "c": 0.0}, "b": {"a": 0.75, "b": 1.0, "c": 1 / 3}}
    data = [(np.ones((2, 3)), {t: v[:2] for t, v in y.items()})]
    data.append((np.ones((2, 3)), {t: v[2:] for t, v in y.items()}))
    for given in ((np.ones((4, 3)), y), data):
        affinity = model.affinity(given)
        assert affinity["a"] == pytest.approx(expected["a"])
        assert affinity["b"] == pytest.approx(expected["b"])
    assert model.propose(affinity, separation_weight=8.0) == [["a", "b"], ["c"]]
    array = [[affinity[i][j] for j in "abc"] for i in "abc"]
    assert model.propose(array, separation_weight=8.0) == [["a", "b"], ["c"]]
    assert model.propose(affinity, separation_weight=0.0) == [["a", "b", "c"]]
    assert model.propose(affinity, separation_weight=1e6) == [["a"], ["b"], ["c"]]


def test_mixed_kinds_go_by_ranks():
    """One large margin moves the mean, and the median not."""
    model = BranchingModel(
        [layers.Dense(2, kernel_initializer="zeros")],
        {"class": layers.Dense(1, activation="sigmoid"), "number": layers.Dense(1)},
        inputs=(3,),
    )
    x = np.ones((4, 3))
    y = {"class": np.array([0, 1, 0, 1]), "number": np.array([100.0, 4.0, 1.0, 0.0])}
    losses = {"class": "mse", "number": "mse"}
    model.compile("sgd", loss=losses)  # margins of "class" are all 0.5: all count as difficult
    assert model.affinity((x, y))["class"]["number"] == 0.25
    model.compile("sgd", loss={**losses, "class": "binary_crossentropy"})
    assert model.affinity((x, y))["class"]["number"] == 0.5


def test_pooling_above_makes_branches_dear():
    stages = [
        layers.Conv2D(2, 3, padding="same"),
        [layers.MaxPooling2D(), layers.Conv2D(2, 3, strides=2, padding="same")],
    ]
    heads = {t: [layers.Flatten(), layers.Dense(1)] for t in "ab"}
    model = BranchingModel(stages, heads, inputs=(8, 8, 1))
    apart = np.eye(2)
    assert model.propose(apart, separation_weight=1.5) == [["a"], ["b"]]
    model.widen([["a"], ["b"]])  # two layers with strides lie above the stage below
    assert model.propose(apart, separation_weight=3.9) == [["a", "b"]]
    assert model.propose(apart, separation_weight=4.1) == [["a"], ["b"]]


def test_thin_from_wide_with_all_filters_is_the_wide_network():
    def stages(width):
        return [
            [layers.Conv2D(width, 3, activation="relu"), layers.BatchNormalization()],
            [layers.MaxPooling2D(), layers.Flatten(), layers.Dense(width)],
        ]

    wide = keras.Sequential([layers.Input((6, 6, 1)), *stages(5)[0], *stages(5)[1]])
    wide.compile("adam", loss="mse")
    wide.fit(X, np.ones((24, 5)), verbose=0)
    heads = {"a": layers.Activation("linear"), "b": layers.Dense(1)}
    model = BranchingModel(stages(5), heads, wide=wide, inputs=(6, 6, 1))
    np.testing.assert_allclose(model(X)["a"], wide(X), rtol=1e-5, atol=1e-6)
    thin = BranchingModel(stages(3), heads, wide=wide, inputs=(6, 6, 1))
    conv, dense = (wide.layers[i] for i in (0, 4))
    mine = [layer for layer in thin.layers if layer.weights]
    kernel = ops.convert_to_numpy(conv.kernel)
    chosen = np.sort(kmtl.ops.somp.somp_filters(kernel.reshape(9, 5).T, 3))
    np.testing.assert_array_equal(mine[0].kernel, kernel[..., chosen])
    np.testing.assert_array_equal(mine[1].gamma, ops.convert_to_numpy(wide.layers[1].gamma)[chosen])
    left = ops.convert_to_numpy(dense.kernel).reshape(4, 5, 5)[:, chosen].reshape(12, 5)
    of_dense = np.sort(kmtl.ops.somp.somp_filters(left.T, 3))
    np.testing.assert_array_equal(mine[2].kernel, left[:, of_dense])
    np.testing.assert_array_equal(mine[2].bias, ops.convert_to_numpy(dense.bias)[of_dense])


def test_a_wide_network_that_is_not_built():
    with pytest.raises(ValueError, match="built and trained. Received: 'wide', not built"):
        wide = [layers.Dense(4, name="wide")]
        BranchingModel([layers.Dense(3)], {"a": layers.Dense(1)}, wide=wide, inputs=(5,))


@pytest.mark.parametrize(
    ("wide", "message"),
    [
        ([], "must have a layer for each of the 1 of the stages. Received: 0 layers"),
        ([layers.Flatten()], "of the same kinds as the stages"),
        ([layers.Dense(2)], "at least as many filters as the stages. Received: 2"),
    ],
    ids=["few", "kinds", "narrow"],
)
def test_wide_networks_that_do_not_fit(wide, message):
    for layer in wide:
        layer.build((None, 5))
    with pytest.raises(ValueError, match=message):
        BranchingModel([layers.Dense(3)], {"a": layers.Dense(1)}, wide=wide, inputs=(5,))


def test_models_as_stages_and_several_inputs():
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    block_input = keras.Input((4,))
    block = keras.Model(block_input, block_input + layers.Dense(4, name="inner")(block_input))
    stages = [[layers.Concatenate(), layers.Dense(4)], block]
    heads = {t: layers.Dense(1) for t in "ab"}
    model = BranchingModel(stages, heads, inputs=[left, right])
    x = {"left": np.ones((2, 3)), "right": RNG.normal(size=(2, 3))}
    before = outputs(model, x)
    for _ in range(2):
        model.widen([["a"], ["b"]])
    after = outputs(model, x)
    for task in "ab":
        np.testing.assert_allclose(after[task], before[task], rtol=1e-5, atol=1e-6)
    assert {x.name for x in model.layers} >= {"inner", "inner_1"}


def test_the_picture():
    pytest.importorskip("matplotlib")
    model = build(compiled=False)
    model.widen(PAIRS)
    (axes,) = model.plot_tree().axes
    texts = [text.get_text() for text in axes.texts]
    assert sorted(texts) == sorted(["input", "stage_0", "stage_1", "stage_2", "stage_2_1", *TASKS])
    assert len(axes.lines) == 4 + 4  # one below each branch and each task
    place = {text.get_text(): text.get_position() for text in axes.texts}
    assert place["stage_2"][0] == (place["apple"][0] + place["dog"][0]) / 2


def test_export(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the converter needs TensorFlow")
    import kmtl.export

    model = build()
    model.widen(PAIRS)
    model.widen(PAIRS)
    train(model, epochs=1)
    plain = kmtl.export.fold(model)
    expected = outputs(model)
    for task, y in outputs(plain).items():
        np.testing.assert_allclose(y, expected[task], rtol=1e-5, atol=1e-6)
    kmtl.export.export_litert(model, tmp_path / "model.tflite")
    found = kmtl.export.load_litert(tmp_path / "model.tflite")(X[:1])
    assert sorted(found) == sorted(TASKS)
    np.testing.assert_allclose(found["cat"], expected["cat"][:1], rtol=1e-4, atol=1e-5)


def dense():
    return [layers.Dense(3)]


@pytest.mark.parametrize(
    ("stages", "heads", "message"),
    [
        ([], {"a": layers.Dense(1)}, r"`stages` must be a list of at least one stage.*\[\]"),
        ([[]], {"a": layers.Dense(1)}, "A stage must be a layer, a model or a list"),
        (layers.Dense(1), {"a": layers.Dense(1)}, "`stages` must be a list"),
        (dense(), {}, "`heads` must be a dict"),
        (
            [lambda x: [x, x]],
            {"a": layers.Dense(1)},
            "A stage must return one tensor. Received: 2 from stage 0",
        ),
    ],
    ids=["no_stages", "empty_stage", "no_list", "no_heads", "two_tensors"],
)
def test_errors(stages, heads, message):
    with pytest.raises(ValueError, match=message):
        BranchingModel(stages, heads, inputs=(4,))


@pytest.mark.parametrize(
    ("grouping", "message"),
    [
        ([["apple", "dog"], ["bear"]], "must hold each of the tasks"),
        ([["apple", "dog"], ["bear", "cat", "apple"]], "must hold each of the tasks"),
        ([["apple", "dog"], ["bear", "cat"], []], "no empty groups"),
        ([["apple", "dog", "bear", "zebra"], ["cat"]], "must hold each of the tasks"),
        ("abcd", "must be a list of lists of tasks. Received: grouping='abcd'"),
        (list(TASKS), "must be a list of lists of tasks. Received"),
        (None, "must be a list of lists of tasks. Received: grouping=None"),
        ([["apple"], ["dog", "bear", "cat"]], r"must keep together .* such as \['apple', 'dog'\]"),
    ],
)
def test_bad_groupings(grouping, message):
    model = build(compiled=False)
    model.widen(PAIRS)
    with pytest.raises(ValueError, match=message):
        model.widen(grouping)
    with pytest.raises(ValueError, match="`affinity` must have a row and a column for each"):
        model.propose({"apple": {"apple": 1.0}})


@pytest.mark.parametrize("tree", ["x", None])
def test_what_is_no_tree_to_grow_to(tree):
    with pytest.raises(ValueError, match="`tree` must be a `BranchTree`.* Received: tree="):
        build(compiled=False).grow_to(tree)


def test_optimizers_that_cannot_go_on():
    model = build(optimizer=keras.optimizers.Adafactor(0.01))
    with pytest.raises(ValueError, match="`add_variable_from_reference`.*Received: Adafactor"):
        model.widen(PAIRS)
