import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kmtl.export
from kmtl.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny saved model with its data, exported by the command."""
    folder = tmp_path_factory.mktemp("cli")
    tower = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(6)]
    heads = {"zeta": keras.layers.Dense(3), "alpha": keras.layers.Dense(1)}
    inputs = keras.Input((4,), name="features")
    kmtl.models.CrossStitchNetwork(tower, heads, inputs=inputs).save(folder / "model.keras")
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", features=rng.normal(size=(32, 4)).astype("float32"), label=1)
    np.savez(folder / "wrong.npz", pixels=np.zeros((2, 4)))
    arguments = ["export", f"{folder}/model.keras", f"--output={folder}/model.tflite"]
    assert main(arguments) == 0
    content = (folder / "model.tflite").read_bytes()
    (folder / "short.tflite").write_bytes(content[: len(content) // 2])
    (folder / "short.npz").write_bytes((folder / "x.npz").read_bytes()[:100])
    (folder / "short.keras").write_bytes((folder / "model.keras").read_bytes()[:1000])
    return folder


def error_of(capsys, *arguments) -> str:
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("kmtl: ") and message.count("\n") == 1
    assert "Traceback" not in message
    return message


def command(tmp_path, *arguments, **environment):
    """The command in a process of its own, started as the script that pip writes starts it."""
    script = tmp_path / "kmtl"
    script.write_text("import sys\nfrom kmtl.cli.main import run\nsys.exit(run())\n")
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(capsys, arguments):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kmtl {kmtl.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(capsys, name):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: kmtl {name}" in shown and "--debug" in shown


def test_unknown_command(capsys):
    assert main(["exprot"]) == 2
    message = capsys.readouterr().err
    assert "'exprot'" in message and all(name in message for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["inspect"], "expected MODEL.tflite. Received: nothing"),
        (["inspect", "a", "b"], "Received: a b"),
        (["demo", "somewhere"], "expected no argument"),
        (["inspect", "a", "--colour"], "colour"),
        (["run", "a"], "--input"),
        (["export", "a", "--batch_size=many"], "batch_size"),
    ],
)
def test_wrong_usage(capsys, arguments, text):
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert text in message and f"kmtl {arguments[0]} --help" in message


def test_inspect_shows_heads_types_ops_and_bytes(capsys, folder):
    path = folder / "model.tflite"
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "features",
        "float32 1 x 3",
        "alpha",
        "FULLY_CONNECTED",
        f"{path.stat().st_size:,}",
    ):
        assert text in shown
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == path.stat().st_size
    assert list(found["signature"]["outputs"]) == ["alpha", "zeta"]


@pytest.mark.parametrize("runtime", ["interpreter", "compiled_model"])
def test_run_gives_the_answers_of_the_keras_model(capsys, folder, tmp_path, runtime):
    path = tmp_path / "answers.npz"
    arguments = ["run", f"{folder}/model.tflite", f"--input={folder}/x.npz"]
    assert main([*arguments, f"--output={path}", f"--runtime={runtime}"]) == 0
    shown = capsys.readouterr().out
    assert "zeta  float32 32 x 3" in shown and "row 4" in shown and "row 5" not in shown
    model = keras.saving.load_model(folder / "model.keras")
    expected = model.predict(np.load(folder / "x.npz")["features"], verbose=0)
    with np.load(path) as answers:
        assert set(answers) == {"alpha", "zeta"}
        for task, values in expected.items():
            np.testing.assert_allclose(answers[task], values, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_export_in_int8_of_one_task(capsys, folder, tmp_path):
    arguments = ["export", f"{folder}/model.keras", f"--output={tmp_path}/a.tflite"]
    arguments += ["--quantization=int8", f"--representative_data={folder}/x.npz", "--tasks=alpha"]
    assert main(arguments) == 0
    assert "alpha: largest error" in capsys.readouterr().out
    assert kmtl.export.load_litert(tmp_path / "a.tflite").tasks == ["alpha"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["export", "{}/none.keras"], "none.keras"),
        (["export", "{}/short.keras"], "short.keras"),
        (["export", "{}/model.keras", "--tasks=beta"], "['alpha', 'zeta']"),
        (["export", "{}/model.keras", "--quantization=int3"], "'int3'"),
        (["export", "{}/model.keras", "--quantization=int8"], "representative_data"),
        (["export", "{}/model.keras", "--representative_data={}/wrong.npz"], "['pixels']"),
        (["export", "{}/model.keras", "--output=/dev/null/model.tflite"], "/dev/null"),
        (["export", "{}/model.keras", "--output=model.onnx"], "model.onnx"),
        (["inspect", "{}/none.tflite"], "none.tflite"),
        (["inspect", "{}/short.tflite"], "short.tflite"),
        (["inspect", "{}/model.keras"], "TFL3"),
        (["run", "{}/short.tflite", "--input={}/x.npz"], "short.tflite"),
        (["run", "{}/model.tflite", "--input={}/wrong.npz"], "['features']"),
        (["run", "{}/model.tflite", "--input={}/none.npz"], "none.npz"),
        (["run", "{}/model.tflite", "--input={}/short.npz"], "short.npz"),
        (["run", "{}/model.tflite", "--input={}/model.tflite"], "--input must name a whole .npz"),
        (["run", "{}/model.tflite", "--input={}/x.npz", "--runtime=gpu"], "'gpu'"),
        (["run", "{}/model.tflite", "--input={}/x.npz", "--output=/dev/null/a.npz"], "/dev/null"),
        (["demo", "--output=/dev/null/demo"], "/dev/null"),
        (["demo", "--seeds=0"], "seeds=0"),
    ],
)
def test_errors_are_one_line(capsys, folder, arguments, text):
    before = sorted(folder.iterdir())
    assert text in error_of(capsys, *(argument.format(folder, folder) for argument in arguments))
    assert sorted(folder.iterdir()) == before


def test_debug_shows_where_an_error_comes_from(folder):
    with pytest.raises(FileNotFoundError):
        main(["inspect", f"{folder}/none.tflite", "--debug"])


def test_missing_extra_names_the_install_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("kmtl.demo.demo.EXTRAS", ("no_such_package",))
    assert 'pip install "kmtl[demo]"' in error_of(capsys, "demo", f"--output={tmp_path}")


def test_help_imports_no_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('help must not import this')")
    (tmp_path / "keras.py").write_text("raise ImportError('help must not import this')")
    result = command(tmp_path, "export", "--help")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_errors_come_without_noise(folder, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "kmtl.cli.main", "inspect", folder / "short.tflite"],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("kmtl: A LiteRT model must") and result.stderr.count("\n") == 1


@pytest.mark.slow
def test_export_on_any_backend_without_noise(folder, tmp_path):
    arguments = ["export", folder / "model.keras", f"--output={tmp_path}/a.tflite"]
    result = command(tmp_path, *arguments, KERAS_BACKEND="jax")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "a.tflite").exists()


def test_export_for_the_edge_tpu_with_a_signature_for_each_task(capsys, folder, tmp_path):
    path = tmp_path / "tpu.tflite"
    data = str(folder / "x.npz")
    flags = ["--target=edgetpu", "--task_signatures", f"--representative_data={data}"]
    assert main(["export", str(folder / "model.keras"), f"--output={path}", *flags]) == 0
    assert "int8_io" in capsys.readouterr().out
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    tasks = kmtl.export.load_litert(path).tasks
    assert f"more signatures: {', '.join(tasks)}\n" in shown
    assert main(["run", str(path), f"--input={data}", f"--signature={tasks[0]}"]) == 0
    shown = capsys.readouterr().out
    assert tasks[0] in shown and tasks[1] not in shown
    assert main(["run", str(path), f"--input={data}", "--signature=nose"]) == 1
    assert "`signature` must be one of the file's" in capsys.readouterr().err
