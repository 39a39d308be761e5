"""The process in which TensorFlow's converter runs: what it survives, and what survives it."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import pytest
from keras import layers, ops

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

from kmtl.export.flatbuffers import converter as converting  # noqa: E402
from kmtl.export.flatbuffers.convert import to_flatbuffer  # noqa: E402
from kmtl.export.flatbuffers.converter import Converter, converter  # noqa: E402
from kmtl.export.flatbuffers.inspection import check_flatbuffer  # noqa: E402

pytestmark = pytest.mark.slow

# In place of TensorFlow: it starts at once, and its converter does what a test asks for.
FAKE = """
import json, os, signal, sys, time
from types import SimpleNamespace as Object

def convert():
    return b"content"

def from_saved_model(folder, signature_keys):
    {body}
    return Object(target_spec=Object(), convert=convert)

print("printed while starting")
converter = Object(from_saved_model=from_saved_model)
lite = Object(OpsSet=Object(TFLITE_BUILTINS=1), TFLiteConverter=converter)
"""

# A program that has a converter but neither kmtl nor TensorFlow in its memory.
PROGRAM = """
import os, runpy, sys, tempfile, threading, time
sys.path.insert(0, sys.argv[2])
converter = runpy.run_path(sys.argv[1])["converter"]

def content():
    with tempfile.TemporaryDirectory() as folder:
        return converter.convert(folder, ["a"], False)

def worker():
    return converter._process.pid

