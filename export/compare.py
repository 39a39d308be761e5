"""Compares answers with the Keras model's, head by head, whatever gave them."""

from collections.abc import Mapping

import numpy as np

MEASURES = ("max_abs_error", "mean_abs_error", "relative_error")


class VerificationError(RuntimeError):
    """A file whose heads do not agree with the Keras model; nothing was written."""


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
        Task -> measure -> error.

    Raises:
        VerificationError: naming the heads.
    """
    errors = measure(answers, expected, source)
    check_errors(errors, tolerance, source)
    return errors


def measure(
    answers: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], source: str
) -> dict[str, dict[str, float]]:
    """Task -> measure -> error; raises VerificationError unless the heads are the same."""
    if set(answers) != set(expected):
        raise VerificationError(
            f"{source} must have the heads {sorted(expected)}. Received: {sorted(answers)}"
        )
    return {task: _errors(np.asarray(answers[task]), expected[task]) for task in expected}


def check_errors(errors: Mapping[str, Mapping], tolerance: float, source: str) -> None:
    """Raises VerificationError for heads whose relative error is above `tolerance`, or NaN."""
    bad = {
        t: e["relative_error"] for t, e in errors.items() if not e["relative_error"] <= tolerance
    }
    if bad:
        listed = ", ".join(f"{task} {value:.3g}" for task, value in bad.items())
        raise VerificationError(
            f"Every head's relative error must be at most tolerance={tolerance:g}. "
            f"Received: {listed} from {source}"
        )


def _errors(answer, reference):
    if answer.shape != reference.shape:
        return dict.fromkeys(MEASURES, np.inf)
    difference = np.abs(answer.astype("float64") - reference)
    norm = np.linalg.norm(reference.astype("float64"))
    relative = np.linalg.norm(difference) / norm if norm else np.linalg.norm(difference)
    return {
        "max_abs_error": float(difference.max()),
        "mean_abs_error": float(difference.mean()),
        "relative_error": float(np.nan_to_num(relative, nan=np.inf)),
    }
