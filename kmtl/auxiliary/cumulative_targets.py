"""An ordered class as the answers to "is it more than ...?"."""

from collections.abc import Sequence

import numpy as np


def cumulative_targets(quantity, thresholds: Sequence[float]) -> np.ndarray:
    """One yes-or-no label for each threshold that a quantity may exceed.

    Use it as an auxiliary target beside, or in place of, classes that are steps of one
    quantity: their order is in the labels. A head whose logits share one score,
    `score - thresholds`, answers consistently: never "more than 3" without "more than 2".

    ```
    target[..., k] = 1 if quantity > thresholds[k] else 0
    ```

    Args:
        quantity: Array of any shape; where it is NaN, so are all its labels.
        thresholds: K - 1 numbers that rise, for K classes.

    Returns:
        float32 array of the quantity's shape and `(K - 1,)`.

    Raises:
        ValueError: for thresholds that do not rise.

    Example:

    >>> import kmtl
    >>> kmtl.auxiliary.cumulative_targets([1.0, 2.5, 9.0], thresholds=[2.0, 5.0])
    array([[0., 0.],
           [1., 0.],
           [1., 1.]], dtype=float32)

    Differences from the paper: it proposes several quantizations of one quantity as tasks; to
    take its ordered classes is one way.

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, its
    use "quantization smoothing".
    """
    thresholds = np.asarray(thresholds, "float64")
    if thresholds.ndim != 1 or not thresholds.size or not (np.diff(thresholds) > 0).all():
        raise ValueError(
            f"`thresholds` must be numbers that rise. Received: thresholds={thresholds.tolist()}"
        )
    quantity = np.asarray(quantity, "float64")[..., None]
    return np.where(np.isnan(quantity), np.nan, quantity > thresholds).astype("float32")
