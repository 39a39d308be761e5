"""Damaged files end every command that reads them in one line, also where they crash LiteRT."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import export_litert

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("zeta", "alpha", "mid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of integers with many operations and one with a loop, and inputs for both."""
    folder = tmp_path_factory.mktemp("damaged")
    x = keras.Input((8, 8, 2), name="x")
    h = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    pooled = layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(3)(h))
    gated = layers.Multiply()([pooled, layers.Dense(4, activation="sigmoid")(pooled)])
    heads = {
        "zeta": layers.Dense(5, activation="softmax")(layers.Flatten()(h)),
        "alpha": layers.MaxPooling2D()(layers.Add()([h, h])),
        "mid": layers.Dense(3)(layers.Concatenate()([gated, pooled])),
    }
    data = np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype("float32")
    model = kmtl.MultiTaskModel(x, heads)
    export_litert(model, folder / "integers.tflite", "int8", representative_data=data)
    np.savez(folder / "integers.npz", x=data[:2])
    x = keras.Input((6, 3), name="x")
    h = layers.LSTM(4)(x)
    model = kmtl.MultiTaskModel(x, {task: layers.Dense(2)(h) for task in TASKS})
    export_litert(model, folder / "loop.tflite")
    np.savez(folder / "loop.npz", x=np.ones((2, 6, 3), "float32"))
    return folder


def kmtl_script(tmp_path, code, *arguments):
    """Runs code in a process whose script is called kmtl, as the command's is."""
    script = tmp_path / "kmtl"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


GUARD = """
import os, signal, sys
from kmtl.cli.guard import guarded

def ends(number):
    os.kill(os.getpid(), number)

def fails():
    raise ZeroDivisionError

class Broken:
    def flush(self):
        raise BrokenPipeError

def breaks():
    sys.stdout = Broken()
    return 3

calls = [lambda: 0, lambda: 2, fails, lambda: ends(signal.SIGSEGV), lambda: ends(signal.SIGABRT)]
calls += [lambda: os.kill(os.getppid(), signal.SIGTERM) or signal.pause(), breaks]
handler = signal.getsignal(signal.SIGINT)
codes = [guarded(call, "run m.tflite") for call in calls]
assert signal.getsignal(signal.SIGINT) is handler
print(codes)
"""


def test_every_end_of_a_command_has_a_code(tmp_path):
    result = kmtl_script(tmp_path, GUARD)
    assert result.stdout == "[0, 2, 1, 1, 1, 143, 3]\n", result.stderr
    received = "kmtl: A LiteRT model must be one that LiteRT can run. Received: run m.tflite, whose"
    assert f"{received} process was ended by SIGSEGV\n" in result.stderr
    assert f"{received} process was ended by SIGABRT\n" in result.stderr
    assert result.stderr.count("kmtl: ") == 2 and "ZeroDivisionError" in result.stderr


