"""Compares answers with the Keras model's, head by head, whatever gave them."""

from collections.abc import Mapping

import numpy as np

from kmtl.export.verify import VerificationError, _measures


def compare(
    answers: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    tolerance: float,
    source: str,
) -> dict[str, dict[str, float]]:
    """Measures every head's error and refuses heads that are missing or too far off.

    Args:
        answers: Task -> what the exported model gave.
        expected: Task -> the Keras model's outputs for the same inputs.
        tolerance: Largest accepted relative error of a head.
        source: What gave the answers, for errors.

    Returns:
        Task -> `max_abs_error`, `mean_abs_error` and `relative_error`.

    Raises:
        VerificationError: naming the heads.
    """
    if set(answers) != set(expected):
        raise VerificationError(
            f"{source} must have the heads {sorted(expected)}. Received: {sorted(answers)}"
        )
    errors = {task: _measures(np.asarray(answers[task]), expected[task]) for task in expected}
    bad = {
        t: e["relative_error"] for t, e in errors.items() if not e["relative_error"] <= tolerance
    }
    if bad:
        listed = ", ".join(f"{task} {value:.3g}" for task, value in bad.items())
        raise VerificationError(
            f"Every head's relative error must be at most tolerance={tolerance:g}. "
            f"Received: {listed} from {source}"
        )
    return errors
