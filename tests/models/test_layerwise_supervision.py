"""LayerwiseSupervision: which layers a task's step moves, its limits, and what is exported."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.models import HardSharing
from kmtl.models.layerwise_supervision import LayerwiseSupervision
from kmtl.models.model_of_task import model_of_task

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 5, 3)).astype("float32")
Y = {"pos": RNG.integers(0, 4, size=(8, 5)), "chunk": RNG.integers(0, 3, size=(8, 5))}
STACK = ("lstm_1", "lstm_2", "lstm_3")
LOSS = "sparse_categorical_crossentropy"


def stack():
    return [layers.LSTM(4, return_sequences=True, name=name) for name in STACK]


def heads():
    return {
        "pos": layers.Dense(4, "softmax", name="pos"),
        "chunk": layers.Dense(3, "softmax", name="chunk"),
    }


def made(levels=None):
    return LayerwiseSupervision(stack(), heads(), levels or {"pos": 1, "chunk": 3}, inputs=(5, 3))


def weights_of(model, names):
    return {name: [np.copy(w) for w in model.get_layer(name).get_weights()] for name in names}


def same(before, model, name):
    now = model.get_layer(name).get_weights()
    return all(np.array_equal(a, b) for a, b in zip(before[name], now, strict=True))


def test_one_source_with_sgd_leaves_the_layers_above_alone():
    model = made({"pos": 2, "chunk": 3})
    sources = {task: (X, {task: Y[task]}) for task in Y}
    mixture = kmtl.data.TaskMixture(
        sources, batch_size=4, sampling="uniform", mode="one_source", steps_per_epoch=1
    )
    model.compile(keras.optimizers.SGD(0.5), loss=LOSS, missing=mixture.missing)
    names, seen = [*STACK, "pos", "chunk"], set()
    for epoch in range(6):
        _, y = next(iter(mixture.dataset(start_step=epoch)))
        task = "pos" if (np.asarray(y["chunk"]) == -1).all() else "chunk"
        seen.add(task)
        before = weights_of(model, names)
        model.fit(mixture, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
        moved = {name for name in names if not same(before, model, name)}
        lower = set(STACK[:2]) if task == "pos" else set(STACK)
        assert moved == lower | {task}
    assert seen == {"pos", "chunk"}


def test_in_turns_with_adam_leaves_the_layers_above_alone():
    whole = made()
    turns = {task: model_of_task(whole, task) for task in Y}
    for model in turns.values():
        model.compile(keras.optimizers.AdamW(0.1, weight_decay=0.1), loss=LOSS)
    names = [*STACK, "pos", "chunk"]
    for _ in range(2):
        for task, model in turns.items():
            before = weights_of(whole, names)
            model.fit(X, {task: Y[task]}, batch_size=8, verbose=0)
            moved = {name for name in names if not same(before, whole, name)}
            assert moved == ({"lstm_1", "pos"} if task == "pos" else {*STACK, "chunk"})


def test_momentum_in_the_whole_model_does_move_them():
    """What the docstring warns of."""
    model = made()
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), loss=LOSS, missing=-1)
    absent = np.full((8, 5), -1)
    model.fit(X, Y, batch_size=8, verbose=0)
    before = weights_of(model, STACK)
    model.fit(X, {"pos": Y["pos"], "chunk": absent}, batch_size=8, verbose=0)
    assert not same(before, model, "lstm_3")


def test_all_at_the_top_is_hard_sharing():
    model = made({"pos": 3, "chunk": 3})
    plain = HardSharing(stack(), heads(), inputs=(5, 3))
    for layer in plain.layers[1:]:
        layer.set_weights(model.get_layer(layer.name).get_weights())
    for one in (model, plain):
        one.compile("adam", loss=LOSS)
        one.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    for layer in plain.layers[1:]:
        pairs = zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_heads_read_their_levels():
    model = made({"pos": 2, "chunk": 3})
    h = X
    for level, name in enumerate(STACK, start=1):
        h = model.get_layer(name)(h)
        task = {2: "pos", 3: "chunk"}.get(level)
        if task:
            np.testing.assert_allclose(
                model(X)[task], model.get_layer(task)(h), rtol=1e-5, atol=1e-6
            )


def test_a_level_of_several_layers():
    two = [layers.Dense(4, name="a"), layers.Dense(4, name="b")]
    model = LayerwiseSupervision(
        [two, layers.Dense(4, name="c")], heads(), {"pos": 1, "chunk": 2}, inputs=(5, 3)
    )
    names = [layer.name for layer in model_of_task(model, "pos").layers[1:]]
    assert names == ["a", "b", "pos"]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="conversion needs TensorFlow")
def test_a_low_task_is_exported_without_the_layers_above(tmp_path):
    from kmtl.export import export_litert, fold, load_litert

    model = made()
    assert [layer.name for layer in fold(model, "pos").layers[1:]] == ["lstm_1", "pos"]
    sizes = {}
    for task in Y:
        result = export_litert(model, tmp_path / f"{task}.tflite", tasks=task)
        answers = load_litert(result.path)(X)
        assert sorted(answers) == [task]
        np.testing.assert_allclose(answers[task], model(X)[task], rtol=1e-3, atol=1e-4)
        sizes[task] = result.path.stat().st_size
    assert sizes["pos"] < sizes["chunk"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, "`layers` must be a list of at least one"),
        ({"levels": {"pos": 0, "chunk": 3}}, "from 1 to 3.* Received: 0 for task 'pos'"),
        ({"levels": {"pos": 1, "chunk": 4}}, "from 1 to 3.* Received: 4 for task 'chunk'"),
        ({"levels": {"pos": 1.0, "chunk": 3}}, "must be an integer from 1 to 3"),
        ({"levels": {"chunk": 3}}, r"`levels` must name .*missing \['pos'\]"),
        ({"levels": {"pos": 1, "chunk": 3, "ner": 1}}, r"Received: unknown \['ner'\]"),
        ({"levels": {"pos": 1, "chunk": 2}}, "no task would train the layers above"),
        ({"levels": 3}, "`levels` must be a dict"),
    ],
    ids=["none", "low", "high", "float", "absent", "unknown", "unused", "number"],
)
def test_errors(arguments, message):
    given = {"layers": stack(), "heads": heads(), "levels": {"pos": 1, "chunk": 3}, **arguments}
    with pytest.raises(ValueError, match=message):
        LayerwiseSupervision(**given, inputs=(5, 3))


def test_unknown_task():
    with pytest.raises(ValueError, match=r"`task` must name .*Received: unknown \['ner'\]"):
        model_of_task(made(), "ner")
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(
        ValueError, match="`model` must be a `kmtl.MultiTaskModel`. Received: model"
    ):
        model_of_task(plain, "pos")
