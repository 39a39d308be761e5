"""DependencyHead: probabilities by hand, what is not allowed, and the loss of both parts."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.layers.dependency_head import DependencyHead
from kmtl.testing import assert_plain

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 4, 3)).astype("float32")
LABELS = 5


def made(num_labels=LABELS):
    head = DependencyHead(num_labels)
    head.build((None, 4, 3))
    head.set_weights([RNG.normal(size=w.shape) for w in head.weights])
    return head


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def by_hand(head, x):
    """`p[i, j]` and `q[i, j, l]` of one sentence, in loops."""
    arc, kernel, bias, root = (
        ops.convert_to_numpy(w) for w in (head.arc_kernel, head.label_kernel, head.bias, head.root)
    )
    heads = np.concatenate([root[None], x])
    n = len(x)
    p, q = np.zeros((n, n + 1)), np.zeros((n, n + 1, head.num_labels))
    for i in range(n):
        others = [j for j in range(n + 1) if j != i + 1]
        p[i, others] = softmax(np.array([x[i] @ arc @ heads[j] for j in others]))
        for j in range(n + 1):
            q[i, j] = softmax(np.concatenate([x[i], heads[j]]) @ kernel + bias)
    return p, q


def test_probabilities_and_greedy_parents_by_hand():
    head = made()
    outputs = head(X)
    parents, labels = head.decode(outputs)
    for b, x in enumerate(X):
        p, q = by_hand(head, x)
        both = np.exp(np.asarray(outputs)[b]).reshape(4, 5, LABELS)
        np.testing.assert_allclose(both, p[..., None] * q, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(parents[b], p.argmax(axis=-1))
        chosen = [q[i, parents[b, i]].argmax() for i in range(4)]
        np.testing.assert_array_equal(labels[b], chosen)


def test_the_likeliest_parent_comes_first_even_if_another_arc_is_likelier():
    """Two labels share the best parent's probability; a single one has all of another's."""
    both = np.log(np.array([[0.3, 0.3, 1e-9, 1e-9, 0.4, 1e-9]]))[None]
    parents, labels = DependencyHead(2).decode(both)
    assert parents.tolist() == [[0]] and labels.tolist() == [[0]]


def test_no_token_is_its_own_parent():
    head = made(1)
    head.arc_kernel.assign(100.0 * np.eye(3))  # each is most like itself
    both = np.exp(np.asarray(head(X)))
    assert (np.abs(both[:, np.arange(4), np.arange(4) + 1]) == 0.0).all()
    np.testing.assert_allclose(both.sum(axis=-1), 1.0, rtol=1e-3)


def test_padding_is_no_parent_and_changes_nothing():
    head = made()
    padded = np.concatenate([X, 9.0 * np.ones((2, 2, 3), "float32")], axis=1)
    mask = np.array([[True] * 4 + [False] * 2] * 2)
    outputs = np.asarray(head(padded, mask=ops.convert_to_tensor(mask)))
    there = outputs.reshape(2, 6, 7, LABELS)[:, :4]
    expected = np.asarray(head(X)).reshape(2, 4, 5, LABELS)
    allowed = np.exp(expected) > 0
    np.testing.assert_allclose(there[:, :, :5][allowed], expected[allowed], rtol=1e-4, atol=1e-4)
    assert (np.exp(there[:, :, 5:]) == 0).all()


def test_the_loss_is_that_of_the_parents_and_of_the_labels_given_the_true_ones():
    head = made()
    parents, labels = (
        np.array([[2, 0, 2, -1], [0, 1, 1, 3]]),
        np.array([[1, 4, 0, 0], [2, 3, 3, 1]]),
    )
    y = DependencyHead.classes(parents, labels, LABELS)
    assert y[0, 3] == -1
    terms = []
    for b, x in enumerate(X):
        p, q = by_hand(head, x)
        terms += [
            -np.log(p[i, j]) - np.log(q[i, j, labels[b, i]])
            for i, j in enumerate(parents[b])
            if j >= 0
        ]
    x = keras.Input((4, 3))
    model = kmtl.MultiTaskModel(x, {"dep": head(x)})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss={"dep": loss}, missing={"dep": -1})
    logs = model.evaluate(X, {"dep": y}, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["loss"], np.mean(terms), rtol=1e-4)


def masked_model(steps=4):
    x = keras.Input((steps,), dtype="int32")
    words = layers.Embedding(9, 3, mask_zero=True, embeddings_initializer="normal")
    return kmtl.MultiTaskModel(x, {"dep": made()(words(x))})


def test_padding_also_counts_after_folding():
    from kmtl.export import fold

    model = masked_model()
    plain = fold(model)
    assert_plain(plain)
    tokens = np.array([[1, 5, 3, 0], [2, 0, 0, 0], [4, 5, 6, 7]])
    expected, folded = (np.exp(np.asarray(m(tokens)["dep"])) for m in (model, plain))
    there = tokens != 0
    np.testing.assert_allclose(folded[there], expected[there], rtol=1e-4, atol=1e-6)
    by_parent = expected.reshape(3, 4, 5, LABELS).sum(axis=-1)
    assert by_parent[0, :3, 4].max() == 0.0 and by_parent[2, :3, 4].min() > 0.0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="conversion needs TensorFlow")
def test_it_stays_in_floats_in_a_file_of_integers(tmp_path):
    from kmtl.export import export_litert, load_litert

    model, tokens = masked_model(), np.array([[1, 5, 3, 0], [2, 0, 0, 0], [4, 5, 6, 7]], "int32")
    keep = {"representative_data": tokens, "overrides": {"dep": "float32"}}
    result = export_litert(model, tmp_path / "m.tflite", "int8", **keep)
    answers, there = load_litert(result.path)(tokens)["dep"], tokens != 0
    expected = np.exp(np.asarray(model(tokens)["dep"]))[there]
    np.testing.assert_allclose(np.exp(answers[there]), expected, atol=0.01)


def test_sentences_of_any_length_until_it_is_folded():
    from kmtl.export import fold

    model = masked_model(steps=None)
    assert model(np.array([[1, 2]]))["dep"].shape == (1, 2, 3 * LABELS)
    with pytest.raises(ValueError, match="folded for a fixed number of tokens"):
        fold(model)


def test_errors():
    with pytest.raises(ValueError, match="`num_labels` must be an integer >= 1. Received: .*=0"):
        DependencyHead(0)
    with pytest.raises(ValueError, match=r"must be of shape \(batch, n, features\)"):
        DependencyHead(2)(np.ones((2, 3), "float32"))


@pytest.mark.parametrize(
    ("parents", "labels", "message"),
    [
        ([[0, 0], [1, 9]], [[0, 0], [0, 0]], "`parents` must be from 0 to 2. Received: 9 in row 1"),
        ([[0, 0], [1, 1]], [[0, 5], [0, 0]], "`labels` must be from 0 to 1. .* 5 in row 0, step 1"),
        ([[0, 0], [1, 1]], [[-1, 0], [0, 0]], "`labels` must be .* -1 in row 0, step 0"),
        ([[0, 1], [0, 2]], [[0, 0], [0, 0]], "other tokens than .* Received: 2 in row 1, step 1"),
    ],
)
def test_classes_out_of_range(parents, labels, message):
    with pytest.raises(ValueError, match=message):
        DependencyHead.classes(parents, labels, 2)


def test_classes_without_a_parent_need_no_label():
    np.testing.assert_array_equal(DependencyHead.classes([[0, -1]], [[1, -1]], 2), [[1, -1]])
