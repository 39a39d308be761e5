"""Words that tell a label, in one domain and in the other."""

from collections.abc import Sequence

import numpy as np

METHODS = ("weighted_log_likelihood", "information_gain")


def choose_pivots(
    x,
    labels,
    number: int,
    target=None,
    method: str = "weighted_log_likelihood",
    min_count: int = 5,
    ignore: Sequence[int] = (0, 1),
) -> tuple[list[int], list[int]]:
    """Word ids that speak for label 1, and such that speak for label 0.

    Use it for `kmtl.auxiliary.PivotHint`. With sentences of the target domain, words that are
    rare there are left out, as they cannot be pivots between the two.

    ```
    n[w, y]  = sentences with label y that hold word w;  n[y] = sentences with label y
    p(w | y) = (n[w, y] + 1) / (n[y] + 2)
    score(w, y) = p(w | y) * log(p(w | y) / p(w | 1 - y))        # "weighted_log_likelihood"
    score(w)    = H(labels) - sum_v q(v) * H(labels | v)         # "information_gain", in nats
                  # v: the sentence holds w or not, q its share; w speaks for the y whose
                  # sentences hold it more often
    ```

    Args:
        x: Word ids of the labelled sentences, `(N, steps)`.
        labels: 0 or 1 for each of them, `(N,)`.
        number: How many words of each kind, at most.
        target: Word ids of sentences of the target domain, `(M, steps)`. Defaults to `None`, any
            word of `x` will do.
        method: `"weighted_log_likelihood"` or `"information_gain"`; the second prefers more
            frequent words. Defaults to `"weighted_log_likelihood"`.
        min_count: How many sentences of each domain must hold a word. Defaults to `5`.
        ignore: Ids that are no words. Defaults to `(0, 1)`, padding and unknown words.

    Returns:
        Two lists of ids, the best first; of equal ones the smaller id. Words whose score is not
        above 0 are in neither.

    Raises:
        ValueError: for word ids that are none, another method, a number below 1, labels that are
            not 0 and 1, both of them and one for each sentence, and if there is no word for one
            of the labels.

    Example:

    >>> import kmtl
    >>> x = [[2, 5, 0], [2, 6, 0], [3, 5, 0], [3, 6, 2]]
    >>> kmtl.auxiliary.choose_pivots(x, [1, 1, 0, 0], number=2, min_count=1)
    ([2], [3])

    Differences from the paper: probabilities are of sentences and smoothed by one, which the
    paper may do in another way; that a pivot is frequent in both domains is the rule of Blitzer
    et al.

    References:

    - J. Yu, J. Jiang (2016), "Learning Sentence Embeddings with Auxiliary Tasks for Cross-Domain
      Sentiment Classification", EMNLP: pivots by weighted log-likelihood ratio.
    - J. Blitzer, M. Dredze, F. Pereira (2007), "Biographies, Bollywood, Boom-boxes and
      Blenders: Domain Adaptation for Sentiment Classification", ACL: by mutual information.
    """
    x, labels = _word_ids(x, "x"), np.asarray(labels).reshape(-1)
    target = None if target is None else _word_ids(target, "target")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}. Received: method={method!r}")
    if number < 1:
        raise ValueError(f"`number` must be at least 1. Received: number={number}")
    if len(labels) != len(x) or set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(
            "`labels` must be 0 or 1 for each sentence, and hold both. "
            f"Received: {np.unique(labels).tolist()} in {len(labels)} for {len(x)} sentences"
        )
    size = 1 + max(int(a.max(initial=0)) for a in (x, x if target is None else target))
    counts = np.stack([_sentences_with(x[labels == y], size) for y in (0, 1)])
    totals = np.array([(labels == y).sum() for y in (0, 1)], "float64")[:, None]
    usable = counts.sum(axis=0) >= min_count
    if target is not None:
        usable &= _sentences_with(target, size) >= min_count
    usable[[i for i in ignore if i < size]] = False
    if method == "information_gain":
        scores = _information_gain(counts, totals)
    else:
        shares = (counts + 1) / (totals + 2)
        scores = shares * np.log(shares / shares[::-1])
    negative, positive = (_best(score, usable, number) for score in scores)
    if not negative or not positive:
        raise ValueError(
            "There must be words for both labels. Received: "
            f"{len(positive)} for 1 and {len(negative)} for 0, with min_count={min_count}"
        )
    return positive, negative


def _word_ids(x, argument):
    ids = np.asarray(x)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.min(initial=0) < 0:
        raise ValueError(
            f"`{argument}` must be word ids: integers >= 0 of shape (sentences, steps). "
            f"Received: {ids.dtype} of shape {ids.shape}"
        )
    return ids


def _sentences_with(x, size):
    """How many sentences hold each word."""
    holds = np.zeros((len(x), size), bool)
    holds[np.arange(len(x))[:, None], x] = True
    return holds.sum(axis=0)


def _best(scores, usable, number):
    chosen = np.where(usable & (scores > 0), scores, -np.inf)
    order = np.argsort(-chosen, kind="stable")[:number]
    return [int(i) for i in order if np.isfinite(chosen[i])]


def _information_gain(counts, totals):
    """`(2, words)`, 0 in the row of the label that a word does not speak for."""
    sentences = totals.sum()
    holds = counts.sum(axis=0)
    gain = (
        _entropy(totals)
        - holds / sentences * _entropy(counts)
        - (1 - holds / sentences) * _entropy(totals - counts)
    )
    shares = counts / totals
    return np.where(shares > shares[::-1], gain, 0.0)


def _entropy(counts):
    """Of counts by label, in the first axis; 0 where there are none."""
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    return -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=0)
