"""Tagged sentences as arrays: words and tags as numbers, padded to one length."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PADDING = 0
UNKNOWN = 1
NO_LABEL = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Sentences:
    """The sentences of one part.

    Attributes:
        x: int32 word ids of shape `(N, steps)`: 0 for padding, 1 for words that the training
            part lacks or has too seldom.
        y: Task name -> int32 labels of shape `(N, steps)`, -1 where there is none.
        words: The words themselves, uncut.
        rows: The sentences' numbers in their file, `(N,)`.
    """

    x: np.ndarray
    y: dict[str, np.ndarray]
    words: list[list[str]]
    rows: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SentenceSplits:
    """The `Sentences` to fit, those to choose with and those to report.

    Attributes:
        vocabulary: The word of each id, more frequent ones first; of padding and unknown words
            `""` and `"[UNK]"`.
        tags: Task name -> the tag of each label.
    """

    train: Sentences
    validation: Sentences
    test: Sentences
    vocabulary: tuple[str, ...]
    tags: dict[str, tuple[str, ...]]


def make_vocabulary(sentences: Iterable[Sequence[str]], min_count: int = 1) -> tuple[str, ...]:
    """Words by falling frequency, and by the alphabet where that is equal.

    Args:
        sentences: Words of the training part, and of no other.
        min_count: How often a word must occur. Defaults to `1`.

    Returns:
        The word of each id, after `""` for padding and `"[UNK]"` for all other words.

    Raises:
        ValueError: for a `min_count` below 1.
    """
    if min_count < 1:
        raise ValueError(f"`min_count` must be at least 1. Received: min_count={min_count}")
    counts = Counter(word for sentence in sentences for word in sentence)
    kept = [word for word, count in counts.items() if count >= min_count]
    return "", "[UNK]", *sorted(kept, key=lambda word: (-counts[word], word))


def to_ids(
    sentences: Iterable[Sequence[str]], vocabulary: Sequence[str], unknown: int = UNKNOWN
) -> list[list[int]]:
    """Places of words in a vocabulary.

    Args:
        sentences: Words, or tags.
        vocabulary: The word of each id.
        unknown: Id of all others. Defaults to `1`.
    """
    ids = {word: i for i, word in enumerate(vocabulary)}
    return [[ids.get(word, unknown) for word in sentence] for sentence in sentences]


def pad(rows: Sequence[Sequence[int]], steps: int, value: int = PADDING) -> np.ndarray:
    """Rows of one length, as int32 of shape `(N, steps)`: longer ones are cut at their end.

    Args:
        rows: Ids or labels.
        steps: The length, at least 1.
        value: What fills shorter rows up. Defaults to `0`.

    Raises:
        ValueError: for `steps` below 1.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1. Received: steps={steps}")
    padded = np.full((len(rows), steps), value, "int32")
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row[:steps]
    return padded


def sentence_splits(
    parts: Sequence[tuple[list[list[str]], dict[str, list], np.ndarray]],
    steps: int | None,
    min_count: int,
) -> SentenceSplits:
    """Train, validation and test as arrays.

    The vocabulary is that of train. The tags are those of all parts: a tag that train lacks is a
    mistake that a tagger makes, not a word without a label.

    Args:
        parts: For each part words, task name -> tags of each word, and numbers in the file.
        steps: Length of the arrays, or None for that of the longest sentence.
        min_count: How often train must have a word.
    """
    if steps is None:
        steps = max(len(sentence) for words, _, _ in parts for sentence in words)
    vocabulary = make_vocabulary(parts[0][0], min_count)
    tags = {
        task: tuple(sorted({tag for _, y, _ in parts for row in y[task] for tag in row}))
        for task in parts[0][1]
    }
    made = [
        Sentences(
            x=pad(to_ids(words, vocabulary), steps),
            y={task: pad(to_ids(y[task], tags[task]), steps, NO_LABEL) for task in y},
            words=words,
            rows=rows,
        )
        for words, y, rows in parts
    ]
    return SentenceSplits(*made, vocabulary=vocabulary, tags=tags)
