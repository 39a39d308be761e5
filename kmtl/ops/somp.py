"""Which filters of a layer stand best for all of them: simultaneous orthogonal matching pursuit."""

import numpy as np


def somp_filters(filters: np.ndarray, count: int) -> np.ndarray:
    """Chooses the filters from which all others are best rebuilt.

    Use it to start a thin layer from a wide, trained one; `kmtl.models.BranchingModel` does so,
    layer by layer, for a whole network given as `wide`.

    ```
    min over omega, A of ||W - A @ W[omega]||_F,  len(omega) = count        (greedy)
    omega = omega + [argmax_j sum_k |R[k] . W[j]| / ||W[j]||]
    R     = W - W @ pinv(W[omega]) @ W[omega]                               (least squares)
    ```

    Args:
        filters: `(N, D)`, a filter in each row.
        count: How many to choose, from 1 to N.

    Returns:
        `(count,)` indices of rows, in the order in which they were chosen, so that those for a
        smaller count come first. Of equally good ones the first is taken.

    Raises:
        ValueError: if `filters` is no matrix of finite numbers, or `count` not from 1 to N.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> filters = np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 2.9], [0.1, 0.0]])
    >>> print(kmtl.analysis.somp_filters(filters, 2))
    [1 0]

    Differences from the paper: none known; correlations are with filters of length 1, as is usual
    for the method.

    Reference: Y. Lu, A. Kumar, S. Zhai, Y. Cheng, T. Javidi, R. Feris (2017), "Fully-adaptive
    Feature Sharing in Multi-Task Networks with Applications in Person Attribute Classification",
    CVPR, arXiv:1611.05377, section on thin networks; J. A. Tropp, A. C. Gilbert, M. J. Strauss
    (2006), "Algorithms for Simultaneous Sparse Approximation. Part I", Signal Processing 86(3).
    """
    filters = np.asarray(filters, "float64")
    if filters.ndim != 2 or not filters.size or not np.isfinite(filters).all():
        raise ValueError(
            "`filters` must be a matrix of finite numbers, a filter in each row. "
            f"Received: filters of shape {filters.shape}"
        )
    if not 1 <= count <= len(filters):
        raise ValueError(f"`count` must be from 1 to {len(filters)}. Received: count={count}")
    lengths = np.linalg.norm(filters, axis=1)
    atoms = filters / np.where(lengths > 0, lengths, 1.0)[:, None]
    chosen = []
    for _ in range(count):
        correlations = np.abs(residual(filters, chosen) @ atoms.T).sum(axis=0)
        correlations[chosen] = -1.0
        chosen.append(int(np.argmax(correlations)))
    return np.array(chosen)


def residual(filters: np.ndarray, chosen: list[int]) -> np.ndarray:
    """What is left of all rows of a matrix after a least-squares fit by the chosen ones."""
    if not len(chosen):
        return filters
    basis = filters[chosen]
    return filters - filters @ np.linalg.pinv(basis) @ basis
