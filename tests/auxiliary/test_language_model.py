import keras
import numpy as np
import pytest

from kmtl.auxiliary.language_model import AuxiliaryLanguageModel
from kmtl.auxiliary.name_detection import NameDetection
from tests.auxiliary import texts

pytestmark = pytest.mark.both_backends


def language_model(backward, **kwargs):
    settings = {"vocabulary_size": texts.WORDS, "hidden": 6, **kwargs}
    return AuxiliaryLanguageModel("word", ("forward", backward), **settings)


def test_labels_are_the_neighbours_and_ends_and_padding_have_none():
    task = AuxiliaryLanguageModel("word", ("a", "b"), vocabulary_size=20)
    labels = task.targets(np.array([[7, 8, 9, 0, 0], [5, 0, 0, 0, 0], [1, 2, 3, 4, 5]]), {})
    np.testing.assert_array_equal(
        labels["word_forward"], [[8, 9, -1, -1, -1], [-1] * 5, [2, 3, 4, 5, -1]]
    )
    np.testing.assert_array_equal(
        labels["word_backward"], [[-1, 7, 8, -1, -1], [-1] * 5, [-1, 1, 2, 3, 4]]
    )
    assert task.missing == {"word_forward": -1, "word_backward": -1}
    assert task.weights == {"word_forward": 0.1, "word_backward": 0.1}


def test_rare_words_are_one():
    task = AuxiliaryLanguageModel("word", ("a", "b"), vocabulary_size=20, max_vocabulary=10)
    labels = task.targets(np.array([[1, 8, 9, 10, 19]]), {})["word_forward"]
    np.testing.assert_array_equal(labels, [[8, 9, 9, 9, -1]])
    assert task.num_labels == 10
    small = AuxiliaryLanguageModel("word", ("a", "b"), vocabulary_size=20)
    assert small.num_labels == 20
    np.testing.assert_array_equal(
        small.targets(np.array([[1, 8, 9, 10, 19]]), {})["word_forward"], [[8, 9, 10, 19, -1]]
    )


def bidirectional():
    keras.utils.set_random_seed(7)
    x = keras.Input((texts.STEPS,), dtype="int32")
    h = keras.layers.Embedding(texts.WORDS, 5, mask_zero=True)(x)
    layer = keras.layers.GRU(4, return_sequences=True)
    states = keras.layers.Bidirectional(layer, merge_mode=None)(h)
    tags = keras.layers.Dense(texts.TAGS)(keras.layers.Concatenate()(states))
    return keras.Model(x, {"pos": tags}), states


@pytest.mark.parametrize("kind", ["two layers", "bidirectional"])
def test_no_head_sees_the_word_that_it_predicts(kind):
    if kind == "two layers":
        model, backward = texts.tagger()
        task = language_model(backward)
    else:
        model, states = bidirectional()
        task = AuxiliaryLanguageModel("word", states, texts.WORDS)
    _, both, _ = texts.attach([task], model)
    rows = np.array([0, 4, 1])  # of 6, 6 and 4 words
    before = both.predict(texts.X[rows], verbose=0)
    for place in range(4):
        changed = texts.X[rows].copy()
        changed[:, place] = changed[:, place] % (texts.WORDS - 1) + 1
        after = both.predict(changed, verbose=0)
        moved = {
            d: np.abs(after[f"word_{d}"] - before[f"word_{d}"]).max(axis=(0, 2)) > 1e-6
            for d in ("forward", "backward")
        }
        steps = np.arange(texts.STEPS)
        assert not moved["forward"][steps < place].any() and moved["forward"][place]
        assert not moved["backward"][steps > place].any() and moved["backward"][place]


def test_losses_are_means_over_words_with_a_neighbour():
    model, backward = texts.tagger()
    helpers, both, arguments = texts.attach([language_model(backward, weight=0.3)], model)
    x, y = helpers.add_targets((texts.X, texts.Y))
    both.compile(keras.optimizers.SGD(0.0), **arguments)
    logs = both.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    answers = both.predict(x, verbose=0)
    for output in ("word_forward", "word_backward"):
        assert (y[output] >= 0).sum() == (texts.LENGTHS - 1).sum()
        expected = texts.crossentropy_of_present(y[output], answers[output])
        np.testing.assert_allclose(logs[f"{output}_loss"], expected, rtol=1e-5)
    total = logs["pos_loss"] + 0.3 * (logs["word_forward_loss"] + logs["word_backward_loss"])
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


