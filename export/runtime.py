"""Runs LiteRT files by task name, on either of LiteRT's two runtimes."""

import atexit
import functools
import os
import weakref
from collections.abc import Mapping

import numpy as np

from kmtl.export.convert import quiet_stderr
from kmtl.export.inspection import check_flatbuffer
from kmtl.export.quantize import as_named_arrays

RUNTIMES = ("interpreter", "compiled_model")


def load_litert(
    path: str | os.PathLike, runtime: str = "interpreter", num_threads: int = 1
) -> "LiteRTModel":
    """Loads a `.tflite` file for running by task name.

    Args:
        path: The file.
        runtime: `"interpreter"` (every device has it) or `"compiled_model"` (LiteRT's newer
            one). Defaults to `"interpreter"`.
        num_threads: CPU threads. Defaults to `1`.

    Returns:
        A function of the inputs: `runner(x) -> {task: array}`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no LiteRT model, is cut short, or its outputs have no names.

    Example:

    ```python
    runner = kmtl.export.load_litert("model.tflite")
    answers = runner(images)            # any number of rows
    answers["left"].argmax(axis=-1)
    ```
    """
    with open(path, "rb") as file:
        content = file.read()
    return LiteRTModel(content, runtime, num_threads, source=str(path))


class LiteRTModel:
    """A loaded LiteRT model; see `load_litert`.

    Attributes:
        tasks: The heads' names, sorted.
        input_details: Input name -> `TensorInfo`.
        batch_size: Rows that the file computes at a time; more are fed in turn.
    """

    def __init__(self, content: bytes, runtime="interpreter", num_threads=1, source="<bytes>"):
        if runtime not in RUNTIMES:
            raise ValueError(f"`runtime` must be one of {RUNTIMES}. Received: runtime={runtime!r}")
        if num_threads < 1:
            raise ValueError(
                f"`num_threads` must be at least 1. Received: num_threads={num_threads}"
            )
        signature = check_flatbuffer(content, source)
        self.tasks = sorted(signature.outputs)
        self.input_details = signature.inputs
        self.output_details = signature.outputs
        self.batch_size = next(iter(signature.inputs.values())).shape[0]
        backend = _Interpreter if runtime == "interpreter" else _CompiledModel
        with quiet_stderr():
            self._backend = backend(content, signature, num_threads)

    def __call__(self, inputs) -> dict[str, np.ndarray]:
        """Runs the model.

        Args:
            inputs: Array (one input) or dict of input name -> array, samples along axis 0.

        Returns:
            Task -> array with one row for each sample.

        Raises:
            ValueError: for inputs of other names or shapes than the model's.
        """
        arrays = as_named_arrays(inputs, self.input_details)
        rows = len(next(iter(arrays.values())))
        parts = []
        with quiet_stderr():
            for start in range(0, rows, self.batch_size):
                chunk = {n: a[start : start + self.batch_size] for n, a in arrays.items()}
                parts.append(self._backend.run({n: self._padded(a) for n, a in chunk.items()}))
        return {task: np.concatenate([part[task] for part in parts])[:rows] for task in self.tasks}

    def run_once(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One call of the runtime with exactly `batch_size` rows, unchecked, for timing."""
        return self._backend.run(inputs)

    def _padded(self, array):
        short = self.batch_size - len(array)
        return np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) if short else array


class _Interpreter:
    def __init__(self, content, signature, num_threads):
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=num_threads)
        self._run = self._interpreter.get_signature_runner(signature.key)

    def run(self, inputs):
        return self._run(**inputs)


class _CompiledModel:
    def __init__(self, content, signature, num_threads):
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator

        options = Options(
            hardware_accelerators=HardwareAccelerator.CPU,
            cpu_options=CpuOptions(num_threads=num_threads),
        )
        self._content = content  # the runtime reads weights from here for as long as it lives
        self._model = CompiledModel.from_buffer(
            content, environment=_shared_environment(), options=options
        )
        self._signature = signature
        # Closing prints as well, whenever it happens.
        weakref.finalize(self, _close_quietly, self._model)
        self._inputs = {
            name: self._model.create_input_buffer_by_name(signature.key, name)
            for name in signature.inputs
        }
        self._outputs = {
            name: self._model.create_output_buffer_by_name(signature.key, name)
            for name in signature.outputs
        }

    def run(self, inputs):
        for name, buffer in self._inputs.items():
            buffer.write(np.ascontiguousarray(inputs[name]))
        self._model.run_by_name(self._signature.key, self._inputs, self._outputs)
        answers = {}
        for name, buffer in self._outputs.items():
            info = self._signature.outputs[name]
            flat = buffer.read(int(np.prod(info.shape)), np.dtype(info.dtype))
            answers[name] = np.asarray(flat).reshape(info.shape)
        return answers


@functools.cache
def _shared_environment():
    """One for the process: each would print when it is made and when it goes."""
    from ai_edge_litert.environment import Environment, EnvironmentOptions

    atexit.register(_silence_native_exit)
    return Environment.create(options=EnvironmentOptions())


def _silence_native_exit():
    # LiteRT's own statics print as they are destroyed, after all of Python is done.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _close_quietly(resource):
    with quiet_stderr():
        resource.close()
