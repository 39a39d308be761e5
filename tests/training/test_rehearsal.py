"""What is found before training, in the order in which it is looked for; nothing is trained."""

import contextlib

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

from kmtl.training.checking.explaining import explaining
from kmtl.training.checking.finite import check_measured, check_weights
from kmtl.training.checking.monitoring import stopping_arguments
from kmtl.training.checking.preparing import check_first, prepare
from kmtl.training.checking.seeds import check_seed, note_seed
from kmtl.training.loading.data import load
from kmtl.training.loading.examples import Limits
from kmtl.training.run import check


def refused(config):
    with pytest.raises(ValueError) as error:
        check(config, say=lambda text: None)
    return str(error.value)


STOPPING = "training.early_stopping"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model=/proc/nope/model.keras", "`model` must be where a folder can be made and written. "
         "Received: /proc/nope/model.keras"),
        ("results=test.npz/a.json", "`results` must be where a folder can be made"),
        ("training.tensorboard=/proc/nope", "`training.tensorboard` must be where a folder"),
        ("training.backup.folder=more.csv", "`training.backup.folder` must be where a folder can"),
        ("training.backup.folder=/proc/nope", "Received: /proc/nope (/proc: No such file"),
        ("model=folder.keras", "`model` must name a file. Received: folder.keras, a folder"),
        ("export=[{path: used.tflite}]", "`export.0.path`: The JSON file beside the model must"),
        ("export=[{path: a.tflite, quantization: int9}]", "`export.0.quantization` must be one of "
         "float32"),
        ("export=[{path: a.tflite, quantization: int9}]", "the nearest is int8. Received: int9"),
        ("export=[{path: a.tflite, overrides: {sum: int8_io}}]", "`export.0.overrides.sum` must"),
        ("export=[{path: a.tflite, target: tpu}]", "`export.0.target` must be one of edgetpu"),
        ("data.batch_size=7", "`data.batch_size` must be divisible by the number of replicas, 2"),
    ],
)  # fmt: skip
def test_before_data_are_read(configured, tmp_path, setting, message):
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "used.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    config = configured("training.logical_cpus=2", setting)
    assert message in refused(config)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.losses={sum: mse}", "`training.losses` must name every task of the network, "
         "with null for one that is not to be trained. Received: nothing for sign"),
        ("training.losses={sum: null, sign: null}", "must have a loss for some task"),
        ("training.losses.sum=mean_squared", "`training.losses.sum` must be a known name; the "
         "nearest is mean_squared_error. Received: mean_squared"),
        ("training.metrics.sign=accuracyy", "`training.metrics.sign.0` must be a known name; "),
        ("training.weighting=pcgrd", "`training.weighting` must be a known name; the nearest is "
         "pcgrad. Received: pcgrd"),
        ("training.weighting={class: PCGrad, scope: x}", "`training.weighting.scope` must be what "
         "PCGrad takes: `scope` of PCGrad must be one of"),
        ("export=[{path: a.tflite, target: edgetpu, quantization: int8}]", "`export.0` must be"),
        ("export=[{path: a.tflite, labels: {sign: [minus]}}]", "`export.0.labels` must be what"),
        (f"{STOPPING}.monitor=val_sing_loss", f"`{STOPPING}.monitor` must be one of the values in "
         "the logs, loss, sign_accuracy, sign_loss, sign_variance, sum_loss, sum_mae, "
         "sum_variance, val_loss, val_sign_accuracy, val_sign_loss, val_sum_loss, val_sum_mae; "
         "the nearest is val_sign_loss. Received: val_sing_loss"),
        (f"{STOPPING}.monitor=val_sign_accuracy", f"`{STOPPING}.mode` must be min or max where "
         "the monitor is no loss. Received: auto for val_sign_accuracy"),
        ("network.heads.sign.units=1", "`data.train.both.tasks.sign` must have labels from 0 to "
         "0, as the head has 1 units"),
        ("data.test.both.path=wide.npz", "`data.test.both.tasks.sign` must have labels from 0 to "
         "1, as the head has 2 units"),
        ("data.validation.both.path=nan.npz", "`data.validation.both` must have inputs that are "
         "finite numbers. Received: nan in input 'features' of example 3"),
        ("data.train.both.tasks={sign: {}, sum: {key: gaps}}", "`data.train.both.tasks.sum."
         "missing` must be .nan"),
        ("data.test.both.tasks.sum={key: far}", "`data.test.both.tasks.sum` must have finite"),
        ("data.validation.both.inputs=[x]", "Received: input 'features' float32 (4,) in source "
         "'data.train.both', absent in source 'data.validation.both'"),
        ("network.heads.sum.units=3", "`training.losses.sum` must fit the head, whose answers are "
         "of shape (3,), and `data.train.both.tasks.sum`, whose labels are of shape ()"),
        ("training.losses.sign=categorical_crossentropy", "`training.losses.sign` must fit the "
         "head, whose answers are of shape (2,)"),
        ("training.metrics.sign=[accuracy, categorical_crossentropy]", "`training.metrics.sign.1` "
         "must fit the head"),
        ("network.heads.sum.layers=[{class: Dense, units: 1, kernel_initializer: {class: Constant,"
         "value: 1e30}}]", "`training.losses.sum` must be finite on the first examples of "),
    ],
)  # fmt: skip
def test_before_training(configured, setting, message):
    with np.load("train.npz") as file:
        arrays = dict(file)
    holes = arrays["x"].copy()
    holes[3, 1] = np.nan
    gaps = np.where(np.arange(40) % 2, arrays["sum"], np.nan)
    far = np.where(np.arange(40) == 9, np.inf, arrays["sum"])
    np.savez("nan.npz", **{**arrays, "x": holes})
    np.savez("wide.npz", **{**arrays, "sign": arrays["sign"] + 4})
    for name in ("train", "test"):
        np.savez(f"{name}.npz", **arrays, gaps=gaps, far=far)
    settings = [setting]
    if "sum.layers" in setting:
        settings.append("network.heads.sum.units=null")
    told = refused(configured(*settings))
    assert message in told
    assert "\n" not in told and "{{" not in told