def test_sentences_without_tags_train_what_reads_them():
    model, backward = texts.tagger()
    helpers, both, arguments = texts.attach([language_model(backward)], model)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    x, y = helpers.add_targets((texts.X, {"pos": np.full_like(texts.X, -1)}))
    texts.train(both, x, y, **arguments)
    for name in ("forward", "reversed"):
        assert (model.get_layer(name).get_weights()[0] != before[name][0]).any()
    np.testing.assert_array_equal(model.get_layer("tags").get_weights()[0], before["tags"][0])


def test_weight_0_trains_the_main_model_bit_for_bit():
    texts.check_weight_0_trains_as_alone(lambda b, weight: language_model(b, weight=weight))


def test_no_trace_in_what_is_exported():
    model, backward = texts.tagger()
    texts.check_nothing_is_exported(language_model(backward), model)


def test_one_direction_and_a_dict_of_inputs():
    task = AuxiliaryLanguageModel("w", ("a",), 20, directions=("backward",), words="ids")
    labels = task.targets({"ids": np.array([[3, 4]]), "case": np.zeros((1, 2))}, {})
    assert list(labels) == ["w_backward"]
    np.testing.assert_array_equal(labels["w_backward"], [[-1, 3]])


def test_states_that_have_read_the_answer_are_refused():
    x = keras.Input((texts.STEPS,), dtype="int32")
    h = keras.layers.Embedding(texts.WORDS, 5)(x)
    gru = keras.layers.GRU(4, return_sequences=True)
    merged = keras.layers.Bidirectional(gru, name="merged")(h)
    last = keras.layers.GRU(4, name="last")(h)
    model = keras.Model(x, {"pos": keras.layers.Dense(2)(merged), "all": last})
    for features, message in (
        ("merged", "must be the states of one direction.*'merged' with merge_mode='concat'"),
        (merged, "must be the states of one direction"),
        ("last", r"a state for each step, .* Received: shape \(None, 4\) of 'last'"),
        ("none", "must name a layer of the model"),
    ):
        task = AuxiliaryLanguageModel("w", (features,), texts.WORDS, directions=("forward",))
        with pytest.raises(ValueError, match=message):
            texts.attach([task], model)
    model, _ = texts.tagger()
    with pytest.raises(ValueError, match="in the order of the words, .*Received: 'reversed'"):
        texts.attach([language_model("reversed")], model)


def test_states_that_depend_on_the_words_to_predict_are_refused():
    model, backward = texts.tagger()
    forward = model.get_layer("forward").output
    both = keras.layers.Concatenate(name="both")([forward, backward])
    above = keras.layers.GRU(4, return_sequences=True, name="above")(both)
    for direction, features, side in (
        ("forward", backward, "after"),
        ("backward", forward, "before"),
        ("forward", both, "after"),
        ("backward", both, "before"),
        ("forward", above, "after"),
    ):
        task = AuxiliaryLanguageModel("w", (features,), texts.WORDS, directions=(direction,))
        with pytest.raises(ValueError, match=f"whose states depend on the words {side} theirs"):
            texts.attach([task], model)
    task = NameDetection("name", "has_name", both, texts.WORDS)
    with pytest.raises(ValueError, match="'both', whose states depend on the words after theirs"):
        texts.attach([task], model)
    task = AuxiliaryLanguageModel("w", (forward,), 9, directions=("forward",), words="ids")
    with pytest.raises(ValueError, match="`words` must name an input .* Received: words='ids'"):
        texts.attach([task], model)


def test_errors():
    for directions in ((), ("up",), ("forward", "forward")):
        with pytest.raises(ValueError, match="`directions` must be one or both of"):
            AuxiliaryLanguageModel("w", ("a", "b"), 9, directions=directions)
    for features in ("forward", ("forward",)):
        with pytest.raises(ValueError, match="`features` must be a tuple with"):
            AuxiliaryLanguageModel("w", features, 9)
    for argument in ("vocabulary_size", "hidden", "max_vocabulary"):
        with pytest.raises(ValueError, match=f"`{argument}` must be at least 1. Received: .*=0"):
            language_model("b", **{argument: 0})
    task = language_model("b")
    with pytest.raises(ValueError, match="from 0 to 11. Received: 3 to 12 for 'word'"):
        task.targets(np.array([[3, 12]]), {})
    with pytest.raises(ValueError, match=r"whole numbers of shape \(N, steps\)"):
        task.targets(np.array([[3.5, 1.0]]), {})
    with pytest.raises(ValueError, match=r"Received: words=None, \['a'\] for 'word'"):
        task.targets({"a": np.array([[3, 1]])}, {})
    with pytest.raises(ValueError, match="Received: words='ids', an array"):
        language_model("b", words="ids").targets(np.array([[3, 1]]), {})
