"""How far two distributions are from each other, between 0 and log 2."""

from collections.abc import Mapping

import numpy as np


def js_divergence(p: Mapping | np.ndarray, q: Mapping | np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions, in nats.

    Use it to tell how much the words or labels of two data sets differ. Unlike the
    Kullback-Leibler divergence it is symmetric, and finite for words that only one of them has.

    ```
    m   = (p + q) / 2
    jsd = sum(p * log(p / m)) / 2 + sum(q * log(q / m)) / 2     (0 * log 0 = 0)
    ```

    Args:
        p: Counts or probabilities: a dict by word, or an array. They are divided by their sum.
        q: The same; a word that one dict lacks counts 0 there, arrays are of one shape.

    Returns:
        0 for equal distributions, log 2 for such that have nothing in common.

    Raises:
        ValueError: for arrays of unequal shapes, for numbers that are negative or not finite,
            and for distributions that sum to 0.

    Example:

    >>> import kmtl
    >>> print(round(kmtl.analysis.js_divergence({"a": 2, "b": 2}, {"b": 5}), 4))
    0.2158

    Reference: J. Lin (1991), "Divergence Measures Based on the Shannon Entropy", IEEE
    Transactions on Information Theory 37(1).
    """
    if isinstance(p, Mapping) and isinstance(q, Mapping):
        words = list({**p, **q})
        p, q = [p.get(w, 0) for w in words], [q.get(w, 0) for w in words]
    p, q = _normalized("p", p), _normalized("q", q)
    if p.shape != q.shape:
        raise ValueError(
            "`p` and `q` must be two dicts, or arrays of one shape. "
            f"Received: shapes {p.shape} and {q.shape}"
        )
    middle = (p + q) / 2
    divergence = sum(np.sum(x[x > 0] * np.log(x[x > 0] / middle[x > 0])) / 2 for x in (p, q))
    return float(np.clip(divergence, 0.0, np.log(2)))  # rounding may pass the ends


def _normalized(name, values) -> np.ndarray:
    try:
        numbers = np.asarray(values, "float64")
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.sum() > 0:
        raise ValueError(
            f"`{name}` must be finite, nowhere negative and somewhere positive. "
            f"Received: {name}={values}"
        )
    return numbers / numbers.sum()
