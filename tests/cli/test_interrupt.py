"""Ctrl-C: a last line that says so, exit code 130, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import kmtl
from kmtl.export import export_litert

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no groups of processes"),
]

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that takes a while to export, its file, and data."""
    folder = tmp_path_factory.mktemp("interrupt")
    x = keras.Input((8, 8, 4), name="x")
    h = x
    for _ in range(LAYERS):
        h = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(h)
    h = keras.layers.Flatten()(h)
    model = kmtl.MultiTaskModel(x, {t: keras.layers.Dense(2)(h) for t in ("zeta", "mid")})
    model.save(folder / "m.keras")
    export_litert(model, folder / "m.tflite")
    np.savez(folder / "x.npz", x=np.ones((64, 8, 8, 4), "float32"))
    return folder


def start(folder, tmp_path, *arguments, before=""):
    """The command as a shell starts it, in a group of its own, with temporary files to itself."""
    (tmp_path / "temporary").mkdir()
    script = tmp_path / "kmtl"  # as what pip writes is called
    script.write_text(f"import sys\nfrom kmtl.cli.main import run\n{before}\nsys.exit(run())")
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "temporary")},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def check_interrupted(process, tmp_path, folder, held):
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    _, shown = process.communicate(timeout=120)
    # TensorFlow shows a traceback of its own where the signal meets its native code.
    assert process.returncode == 130 and shown.endswith("kmtl: interrupted\n"), shown
    assert not [*(tmp_path / "out").glob("*")] and not [*(tmp_path / "temporary").iterdir()]
    assert sorted(folder.iterdir()) == held


EXPORT = ("export", "m.keras", "--output={}/out/m.tflite")
# What tells that a command is at work: the first line that it prints, or the call named here.
COMMANDS = {
    "export, reading": (EXPORT, "keras.saving.load_model"),
    "export, verifying": (EXPORT, "kmtl.export.runtime.verify.LiteRTModel"),
    "report": (("report", "m.keras", "--data=x.npz", "--output={}/out/r.html"), None),
    "report, page": (
        ("report", "m.keras", "--data=x.npz", "--quantizations=", "--output={}/out/r.html"),
        "kmtl.export.reporting.report.write_together",
    ),
    "benchmark": (
        ("benchmark", "m.tflite", "--runs=100000", "--json={}/out/b.json"),
        "kmtl.export.benchmarking.benchmark.seconds_of_calls",
    ),
    "benchmark, memory": (
        ("benchmark", "m.tflite", "--json={}/out/b.json"),
        "kmtl.export.benchmarking.benchmark._work",
    ),
}
# Says that the call has come, and goes on with it slowly.
ANNOUNCE = """
import importlib, time
from kmtl.cli import interrupt

def announce():
    unwind()
    owner, name = "{call}".rsplit(".", 1)
    owner = importlib.import_module(owner)
    real = getattr(owner, name)
    def announced(*args, **kwargs):
        print("now", flush=True)
        time.sleep(0.5)
        return real(*args, **kwargs)
    setattr(owner, name, announced)

unwind, interrupt.unwind = interrupt.unwind, announce  # called when TensorFlow is there
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_at_work(name, folder, tmp_path):
    arguments, call = COMMANDS[name]
    arguments = [argument.format(tmp_path) for argument in arguments]
    held = sorted(folder.iterdir())
    before = ANNOUNCE.format(call=call) if call else ""
    process = start(folder, tmp_path, *arguments, before=before)
    assert process.stdout.readline()
    check_interrupted(process, tmp_path, folder, held)


@pytest.mark.parametrize("seconds", [0.5, 1.5])
def test_while_tensorflow_is_imported(seconds, folder, tmp_path):
    held = sorted(folder.iterdir())
    arguments = ("export", "m.keras", f"--output={tmp_path}/out/m.tflite")
    process = start(folder, tmp_path, *arguments, before="print('now', flush=True)")
    assert process.stdout.readline() == "now\n"
    time.sleep(seconds)
    check_interrupted(process, tmp_path, folder, held)


# Python drops what is raised while it collects garbage, and native code makes it another error.
DROPPED = """
import gc, os, signal, sys, time
def strike(phase, info):
    gc.callbacks.remove(strike)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
def collects(*args):
    gc.callbacks.append(strike)
    gc.collect()
    time.sleep(60)
def converts(*args):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        raise ArithmeticError("of another name")
import kmtl.cli.inspect
kmtl.cli.inspect.main = {call}
import kmtl.cli.main
kmtl.cli.main.GUARDED = ()
"""


@pytest.mark.parametrize("call", ["collects", "converts"])
def test_interruptions_that_others_catch(call, folder, tmp_path):
    process = start(folder, tmp_path, "inspect", "m.tflite", before=DROPPED.format(call=call))
    _, shown = process.communicate(timeout=50)
    # TensorFlow shows a traceback of its own where the signal meets its native code.
    assert process.returncode == 130 and shown.endswith("kmtl: interrupted\n"), shown