assert content() == b"content"
"""


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """`faked(body)` is a converter whose TensorFlow runs these statements for a conversion."""
    made = []

    def make(body="pass"):
        (tmp_path / "tensorflow.py").write_text(FAKE.format(body=body))
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        made.append(Converter())
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def run_program(tmp_path):
    """`run_program(code)` starts PROGRAM with that code behind it."""
    (tmp_path / "tensorflow.py").write_text(FAKE.format(body="pass"))
    started = []

    def run(code):
        command = [sys.executable, "-c", PROGRAM + code, converting.__file__, str(tmp_path)]
        started.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield run
    for each in started:
        each.kill()
        each.communicate()


def convert(a_converter, folder, signatures=("a",)):
    return a_converter.convert(folder, signatures, False)


def small(layer=None):
    x = keras.Input((4,), name="x")
    h = layers.Dense(3)(x)
    return keras.Model(x, {"y": layer(h) if layer else h})


def converts() -> bool:
    return set(check_flatbuffer(to_flatbuffer(small(), 1), "small").outputs) == {"y"}


def ends(pid, seconds=20) -> bool:
    """Whether a process ends in time; one for which nobody has waited has ended, too."""
    for _ in range(10 * seconds):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.1)
    return False


class Determinant(layers.Layer):
    """An operation that has no builtin form."""

    def call(self, inputs):
        return ops.linalg.det(ops.reshape(inputs, (-1, 1, 3)) * ops.eye(3))[:, None]


# With TensorFlow.


def test_nothing_is_converted_in_this_process(monkeypatch):
    import tensorflow as tf

    def refuse(*args, **kwargs):
        raise AssertionError("the converter leaks, aborts and swallows Ctrl-C here")

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", refuse)
    assert converts()


def test_errors_leave_the_process_alive(tmp_path):
    assert converts()
    pid = converter._process.pid
    with pytest.raises(ValueError, match=r"no others \(Flex\). Received: .* in layer determinant"):
        to_flatbuffer(small(Determinant(name="determinant")), 1)
    with pytest.raises(RuntimeError, match="must take the model. Received: OSError: SavedModel"):
        convert(converter, tmp_path)
    assert converts() and converter._process.pid == pid


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_conversions_do_not_fill_this_process():
    trunk = keras.applications.MobileNetV2((96, 96, 3), weights=None, pooling="avg")
    model = keras.Model(trunk.input, {"y": trunk.output})
    held = []
    for _ in range(10):
        to_flatbuffer(model, 1)
        gc.collect()
        held.append(converting._memory_of(os.getpid()))
    # The same conversions in this process made it 60 MB larger; what is held goes up and down.
    assert max(held[-3:]) - max(held[:3]) < 30e6


# With a converter that does as it is told.


def test_one_process_for_several_conversions(faked, tmp_path):
    one = faked()
    assert convert(one, tmp_path) == b"content"
    pid = one._process.pid
    assert convert(one, tmp_path) == b"content" and one._process.pid == pid


def test_prints_are_no_answers(faked, tmp_path):
    assert convert(faked(r"os.write(1, b'{\"error\": 1}\n')"), tmp_path) == b"content"


def test_where_it_runs(faked, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    body = (
        "global convert; seen = sorted(n for n in sys.modules if sys.modules[n] is not None); "
        "found = dict(path=sys.path, cuda=os.environ['CUDA_VISIBLE_DEVICES'], seen=seen, "
        "session=os.getsid(0)); convert = lambda: json.dumps(found).encode()"
    )
    found = json.loads(convert(faked(body), tmp_path))
    assert found["path"] == sys.path and found["cuda"] == "-1"
    assert not {"kmtl", "keras", "jax"} & set(found["seen"])
    assert found["session"] != os.getsid(0)  # where Ctrl-C in the terminal does not reach


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os.abort()", "ended by SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL"),
        ("os._exit(3)", "ended with status 3"),
    ],
)
def test_a_process_that_dies_in_a_conversion(faked, tmp_path, death, how):
    body = f"os.write(2, b'LLVM ERROR: out of luck\\n'); signature_keys == ['bad'] and {death}"
    one = faked(body)
    assert convert(one, tmp_path) == b"content"
    pid = one._process.pid
    message = "must survive the model; .* Received: one that was " + how
    with pytest.raises(RuntimeError, match=message + " and wrote last:\nLLVM ERROR: out of luck$"):
        convert(one, tmp_path, ["bad"])
    assert ends(pid)
    assert convert(one, tmp_path) == b"content" and one._process.pid != pid


def test_a_process_that_cannot_start(faked, tmp_path):
    one = faked()
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no such library')")
    with pytest.raises(RuntimeError, match="status 1 and (.|\n)*ImportError: no such library$"):
        convert(one, tmp_path)


def test_a_process_that_died_in_between_is_replaced(faked, tmp_path):
    one = faked()
    one.start()
    os.kill(one._process.pid, signal.SIGKILL)
    one._process.wait()
    assert convert(one, tmp_path) == b"content"


@pytest.mark.parametrize("limit", ["LARGEST_MEMORY", "MOST_CONVERSIONS"])
def test_a_process_that_has_leaked_is_replaced(faked, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(converting, limit, 1)
    one = faked()
    one.start()
    pid = one._process.pid
    assert convert(one, tmp_path) == b"content"
    assert one._process is None and ends(pid)
    assert convert(one, tmp_path) == b"content"


def test_ctrl_c_ends_a_conversion_at_once(faked, tmp_path):
    one = faked("signature_keys == ['long'] and time.sleep(60)")
    assert convert(one, tmp_path) == b"content"
    pid, began = one._process.pid, time.monotonic()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        convert(one, tmp_path, ["long"])
    assert time.monotonic() - began < 10 and ends(pid)
    assert convert(one, tmp_path) == b"content"


def test_threads_take_turns(faked, tmp_path):
    body = "global convert; time.sleep(0.2); convert = lambda: signature_keys[0].encode()"
    one, answers = faked(body), {}

    def work(name):
        folder = tmp_path / name
        folder.mkdir()
        answers[name] = convert(one, folder, [name])

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    one.start()  # does not wait for them
    for thread in threads:
        thread.join()
    assert answers == {name: name.encode() for name in "abcd"}


@pytest.mark.parametrize("killed", [False, True])
def test_the_process_ends_with_its_parent(run_program, killed):
    program = run_program("print(worker(), flush=True)\ninput()")
    pid = int(program.stdout.readline())
    assert not ends(pid, seconds=1)
    if killed:
        program.kill()
    else:
        program.communicate("\n")
        assert program.returncode == 0
    assert ends(pid)


def test_a_fork_has_a_process_of_its_own(run_program):
    program = run_program("""
first, held = worker(), threading.Event()

def hold():
    with converter._lock:
        held.set()
        time.sleep(2)

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if not child:
    sys.exit(0 if content() == b"content" and worker() != first else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), content(), worker() == first)
""")
    assert program.communicate(timeout=60)[0] == "0 b'content' True\n"


def test_a_fork_does_not_keep_the_process(run_program):
    program = run_program("""
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
print(worker(), child, flush=True)
time.sleep(60)
""")
    pid, child = map(int, program.stdout.readline().split())
    program.kill()
    assert ends(pid)
    os.kill(child, signal.SIGKILL)
