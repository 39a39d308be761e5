import keras
import numpy as np
import pytest

from kmtl.auxiliary.name_detection import NameDetection
from tests.auxiliary import texts

pytestmark = pytest.mark.both_backends

HAS_NAME = np.array([1, 0, 1, 0, 0, 1, 0, 1])


def names(weight=1.0, **kwargs):
    settings = {"vocabulary_size": texts.WORDS, **kwargs}
    return NameDetection("name", "has_name", "forward", weight=weight, **settings)


def test_the_sentence_s_label_is_that_of_each_word():
    labels = names().targets(texts.X, {"has_name": HAS_NAME})
    assert labels["name"].shape == (8, texts.STEPS, 1)
    for row, (label, length) in enumerate(zip(HAS_NAME, texts.LENGTHS, strict=True)):
        expected = [label] * length + [-1] * (texts.STEPS - length)
        np.testing.assert_array_equal(labels["name"][row, :, 0], expected)
    np.testing.assert_array_equal(labels["name_words"][:, :-1][texts.X[:, 1:] == 0], -1)
    np.testing.assert_array_equal(labels["name_words"][0], [*texts.X[0, 1:], -1])


def test_sentences_without_a_label_train_the_language_model_only():
    labels = names(missing=np.nan).targets(texts.X[:2], {"has_name": np.array([np.nan, 1.0])})
    np.testing.assert_array_equal(labels["name"][0], -1)
    assert (labels["name"][1] == 1).any() and (labels["name_words"][0] > 0).any()


def test_score_is_the_answer_of_the_last_word():
    answers = {"name": np.arange(8 * texts.STEPS, dtype="float32").reshape(8, texts.STEPS, 1)}
    score = names().score(texts.X, answers)
    np.testing.assert_array_equal(score, texts.STEPS * np.arange(8) + texts.LENGTHS - 1)
    assert np.isnan(names().score(np.zeros((8, texts.STEPS), int), answers)).all()


def test_losses_are_means_over_words():
    model, _ = texts.tagger()
    helpers, both, arguments = texts.attach([names(0.5, word_weight=0.25)], model)
    x, y = helpers.add_targets((texts.X, {**texts.Y, "has_name": HAS_NAME}))
    assert sorted(y) == ["name", "name_words", "pos"]
    both.compile(keras.optimizers.SGD(0.0), **arguments)
    logs = both.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    answers = both.predict(x, verbose=0)
    there = texts.X > 0
    p = answers["name"][..., 0][there]
    label = np.repeat(HAS_NAME, texts.LENGTHS)
    expected = -np.where(label == 1, np.log(p), np.log(1 - p)).mean()
    np.testing.assert_allclose(logs["name_loss"], expected, rtol=1e-5)
    expected = texts.crossentropy_of_present(y["name_words"], answers["name_words"])
    np.testing.assert_allclose(logs["name_words_loss"], expected, rtol=1e-5)
    total = logs["pos_loss"] + 0.5 * logs["name_loss"] + 0.25 * logs["name_words_loss"]
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


def test_weight_0_trains_the_main_model_bit_for_bit():
    def make(backward, weight):
        return names(weight, word_weight=weight)

    texts.check_weight_0_trains_as_alone(make, {"has_name": HAS_NAME})


def test_no_trace_in_what_is_exported():
    texts.check_nothing_is_exported(names(), texts.tagger()[0])


def test_errors():
    with pytest.raises(ValueError, match="label of 0 or 1 for each sentence. Received: 2.0"):
        names().targets(texts.X, {"has_name": 2 * HAS_NAME})
    with pytest.raises(ValueError, match="Received: 3 for 'name', with 8 sentences"):
        names().targets(texts.X, {"has_name": HAS_NAME[:3]})
    with pytest.raises(ValueError, match="`weight` must be at least 0 and finite"):
        names(word_weight=-1.0)
    with pytest.raises(ValueError, match="`vocabulary_size` must be at least 1"):
        names(vocabulary_size=0)
    with pytest.raises(ValueError, match="order of the words"):
        texts.attach([NameDetection("name", "has_name", "reversed", 9)], texts.tagger()[0])
