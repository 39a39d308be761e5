"""Logistic regression by Newton's method."""

import numpy as np

ITERATIONS = 100


def fit_logistic(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
    """Minimises the summed log loss plus `strength / 2 * sum(w[1:]**2)`.

    Args:
        x: `(rows, features)`.
        y: `(rows,)`, booleans of both kinds.
        strength: 0 for no penalty.

    Returns:
        `(1 + features,)`, the intercept first; it has no penalty.

    Raises:
        ValueError: without a penalty, if no minimum exists.
    """
    x = np.column_stack([np.ones(len(x)), x])
    penalty = np.full(x.shape[1], float(strength))
    penalty[0] = 0.0

    def objective(weights):
        margins = np.where(y, -1.0, 1.0) * (x @ weights)
        return np.logaddexp(0.0, margins).sum() + 0.5 * penalty @ weights**2

    weights = np.zeros(x.shape[1])
    for _ in range(ITERATIONS):
        p = sigmoid(x @ weights)
        if not strength and np.abs(p - y).max() < 1e-4:
            break
        gradient = x.T @ (p - y) + penalty * weights
        hessian = (x.T * (p * (1 - p))) @ x + np.diag(penalty)
        # Without a penalty, features that depend on each other leave the Hessian singular.
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        size, start = 1.0, objective(weights)
        while objective(weights - size * step) > start and size > 1e-6:
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() <= 1e-10 * (1 + np.abs(weights).max()):
            return weights
    raise ValueError(
        'The features separate gains from losses, so that no best weights exist: `penalty="l2"` '
        f"is needed. Received: {x.shape[1] - 1} features of {len(x)} pairs"
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))`, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))
