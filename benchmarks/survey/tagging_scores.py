"""How the taggers of `tagging.py` are scored, and the taggers that count only."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from kmtl.datasets.sentences import Sentences


def scores(guesses: Mapping, truths: Mapping, tags: Mapping) -> dict[str, float]:
    """Task -> share of the words that are right, and of "chunk" the F1 of whole chunks.

    Args:
        guesses: Task -> labels `(N, steps)`.
        truths: Task -> labels `(N, steps)`, -1 where there is none.
        tags: Task -> the tag of each label.
    """
    found = {}
    for task, guess in guesses.items():
        truth = truths[task]
        real = truth >= 0
        if task == "chunk":
            rows = [
                [[tags[task][i] for i in row[here]] for row, here in zip(each, real, strict=True)]
                for each in (truth, guess)
            ]
            found[task] = chunk_f1(*rows)
        else:
            found[task] = float(np.mean((guess == truth)[real]))
    return found


def chunk_f1(truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]) -> float:
    """F1 of whole chunks, by the rules of the shared task's `conlleval`.

    >>> chunk_f1([["B-NP", "I-NP", "B-VP"]], [["B-NP", "B-NP", "B-VP"]])
    0.4
    """
    pairs = [(spans(a), spans(b)) for a, b in zip(truth, guess, strict=True)]
    right = sum(len(a & b) for a, b in pairs)
    return 2 * right / max(1, sum(len(a) + len(b) for a, b in pairs))


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Begin, end and kind of each chunk; an `I-` that continues none begins one.

    >>> sorted(spans(["B-NP", "I-NP", "B-NP", "O", "I-VP", "I-PP"]))
    [(0, 2, 'NP'), (2, 3, 'NP'), (4, 5, 'VP'), (5, 6, 'PP')]
    """
    found, begin, kind = set(), 0, None
    for place, tag in enumerate([*tags, "O"]):
        here = None if tag == "O" else tag[2:]
        if tag[0] == "B" or here != kind:
            if kind is not None:
                found.add((begin, place, kind))
            begin, kind = place, here
    return found


def frequent_tags(
    parts: Sequence[Sentences],
    test: Sentences,
    task: str,
    keys: Callable[[Sentences], list[Hashable]],
) -> np.ndarray:
    """For each key its most frequent label, and for a new one that of all words.

    Args:
        parts: Where the labels are counted.
        test: Whose labels are guessed.
        task: Of which task.
        keys: Returns what is known of each word of a part, in their order.
    """
    counts, every = defaultdict(Counter), Counter()
    for part in parts:
        labels = part.y[task][part.y[task] >= 0].tolist()
        every.update(labels)
        for key, label in zip(keys(part), labels, strict=True):
            counts[key][label] += 1
    best = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    usual = every.most_common(1)[0][0]
    guess = np.full_like(test.y[task], -1)
    guess[test.y[task] >= 0] = [best.get(key, usual) for key in keys(test)]
    return guess
