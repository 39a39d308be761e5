"""Compares a LiteRT file with the Keras model, head by head, on both runtimes."""

import itertools

import numpy as np

from kmtl.export.compare import MEASURES, VerificationError, check_errors, measure
from kmtl.export.flatbuffers.inspection import read_signatures
from kmtl.export.runtime.litert_model import RUNTIMES, LiteRTModel

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


def verify(
    content: bytes,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    tolerance: float,
) -> dict[str, dict[str, float]]:
    """Runs a flatbuffer on both runtimes, with one and more threads, and measures every head.

    A file for any number of rows is run with one row and with all, and a signature of one task
    like the one for all.

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
    first, *others = read_signatures(content, "the file")
    found = []
    for runtime, threads in itertools.product(RUNTIMES, THREADS):
        for key in (first, *others):
            heads = sorted(expected) if key == first else [key]
            for rows, answers in _answers(content, runtime, threads, key, inputs, heads):
                reference = {task: expected[task][rows] for task in heads}
                found.append(measure(answers, reference, f"the file on {runtime}"))
    errors = {
        task: {name: max(run[task][name] for run in found if task in run) for name in MEASURES}
        for task in expected
    }
    check_errors(errors, tolerance, "the file")
    return errors


def _answers(content, runtime, threads, signature, inputs, heads):
    """The rows that were asked for and the answers: all rows, and one where any number will do."""
    try:
        model = LiteRTModel(content, runtime, threads, signature)
        arrays = {name: inputs[name] for name in model.input_details}
        everything, first = slice(None), slice(1)
        yield everything, model(arrays)
        if model.batch_size is None:
            yield first, model({name: array[first] for name, array in arrays.items()})
    except (LookupError, RuntimeError, ValueError) as error:
        raise VerificationError(
            f"Both LiteRT runtimes must run the file and find every head of {heads}; heads that "
            "compute the same are one to the converter, and not every operation has a kernel for "
            f"every type and batch size. Received: {error} from {runtime}"
        ) from error
