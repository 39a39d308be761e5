"""A program: measures each operation of a LiteRT file with the runtime's own profiler.

The runtime's Python interface has no profiler, its C library has one. This file is run in a
process of its own, without kmtl: a C library of another version can only end that process.

  python -P profile_ops.py MODEL.tflite SIGNATURE INPUTS.npz RUNS WARMUP THREADS
"""

import ctypes
import json
import os
import pathlib
import re
import sys

import numpy as np

CPU = 1  # kLiteRtHwAcceleratorCpu
WRITE = 1  # kLiteRtTensorBufferLockModeWrite
# [node type] [start] [first] [avg ms] [%] [cdf%] [mem KB] [times called] [name]
ROW = re.compile(r"\s*(\S.*?)\s+[\d.]+\s+[\d.]+\s+([\d.]+)\s+[\d.]+%\s+[\d.]+%\s+\S+\s+(\d+)\s+\[")


class _Layout(ctypes.Structure):
    _fields_ = (
        ("packed", ctypes.c_uint32),
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element", ctypes.c_int32), ("layout", _Layout))


class _Library:
    """Calls functions of libLiteRt by name; each returns a status, and 0 is success."""

    def __init__(self):
        import ai_edge_litert

        folder = pathlib.Path(ai_edge_litert.__file__).parent
        self._library = ctypes.CDLL(str(folder / "libLiteRt.so"))

    def __call__(self, name, *arguments, result=None):
        """Calls `LiteRt<name>`; with `result`, a pointer to one is the last argument."""
        value = None if result is None else result()
        end = () if value is None else (ctypes.byref(value),)
        sized = (ctypes.c_size_t(a) if isinstance(a, int) else a for a in arguments)
        status = getattr(self._library, f"LiteRt{name}")(*sized, *end)
        if status:
            raise RuntimeError(f"LiteRt{name} returned {status}")
        return value


def profile(path, key, inputs, runs, warmup, threads) -> list[tuple[str, float]]:
    """(kernel, milliseconds of a run) for each operation, in the order they run."""
    call = _Library()
    environment = call("CreateEnvironment", 0, None, result=ctypes.c_void_p)
    model = call("CreateModelFromFile", environment, path.encode(), result=ctypes.c_void_p)
    payloads = {
        b"runtime_options_string": ctypes.create_string_buffer(b"enable_profiling = true"),
        b"xnnpack": ctypes.create_string_buffer(b"num_threads = %d" % threads),
    }
    keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda payload: None)
    options = call("CreateOptions", result=ctypes.c_void_p)
    call("SetOptionsHardwareAccelerators", options, CPU)
    for name, payload in payloads.items():
        opaque = call(
            "CreateOpaqueOptions", ctypes.c_char_p(name), payload, keep, result=ctypes.c_void_p
        )
        call("AddOpaqueOptions", options, opaque)
    compiled = call("CreateCompiledModel", environment, model, options, result=ctypes.c_void_p)
    index, signature = _signature(call, model, key)
    buffers = _buffers(call, environment, compiled, index, signature, inputs)
    profiler = call("CompiledModelGetProfiler", compiled, result=ctypes.c_void_p)
    for _ in range(warmup):
        call("RunCompiledModel", compiled, index, *buffers)
    call("StartProfiler", profiler)
    for _ in range(runs):
        call("RunCompiledModel", compiled, index, *buffers)
    call("StopProfiler", profiler)
    summary = call("GetProfileSummary", profiler, compiled, result=ctypes.c_char_p)
    return parse(summary.value.decode(), runs)


def parse(summary: str, runs: int) -> list[tuple[str, float]]:
    """The rows "Run Order" of the profiler's summary, which is text."""
    _, _, rows = summary.partition(" Run Order ")
    rows, _, _ = rows.partition(" Top by Computation Time ")
    found = [ROW.match(row) for row in rows.splitlines()]
    return [
        (row[1].removeprefix("Delegate/"), float(row[2]) * int(row[3]) / runs)
        for row in found
        if row
    ]


def _signature(call, model, key):
    for i in range(call("GetNumModelSignatures", model, result=ctypes.c_size_t).value):
        signature = call("GetModelSignature", model, i, result=ctypes.c_void_p)
        if call("GetSignatureKey", signature, result=ctypes.c_char_p).value == key.encode():
            return i, signature
    raise RuntimeError(f"no signature {key!r}")


def _buffers(call, environment, compiled, index, signature, inputs):
    """Count and handles of the inputs, which are written, then of the outputs."""
    found = {}
    rows = len(next(iter(inputs.values())))
    for kind in ("Input", "Output"):
        count = call(f"GetNumSignature{kind}s", signature, result=ctypes.c_size_t).value
        found[kind] = (ctypes.c_void_p * count)()
        types = [_type(call, signature, kind, i) for i in range(count)]
        for i, tensor_type in enumerate(types):
            if tensor_type.layout.dimensions[0] < 0:  # any number of rows
                tensor_type.layout.dimensions[0] = rows
                if kind == "Input":
                    rank = tensor_type.layout.packed & 0x7F
                    dimensions = tensor_type.layout.dimensions
                    call("CompiledModelResizeInputTensor", compiled, index, i, dimensions, rank)
        for i, tensor_type in enumerate(types):
            needs = call(
                f"GetCompiledModel{kind}BufferRequirements",
                compiled,
                index,
                i,
                result=ctypes.c_void_p,
            )
            buffer = call(
                "CreateManagedTensorBufferFromRequirements",
                environment,
                ctypes.byref(tensor_type),
                needs,
                result=ctypes.c_void_p,
            )
            if kind == "Input":
                name = call("GetSignatureInputName", signature, i, result=ctypes.c_char_p)
                _write(call, buffer, inputs[name.value.decode()])
            found[kind][i] = buffer.value
    return [x for handles in found.values() for x in (len(handles), handles)]


def _type(call, signature, kind, i):
    tensor = call(f"GetSignature{kind}TensorByIndex", signature, i, result=ctypes.c_void_p)
    return call("GetRankedTensorType", tensor, result=_TensorType)


def _write(call, buffer, array):
    size = call("GetTensorBufferSize", buffer, result=ctypes.c_size_t).value
    if size < array.nbytes:
        raise RuntimeError(f"an input of {array.nbytes} bytes for a buffer of {size}")
    address = ctypes.c_void_p()
    call("LockTensorBuffer", buffer, ctypes.byref(address), WRITE)
    ctypes.memmove(address, array.tobytes(), array.nbytes)
    call("UnlockTensorBuffer", buffer)


if __name__ == "__main__":
    path, key, inputs, *numbers = sys.argv[1:]
    with np.load(inputs) as arrays:
        rows = profile(path, key, dict(arrays), *map(int, numbers))
    print(json.dumps(rows), flush=True)
    os._exit(0)  # nothing that the library holds is worth its order of destruction
