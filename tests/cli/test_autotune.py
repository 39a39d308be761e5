"""The command `kmtl autotune`."""

import keras
import numpy as np
import pytest

from kmtl.cli.main import main
from kmtl.export import load_litert
from kmtl.models import HardSharing

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

METRICS = "--metrics=zeta:sparse_categorical_accuracy,alpha:mae,mid:mae"
BUDGET = "--budget=zeta:5,alpha:1.5,mid:inf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autotune")
    keras.utils.set_random_seed(3)
    heads = {"zeta": keras.layers.Dense(3), "alpha": keras.layers.Dense(1)}
    heads["mid"] = [keras.layers.Dense(40, name="m"), keras.layers.Dense(2)]
    inputs = keras.Input((4,), name="features")
    trunk = [keras.layers.Dense(40, activation="relu", name="trunk")]
    model = HardSharing(trunk, heads, inputs=inputs)
    model.save(folder / "model.keras")
    x = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
    y = model.predict(x, verbose=0)
    np.savez(folder / "x.npz", features=x)
    labels = {"zeta": y["zeta"].argmax(axis=-1), "alpha": y["alpha"] + 0.3, "mid": y["mid"] + 0.1}
    np.savez(folder / "y.npz", **labels)
    np.savez(folder / "few.npz", **{task: labels[task][:9] for task in labels})
    return folder


def start(folder):
    return ["autotune", f"{folder}/model.keras", f"--data={folder}/x.npz"]


def test_it_writes_the_file_beside_the_model_and_shows_the_table(capsys, folder):
    arguments = [*start(folder), f"--labels={folder}/y.npz", METRICS, BUDGET]
    arguments += ["--types=int8,dynamic_int8,float32", f"--plot={folder}/p.svg", "--batch_size=0"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    path = folder / "model.tflite"
    assert shown.splitlines()[-1] == str(path)
    assert "1 of at most 200: float32: " in shown and "files measured." in shown
    assert "alpha: mean_absolute_error, % lost (budget 1.5)" in shown
    assert f"{path.stat().st_size:,} | **" in shown
    assert (folder / "p.svg").read_text().startswith("<?xml")
    runner = load_litert(path)
    assert runner.tasks == ["alpha", "mid", "zeta"] and runner.batch_size is None
    for written in ("model.tflite", "model.json", "p.svg"):
        (folder / written).unlink()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--labels={}/y.npz", METRICS, "--budget=zeta:1"], "missing ['alpha', 'mid']"),
        (["--labels={}/y.npz", METRICS, "--budget=zeta:1,alpha:2,mid:x"], "mid:x"),
        (["--labels={}/y.npz", METRICS, "--budget=zeta=1"], "--budget must be a list such as left"),
        (["--labels={}/y.npz", METRICS, "--budget=zeta:1,alpha:2,mid:-1"], "-1.0 for 'mid'"),
        (["--labels={}/y.npz", "--metrics=mae", BUDGET], "left:accuracy"),
        (["--labels={}/x.npz", METRICS, BUDGET], "head with a metric"),
        (["--labels={}/few.npz", METRICS, BUDGET], "as many rows as `data`, 50"),
        (["--labels={}/y.npz", METRICS, BUDGET, "--target=size"], "target='size'"),
        (["--labels={}/y.npz", METRICS, BUDGET, "--types=int3"], "int3"),
        (["--labels={}/y.npz", METRICS, BUDGET, "--plot={}/p.gif"], "p.gif"),
        (["--labels={}/y.npz", METRICS, BUDGET, "--output={}/m.bin"], "m.bin"),
        (["--labels={}/y.npz", METRICS, BUDGET, "--representative_data={}/y.npz"], "['features']"),
        (["--labels={}/y.npz", METRICS, BUDGET, "--max_evaluations=1"], "max_evaluations=1"),
    ],
)
def test_errors_are_one_line(capsys, folder, arguments, text):
    before = sorted(folder.iterdir())
    assert main([*start(folder), *(argument.format(folder) for argument in arguments)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("kmtl: ") and message.count("\n") == 1
    assert text in message
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("missing", ["data", "labels", "metrics", "budget"])
def test_what_it_needs_is_said(capsys, missing):
    flags = {"data": "x.npz", "labels": "y.npz", "metrics": "a:mae", "budget": "a:1"}
    given = [f"--{name}={value}" for name, value in flags.items() if name != missing]
    assert main(["autotune", "model.keras", *given]) == 2
    assert f"--{missing}" in capsys.readouterr().err
