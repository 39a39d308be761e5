"""Measures a .tflite file on this machine: latency, memory, and the time of each operation.

kmtl benchmark model.tflite --threads=4 --json=model.benchmark.json
"""

import dataclasses
import json
from collections import Counter

from absl import flags

from kmtl.cli.arrays import write_file
from kmtl.cli.models import check_file

POSITIONAL = ("MODEL.tflite",)


def define_flags(values: flags.FlagValues) -> None:
    """Adds this command's flags."""
    flags.DEFINE_integer("threads", 1, "CPU threads; 1 by default.", flag_values=values)
    flags.DEFINE_string(
        "runtime",
        "interpreter",
        "interpreter (the default) or compiled_model.",
        flag_values=values,
    )
    flags.DEFINE_integer("runs", 100, "Measured calls; 100 by default.", flag_values=values)
    flags.DEFINE_integer("warmup", 10, "Calls before them; 10 by default.", flag_values=values)
    flags.DEFINE_string(
        "signature",
        None,
        "The signature to run, such as a task's; by default the file's first.",
        flag_values=values,
    )
    flags.DEFINE_string("json", None, "A file to write all figures to.", flag_values=values)


def main(values: flags.FlagValues, path: str) -> None:
    """Measures the file at `path`."""
    from kmtl.export import benchmark_litert

    check_file("MODEL.tflite", path)
    found = benchmark_litert(
        path,
        runtime=values.runtime,
        num_threads=values.threads,
        warmup=values.warmup,
        runs=values.runs,
        signature=values.signature,
    )
    threads = "1 thread" if found.num_threads == 1 else f"{found.num_threads} threads"
    print(f"{path}  {found.bytes:,} bytes, {found.runtime}, {threads}, {found.runs} calls")
    rows = "row" if found.batch_size == 1 else "rows"
    _section(
        f"latency of {found.batch_size} {rows}, ms",
        [(name, f"{ms:9.3f}") for name, ms in found.latency_ms.items()],
    )
    memory = found.peak_memory_bytes
    shown = "this system does not tell" if memory is None else f"{memory / 1e6:.1f} MB"
    _section("memory", [("peak", shown)])
    _show_profile(found.profile)
    if values.json is not None:
        figures = {**dataclasses.asdict(found), "path": path}
        text = json.dumps(figures, indent=2) + "\n"
        write_file("json", values.json, text.encode())


def _show_profile(profile):
    title = "operations of a call, by compiled_model's profiler, ms"
    if profile is None:
        _section(title, [("none", "the LiteRT installed here has no profiler")])
        return
    total, counts = Counter(), Counter(operation.kernel for operation in profile)
    for operation in profile:
        total[operation.kernel] += operation.ms
    whole = sum(total.values())
    rows = [
        (kernel, f"{ms:9.3f}  {ms / whole if whole else 0:4.0%}  {counts[kernel]:>4} x")
        for kernel, ms in total.most_common()
    ]
    _section(title, rows)


def _section(title, rows):
    print(f"\n{title}")
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name:{width}}  {text}")
