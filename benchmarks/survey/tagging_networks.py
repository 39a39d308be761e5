"""What the taggers of `tagging.py` read, and how they are built."""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import kmtl
from kmtl.datasets.sentences import SentenceSplits, make_vocabulary, pad, to_ids

UNITS, LEVELS, EMBEDDED = 64, 3, {"word": 64, "suffix": 32, "shape": 8}
NOISE, DROPOUT, SPREAD = 0.2, 0.3, 0.5
MIN_COUNT = {"word": 2, "suffix": 5, "shape": 1}
LENGTHS = (8, 14, 20, 26, 32)  # where one bucket of sentences ends
FIRST = "first"


def suffix(word: str) -> str:
    return word.lower()[-3:]


def form(word: str) -> str:
    """The word in small letters, each digit as 0."""
    return re.sub(r"\d", "0", word.lower())


def shape(word: str) -> str:
    if word.lower() == word:
        return "no capital"
    if word.upper() == word and len(word) > 1:
        return "capitals"
    return "initial" if word[:1].upper() == word[:1] else "inside"


READ = {"word": form, "suffix": suffix, "shape": shape}


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Arrays to train with and to test with, and what the numbers mean.

    Attributes:
        train: Feature -> ids `(N, steps)`, and task -> labels; sentences are cut to `steps`.
        test: The same, uncut.
        sizes: Feature -> number of its ids.
        tags: Task -> the tag of each label.
        kept: Share of the training words that cutting left.
    """

    train: tuple[dict, dict]
    test: tuple[dict, dict]
    sizes: dict[str, int]
    tags: dict[str, tuple[str, ...]]
    kept: float


def corpus(data: SentenceSplits, sentences: int, steps: int) -> Corpus:
    """The first of a shuffle of the training sentences, and all that are to be tested.

    Args:
        data: As `kmtl.datasets.conll2000` and `kmtl.datasets.ud_english_ewt` return it.
        sentences: At most so many to train with; vocabularies are theirs.
        steps: Words at which training sentences are cut.
    """
    rows = np.random.default_rng(0).permutation(len(data.train.words))[:sentences]
    words = [data.train.words[row] for row in rows]
    known = {
        name: make_vocabulary(map_words(read, words), MIN_COUNT[name])
        for name, read in READ.items()
    }

    def ids(part, length):
        return {
            name: pad(to_ids(map_words(read, part), known[name]), length)
            for name, read in READ.items()
        }

    longest = max(map(len, data.test.words))
    cut, every = sum(min(len(w), steps) for w in words), sum(map(len, words))
    return Corpus(
        (ids(words, steps), {task: y[rows, :steps] for task, y in data.train.y.items()}),
        (ids(data.test.words, longest), {t: y[:, :longest] for t, y in data.test.y.items()}),
        {name: len(vocabulary) for name, vocabulary in known.items()},
        data.tags,
        cut / every,
    )


def map_words(read, sentences: Iterable) -> list[list[str]]:
    return [[read(word) for word in sentence] for sentence in sentences]


def batches(x: Mapping, y: Mapping, size: int, seed: int) -> tf.data.Dataset:
    """Shuffled batches of sentences of like lengths, cut at the longest: fewer steps to compute."""

    def words(x, y):
        return tf.math.count_nonzero(x["word"], axis=-1, dtype="int32")

    def cut(x, y):
        longest = tf.reduce_max(words(x, y))
        return tf.nest.map_structure(lambda array: array[:, :longest], (x, y))

    data = tf.data.Dataset.from_tensor_slices((dict(x), dict(y))).shuffle(len(x["word"]), seed)
    data = data.bucket_by_sequence_length(words, LENGTHS, [size] * (len(LENGTHS) + 1))
    buckets = np.bincount(np.digitize(np.count_nonzero(x["word"], axis=1), LENGTHS))
    count = int(np.ceil(buckets / size).sum())
    return data.map(cut).apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)


def tagger(data: Corpus, levels: Mapping[str, int]) -> kmtl.MultiTaskModel:
    """Bidirectional LSTMs on embeddings, with a head for each task at its level.

    Args:
        data: Its sizes are the network's.
        levels: Task -> level, from 1 to 3.
    """
    inputs = [keras.Input((None,), dtype="int32", name=name) for name in READ]
    start = keras.initializers.RandomUniform(-SPREAD, SPREAD)
    parts = [
        layers.Embedding(data.sizes[x.name], EMBEDDED[x.name], embeddings_initializer=start)(x)
        for x in inputs
    ]
    noisy = layers.GaussianNoise(NOISE)(layers.Concatenate()(parts))
    read = keras.Model(inputs, layers.Dropout(DROPOUT)(noisy), name="read")
    # The two directions stay apart until they are joined, as a language model needs each alone.
    stack = [[read, *level(FIRST)], *(level(f"level_{k}") for k in range(2, LEVELS + 1))]
    heads = {task: layers.Dense(len(data.tags[task]), name=task) for task in levels}
    return kmtl.models.LayerwiseSupervision(stack, heads, levels, inputs=inputs)


def level(name: str) -> list[layers.Layer]:
    lstm = layers.LSTM(UNITS, return_sequences=True)
    both = layers.Bidirectional(lstm, merge_mode=None, name=name)
    return [both, layers.Concatenate(), layers.Dropout(DROPOUT)]


def labels_by(model: keras.Model, x: Mapping, size: int) -> dict[str, np.ndarray]:
    """Task -> the likeliest labels, by batches as even in length as those of training.

    A backward LSTM reads padding first, and training has shown it little of that.
    """
    lengths = np.count_nonzero(x["word"], axis=1)
    labels = {task: np.zeros_like(x["word"]) for task in model.output}
    for rows in np.split(np.argsort(lengths), range(size, len(lengths), size)):
        longest = lengths[rows].max()
        answers = model.predict_on_batch({name: ids[rows, :longest] for name, ids in x.items()})
        for task, answer in answers.items():
            labels[task][rows, :longest] = answer.argmax(axis=-1)
    return labels
