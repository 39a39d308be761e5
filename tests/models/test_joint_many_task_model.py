"""JointManyTaskModel: what each stage reads, pairs of sentences, replicas and deployment."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.layers.dependency_head import DependencyHead
from kmtl.layers.sentence_pair import SentencePair
from kmtl.models.joint_many_task_model import JointManyTaskModel
from kmtl.models.joint_stage import JointStage
from kmtl.models.model_of_task import model_of_task

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
N = 5
TOKENS = RNG.integers(1, 20, size=(8, N))
TOKENS[:3, 3:] = 0


def recurrent(name):
    return layers.SimpleRNN(6, return_sequences=True, name=name)


def encoder():
    return layers.Embedding(20, 4, mask_zero=True, name="words", embeddings_initializer="normal")


def pointwise(name):
    """For training, as it compiles quickly."""
    return layers.Dense(6, "tanh", name=name)


def tagging_stages(layer=recurrent):
    return [
        ("pos", layer("pos_layer"), layers.Dense(4, "softmax", name="pos"), 3),
        ("chunk", layer("chunk_layer"), layers.Dense(3, "softmax", name="chunk"), 2),
        ("dep", layer("dep_layer"), DependencyHead(2, name="dep")),
    ]


def all_stages(layer=recurrent):
    return [
        *tagging_stages(layer),
        JointStage(
            "alike",
            layer("alike_layer"),
            [SentencePair(name="alike_pair"), layers.Dense(5, "softmax", name="alike")],
            label_dim=2,
            pair=True,
        ),
        JointStage(
            "follows",
            layer("follows_layer"),
            [SentencePair(signed=True, name="pair"), layers.Dense(3, "softmax", name="follows")],
            pair=True,
        ),
    ]


def made(stages=None):
    return JointManyTaskModel(stages or tagging_stages(), inputs=input_of(), encoder=encoder())


def input_of():
    return keras.Input((N,), dtype="int32", name="tokens")


def labels():
    parents = RNG.integers(0, N, size=(8, N))
    parents += parents >= np.arange(1, N + 1)  # no token is its own parent
    y = {
        "pos": RNG.integers(0, 4, size=(8, N)),
        "chunk": RNG.integers(0, 3, size=(8, N)),
        "dep": DependencyHead.classes(parents, np.zeros((8, N), "int64"), 2),
    }
    return {task: np.where(TOKENS == 0, -1, values) for task, values in y.items()}


LOSSES = {
    "pos": "sparse_categorical_crossentropy",
    "chunk": "sparse_categorical_crossentropy",
    "dep": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "alike": keras.losses.KLDivergence(),
    "follows": "sparse_categorical_crossentropy",
}


def test_every_stage_reads_the_layer_below_the_words_and_what_is_predicted():
    model = made()
    get = model.get_layer
    x = get("words")(TOKENS)
    h1 = get("pos_layer")(x)
    pos = get("pos")(h1)
    y1 = np.asarray(pos) @ get("pos_label_embedding").get_weights()[0]
    mask = x._keras_mask
    h2 = get("chunk_layer")(np.concatenate([h1, x, y1], axis=-1), mask=mask)
    chunk = get("chunk")(h2)
    y2 = np.asarray(chunk) @ get("chunk_label_embedding").get_weights()[0]
    h3 = get("dep_layer")(np.concatenate([h2, x, y1, y2], axis=-1), mask=mask)
    outputs = model(TOKENS)
    there = TOKENS != 0
    for task, expected in {"pos": pos, "chunk": chunk, "dep": get("dep")(h3, mask=mask)}.items():
        got = np.exp(np.asarray(outputs[task]))[there]
        np.testing.assert_allclose(got, np.exp(np.asarray(expected))[there], rtol=1e-4, atol=1e-6)


def test_pairs_share_the_stack_and_relatedness_is_read_by_entailment():
    model = made(all_stages())
    assert sorted(x.name for x in model.inputs) == ["tokens", "tokens_second"]
    assert sum(layer.name.endswith("_layer") for layer in model.layers) == 5
    # The layer's 6 features are pooled and set against each other; 2 of the label embedding.
    assert model.get_layer("pair").output.shape == (None, 2 * 6 + 2)
    assert model.get_layer("alike_inputs").output.shape == (None, N, 6 + 4 + 3 + 2)
    both = {"tokens": TOKENS, "tokens_second": TOKENS[::-1]}
    swapped = {"tokens": TOKENS[::-1], "tokens_second": TOKENS}
    one, two = model(both), model(swapped)
    np.testing.assert_allclose(one["alike"], two["alike"], rtol=1e-4, atol=1e-6)
    assert not np.allclose(one["follows"], two["follows"], atol=1e-5)
    assert [x.name for x in model_of_task(model, "dep").inputs] == ["tokens"]


def test_pairs_train():
    model = made(all_stages(pointwise))
    turns = {task: model_of_task(model, task) for task in ("alike", "follows")}
    x = {"tokens": TOKENS, "tokens_second": TOKENS[::-1].copy()}
    y = {"alike": RNG.dirichlet(np.ones(5), size=8), "follows": RNG.integers(0, 3, size=8)}
    for task, part in turns.items():
        part.compile(keras.optimizers.Adam(0.05), loss={task: LOSSES[task]})
        losses = part.fit(x, {task: y[task]}, epochs=8, verbose=0).history["loss"]
        assert losses[-1] < 0.9 * losses[0]


def test_the_error_of_a_higher_task_reaches_the_head_below():
    model = made(tagging_stages(pointwise))
    part = model_of_task(model, "chunk")
    before = [np.copy(w) for w in model.get_layer("pos").get_weights()]
    part.compile(keras.optimizers.SGD(1.0), loss=LOSSES["chunk"], missing=-1)
    part.fit(TOKENS, {"chunk": labels()["chunk"]}, verbose=0)
    assert not np.array_equal(before[0], model.get_layer("pos").get_weights()[0])


def test_labels_from_and_a_model_without_them():
    stages = [JointStage(*stage) for stage in tagging_stages()]
    stages[2] = stages[2]._replace(labels_from=["chunk"])
    model = made(stages)
    assert model.get_layer("dep_inputs").output.shape == (None, N, 6 + 4 + 2)
    stages = [stage._replace(label_dim=None, labels_from=None) for stage in stages]
    assert made(stages).get_layer("dep_inputs").output.shape == (None, N, 6 + 4)


def test_saving(tmp_path):
    model = made(all_stages())
    x = {"tokens": TOKENS, "tokens_second": TOKENS[::-1]}
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for task, y in model(x).items():
        np.testing.assert_array_equal(loaded(x)[task], y)


def test_replicas(mirrored):
    x, y = TOKENS, labels()

    def train():
        keras.utils.set_random_seed(3)
        model = made(tagging_stages(pointwise))
        losses = {task: LOSSES[task] for task in y}
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=losses, missing=-1)
        history = model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history
        return history, model.get_weights()

    (history, weights) = train()
    with mirrored.scope():
        history2, weights2 = train()
    for a, b in zip(weights, weights2, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
    for name, values in history.items():
        np.testing.assert_allclose(history2[name], values, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("tasks", [None, "chunk", "follows"])
def test_folding(tasks):
    from kmtl.export import fold
    from kmtl.testing import assert_plain

    model = made(all_stages())
    plain = fold(model, tasks)
    assert_plain(plain)
    x = {"tokens": TOKENS, "tokens_second": TOKENS[::-1]}
    expected, got = model(x), plain(x if len(plain.inputs) == 2 else TOKENS)
    assert len(plain.inputs) == (1 if tasks == "chunk" else 2)
    there = TOKENS != 0
    for task, y in got.items():
        a, b = (np.exp(np.asarray(v)) for v in (y, expected[task]))
        if a.ndim == 3:
            a, b = a[there], b[there]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=task)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="conversion needs TensorFlow")
@pytest.mark.parametrize("task", ["chunk", "dep"])
def test_a_task_on_a_device(task, tmp_path):
    from kmtl.export import export_litert, load_litert

    def bidirectional(name):
        return layers.Bidirectional(layers.LSTM(3, return_sequences=True), name=name)

    vectors = RNG.normal(size=(4, N, 4)).astype("float32")
    model = JointManyTaskModel(tagging_stages(bidirectional), inputs=(N, 4))
    result = export_litert(model, tmp_path / "m.tflite", tasks=task)
    answers = load_litert(result.path)(vectors)[task]
    expected = model(vectors)[task]
    np.testing.assert_allclose(np.exp(answers), np.exp(np.asarray(expected)), rtol=1e-3, atol=1e-5)


def replaced(k, **changes):
    stages = [JointStage(*stage) for stage in all_stages()]
    stages[k] = stages[k]._replace(**changes)
    return stages


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "`stages` must be a list of at least one"),
        ([("pos", None)], "must be a `JointStage` or a tuple"),
        (replaced(1, name="pos"), "Stages must have names of their own"),
        (replaced(0, label_dim=0), "`label_dim` must be None or .* Received: label_dim=0"),
        (
            replaced(0, head=layers.Dense(4)),
            "must give probabilities, .* without activation for stage 'pos'",
        ),
        (replaced(0, labels_from=["chunk"]), "below it only, .*Received: 'chunk' for stage 'pos'"),
        (
            replaced(1, labels_from=["chunk"]),
            "below it only, .*Received: 'chunk' for stage 'chunk'",
        ),
        (replaced(4, labels_from=["dep"]), "that have a `label_dim`.*Received: 'dep' for stage"),
        (replaced(4, labels_from=["pos", "ner"]), "must name some of the stages.*Received: 'ner'"),
        (
            replaced(4, labels_from=["alike"], pair=False),
            "one for single sentences none of pairs. Received: 'alike' for stage 'follows'",
        ),
    ],
    ids=[
        "none",
        "tuple",
        "names",
        "dim",
        "logits",
        "cycle",
        "itself",
        "no_labels",
        "unknown",
        "pair",
    ],
)
def test_errors(stages, message):
    with pytest.raises(ValueError, match=message):
        JointManyTaskModel(stages, inputs=input_of(), encoder=encoder())


def test_several_inputs():
    inputs = {name: keras.Input((N,), name=name) for name in "ab"}
    with pytest.raises(ValueError, match=r"must be one input. Received: 2 inputs, \['a', 'b'\]"):
        JointManyTaskModel(tagging_stages(), inputs=inputs)


def test_the_tasks_of_one_are_named_in_the_model():
    assert isinstance(made(), kmtl.MultiTaskModel) and made().task_names == ["chunk", "dep", "pos"]
