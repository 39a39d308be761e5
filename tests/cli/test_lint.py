"""`kmtl lint`: the table, the exit code, and errors in one line."""

import json

import keras
import numpy as np
import pytest

import kmtl
from kmtl.cli.main import main
from kmtl.export import export_litert

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """An integer file with float ends, which stay on the CPU; so does one head's dense layer."""
    x = keras.Input((8, 8, 2), name="x")
    h = keras.layers.Conv2D(4, 3)(x)
    heads = {
        "zeta": keras.layers.Dense(3)(keras.layers.Flatten()(h)),
        "alpha": keras.layers.Conv2D(5, 1)(h),
    }
    data = np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype("float32")
    path = tmp_path_factory.mktemp("lint") / "m.tflite"
    model = kmtl.MultiTaskModel(x, heads)
    return str(export_litert(model, path, "int8", representative_data=data).path)


def test_the_table_says_what_maps_for_which_head_and_why_not(capsys, path):
    assert main(["lint", path, "--target=edgetpu"]) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    conv = 6 * 6 * 4 * 18
    assert f"1 CONV_2D v1 mapped {conv:,} MACs alpha, zeta" in lines
    assert "alpha 100.0% of MACs mapped, 2 of 4 operations on the CPU" in lines
    share = conv / (conv + 6 * 6 * 4 * 3)
    assert f"zeta {share:.1%} of MACs mapped, 3 of 5 operations on the CPU" in lines
    assert "weights must have one scale, not one for each of 3 channels" in lines
    assert any(line.startswith("in all: ") for line in lines)


def test_json(capsys, path):
    assert main(["lint", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "edgetpu" and found["passed"] is False
    assert found["head_shares"]["alpha"] == 1.0
    assert {op["name"] for op in found["ops"] if op["mapped"]} == {"CONV_2D", "RESHAPE"}


def test_strict_decides_the_exit_code(capsys, path, monkeypatch):
    assert main(["lint", path, "--strict"]) == 1
    captured = capsys.readouterr()
    assert "CONV_2D" in captured.out  # the table is shown all the same
    assert captured.err.count("\n") == 1 and "With --strict every operation" in captured.err
    monkeypatch.setattr("kmtl.export.edgetpu.lint.Lint.passed", True)
    assert main(["lint", path, "--strict"]) == 0


@pytest.mark.parametrize(
    ("name", "flag", "text"),
    [
        ("m.tflite", "--target=npu", "target='npu'"),
        ("none.tflite", "--strict", "none.tflite"),
        ("short.tflite", "--json", "A LiteRT model must"),
    ],
)
def test_errors_are_one_line(capsys, path, tmp_path, name, flag, text):
    with open(path, "rb") as file:
        content = file.read()
    (tmp_path / "m.tflite").write_bytes(content)
    (tmp_path / "short.tflite").write_bytes(content[: len(content) // 2])
    assert main(["lint", str(tmp_path / name), flag]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and text in captured.err
