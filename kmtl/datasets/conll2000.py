"""CoNLL-2000: part of speech and chunk of each word."""

import os

import numpy as np

from kmtl.datasets.sentences import SentenceSplits, sentence_splits
from kmtl.datasets.splits import find_file, read_lines

ORIGIN = "of the CoNLL-2000 shared task (in NLTK's data as the corpus conll2000)"
VALIDATION = 10  # one of so many sentences


def conll2000(
    folder: str | os.PathLike, steps: int | None = None, min_count: int = 1
) -> SentenceSplits:
    """10948 sentences of the Wall Street Journal, tasks "pos" and "chunk".

    The usual small benchmark for a low-level task (44 parts of speech) that helps one above it
    (chunks such as noun phrases, as 23 tags B-NP, I-NP, ..., O). The score is the F1 of whole
    chunks; giving each part of speech its most frequent chunk has 77.07, and the best system of
    the shared task had 93.48.

    The data are not part of kmtl. There is no validation part: it is the last tenth of the
    training file, so that sentences of one article are not on both sides.

    Args:
        folder: Folder with the files `train.txt` and `test.txt`, or `.txt.gz`: one word a line
            as `word POS chunk`, and an empty line after each sentence.
        steps: Length of the arrays; longer sentences are cut. Defaults to `None`, the longest
            sentence of all parts.
        min_count: How often the training part must have a word, or it is unknown.
            Defaults to `1`.

    Returns:
        An object with `train`, `validation` and `test`, each with
        `x`, int32 word ids of shape `(N, steps)`, 0 for padding and 1 for unknown words,
        `y`, a dict of `"pos"` and `"chunk"` to int32 `(N, steps)`, -1 for padding: use
        `missing=-1` in `compile`;
        `words`, the words, and `rows`, the sentences' numbers in their file; and with
        `vocabulary`, the word of each id by falling frequency, and
        `tags`, a dict of task to the tag of each label.

    Raises:
        FileNotFoundError: If a file is not in the folder.
        ValueError: If `folder` is no path, a file is broken or has no sentence, a line has not
            three fields, a chunk is no tag of the IOB2 scheme, or `steps` or `min_count` are
            below 1.

    Example:

    >>> import os, tempfile
    >>> import kmtl
    >>> text = "He PRP B-NP\\nsaw VBD B-VP\\na DT B-NP\\ndog NN I-NP\\n\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train.txt", "test.txt"):
    ...         with open(os.path.join(folder, name), "w") as file:
    ...             _ = file.write(text * 10)
    ...     data = kmtl.datasets.conll2000(folder, steps=5)  # name the real folder instead
    >>> print(data.train.x.shape, data.tags["chunk"])
    (9, 5) ('B-NP', 'B-VP', 'I-NP')
    >>> print(data.train.y["chunk"][0])
    [ 0  1  0  2 -1]

    Differences from the paper: words as they are; many systems write numbers and capitals in
    one way. The validation part is ours, as the task had none.

    Reference: E. F. Tjong Kim Sang, S. Buchholz (2000), "Introduction to the CoNLL-2000 Shared
    Task: Chunking", CoNLL.
    """
    words, y = _read(find_file(folder, "train.txt", ORIGIN))
    cut = len(words) - len(words) // VALIDATION
    numbers = np.arange(len(words))
    parts = [
        (words[part], {task: y[task][part] for task in y}, numbers[part])
        for part in (slice(0, cut), slice(cut, None))
    ]
    words, y = _read(find_file(folder, "test.txt", ORIGIN))
    return sentence_splits([*parts, (words, y, np.arange(len(words)))], steps, min_count)


def _read(path):
    words, pos, chunks = [[]], [[]], [[]]
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if fields:
            if len(fields) != 3 or not (fields[2] == "O" or fields[2][:2] in ("B-", "I-")):
                raise ValueError(
                    "Every line must be `word POS chunk` with a chunk B-..., I-... or O, or "
                    f"empty. Received: {line!r} in line {number} of {os.path.basename(path)}"
                )
            for column, field in zip((words, pos, chunks), fields, strict=True):
                column[-1].append(field)
        elif words[-1]:
            for column in (words, pos, chunks):
                column.append([])
    if not words[-1]:
        words, pos, chunks = words[:-1], pos[:-1], chunks[:-1]
    if not words:
        raise ValueError(f"{os.path.basename(path)} must hold sentences. Received: none")
    return words, {"pos": pos, "chunk": chunks}
