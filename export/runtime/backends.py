"""LiteRT's two runtimes behind one method."""

import atexit
import copy
import functools
import os
import weakref

import numpy as np

from kmtl.export.flatbuffers.convert import quiet_stderr


class InterpreterBackend:
    """Runs with the interpreter that every device has."""

    def __init__(self, content, signature, num_threads):
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=num_threads)
        self._run = self._interpreter.get_signature_runner(signature.key)

    def entered_by(self, signature):
        """The same loaded model, its variables included, by another of its signatures."""
        other = copy.copy(self)
        other._run = self._interpreter.get_signature_runner(signature.key)
        return other

    def run(self, inputs):
        """Task -> outputs for inputs by name, all in the file's own types."""
        return self._run(**inputs)


class CompiledBackend:
    """Runs with LiteRT's newer `CompiledModel`."""

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
        self._is_dynamic = _takes_any_rows(signature)
        self._rows = None
        self._make_buffers()

    def entered_by(self, signature):
        """The same loaded model, its variables included, by another of its signatures."""
        other = copy.copy(self)
        other._first = self  # which closes the model when it goes
        other._signature = signature
        other._is_dynamic, other._rows = _takes_any_rows(signature), None
        other._make_buffers()
        return other

    def _make_buffers(self):
        key = self._signature.key
        self._inputs = {
            name: self._model.create_input_buffer_by_name(key, name)
            for name in self._signature.inputs
        }
        self._outputs = {
            name: self._model.create_output_buffer_by_name(key, name)
            for name in self._signature.outputs
        }

    def _resize(self, inputs):
        if not self._is_dynamic:
            return
        rows = len(next(iter(inputs.values())))
        if rows != self._rows:
            for name, array in inputs.items():
                self._model.resize_input_tensor_by_name(self._signature.key, name, array.shape)
            self._make_buffers()
            self._rows = rows

    def run(self, inputs):
        """Task -> outputs for inputs by name, all in the file's own types."""
        self._resize(inputs)
        for name, buffer in self._inputs.items():
            buffer.write(np.ascontiguousarray(inputs[name]))
        self._model.run_by_name(self._signature.key, self._inputs, self._outputs)
        answers = {}
        for name, buffer in self._outputs.items():
            info = self._signature.outputs[name]
            if None in info.shape[1:]:
                raise RuntimeError(f"head {name!r} has no fixed size of a row: {info.shape}")
            shape = tuple(self._rows if n is None else n for n in info.shape)
            flat = buffer.read(int(np.prod(shape)), np.dtype(info.dtype))
            answers[name] = np.asarray(flat).reshape(shape)
        return answers


def _takes_any_rows(signature) -> bool:
    return any(None in info.shape[:1] for info in signature.inputs.values())


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
