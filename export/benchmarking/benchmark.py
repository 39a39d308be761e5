"""How fast a LiteRT file is on this machine, and how much memory it takes."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kmtl.export.benchmarking.latency import first_rows, seconds_of_calls
from kmtl.export.flatbuffers.inspection import inspect_litert
from kmtl.export.runtime.litert_model import load_litert

MEMORY_RUNS = 3


@dataclasses.dataclass(frozen=True)
class OperationTime:
    """An operation as the runtime ran it: its kernel's name, and milliseconds of a call."""

    kernel: str
    ms: float


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What `benchmark_litert` measured.

    Attributes:
        path: The file.
        bytes: Its size.
        runtime: The runtime.
        num_threads: CPU threads.
        batch_size: Rows of each call; one where the file takes any number.
        warmup: Calls before the measured ones.
        runs: Measured calls.
        latency_ms: `min`, `mean`, `p50`, `p90` and `p99` of a call.
        peak_memory_bytes: Memory for loading and running; None where the system has no /proc.
        profile: An `OperationTime` for each operation of a call, in the order they run; None
            where the installed runtime has no profiler.
    """

    path: Path
    bytes: int
    runtime: str
    num_threads: int
    batch_size: int
    warmup: int
    runs: int
    latency_ms: dict[str, float]
    peak_memory_bytes: int | None
    profile: tuple[OperationTime, ...] | None


def benchmark_litert(
    path: str | os.PathLike,
    runtime: str = "interpreter",
    num_threads: int = 1,
    warmup: int = 10,
    runs: int = 100,
    inputs=None,
    signature: str | None = None,
) -> Benchmark:
    """Measures a `.tflite` file's latency and memory, and the time of each operation.

    Use it to compare files on one machine; for a device's figures, run it on the device.

    - Latency is a call of the runtime as a Python program makes it: inputs in, answers out.
    - Memory is measured in a new process without Keras: its peak (VmHWM of Linux) after
      loading the file and three calls, less its peak before loading.
    - The profile comes from LiteRT's own profiler, which only `CompiledModel` has, whatever
      `runtime` is; also in a new process. Kernels carry the runtime's names, which fuses some
      operations and adds others. It counts whole microseconds: shorter ones show as 0.

    Args:
        path: The file.
        runtime: `"interpreter"` or `"compiled_model"`. Defaults to `"interpreter"`.
        num_threads: CPU threads. Defaults to `1`.
        warmup: Calls before the measured ones. Defaults to `10`.
        runs: Measured calls. Defaults to `100`.
        inputs: Array (one input) or dict of input name -> array; the first rows are used.
            Defaults to `None`: noise, and zeros for integers.
        signature: The signature to run, such as a task's of a file with `task_signatures`.
            Defaults to `None`, the file's first.

    Returns:
        A `Benchmark`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for arguments out of range, a signature that the file does not have, and for
            a file that is no LiteRT model, is cut short or damaged.

    Example:

    ```python
    found = kmtl.export.benchmark_litert("model.tflite", num_threads=4)
    print(found.latency_ms["p50"], found.peak_memory_bytes)
    ```
    """
    if warmup < 0:
        raise ValueError(f"`warmup` must be at least 0. Received: warmup={warmup}")
    if runs < 1:
        raise ValueError(f"`runs` must be at least 1. Received: runs={runs}")
    path = Path(path)
    found = inspect_litert(path)
    runner = load_litert(path, runtime, num_threads, signature)
    arrays = first_rows(runner, inputs)
    with tempfile.TemporaryDirectory() as folder:
        saved = os.path.join(folder, "inputs.npz")
        np.savez(saved, **arrays)
        start = (str(path), signature or found.signature.key, saved)
        memory = _work("measure_memory.py", *start, MEMORY_RUNS, runtime, num_threads)
        if memory.returncode:
            raise ValueError(
                "A LiteRT model must load and run. Received: "
                f"{path}, whose run in a process of its own ended with {memory.returncode}"
            )
        profile = _work("profile_ops.py", *start, runs, warmup, num_threads)
    seconds = seconds_of_calls(runner, arrays, warmup, runs)
    return Benchmark(
        path=path,
        bytes=found.bytes,
        runtime=runtime,
        num_threads=num_threads,
        batch_size=len(next(iter(arrays.values()))),
        warmup=warmup,
        runs=runs,
        latency_ms=_percentiles(seconds),
        peak_memory_bytes=json.loads(memory.stdout),
        profile=_operations(profile),
    )


def _work(program, *arguments) -> subprocess.CompletedProcess:
    """Runs one of the programs beside this file in a process without kmtl."""
    # Without -P, Python would look for every module beside the program first.
    command = [sys.executable, "-P", str(Path(__file__).parent / program)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


def _percentiles(seconds) -> dict[str, float]:
    ms = 1e3 * np.asarray(seconds)
    return {
        "min": float(ms.min()),
        "mean": float(ms.mean()),
        **{f"p{q}": float(np.percentile(ms, q)) for q in (50, 90, 99)},
    }


def _operations(process) -> tuple[OperationTime, ...] | None:
    rows = json.loads(process.stdout) if process.returncode == 0 else []
    return tuple(OperationTime(kernel, ms) for kernel, ms in rows) or None
