"""Numbers of a task's labels that tell how well it may do as an auxiliary task."""

import numbers

import numpy as np


def label_statistics(y, missing=None) -> dict[str, float]:
    """Describes the distribution of a task's labels.

    Use it before training, to compare candidates for auxiliary tasks: those with few labels
    that are spread evenly (high `normalized_entropy`, low `kurtosis`) helped more often in the
    paper.

    Whole numbers, booleans and strings are class labels, of which `n[k]` have the value k:

    ```
    share[k]           = n[k] / sum(n)
    entropy            = -sum_k share[k] * log(share[k])
    normalized_entropy = entropy / log(num_labels)              (0 for a single label)
    kurtosis           = mean((n - mean(n))**4) / var(n)**2 - 3
    most_frequent      = max(share)
    ```

    Other numbers are labels of regression, with

    ```
    mean, variance
    kurtosis           = mean((y - mean(y))**4) / var(y)**2 - 3
    ```

    Args:
        y: Labels of any shape, such as of each token of padded sentences.
        missing: The value that marks missing labels, which are left out; `nan` for NaN.
            Defaults to `None`.

    Returns:
        For classes `num_labels`, `entropy` (in nats), `normalized_entropy`, `kurtosis` and
        `most_frequent`; for regression `mean`, `variance` and `kurtosis`; for both `count`, the
        number of labels that are not missing. Both kurtoses are Fisher's excess, 0 for a normal
        distribution, with population moments, and NaN where the variance is 0, as it is for
        labels that are all equally frequent.

    Raises:
        ValueError: if no label is left, or one is not finite; for labels that are neither all
            numbers nor all strings, and rows of different lengths.

    Example:

    >>> import kmtl
    >>> statistics = kmtl.analysis.label_statistics([0, 0, 1, 1, 2, 2, 2, 2, -1], missing=-1)
    >>> for name, value in statistics.items():
    ...     print(f"{name} {value:.3f}")
    count 8.000
    num_labels 3.000
    entropy 1.040
    normalized_entropy 0.946
    kurtosis -1.500
    most_frequent 0.500

    Differences from the paper: it also takes the share of words without an entity as a number,
    which is `most_frequent` where most words have none, and how well words tell the labels,
    which is not measured here. Which kurtosis it means could not be checked.

    Reference: H. Martinez Alonso, B. Plank (2017), "When is multitask learning effective?
    Semantic sequence prediction under varying data conditions", EACL, arXiv:1612.02251.
    """
    try:
        labels = np.asarray(y).ravel()
    except ValueError as error:
        raise ValueError(f"`y` must have rows of one length. Received: {error}") from error
    if missing is not None:
        absent = np.asarray(labels == missing)
        # NaN is not equal to itself, and strings are never NaN.
        absent |= (labels != labels) & (missing != missing)
        labels = labels[~absent]
    numeric = labels.dtype.kind in "biuf"
    if not labels.size or (numeric and not np.isfinite(labels).all()):
        raise ValueError(
            "`y` must have labels, and all but the missing ones finite. "
            f"Received: {labels.size} labels with missing={missing}: {labels}"
        )
    if labels.dtype.kind not in "biufSU" and not any(
        all(isinstance(label, kind) for label in labels) for kind in (str, bytes, numbers.Real)
    ):
        raise ValueError(
            "`y` must hold only numbers or only strings. "
            f"Received: labels of types {sorted({type(label).__name__ for label in labels})}"
        )
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels)):
        labels = labels.astype("float64")
        return {
            "count": float(labels.size),
            "mean": float(labels.mean()),
            "variance": float(labels.var()),
            "kurtosis": _kurtosis(labels),
        }

    counts = np.unique(labels, return_counts=True)[1].astype("float64")
    shares = counts / counts.sum()
    # A single label would be -0.0.
    entropy = abs(float(np.sum(shares * np.log(shares))))
    return {
        "count": float(labels.size),
        "num_labels": float(counts.size),
        "entropy": entropy,
        "normalized_entropy": entropy / float(np.log(counts.size)) if counts.size > 1 else 0.0,
        "kurtosis": _kurtosis(counts),
        "most_frequent": float(shares.max()),
    }


def _kurtosis(values) -> float:
    if np.ptp(values) == 0:
        return float("nan")
    deviations = values - values.mean()
    return float(np.mean(deviations**4) / np.mean(deviations**2) ** 2 - 3)
