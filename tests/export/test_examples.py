"""The C++ program of examples/ gives every head the answer of kmtl's own runner."""

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import export_litert, load_litert

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIBRARY = Path(find_spec("ai_edge_litert").origin).parent
COMPILER = shutil.which("g++")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="this machine has no g++"),
    pytest.mark.skipif(
        not (LIBRARY / "libLiteRt.so").exists(), reason="ai-edge-litert has no libLiteRt.so here"
    ),
]

TASKS = ("zeta", "alpha", "mid")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """run_heads, built by the command that its README shows."""
    built = tmp_path_factory.mktemp("cpp") / "run_heads"
    readme = (EXAMPLES / "cpp" / "README.md").read_text()
    (shown,) = re.findall(r"^g\+\+ (.*)$", readme, re.MULTILINE)
    arguments = shown.replace('"$LITERT"', str(LIBRARY)).replace("-o run_heads", f"-o {built}")
    command = [COMPILER, *arguments.split(), "-Wall", "-Wextra", "-Werror"]
    result = subprocess.run(command, cwd=EXAMPLES / "cpp", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return built


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {
        "wide": rng.normal(size=(16, 4, 4, 2)).astype("float32"),
        "age": rng.normal(size=(16, 3)).astype("float32"),
        "ids": rng.integers(0, 9, size=(16, 5)).astype("int32"),
    }


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """The same network in four types; its heads have three shapes, and its inputs two types."""
    folder = tmp_path_factory.mktemp("files")
    wide, age = keras.Input((4, 4, 2), name="wide"), keras.Input((3,), name="age")
    ids = keras.Input((5,), dtype="int32", name="ids")
    h = layers.Conv2D(3, 3, padding="same", activation="relu")(wide)
    words = layers.Flatten()(layers.Embedding(9, 2)(ids))
    flat = layers.Concatenate()([layers.Flatten()(h), age, words])
    heads = {
        "zeta": layers.Dense(5, activation="softmax")(flat),
        "alpha": layers.Conv2D(2, 1)(h),
        "mid": layers.Dense(3)(flat),
    }
    model = kmtl.MultiTaskModel({"wide": wide, "age": age, "ids": ids}, heads)
    types = ("float32", "int8", "uint8_io", "int8x16")
    return {
        name: export_litert(model, folder / f"{name}.tflite", name, representative_data=data).path
        for name in types
    }


def run(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def heads_of(result) -> dict[str, np.ndarray]:
    assert result.returncode == 0, result.stderr
    found = {}
    for line in result.stdout.splitlines():
        name, shape, *values = line.split()
        found[name] = np.array(values, "float32").reshape([int(n) for n in shape.split("x")])
    return found


@pytest.mark.parametrize("name", ["float32", "int8", "uint8_io", "int8x16"])
def test_every_head_is_as_kmtl_runs_it(program, files, data, name, tmp_path):
    sample = {key: values[:1] for key, values in data.items()}
    given = []
    for key, values in sample.items():
        values.tofile(tmp_path / key)
        given.append(f"{key}={tmp_path / key}")
    found = heads_of(run(program, files[name], *given))
    assert sorted(found) == sorted(TASKS)
    for runtime in ("compiled_model", "interpreter"):
        runner = load_litert(files[name], runtime)
        for task, expected in runner(sample).items():
            assert found[task].shape == expected.shape
            scale = runner.output_details[task].scale
            tolerance = 1e-6 if scale is None else scale * 1e-4  # far below a step of integers
            np.testing.assert_allclose(found[task], expected, rtol=1e-5, atol=tolerance)


def test_heads_differ_by_input(program, files, data, tmp_path):
    (data["age"][:1] + 5).tofile(tmp_path / "age")
    plain = heads_of(run(program, files["float32"]))
    other = heads_of(run(program, files["float32"], f"age={tmp_path / 'age'}"))
    np.testing.assert_array_equal(plain["alpha"], other["alpha"])  # which does not see the age
    assert np.abs(plain["mid"] - other["mid"]).max() > 0.01


def test_errors_are_one_line(program, files, tmp_path):
    (tmp_path / "short").write_bytes(bytes(8))
    (tmp_path / "half.tflite").write_bytes(files["int8"].read_bytes()[:2000])
    cases = {
        (tmp_path / "none.tflite",): "LiteRT must read",
        (tmp_path / "half.tflite",): "LiteRT must read",
        (files["int8"], f"age={tmp_path}/short"): "input age must hold 12 bytes. Received: ",
        (files["int8"], f"age={tmp_path}/none"): "input age must hold 12 bytes. Received: ",
        (
            files["int8"],
            f"old={tmp_path}/short",
        ): "inputs that the model has. Received: one for old",
    }
    for arguments, text in cases.items():
        result = run(program, *arguments)
        (line,) = [x for x in result.stderr.splitlines() if x.startswith("run_heads: ")]
        assert result.returncode == 1 and result.stdout == "" and text in line
    for arguments in ([], [files["int8"], "age"], [files["int8"], "age="]):
        result = run(program, *arguments)
        assert result.returncode == 2 and "usage: run_heads MODEL.tflite" in result.stderr


def test_any_number_of_rows_is_refused(program, tmp_path):
    x = keras.Input((3,), name="x")
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(x)})
    path = export_litert(model, tmp_path / "m.tflite", batch_size=None).path
    result = run(program, path)
    assert result.returncode == 1
    assert "by --batch_size of kmtl export. Received: x of any size along axis 0" in result.stderr
