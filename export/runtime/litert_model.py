"""Runs LiteRT files by task name, on either of LiteRT's two runtimes."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from kmtl.export.flatbuffers.convert import quiet_stderr
from kmtl.export.flatbuffers.inspection import (
    DAMAGE,
    TensorInfo,
    read_signatures,
    refuse_damage,
)
from kmtl.export.runtime.backends import CompiledBackend, InterpreterBackend
from kmtl.export.samples import as_named_arrays

RUNTIMES = ("interpreter", "compiled_model")


def load_litert(
    path: str | os.PathLike,
    runtime: str = "interpreter",
    num_threads: int = 1,
    signature: str | None = None,
) -> "LiteRTModel":
    """Loads a `.tflite` file for running by task name.

    A damaged file ends in an error, as far as it can be told from a sound one. LiteRT's own code
    trusts its files all the same, so run those of unknown origin in a process of their own, as
    the command `kmtl run` does.

    Args:
        path: The file.
        runtime: `"interpreter"` (every device has it) or `"compiled_model"` (LiteRT's newer
            one). Defaults to `"interpreter"`.
        num_threads: CPU threads. Defaults to `1`.
        signature: The signature to run, such as a task's of a file with `task_signatures`.
            Defaults to `None`, the file's first.

    Returns:
        A function of the inputs: `runner(x) -> {task: array}`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no LiteRT model, is cut short, its outputs have no names, or it has
            no such signature.

    Example:

    ```python
    runner = kmtl.export.load_litert("model.tflite")
    answers = runner(images)            # any number of rows
    answers["left"].argmax(axis=-1)
    ```
    """
    with open(path, "rb") as file:
        content = file.read()
    return LiteRTModel(content, runtime, num_threads, signature, source=str(path))


class LiteRTModel:
    """A loaded LiteRT model; see `load_litert`.

    Inputs and answers are real values also where the file's are integers: those are
    converted by their scale and zero point.

    Attributes:
        tasks: The heads' names, sorted.
        input_details: Input name -> `TensorInfo`.
        output_details: Task -> `TensorInfo`.
        batch_size: Rows that the file computes at a time; more are fed in turn. None where it
            takes any number.
    """

    def __init__(
        self,
        content: bytes,
        runtime: str = "interpreter",
        num_threads: int = 1,
        signature: str | None = None,
        source: str = "<bytes>",
    ):
        if runtime not in RUNTIMES:
            raise ValueError(f"`runtime` must be one of {RUNTIMES}. Received: runtime={runtime!r}")
        if num_threads < 1:
            raise ValueError(
                f"`num_threads` must be at least 1. Received: num_threads={num_threads}"
            )
        signatures = read_signatures(content, source)
        if signature not in (None, *signatures):
            raise ValueError(
                f"`signature` must be one of the file's, {[*signatures]}. "
                f"Received: signature={signature!r}"
            )
        signature = signatures[signature or next(iter(signatures))]
        self._source = source
        self.tasks = sorted(signature.outputs)
        self.input_details = signature.inputs
        self.output_details = signature.outputs
        shapes = {name: info.shape for name, info in signature.inputs.items()}
        if not shapes or () in shapes.values():
            raise ValueError(
                "A LiteRT model must have inputs with rows along axis 0. "
                f"Received: {source}, with inputs of the shapes {shapes}"
            )
        self.batch_size = next(iter(shapes.values()))[0]
        backend = InterpreterBackend if runtime == "interpreter" else CompiledBackend
        with quiet_stderr(), refuse_damage(content, source):
            self._backend = backend(content, signature, num_threads)

    def __call__(self, inputs) -> dict[str, np.ndarray]:
        """Runs the model.

        Args:
            inputs: Array (one input) or dict of input name -> array, samples along axis 0.

        Returns:
            Task -> array with one row for each sample.

        Raises:
            ValueError: for inputs of other names or shapes than the model's, and where LiteRT
                cannot run the model on them.
        """
        arrays = self.in_file_types(inputs)
        rows = len(next(iter(arrays.values())))
        size = self.batch_size or rows
        parts = []
        with quiet_stderr(), _naming(self._source):
            for start in range(0, rows, size):
                chunk = {n: _padded(a[start : start + size], size) for n, a in arrays.items()}
                parts.append(self._backend.run(chunk))
            answers = {t: np.concatenate([part[t] for part in parts])[:rows] for t in self.tasks}
        return {t: _to_real(y, self.output_details[t]) for t, y in answers.items()}

    def in_file_types(self, inputs) -> dict[str, np.ndarray]:
        """Checked inputs as the file takes them: real values become its integers."""
        real = {name: _real(info) for name, info in self.input_details.items()}
        arrays = as_named_arrays(inputs, real)
        return {n: _to_integers(a, self.input_details[n]) for n, a in arrays.items()}

    def run_once(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of the runtime, in the file's own types, unchecked, for timing.

        Args:
            inputs: Input name -> exactly `batch_size` rows.
        """
        return self._backend.run(inputs)


@contextlib.contextmanager
def _naming(source: str):
    """Turns what LiteRT raises as it runs a model into an error that names the file."""
    try:
        yield
    except DAMAGE as error:
        raise ValueError(
            "A LiteRT model must run on inputs of the shapes and types that it asks for, with "
            f"indices in range. Received: {source} ({type(error).__name__}: {error})"
        ) from error


def _real(info: TensorInfo) -> TensorInfo:
    """An input as callers see it."""
    return info if info.scale is None else dataclasses.replace(info, dtype="float32")


def _to_integers(array, info: TensorInfo):
    if info.scale is None:
        return array
    limits = np.iinfo(info.dtype)
    steps = np.round(array / np.float32(info.scale)) + info.zero_point
    return np.clip(steps, limits.min, limits.max).astype(info.dtype)


def _to_real(array, info: TensorInfo):
    if info.scale is None:
        return array
    return (array.astype("float32") - info.zero_point) * np.float32(info.scale)


def _padded(array, size):
    short = size - len(array)
    if short:
        return np.concatenate([array, np.repeat(array[-1:], short, axis=0)])
    return array
