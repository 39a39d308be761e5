"""The command `kmtl train`, in this process and in others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the command is for the TensorFlow backend", allow_module_level=True)

from kmtl.cli.main import main
from kmtl.training.configuration.config import parse_config
from kmtl.training.run import check
from tests.distribution.processes import free_ports, started, tail, wait_for_all
from tests.training.configs import write_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the small configuration, to work in."""
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    script = "import sys\nfrom kmtl.cli.main import run\nsys.exit(run())\n"
    (tmp_path / "kmtl").write_text(script)
    return tmp_path


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def test_train_export_and_run(folder, capsys):
    exports = "export=[{path: out/a.tflite}, {path: out/b.tflite, quantization: int8}]"
    assert main(["train", "config.yaml", f"--set={exports}", "--set=training.epochs=1"]) == 0
    shown = capsys.readouterr().out
    assert "val_sum_mae" in shown and "out/b.tflite" in shown and "int8" in shown
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "a.json", "a.tflite", "b.json", "b.tflite", "model.keras", "results.json"
    ]  # fmt: skip
    np.savez("x.npz", features=np.load("test.npz")["x"])
    assert main(["run", "out/a.tflite", "--input=x.npz", "--output=answers.npz"]) == 0
    model = keras.saving.load_model("out/model.keras")
    expected = model.predict(np.load("x.npz")["features"], verbose=0)
    with np.load("answers.npz") as answers:
        for task, values in expected.items():
            np.testing.assert_allclose(answers[task], values, rtol=1e-4, atol=1e-5)


def test_check(folder, capsys):
    assert main(["train", "config.yaml", "--check", "--set", "training.epochs=5"]) == 0
    assert "5 epochs, 40 steps" in capsys.readouterr().out
    assert not Path("out").exists()


def test_example_is_complete_and_valid(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--example"]) == 0
    config = parse_config(capsys.readouterr().out)
    told = []
    check(config, say=told.append)
    assert "train" not in told and any("4 epochs, 160 steps" in text for text in told)


@pytest.mark.parametrize("name", ["digits", "tabular"])
def test_examples_are_valid(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    text = (ROOT / "examples" / "train" / f"{name}.yaml").read_text(encoding="utf-8")
    check(parse_config(text), say=lambda text: None)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "expected CONFIG.yaml. Received: nothing"),
        (["a.yaml", "--example"], 2, "expected no argument. Received: a.yaml"),
        (["none.yaml"], 1, "CONFIG.yaml must be an existing file. Received: none.yaml"),
        (["config.yaml", "--set=training.epoch=2"], 1, "the nearest is epochs"),
        (["config.yaml", "--set=data.test.both.path=no.npz"], 1, "`data.test.both.path` must name"),
        (["config.yaml", "--set=network.heads.sum.units=3"], 1, "`training.losses.sum` must fit"),
    ],
)  # fmt: skip
def test_errors(folder, capsys, arguments, code, message):
    assert main(["train", *arguments]) == code
    told = capsys.readouterr().err
    assert told.startswith("kmtl: ") and message in told
    assert "Traceback" not in told


def test_a_loss_that_is_not_finite_is_one_line(folder, capsys):
    more = ["--set=training.optimizer={class: SGD, learning_rate: 1e30}", "--set=training.epochs=1"]
    assert main(["train", "config.yaml", *more]) == 1
    told = capsys.readouterr().err
    assert told.startswith("kmtl: Training needs finite losses") and "Traceback" not in told
    assert not Path("out/model.keras").exists()


def test_bad_tf_config(folder, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    assert main(["train", "config.yaml"]) == 1
    assert capsys.readouterr().err.startswith("kmtl: TF_CONFIG must be JSON")


LONG = ["--set=training.epochs=40", "--set=training.backup={folder: backup, every: 5}"]


def start(folder, *arguments):
    """The command as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, folder / "kmtl", "train", "config.yaml", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_backup(folder, process, after=0):
    """Returns the number of the newest backup, once there is one after another."""
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        found = [int(path.stem.split("-")[1]) for path in folder.glob("backup/step-*.npz")]
        if found and max(found) > after:
            return max(found)
        time.sleep(0.005)
    raise AssertionError(f"no backup: {process.communicate()}")


@pytest.mark.slow
def test_killed_and_interrupted_it_goes_on(folder):
    process = start(folder, *LONG)
    reached = wait_for_backup(folder, process)
    process.kill()
    process.communicate()
    process = start(folder, *LONG)
    reached = wait_for_backup(folder, process, after=reached)
    process.send_signal(signal.SIGINT)
    shown, told = process.communicate(timeout=200)
    assert process.returncode == 130, told
    assert "The same command goes on from the last backup in backup." in told
    assert "kmtl: interrupted" in told and "Traceback" not in told
    assert reached < 320 and not (folder / "out" / "model.keras").exists()
    process = start(folder, *LONG)
    shown, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert "Epoch 40/40" in shown and "Epoch 1/40" not in shown
    assert (
        main(["train", "config.yaml", "--set=training.epochs=40", "--set=model=alone.keras"]) == 0
    )
    for value, expected in zip(
        weights(folder / "out/model.keras"), weights(folder / "alone.keras"), strict=True
    ):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.slow
def test_two_workers_give_what_one_does(folder, monkeypatch):
    more = "--set=export=[{path: out/a.tflite}]"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    environments = [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})}
        for i in range(2)
    ]
    command = [folder / "kmtl", "train", "config.yaml", "--set=training.workers=2", more]
    with started([command, command], folder, environments) as processes:
        wait_for_all(processes, folder, 300)
    assert "Epoch 2/2" in tail(folder / "0.txt") and "out/a.tflite" in tail(folder / "0.txt")
    assert "Epoch" not in tail(folder / "1.txt") and "test loss" not in tail(folder / "1.txt")
    found, results = weights("out/model.keras"), json.loads(Path("out/results.json").read_text())
    assert main(["train", "config.yaml"]) == 0
    for value, expected in zip(found, weights("out/model.keras"), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=2e-6)
    alone = json.loads(Path("out/results.json").read_text())
    assert results["tasks"]["sign"] == pytest.approx(alone["tasks"]["sign"], rel=1e-4)
    assert results["tasks"]["sum"] == pytest.approx(alone["tasks"]["sum"], rel=1e-4)