def test_a_task_with_null_is_not_trained(configured):
    config = configured("training.losses={sum: mse, sign: null}")
    prepared = prepare(config, contextlib.nullcontext(), replicas=1)
    assert prepared.model.trained_tasks == ["sum"]


def test_a_loss_may_have_a_mark_of_its_own(configured):
    pairs = np.where(np.eye(2)[np.arange(40) % 2] > 0, np.nan, 1.0)
    np.savez("pairs.npz", x=np.zeros((40, 4), "float32"), sum=pairs)
    source = "{both: {format: npz, path: pairs.npz, inputs: {features: x}, tasks: [sum]}}"
    settings = [
        *(f"data.{split}={source}" for split in ("train", "validation", "test")),
        "network.heads={sum: {units: 2, activation: sigmoid}}",
        "training.metrics={}",
    ]
    own = "training.losses={sum: {class: MaskedMultiLabelLoss}}"
    check(configured(*settings, own), say=lambda text: None)
    message = refused(configured(*settings, "training.losses={sum: mse}"))
    assert "`data.train.both.tasks.sum.missing` must be .nan" in message


@pytest.mark.parametrize(
    ("stopping", "mode"),
    [
        ({"monitor": "val_sum_loss"}, "min"),
        ({"monitor": "loss"}, "min"),
        ({"monitor": "val_sign_accuracy", "mode": "max"}, "max"),
    ],
)
def test_the_direction_of_a_monitor(configured, stopping, mode):
    config = configured(f"{STOPPING}={stopping}")
    prepared = prepare(config, contextlib.nullcontext(), replicas=1)
    arguments = stopping_arguments(prepared.model, config.training, prepared.data)
    assert arguments["mode"] == mode


