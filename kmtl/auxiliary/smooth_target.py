"""Soft labels in place of a threshold's hard ones."""

import numpy as np


def smooth_target(quantity, threshold: float, scale: float) -> np.ndarray:
    """How far a quantity is over its threshold, as a probability.

    Use it when the label is a quantity cut in two (fever from a temperature, a pass from a
    score) and the quantity is known in training: a case near the threshold then counts as
    one. It is a label for a sigmoid with cross-entropy.

    ```
    target = 1 / (1 + exp(-(quantity - threshold) / scale))
           = 1 if quantity > threshold else 0                    # scale = 0
    ```

    Args:
        quantity: Array of any shape; NaN stays NaN.
        threshold: Where the hard label changes.
        scale: Width of the step, at least 0, in the quantity's unit: about how exactly it is
            known.

    Returns:
        float32 array of the same shape.

    Raises:
        ValueError: for a negative scale.

    Example:

    >>> import kmtl
    >>> kmtl.auxiliary.smooth_target([36.5, 38.0, 39.0], threshold=38.0, scale=0.5).round(3)
    array([0.047, 0.5  , 0.881], dtype=float32)

    Differences from the paper: it proposes the finer label; this form of it is ours.

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, its
    use "quantization smoothing".
    """
    if not scale >= 0:
        raise ValueError(f"`scale` must be at least 0. Received: scale={scale}")
    quantity = np.asarray(quantity, "float64")
    if scale == 0:
        target = np.where(np.isnan(quantity), np.nan, quantity > threshold)
    else:
        # As tanh it does not overflow far from the threshold.
        target = 0.5 + 0.5 * np.tanh((quantity - threshold) / (2 * scale))
    return target.astype("float32")
