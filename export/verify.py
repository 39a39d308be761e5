"""Compares a LiteRT file with the Keras model, head by head, on both runtimes."""

import itertools

import numpy as np

from kmtl.export.runtime import RUNTIMES, LiteRTModel

# Largest accepted relative error of a head, || file - keras || / || keras || over the samples.
# This gate is there for lost, swapped and garbled heads, which have about 1; how much accuracy
# a type costs is the application's to judge, from `ExportResult.errors` and its own metric.
# A kernel of n bits is off by up to 1 / 2**n of its largest weight: 0.4 % with 8 bits, 6 % with
# 4, and each layer adds its own; activations of 8 bits add as much as such kernels again.
TOLERANCES = {
    "float32": 1e-5,
    "float16": 5e-3,
    "weight_only_int8": 0.1,
    "weight_only_int4": 0.5,
    "dynamic_int8": 0.1,
    "dynamic_int4": 0.5,
    "dynamic_int4_block32": 0.5,
    "int8": 0.2,
    "int8_io": 0.2,
    "uint8_io": 0.2,
    "int8x16": 0.1,
    "int4": 0.5,
}
THREADS = (1, 4)


def tolerance_of(*quantizations: str) -> float:
    """The tolerance of a file that mixes these types: the largest of theirs."""
    return max(TOLERANCES[name] for name in quantizations)


class VerificationError(RuntimeError):
    """A file whose heads do not agree with the Keras model; nothing was written."""


def verify(
    content: bytes,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    tolerance: float,
) -> dict[str, dict[str, float]]:
    """Runs a flatbuffer on both runtimes, with one and more threads, and measures every head.

    A file for any number of rows is run with one row and with all.

    Args:
        content: The flatbuffer.
        inputs: Input name -> samples.
        expected: Task -> the Keras model's outputs for them.
        tolerance: Largest accepted relative error of a head.

    Returns:
        Task -> `max_abs_error`, `mean_abs_error` and `relative_error`, each the largest
        of all runs.

    Raises:
        VerificationError: if heads are missing or too far off; the message lists them.
    """
    errors = {
        task: dict.fromkeys(_measures(expected[task], expected[task]), 0.0) for task in expected
    }
    for runtime, threads in itertools.product(RUNTIMES, THREADS):
        for rows, answers in _answers(content, runtime, threads, inputs, sorted(expected)):
            if set(answers) != set(expected):
                raise VerificationError(
                    f"The file must have the heads {sorted(expected)}. "
                    f"Received: {sorted(answers)} from {runtime}"
                )
            for task, reference in expected.items():
                for name, value in _measures(answers[task], reference[rows]).items():
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


def _answers(content, runtime, threads, inputs, tasks):
    """The rows that were asked for and the answers: all rows, and one where any number will do."""
    try:
        model = LiteRTModel(content, runtime, threads)
        everything, first = slice(None), slice(1)
        yield everything, model(inputs)
        if model.batch_size is None:
            yield first, model({name: array[first] for name, array in inputs.items()})
    except (RuntimeError, ValueError) as error:
        raise VerificationError(
            f"Both LiteRT runtimes must run the file and find every head of {tasks}; heads that "
            "compute the same are one to the converter, and not every operation has a kernel for "
            f"every type and batch size. Received: {error} from {runtime}"
        ) from error


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
