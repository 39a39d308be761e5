"""From a configuration to a trained model: each part against the same made by hand."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

import kmtl.export
from kmtl.training import run
from kmtl.training.building import strategy
from kmtl.training.building.early_stopping import ResumableEarlyStopping
from kmtl.training.building.network import build
from kmtl.training.loading.data import load
from kmtl.training.run import check, train


def test_data_of_two_sources(configured):
    data = load(configured())
    assert data.sizes["train"] == {"both": 40, "more": 24}
    assert data.missing["sign"] == -1 and np.isnan(data.missing["sum"])
    x, y = next(iter(data.mixture.dataset()))
    assert x.shape == (8, 4)
    assert 2 <= np.sum(y["sign"].numpy() == -1) <= 4  # 3 of 8 rows come from "more", within one
    batches = list(data.held_out["test"].as_numpy_iterator())
    with np.load("test.npz") as file:
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), file["x"])
        sums = np.concatenate([y["sum"] for _, y in batches])
        np.testing.assert_array_equal(sums, np.where(file["sum"] == -99, np.nan, file["sum"]))


def test_held_out_data_may_lack_a_task(configured):
    lacking = "data.test={t: {format: csv, path: more.csv, inputs: [a, b, c, d], tasks: [sum]}}"
    data = load(configured(lacking))
    ((_, y), *_) = data.held_out["test"].as_numpy_iterator()
    np.testing.assert_array_equal(y["sign"], np.full(8, -1))


def test_held_out_sources_may_lack_different_tasks(configured):
    table = "{format: csv, path: more.csv, inputs: [a, b, c, d], tasks: [sum]}"
    arrays = "{format: npz, path: test.npz, inputs: {features: x}, tasks: [sign]}"
    data = load(configured(f"data.validation={{t: {table}, s: {arrays}}}"))
    assert data.unlabelled["validation"] == []
    batches = list(data.held_out["validation"].as_numpy_iterator())
    assert [len(x) for x, _ in batches] == [8, 8, 8, 8, 4]  # batches go on from 24 rows to 12
    labels = {task: np.concatenate([y[task] for _, y in batches]) for task in ("sign", "sum")}
    np.testing.assert_array_equal(labels["sign"][:24], np.full(24, -1))
    np.testing.assert_array_equal(labels["sign"][24:], np.load("test.npz")["sign"])
    np.testing.assert_array_equal(np.isnan(labels["sum"]), np.arange(36) >= 24)


def test_streams(configured, tmp_path):
    (tmp_path / "my_kmtl_stream.py").write_text(
        "import tensorflow as tf\n"
        "def rows():\n"
        "    x = tf.reshape(tf.range(40.0), (10, 4))\n"
        "    y = {'sum': x[:, 0], 'sign': tf.range(10)}\n"
        "    return tf.data.Dataset.from_tensor_slices(({'features': x}, y))\n"
    )
    stream = (
        "{format: python, function: 'my_kmtl_stream:rows',"
        "tasks: {sum: {missing: 4.0}, sign: {missing: 9.0, dtype: int32}}}"
    )
    config = configured(f"data.train.more={stream}", f"data.test.more={stream}")
    with pytest.raises(ValueError, match="`data.train.more` streams"):
        load(config)
    data = load(configured(*(f"data.{s}.more={stream}" for s in ("train", "test")),
                           "data.standardize=[]"))  # fmt: skip
    assert data.sizes["train"] == {"both": 40, "more": 10}
    *_, (_, before), (_, last) = data.held_out["test"].as_numpy_iterator()
    np.testing.assert_array_equal(last["sign"], [4, 5, 6, 7, 8, -1])
    np.testing.assert_array_equal(before["sum"][-4:], [0, np.nan, 8, 12])
    assert len(next(iter(data.mixture.dataset()))[0]) == 8


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.train.more.inputs=[a, b]", "Received: input 'features' float32 (4,) in source "
         "'data.train.both', float32 (2,) in source 'data.train.more'"),
        ("data.test.both.tasks={other: {key: sum}}", "`data.test.both` must name tasks of "
         "`data.train`, sign, sum. Received: other"),
        ("data.standardize=[feature]", "`data.standardize` must name inputs of the data, features; "
         "the nearest is features. Received: feature"),
        ("data.test.both.path=no.npz", "`data.test.both.path` must name existing files"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit(configured, setting, message):
    with pytest.raises((ValueError, OSError)) as error:
        load(configured(setting))
    assert message in str(error.value)


def test_the_model_itself_standardizes(configured):
    config = configured()
    model = build(config, load(config))
    config = configured("data.standardize=[]")
    plain = build(config, load(config))
    plain.set_weights(model.get_weights())
    features = [np.load("train.npz")["x"], np.loadtxt("more.csv", delimiter=",", skiprows=1)[:, :4]]
    rows = np.concatenate(features).astype("float64")
    x = np.load("test.npz")["x"]
    answers = model.predict(x, verbose=0)
    expected = plain.predict(((x - rows.mean(0)) / rows.std(0)).astype("float32"), verbose=0)
    for task in ("sign", "sum"):
        np.testing.assert_allclose(answers[task], expected[task], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "function", "arguments"),
    [
        ("hard_sharing", "HardSharing", {}),
        ("cross_stitch", "CrossStitchNetwork", {"lr_multiplier": 3.0}),
        ("sluice", "SluiceNetwork", {"orthogonality": 0.0}),
        ("factorized", "FactorizedNetwork", {"method": "tt", "rank": 2}),
    ],
)
def test_networks(configured, kind, function, arguments):
    layers = keras.layers
    trunk = [[layers.Dense(6), layers.Activation("relu")], layers.Dense(6)]
    if kind in ("hard_sharing", "factorized"):
        trunk = [*trunk[0], trunk[1]]
    heads = {"sign": layers.Dense(2), "sum": [layers.Dense(3), layers.Dense(1)]}
    expected = getattr(kmtl.models, function)(trunk, heads, inputs=(4,), **arguments)
    config = configured(
        f"network.kind={kind}",
        "network.trunk=[[{class: dense, units: 6}, {class: Activation, activation: relu}],"
        "{class: Dense, units: 6}]",
        "network.heads={sign: {units: 2}, sum: {layers: [{class: Dense, units: 3},"
        "{class: Dense, units: 1}]}}",
        f"network.arguments={json.dumps(arguments)}",
    )
    found = build(config, load(config))
    assert [w.shape for w in found.weights] == [w.shape for w in expected.weights]
    assert found.input.name == "features"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network.trunk.0.class=Dens"], "`network.trunk.0.class` must be a class of keras.layers "
         "or kmtl.layers; the nearest is Dense. Received: Dens"),
        (["network.trunk.0.units=-1"], "`network.trunk.0.units` must be what Dense takes: "),
        (["network.trunk.0.unit=1"], "`network.trunk.0"),
        (["network.trunk=[[{units: 3}]]"], "`network.trunk.0.0` must be a mapping of `class`"),
        (["network.heads.sum={layers: [{class: Conv2D, filters: 1, kernel_size: 3}]}"],
         "`network` must be layers that fit together"),
        (["network.arguments={alpha: 1}"], "with what hard_sharing takes as `arguments`"),
        (["network={kind: python, function: 'keras:Input', arguments: {shape: [2]}}"],
         "`network.function` must return a `kmtl.MultiTaskModel`. Received: KerasTensor"),
        (["training.optimizer.class=Adma"], "the nearest is Adam"),
        (["training.optimizer.learning_rate={class: CosineDecai}"],
         "`training.optimizer.learning_rate.class` must be a class of"),
        (["training.losses.sum={class: Huber, delta: a, reductio: x}"], "`training.losses.sum"),
        (["training.jit_compile=true", "training.metrics.sign=[mae, mae]"],
         "`training` must fit the network: The metrics of a task must have different names"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be(configured, settings, message):
    with pytest.raises(ValueError) as error:
        check(configured(*settings), say=lambda text: None)
    assert message in str(error.value)


def test_check_shows_the_plan_and_writes_nothing(configured, tmp_path):
    told = []
    check(configured(), say=told.append)
    text = "\n".join(told)
    for part in ("TaskMixture of 2 sources", "test: both 12 examples", "2 epochs, 16 steps"):
        assert part in text
    assert f"{4 * 8 + 8 + 8 * 2 + 2 + 8 + 1 + 2:,} parameters" in text  # 2 of the weighting
    assert not (tmp_path / "out").exists()


def test_training_writes_what_it_says(configured):
    told = []
    train(configured("training.tensorboard=out/logs"), say=told.append)
    with open("out/results.json") as file:
        results = json.load(file)
    model = keras.saving.load_model("out/model.keras")
    assert isinstance(model.weighting, kmtl.weighting.UncertaintyWeighting)
    with np.load("test.npz") as file:
        right = model.predict(file["x"], verbose=0)["sign"].argmax(-1) == file["sign"]
    assert results["tasks"]["sign"]["accuracy"] == pytest.approx(right.mean())
    assert any("out/model.keras" in text for text in told)
    assert len(list(Path("out/logs").iterdir())) == 1


def test_replicas_change_nothing(configured, mirrored, monkeypatch):
    # TensorFlow keys collectives by strategy: one with two replicas is all that a process can have.
    real = strategy.make_strategy
    monkeypatch.setattr(
        run, "make_strategy", lambda t, c: mirrored if t.logical_cpus else real(t, c)
    )
    short = ["training.epochs=1", "training.steps_per_epoch=4"]
    for name, more in (("one", []), ("two", ["training.logical_cpus=2"])):
        train(configured(f"model={name}.keras", *short, *more), say=lambda text: None)
    one, two = (keras.saving.load_model(f"{n}.keras").get_weights() for n in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-4, atol=2e-6)


def test_precision_is_for_this_run_only(configured):
    train(configured("training.precision=mixed_bfloat16"), say=lambda text: None)
    assert keras.config.dtype_policy().name == "float32"
    model = keras.saving.load_model("out/model.keras")
    assert {x.dtype for x in model.output.values()} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in model.layers}


def test_a_model_of_ones_own(configured, tmp_path):
    (tmp_path / "my_kmtl_model.py").write_text(
        "import keras, kmtl\n"
        "def build(width):\n"
        "    x = keras.Input((4,), name='mine')\n"
        "    h = keras.layers.Dense(width)(x)\n"
        "    sign = keras.layers.Dense(2, activation='softmax')(h)\n"
        "    return kmtl.MultiTaskModel(x, {'sign': sign, 'sum': keras.layers.Dense(1)(h)})\n"
    )
    config = configured("network={kind: python, function: 'my_kmtl_model:build',"
                        "arguments: {width: 5}}")  # fmt: skip
    model = build(config, load(config))
    assert model.count_params() == 5 * 4 + 5 + 5 * 2 + 2 + 5 + 1
    assert "features_scale" in [layer.name for layer in model.layers]


def test_several_inputs(configured):
    table = "{format: csv, path: more.csv, inputs: {low: [a, b], high: [c]}, tasks: [sum]}"
    config = configured(
        f"data.train={{t: {table}}}",
        f"data.validation={{t: {table}}}",
        f"data.test={{t: {table}}}",
        "data.standardize=[low]",
        "network.trunk=[{class: Concatenate}, {class: Dense, units: 3}]",
        "network.heads={sum: {units: 1}}",
        "training.losses={sum: mse}",
        "training.metrics={}",
        "training.epochs=1",
        "export=[{path: out/a.tflite}]",
    )
    train(config, say=lambda text: None)
    model = keras.saving.load_model("out/model.keras")
    assert {x.name: x.shape for x in model.inputs} == {"low": (None, 2), "high": (None, 1)}
    assert kmtl.export.load_litert("out/a.tflite").tasks == ["sum"]


STOPPING = (
    "training.early_stopping={monitor: val_sum_mae, patience: 1, min_delta: 1000.0,mode: min}",
    "training.backup.folder=backup",
    "training.epochs=9",
)


def test_early_stopping_keeps_the_best_and_stays_stopped(configured, tmp_path):
    train(configured(*STOPPING, "model=first.keras"), say=lambda text: None)
    first = keras.saving.load_model("first.keras").get_weights()
    assert ResumableEarlyStopping.epochs_left(tmp_path / "backup", 9) == 2
    one_epoch = configured("training.epochs=1", "model=one.keras")
    train(one_epoch, say=lambda text: None)  # nothing later is better by 1000
    train(configured(*STOPPING, "model=again.keras"), say=lambda text: None)
    for name in ("one", "again"):
        weights = keras.saving.load_model(f"{name}.keras").get_weights()
        for expected, value in zip(first, weights, strict=True):
            np.testing.assert_array_equal(value, expected)


def test_the_model_is_saved_before_it_is_measured(configured, monkeypatch):
    def evaluate(*args, **kwargs):
        raise FloatingPointError("no test")

    monkeypatch.setattr(kmtl.models.MultiTaskModel, "evaluate", evaluate)
    config = configured("training.epochs=1", "data.validation=null")
    with pytest.raises(FloatingPointError, match="no test"):
        train(config, say=lambda text: None)
    assert keras.saving.load_model("out/model.keras").task_names == ["sign", "sum"]
    assert not Path("out/results.json").exists()