# Damages that LiteRT's verifier does not see, and which crash its kernels now and then.
FUZZ = """
import json, os, sys
import flatbuffers
import numpy as np
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import kmtl.export
from ai_edge_litert import schema_py_generated as schema
from kmtl.cli.guard import guarded
from kmtl.cli.main import main

def bits(content, rng):
    for i in rng.integers(0, len(content), size=rng.integers(1, 9)):
        content[i] ^= 1 << rng.integers(8)
    return content

def word(content, rng):
    i = rng.integers(0, len(content) // 4) * 4
    content[i : i + 4] = rng.choice([0, 1, 127, 255], size=4)
    return content

def shorter(content, rng):
    return content[: rng.integers(0, len(content))]

def contradiction(content, rng):
    model = schema.ModelT.InitFromPackedBuf(content.tobytes(), 0)
    graph = model.subgraphs[rng.integers(len(model.subgraphs))]
    op = graph.operators[rng.integers(len(graph.operators))]
    tensor = graph.tensors[rng.integers(len(graph.tensors))]
    far = int(rng.choice([-1, 0, 1, 7, 2**31 - 1]))
    def rewires():
        op.inputs = np.array(op.inputs)
        op.inputs[rng.integers(len(op.inputs))] = rng.integers(-1, len(graph.tensors))
    def feeds(): op.inputs = [far] * len(op.inputs)
    def redirects(): op.outputs = [int(rng.integers(len(graph.tensors)))] * len(op.outputs)
    def calls(): op.opcodeIndex = int(rng.integers(len(model.operatorCodes)))
    def sets():
        numbers = [k for k, v in vars(op.builtinOptions or 0).items() if type(v) is int]
        if numbers: setattr(op.builtinOptions, str(rng.choice(numbers)), far)
    def shapes(): tensor.shape = [far, 3]
    def retypes(): tensor.type = int(rng.integers(18))
    def empties(): graph.operators = None
    def cuts():
        buffer = model.buffers[tensor.buffer]
        if buffer.data is not None: buffer.data = buffer.data[: rng.integers(len(buffer.data))]
    rng.choice([rewires, feeds, redirects, calls, sets, shapes, retypes, empties, cuts])()
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return np.frombuffer(bytes(builder.Output()), "uint8")

kinds = (bits, word, shorter, contradiction, contradiction, contradiction)
commands, *paths = sys.argv[1:]
for seed, path in enumerate(paths):
    content, rng = np.frombuffer(open(path, "rb").read(), "uint8"), np.random.default_rng(seed)
    for n, command in enumerate(json.loads(commands)):
        damage = kinds[n % len(kinds)]
        arguments = [command, path + ".damaged"]
        with open(arguments[1], "wb") as file:
            try:
                file.write(damage(content.copy(), rng).tobytes())
            except (TypeError, AttributeError):  # what cannot be written as a flatbuffer
                continue
        arguments += [f"--input={path[:-7]}.npz"] if command == "run" else []
        arguments += ["--runs=1", "--warmup=0"] if command == "benchmark" else []
        with open(path + ".stderr", "w+") as sys.stderr, open(os.devnull, "w") as sys.stdout:
            code = guarded(lambda: main(arguments), " ".join(arguments))
            sys.stderr.seek(0)
            shown = sys.stderr.read()
        sys.stderr, sys.stdout = sys.__stderr__, sys.__stdout__
        print(json.dumps([n, damage.__name__, code, shown]), flush=True)
"""


def test_damaged_files_end_in_one_line(folder, tmp_path):
    commands = ["run"] * 30 + ["inspect"] * 6 + ["lint"] * 6 + ["benchmark"] * 2
    paths = [folder / "integers.tflite", folder / "loop.tflite"]
    code = f"import sys; sys.argv[0] = 'fuzz'\n{FUZZ}"
    result = kmtl_script(tmp_path, code, json.dumps(commands), *paths)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, (lines[-1:], result.stderr[-2000:])
    ends = [json.loads(line) for line in lines]
    assert len(ends) > 1.8 * len(commands)
    for n, damage, code, shown in ends:
        where = (n, damage, code, shown)
        assert code in (0, 1), where
        assert (shown.startswith("kmtl: ") and shown.count("\n") == 1) if code else not shown, where
        assert "Traceback" not in shown, where
    assert sum(code for _, _, code, _ in ends) > len(ends) / 4  # most of the damage is told


def test_inputs_out_of_range_are_not_called_damage(folder, tmp_path, capsys):
    from kmtl.cli.main import main

    ids = keras.Input((2,), dtype="int32", name="ids")
    h = layers.Flatten()(layers.Embedding(5, 3)(ids))
    model = kmtl.MultiTaskModel(ids, {"zeta": layers.Dense(2)(h), "alpha": layers.Dense(1)(h)})
    path = tmp_path / "m.tflite"
    export_litert(model, path, representative_data=np.zeros((4, 2), "int32"))
    np.savez(tmp_path / "x.npz", ids=np.array([[1, 99]], "int32"))
    assert main(["run", str(path), f"--input={tmp_path}/x.npz"]) == 1
    message = capsys.readouterr().err
    assert f"with indices in range. Received: {path} (RuntimeError: " in message
    assert message.count("\n") == 1