def test_a_split_without_labels_of_a_task(configured):
    with np.load("test.npz") as file:
        np.savez("none.npz", **{**file, "sum": np.full(12, -99.0, "float32")})
    none = ("data.validation.both.path=none.npz", "data.test.both.path=none.npz")
    assert load(configured(*none)).unlabelled == {"validation": ["sum"], "test": ["sum"]}
    told = []
    check(configured(*none), say=told.append)
    assert "validation: both 12 examples, without labels of sum" in told
    message = refused(configured(*none, f"{STOPPING}.monitor=val_sum_loss"))
    assert message.startswith(f"`{STOPPING}.monitor` must be of a task with labels")


STREAM = """
import numpy as np
import tensorflow as tf

def rows(where, label=0, x=0.0):
    sign, inputs = np.zeros(700, "int32"), np.zeros((700, 4), "float32")
    sign[where], inputs[where] = label, x
    return tf.data.Dataset.from_tensor_slices(({"features": inputs}, {"sign": sign}))
"""
LIMITS = Limits({}, {"sign": 2}, {"sign": None})


@pytest.fixture
def streamed(configured, tmp_path):
    """A function of a stream's arguments that returns the configuration."""
    (tmp_path / "my_kmtl_rows.py").write_text(STREAM)
    source = "format: python, function: 'my_kmtl_rows:rows'"
    return lambda arguments: configured(
        f"data.train.more={{{source}, arguments: {arguments}}}", "data.standardize=[]"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{where: 1, label: 2}", "`data.train.more.tasks.sign` must have labels from 0 to 1"),
        ("{where: 1, x: .nan}", "`data.train.more` must have inputs that are finite numbers"),
    ],
)
def test_the_first_examples_of_a_stream(streamed, arguments, message):
    assert message in refused(streamed(arguments))


@pytest.mark.parametrize("error", [FloatingPointError, tf.errors.InvalidArgumentError])
def test_a_stream_is_searched_where_a_run_fails(streamed, error):
    raised = error("a") if error is FloatingPointError else error(None, None, "a")
    config = streamed("{where: 600, label: 2}")
    check(config, say=lambda text: None)
    told = []
    with pytest.raises(ValueError, match="more.tasks.sign` must .* Received: 2 in example 600"):
        with explaining(config, load(config), LIMITS, told.append):
            raise raised
    assert told == ["Looking for the cause in `data.train.more`"]


def test_what_the_data_do_not_explain_stays_as_it_is(streamed):
    config = streamed("{where: 600, label: 1}")
    with pytest.raises(FloatingPointError, match="by itself"):
        with explaining(config, load(config), LIMITS, lambda text: None):
            raise FloatingPointError("by itself")


def test_weights_and_results_are_finite():
    x = keras.Input((2,))
    model = keras.Model(x, keras.layers.Dense(1, name="last")(x))
    check_weights(model)
    model.layers[-1].kernel.assign([[0.0], [np.nan]])
    with pytest.raises(FloatingPointError, match="Received: NaN or infinity in last/kernel"):
        check_weights(model)
    check_measured({"loss": 1.0})
    with pytest.raises(FloatingPointError, match="`data.test` must be finite. Received: {'a_loss'"):
        check_measured({"loss": 1.0, "a_loss": np.inf})


def test_a_backup_goes_on_with_its_own_seed(configured, tmp_path):
    first = configured("training.backup.folder=backup").training
    other = configured("training.backup.folder=backup", "training.seed=3")
    check_seed(other.training)
    note_seed(first)
    check_seed(other.training)  # no step was kept
    (tmp_path / "backup" / "step-000000000008.npz").write_bytes(b"")
    check_seed(first)
    with pytest.raises(ValueError, match="`training.seed` must be 0, .*Received: 3"):
        check_first(other, writes=True)
