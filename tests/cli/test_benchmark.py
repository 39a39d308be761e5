"""The commands `kmtl benchmark` and `kmtl report`."""

import json

import keras
import numpy as np
import pytest

from kmtl.cli.main import main
from kmtl.export import export_litert
from kmtl.export.benchmarking import benchmark as benchmark_module
from kmtl.models import HardSharing

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    heads = {task: keras.layers.Dense(3) for task in ("zeta", "alpha", "mid")}
    inputs = keras.Input((4,), name="features")
    model = HardSharing([keras.layers.Dense(8, activation="relu")], heads, inputs=inputs)
    model.save(folder / "model.keras")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    np.savez(folder / "x.npz", features=x)
    np.savez(folder / "y.npz", zeta=np.zeros(32, int), mid=np.zeros((32, 3)), alpha=np.zeros(5))
    path = export_litert(model, folder / "model.tflite").path
    (folder / "short.tflite").write_bytes(path.read_bytes()[:500])
    (folder / "short.keras").write_bytes((folder / "model.keras").read_bytes()[:500])
    return folder


def shown_by(capsys, *arguments) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_benchmark_shows_a_table(capsys, folder):
    path = folder / "model.tflite"
    shown = shown_by(capsys, "benchmark", str(path), "--runs=5", "--warmup=1", "--threads=2")
    first, *lines = shown.splitlines()
    size = path.stat().st_size
    assert first == f"{path}  {size:,} bytes, interpreter, 2 threads, 5 calls"
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert names[:6] == ["min", "mean", "p50", "p90", "p99", "peak"]
    assert any("Fully Connected" in line and line.endswith("4 x") for line in lines)


def test_benchmark_writes_what_it_measured(capsys, folder, tmp_path):
    path = folder / "model.tflite"
    arguments = ["--runs=5", "--runtime=compiled_model", f"--json={tmp_path}/b.json"]
    shown_by(capsys, "benchmark", str(path), *arguments)
    found = json.loads((tmp_path / "b.json").read_text())
    assert (found["bytes"], found["runtime"]) == (path.stat().st_size, "compiled_model")
    assert (found["num_threads"], found["runs"], found["warmup"]) == (1, 5, 10)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p90"]
    assert sum("Fully Connected" in operation["kernel"] for operation in found["profile"]) == 4


def test_benchmark_says_when_there_is_no_profiler(capsys, folder, monkeypatch):
    monkeypatch.setattr(benchmark_module, "_operations", lambda process: None)
    shown = shown_by(capsys, "benchmark", f"{folder}/model.tflite", "--runs=2")
    assert "the LiteRT installed here has no profiler" in shown


def test_report_writes_the_page_beside_the_model(capsys, folder):
    metrics = "--metrics=zeta:sparse_categorical_accuracy,mid:mae"
    arguments = [f"--data={folder}/x.npz", f"--labels={folder}/y.npz", metrics]
    shown = shown_by(
        capsys, "report", f"{folder}/model.keras", *arguments, "--quantizations=dynamic_int8"
    )
    page = folder / "model.html"
    assert shown.splitlines()[-1] == str(page)
    assert "dynamic_int8: exporting" in shown and "float16" not in shown
    text = page.read_text()
    assert "mean absolute error" in text and "sparse categorical accuracy" in text
    page.unlink()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["benchmark", "{}/none.tflite"], "none.tflite"),
        (["benchmark", "{}/short.tflite"], "short.tflite"),
        (["benchmark", "{}/model.keras"], "TFL3"),
        (["benchmark", "{}/model.tflite", "--runtime=gpu"], "'gpu'"),
        (["benchmark", "{}/model.tflite", "--threads=0"], "num_threads=0"),
        (["benchmark", "{}/model.tflite", "--runs=0"], "runs=0"),
        (["benchmark", "{}/model.tflite", "--runs=1", "--json=/dev/null/b.json"], "/dev/null"),
        (["report", "{}/none.keras", "--data={}/x.npz"], "none.keras"),
        (["report", "{}/short.keras", "--data={}/x.npz"], "short.keras"),
        (["report", "{}/model.keras", "--data={}/none.npz"], "--data must name an existing"),
        (["report", "{}/model.keras", "--data={}/y.npz"], "input of the model, ['features']"),
        (["report", "{}/model.keras", "--data={}/x.npz", "--labels={}/y.npz"], "only --labels"),
        (["report", "{}/model.keras", "--data={}/x.npz", "--quantizations=int3"], "'int3'"),
        (["report", "{}/model.keras", "--data={}/x.npz", "--output={}/p.pdf"], "p.pdf"),
        (
            ["report", "{}/model.keras", "--data={}/x.npz", "--labels={}/y.npz", "--metrics=mae"],
            "left:accuracy",
        ),
        (
            ["report", "{}/model.keras", "--data={}/x.npz", "--labels={}/y.npz", "--metrics=q:mae"],
            "head with a metric, ['q']",
        ),
        (
            ["report", "{}/model.keras", "--data={}/x.npz", "--labels={}/y.npz",
             "--metrics=alpha:mae"],
            "as many rows as `data`, 32",
        ),
    ],
)  # fmt: skip
def test_errors_are_one_line(capsys, folder, arguments, text):
    before = sorted(folder.iterdir())
    assert main([argument.format(folder) for argument in arguments]) == 1
    message = capsys.readouterr().err
    assert message.startswith("kmtl: ") and message.count("\n") == 1
    assert text in message
    assert sorted(folder.iterdir()) == before


def test_report_needs_data(capsys):
    assert main(["report", "model.keras"]) == 2
    assert "--data" in capsys.readouterr().err
