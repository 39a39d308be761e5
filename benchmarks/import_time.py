"""What `import kmtl` costs over `import keras`, each time in a fresh process."""

import subprocess
import sys

from benchmarks.timing import Comparison, compare

TARGET = 1.05
PROCESSES = 11

# `import kmtl` is `import keras` and a rest. Both are timed in one process: seconds of Keras that
# another process spent would differ by more, on a busy machine, than the rest amounts to.
_PROGRAM = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import kmtl
print(middle - start, time.perf_counter() - start)
"""


def run() -> list[Comparison]:
    _import_seconds()  # reads the files into the page cache
    runs = [_import_seconds() for _ in range(PROCESSES)]
    seconds = dict(zip(("import keras", "import kmtl"), zip(*runs, strict=True), strict=True))
    return [compare("fresh process", seconds, "import kmtl", "import keras", TARGET)]


def _import_seconds() -> list[float]:
    """Seconds of `import keras` alone, and of `import kmtl` with all that it imports."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True
    )
    return [float(seconds) for seconds in done.stdout.split()]
