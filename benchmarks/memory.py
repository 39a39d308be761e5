"""The most memory that processes have held."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_PROGRAM = """
import importlib, sys
module, function, case = sys.argv[1:]
getattr(importlib.import_module(module), function)(case)
from benchmarks import memory
print(memory.peak_mib())
"""


def peaks(work: Callable, cases: Sequence[str], processes: int) -> dict[str, list[float]]:
    """Case -> peaks of fresh processes in MiB, all that they imported included.

    Args:
        work: A module's function of a case, which is all that a process does.
        cases: Its arguments; they take turns.
        processes: How many for each.
    """
    found = {case: [] for case in cases}
    for _ in range(processes):
        for case in cases:
            command = [sys.executable, "-c", _PROGRAM, work.__module__, work.__name__, case]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[case].append(float(done.stdout.split()[-1]))
    return found


def peak_mib() -> float:
    """The peak of this process so far, by Linux's account."""
    # Not `getrusage`, which begins with the peak of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return float(status["VmHWM"].split()[0]) / 1024
