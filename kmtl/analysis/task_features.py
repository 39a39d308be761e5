"""Features of a task by which Bingel and Soegaard tell whether it gains from another."""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from kmtl.analysis.js_divergence import js_divergence
from kmtl.analysis.label_statistics import label_statistics

SHARES = (10, 20, 30, 50, 70)


def task_features(
    sentences: Sequence[Sequence],
    labels: Sequence,
    validation_sentences: Sequence[Sequence],
    vocabulary: Collection,
    losses: Sequence[float],
) -> dict[str, float]:
    """Fourteen features of a sequence labelling task: of its data, and of its own training.

    Use them, for all tasks at hand, with `kmtl.analysis.pair_features` and
    `kmtl.analysis.TaskGainPredictor`, to guess which pairs are worth training. Each task is
    trained once alone.

    Args:
        sentences: Training data, a list of tokens (strings or integers) for each sentence.
        labels: A label for each sentence, or a list of labels, one for each of its tokens.
        validation_sentences: As `sentences`.
        vocabulary: Tokens with an embedding; others are out of vocabulary.
        losses: Training losses in the order of time, such as
            `model.fit(...).history["loss"]` of the task's own training; at least 3.

    Returns:
        A dict of

        - `num_sentences`, `num_labels` (how many different ones), `label_entropy` (in nats),
          `tokens_per_type`, `out_of_vocabulary` (share of the tokens),
        - `bag_of_words_norm`, the Frobenius norm of the matrix of word counts with a row for
          each sentence, and `js_divergence` of the words in training and validation,
        - `loss_gradient_10` to `loss_gradient_70`, the slope of the losses after 10, 20, 30, 50
          and 70 % of the training, by time as a share of the training,
        - `log_fit_b` and `log_fit_c` of the fit `a + b * log(c * x + 1)` to the losses, `x`
          from 0 to 1.

    Raises:
        ValueError: for no sentences, sentences that are strings, another number of labels than
            of sentences or labels of regression, and fewer than 3 losses or such that are not
            finite.

    Example:

    >>> import kmtl
    >>> features = kmtl.analysis.task_features(
    ...     sentences=[["a", "dog", "barks"], ["a", "cat"]],
    ...     labels=[[0, 1, 2], [0, 1]],
    ...     validation_sentences=[["a", "dog"]],
    ...     vocabulary={"a", "dog", "cat"},
    ...     losses=[1.0, 0.8, 0.6, 0.4],
    ... )
    >>> for name in ("tokens_per_type", "out_of_vocabulary", "loss_gradient_30"):
    ...     print(name, round(features[name], 3))
    tokens_per_type 1.25
    out_of_vocabulary 0.2
    loss_gradient_30 -0.6

    Differences from the paper: it fits `a + b * log(c * x + d)`, which has one parameter too
    many, as a factor of `c` and `d` can be moved to `a`; here d is 1, and the fit has one
    solution (`c` is looked for from 0.001 to 10,000). `js_divergence` compares the words of
    both sets, where the released notebook by mistake compares words with labels. Slopes are
    central differences, with straight lines between the losses; the notebook's part for them
    could not be read.

    Reference: J. Bingel, A. Soegaard (2017), "Identifying beneficial task relations for
    multi-task learning in deep neural networks", EACL, arXiv:1702.08303, section 3.
    """
    words = _count("sentences", sentences)
    validation_words = _count("validation_sentences", validation_sentences)
    if len(labels) != len(sentences):
        raise ValueError(
            "`labels` must be one entry for each sentence. "
            f"Received: {len(labels)} for {len(sentences)} sentences"
        )
    statistics = label_statistics(np.concatenate([np.ravel(entry) for entry in labels]))
    if "num_labels" not in statistics:
        raise ValueError(
            f"`labels` must be of classes: whole numbers or strings. Received: {labels[0]}, ..."
        )
    vocabulary = frozenset(vocabulary)
    tokens = sum(words.values())
    unknown = sum(count for word, count in words.items() if word not in vocabulary)
    squares = sum(count**2 for s in sentences for count in Counter(s).values())
    return {
        "num_sentences": float(len(sentences)),
        "num_labels": statistics["num_labels"],
        "label_entropy": statistics["entropy"],
        "tokens_per_type": tokens / len(words),
        "out_of_vocabulary": unknown / tokens,
        "bag_of_words_norm": float(np.sqrt(squares)),
        "js_divergence": js_divergence(words, validation_words),
        **_curve_features(losses),
    }


def _count(name, sentences) -> Counter:
    if any(isinstance(sentence, str) for sentence in sentences):
        raise ValueError(
            f"`{name}` must be lists of tokens, not strings. Received: {sentences[0]!r}"
        )
    words = Counter(token for sentence in sentences for token in sentence)
    if not words:
        raise ValueError(f"`{name}` must have tokens. Received: {name}={sentences}")
    return words


def _curve_features(losses) -> dict[str, float]:
    losses = np.asarray(losses, "float64")
    if losses.ndim != 1 or len(losses) < 3 or not np.isfinite(losses).all():
        raise ValueError(
            f"`losses` must be at least 3 finite numbers. Received: losses={losses.tolist()}"
        )
    x = np.linspace(0.0, 1.0, len(losses))
    slopes = np.interp(np.array(SHARES) / 100, x, np.gradient(losses, x))
    b, c = _log_fit(x, losses)
    features = {f"loss_gradient_{share}": float(s) for share, s in zip(SHARES, slopes, strict=True)}
    return {**features, "log_fit_b": b, "log_fit_c": c}


def _log_fit(x, losses) -> tuple[float, float]:
    """Least squares in a and b for each c; the best c by ever finer grids."""

    def fit(c):
        basis = np.log(c * x + 1)
        basis = basis - basis.mean()
        b = basis @ losses / (basis @ basis)
        return np.sum((losses - losses.mean() - b * basis) ** 2), b

    low, high = np.log(1e-3), np.log(1e4)
    for _ in range(8):
        grid = np.linspace(low, high, 41)
        best = int(np.argmin([fit(np.exp(u))[0] for u in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
    c = np.exp(grid[best])
    return float(fit(c)[1]), float(c)
