"""Compares a LiteRT file with the Keras model, head by head, on both runtimes."""

import numpy as np

from kmtl.export.runtime import RUNTIMES, LiteRTModel

# Largest accepted relative error of a head, || file - keras || / || keras || over the samples.
# This gate is there for lost, swapped and garbled heads, which have about 1; how much accuracy
# a type costs is the application's to judge, from `ExportResult.errors` and its own metric.
TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "dynamic_int8": 0.1, "int8": 0.2}


class VerificationError(RuntimeError):
    """A file whose heads do not agree with the Keras model; nothing was written."""


def verify(
    content: bytes,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    tolerance: float,
) -> dict[str, dict[str, float]]:
    """Runs a flatbuffer on both runtimes and measures every head's error.

    Args:
        content: The flatbuffer.
        inputs: Input name -> samples.
        expected: Task -> the Keras model's outputs for them.
        tolerance: Largest accepted relative error of a head.

    Returns:
        Task -> `max_abs_error`, `mean_abs_error` and `relative_error`, each the larger of
        the two runtimes'.

    Raises:
        VerificationError: if heads are missing or too far off; the message lists them.
    """
    errors = {
        task: dict.fromkeys(_measures(expected[task], expected[task]), 0.0) for task in expected
    }
    for runtime in RUNTIMES:
        try:
            answers = LiteRTModel(content, runtime)(inputs)
        except RuntimeError as error:
            raise VerificationError(
                f"Both LiteRT runtimes must find every head of {sorted(expected)}; heads that "
                f"compute the same are one to the converter. Received: {error} from {runtime}"
            ) from error
        if set(answers) != set(expected):
            raise VerificationError(
                f"The file must have the heads {sorted(expected)}. "
                f"Received: {sorted(answers)} from {runtime}"
            )
        for task, reference in expected.items():
            for name, value in _measures(answers[task], reference).items():
                errors[task][name] = max(errors[task][name], value)
    bad = {
        t: e["relative_error"] for t, e in errors.items() if not e["relative_error"] <= tolerance
    }
    if bad:
        listed = ", ".join(f"{task} {value:.3g}" for task, value in bad.items())
        raise VerificationError(
            f"Every head's relative error must be at most tolerance={tolerance:g}. "
            f"Received: {listed}"
        )
    return errors


def _measures(answer, reference):
    if answer.shape != reference.shape:
        return dict.fromkeys(("max_abs_error", "mean_abs_error", "relative_error"), np.inf)
    difference = np.abs(answer.astype("float64") - reference)
    norm = np.linalg.norm(reference.astype("float64"))
    relative = np.linalg.norm(difference) / norm if norm else np.linalg.norm(difference)
    return {
        "max_abs_error": float(difference.max()),
        "mean_abs_error": float(difference.mean()),
        "relative_error": float(np.nan_to_num(relative, nan=np.inf)),
    }
