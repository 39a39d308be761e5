import errno
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
    for name in ("folder", "folder.keras", "folder.npz", "folder.tflite"):
        (folder / name).mkdir()
    for ending in ("keras", "npz", "tflite"):
        (folder / f"empty.{ending}").touch()
    np.savez(folder / "narrow.npz", features=np.zeros((2, 3)))
    np.savez(folder / "texts.npz", features=np.full((2, 4), "a"))
    np.savez(folder / "y.npz", zeta=np.arange(32) % 3, nose=np.zeros(32))
    np.savez(folder / "far.npz", zeta=np.arange(32))
    np.savez(folder / "named.npz", zeta=np.full(32, "a"))
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
        (["run", "{}/model.tflite", "--input={}/x.npz", "--output="], "--output must name a file"),
        (["run", "{}/model.tflite", "--input={}/x.npz", "--output=/"], "--output must name a file"),
        (["benchmark", "{}/model.tflite", "--runs=1", "--json={}/folder"], "must name a file"),
        (["benchmark", "{}/model.tflite", "--signature=nose"], "'nose'"),
        (["saved_model", "{}/model.keras", "--output=/dev/null/served"], "/dev/null (File exists)"),
        (["saved_model", "{}/model.keras", "--output={}/folder"], "holds a SavedModel"),
        (["saved_model", "{}/model.keras", "--tasks=nose"], "['nose']"),
        (["demo", "--output=/dev/null/demo"], "/dev/null"),
        (["demo", "--seeds=0"], "seeds=0"),
    ],
)
def test_errors_are_one_line(capsys, folder, arguments, text):
    before = sorted(folder.iterdir())
    assert text in error_of(capsys, *(argument.format(folder, folder) for argument in arguments))
    assert sorted(folder.iterdir()) == before


MODELS = {
    "keras": (
        ["export"],
        ["report", "--data={}/x.npz"],
        ["saved_model"],
        [
            "autotune",
            "--data={}/x.npz",
            "--labels={}/y.npz",
            "--metrics=zeta:mae",
            "--budget=zeta:1",
        ],
    ),
    "tflite": (["benchmark"], ["inspect"], ["lint"], ["run", "--input={}/x.npz"]),
}


@pytest.mark.parametrize(
    "path", ["none", "folder", "empty", "none/model", "x.npz/model", "x" * 300]
)
@pytest.mark.parametrize(
    ("ending", "command", "flags"),
    [(ending, name, flags) for ending, all_ in MODELS.items() for name, *flags in all_],
)
def test_models_that_are_not_there(capsys, folder, ending, command, flags, path):
    flags = [flag.format(folder) for flag in flags]
    message = error_of(capsys, command, f"{folder}/{path}.{ending}", *flags)
    assert " must " in message and f"Received: {folder}/{path}.{ending}" in message
    assert "Errno" not in message


ARRAYS = [
    (["run", "{}/model.tflite"], "input"),
    (["export", "{}/model.keras"], "representative_data"),
    (["saved_model", "{}/model.keras"], "representative_data"),
    (["report", "{}/model.keras"], "data"),
]


@pytest.mark.parametrize(("arguments", "flag"), ARRAYS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none.npz", "must name an existing .npz file. Received: "),
        ("folder.npz", "must name an existing .npz file. Received: "),
        ("x.npz/x.npz", "must name an existing .npz file. Received: "),
        ("empty.npz", "must name a whole .npz file"),
        ("wrong.npz", "must hold an array for each input of the model, ['features']. Received: "),
        ("narrow.npz", "Input 'features' must have the shape (samples, 4). Received: (2, 3)"),
        ("texts.npz", "Input 'features' must hold values of type float32. Received: <U1"),
        ("x" * 300, "Files must be there and readable, folders there and writable. Received: "),
    ],
)
def test_arrays_that_are_not_there(capsys, folder, arguments, flag, name, text):
    before = sorted(folder.iterdir())
    arguments = [argument.format(folder) for argument in arguments]
    assert text in error_of(capsys, *arguments, f"--{flag}={folder}/{name}")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("labels", "metrics", "text"),
    [
        ("y.npz", "nose:mae", "`labels` must be of heads of the model, ['alpha', 'zeta']"),
        ("y.npz", "mouth:mae", "array for each head with a metric, ['mouth']"),
        ("named.npz", "zeta:accuracy", "`labels` must be numbers. Received: <U1 for 'zeta'"),
        ("far.npz", "zeta:sparse_categorical_crossentropy", "(32,) from 0 to 31, outputs of"),
    ],
)
def test_labels_that_do_not_suit(capsys, folder, tmp_path, labels, metrics, text):
    arguments = ["report", f"{folder}/model.keras", f"--data={folder}/x.npz", "--quantizations="]
    arguments += [f"--labels={folder}/{labels}", f"--metrics={metrics}"]
    assert text in error_of(capsys, *arguments, f"--output={tmp_path}/r.html")
    assert not list(tmp_path.iterdir())


def test_files_without_permission(capsys, folder, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    message = error_of(capsys, "inspect", f"{folder}/model.tflite")
    assert message.endswith(f"writable. Received: {folder}/model.tflite (Permission denied)\n")


def test_run_tells_of_vectors_which_is_the_largest_and_of_maps_the_range(capsys, tmp_path):
    x = keras.Input((2, 3), name="x")
    row = keras.layers.Dense(3, kernel_initializer="identity", use_bias=False)
    heads = {"map": row(x), "vector": keras.layers.Flatten()(x)}
    kmtl.MultiTaskModel(x, heads).save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x=np.array([[[1, 5, 2], [-3, 0.5, 0.5]]], "float32"))
    assert main(["export", f"{tmp_path}/m.keras"]) == 0
    capsys.readouterr()
    assert main(["run", f"{tmp_path}/m.tflite", f"--input={tmp_path}/x.npz"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "map  float32 1 x 2 x 3",
        "  row 0  from -3 to 5, mean 1",
        "vector  float32 1 x 6",
        "  row 0  [1 5 2 -3 0.5 0.5]   largest: 1",
    ]


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
