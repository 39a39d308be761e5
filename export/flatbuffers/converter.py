"""TensorFlow's converter in a process of its own.

Each conversion leaks (tensorflow#122598), some models abort the process that converts them, and
the converter swallows Ctrl-C. All of this meets a process that holds nothing of the user's.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

WORKER = Path(__file__).with_name("converter_worker.py")
LAST_LINES = 10

# The process is replaced when it holds more bytes than this, of which TensorFlow is 0.6 GB, or has
# converted so often, which is all that is known of it on systems without /proc.
LARGEST_MEMORY = 1_600_000_000
MOST_CONVERSIONS = 100


class Converter:
    """A process that converts for this one, and is kept: to import TensorFlow takes seconds.

    It is replaced when it has died or leaked much. Threads take turns.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._process = None

    def start(self) -> None:
        """Starts the process unless it runs; it gets ready while this one goes on."""
        if self._lock.acquire(blocking=False):  # else it converts
            try:
                self._start()
            finally:
                self._lock.release()

    def convert(self, folder: str, signatures: Sequence[str], integers: bool) -> bytes:
        """A flatbuffer with builtin operations only.

        Args:
            folder: A SavedModel; the flatbuffer is left there, too.
            signatures: Those to convert.
            integers: Whether fake quantisation becomes integers.

        Raises:
            RuntimeError: with the converter's text if it refuses the model, or with its last
                words if it died.
        """
        output = Path(folder) / "model.tflite"
        request = {
            "folder": str(folder),
            "signatures": list(signatures),
            "integers": integers,
            "output": str(output),
        }
        with self._lock:
            self._start()
            try:
                answer = self._ask(json.dumps(request))
            except BaseException:  # an answer that is still to come would be taken for the next
                self.stop()
                raise
            if "error" in answer:
                raise RuntimeError(
                    f"TensorFlow's converter must take the model. Received: {answer['error']}"
                )
            self._conversions += 1
            memory = _memory_of(self._process.pid)
            if memory > LARGEST_MEMORY or self._conversions >= MOST_CONVERSIONS:
                self.stop()
        return output.read_bytes()

    def stop(self) -> None:
        """Ends the process; the next conversion starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
            self._words.close()

    def forget(self) -> None:
        """What a fork of this process does, as the other one belongs to its parent."""
        process, self._process = self._process, None
        self._lock = threading.Lock()  # a thread that is not in the fork may hold the earlier one
        if process is not None:
            process.stdin.close()  # the other process waits for the last copy to be closed
            process.stdout.close()
            self._words.close()
            process.returncode = 0  # it is not for the fork to wait for

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._conversions, self._words = 0, tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -P: names of files beside the worker are not those of modules.
            [sys.executable, "-P", str(WORKER), json.dumps(sys.path, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            bufsize=0,  # a buffer's lock could be held in a fork
            start_new_session=True,  # Ctrl-C is for this process, and not for its helpers
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"},
        )

    def _ask(self, request: str) -> dict:
        before = os.fstat(self._words.fileno()).st_size
        try:
            self._process.stdin.write(f"{request}\n".encode())
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer.endswith(b"\n"):
            return json.loads(answer)
        code = self._process.wait()
        self._words.seek(before)
        lines = [x for x in self._words.read().decode(errors="replace").splitlines() if x.strip()]
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise RuntimeError(
            "TensorFlow's converter must survive the model; the next conversion gets a new "
            "process. Received: one that was "
            + "\n".join([f"{how} and wrote last:", *lines[-LAST_LINES:]])
        )


def _memory_of(pid: int) -> int:
    """The bytes that a process holds; 0 where the system has no /proc."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


converter = Converter()
atexit.register(converter.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=converter.forget)
