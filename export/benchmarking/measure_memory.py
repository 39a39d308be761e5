"""A program: how much memory loading and running a LiteRT file takes.

It is run in a process of its own, without kmtl and Keras, whose memory would hide the model's.
Weights count as far as the runtime touches them, also where it maps the file.

  python -P measure_memory.py MODEL.tflite SIGNATURE INPUTS.npz RUNS RUNTIME THREADS
"""

import json
import os
import sys
from pathlib import Path

import numpy as np


def peak() -> int | None:
    """The most memory that this process ever had, in bytes; None where the system has no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def interpreter(path, key, threads):
    """A function that runs the file once on LiteRT's `Interpreter`."""
    from ai_edge_litert.interpreter import Interpreter

    def load():
        model = Interpreter(model_path=path, num_threads=threads)
        run = model.get_signature_runner(key)
        return lambda inputs: run(**inputs)

    return load


def compiled_model(path, key, threads):
    """A function that runs the file once on LiteRT's `CompiledModel`."""
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, Options
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    cpu = CpuOptions(num_threads=threads)
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)

    def load():
        model = CompiledModel.from_file(path, options=options)
        names = model.get_signature_list()[key]
        inputs = {n: model.create_input_buffer_by_name(key, n) for n in names["inputs"]}
        outputs = {n: model.create_output_buffer_by_name(key, n) for n in names["outputs"]}

        def run(arrays):
            for name, buffer in inputs.items():
                buffer.write(arrays[name])
            model.run_by_name(key, inputs, outputs)

        return run

    return load


def measure(path, key, inputs, runs, runtime, threads) -> int | None:
    """The peak after loading and running, less the peak before."""
    load = {"interpreter": interpreter, "compiled_model": compiled_model}[runtime](
        path, key, threads
    )
    before = peak()
    run = load()
    for _ in range(runs):
        run(inputs)
    return None if before is None else peak() - before


if __name__ == "__main__":
    path, key, inputs, runs, runtime, threads = sys.argv[1:]
    with np.load(inputs) as arrays:
        arrays = dict(arrays)
    print(json.dumps(measure(path, key, arrays, int(runs), runtime, int(threads))), flush=True)
    os._exit(0)  # LiteRT prints as it goes
