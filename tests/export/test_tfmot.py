"""Zeros, few values and integers by tfmot, as they stand in the file; `tf.keras` untouched."""

import importlib.util
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.export import VerificationError, fold, inspect_litert, load_litert, tfmot
from kmtl.export.tfmot import compression, legacy, rebuild, structure
from kmtl.export.tfmot.kernels_in_file import kernels_in_file
from kmtl.export.tfmot.training import Objective
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
needs_tfmot = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in legacy.NEEDED),
    reason='needs pip install "kmtl[tfmot]"',
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(192, 4, 4, 2)).astype("float32")
WIDTHS = {"zeta": 4, "alpha": 3, "mid": 4}  # two heads of one width: swapped, they would fit
Y = {
    task: np.argmax(X.reshape(len(X), -1) @ RNG.normal(size=(32, width)), axis=-1)
    for task, width in WIDTHS.items()
}
Y["mid"][::3] = -1  # missing
NETWORKS = {
    "cross_stitch": CrossStitchNetwork,
    "factorized": FactorizedNetwork,
    "hard_sharing": HardSharing,
    "sluice": SluiceNetwork,
}
SHARE, VALUES = 0.6, 6


def losses():
    return {t: keras.losses.SparseCategoricalCrossentropy(from_logits=True) for t in WIDTHS}


@pytest.fixture(scope="module")
def trained():
    """Builds and trains each network once."""
    made = {}

    def get(name):
        if name not in made:
            keras.utils.set_random_seed(5)
            tower = [layers.Conv2D(6, 3, padding="same", activation="relu")]
            heads = {
                task: [
                    *([layers.BatchNormalization(), layers.ReLU()] if task == "mid" else []),
                    layers.Flatten(),
                    layers.Dropout(0.1),
                    layers.Dense(width, name=f"to_{task}"),
                ]
                for task, width in WIDTHS.items()
            }
            x = keras.Input((4, 4, 2), name="image")
            model = NETWORKS[name](tower, heads, inputs=x)
            model.compile(keras.optimizers.Adam(0.01), loss=losses(), missing={"mid": -1})
            model.fit(X, Y, epochs=12, batch_size=32, verbose=0)
            made[name] = model
        return made[name]

    return get


@pytest.fixture
def small():
    x = keras.Input((3,), name="x")
    h = layers.Dense(8, activation="relu", name="trunk")(x)
    outputs = {t: layers.Dense(2, name=f"to_{t}")(h) for t in ("zeta", "mid")}
    model = kmtl.MultiTaskModel(x, outputs)
    model.compile(loss="mse")
    return model


def data_of(rows=32, tasks=("zeta", "mid")):
    x = RNG.normal(size=(rows, 3)).astype("float32")
    return x, {task: x[:, :2] * (1 if task == "zeta" else -1) for task in tasks}


def model_of(outputs, inputs):
    model = kmtl.MultiTaskModel(inputs, outputs)
    model.compile(loss="mse")
    return model


def loss_of(answers):
    """Mean cross-entropy over the present labels, of all heads."""
    found = 0.0
    for task, logits in answers.items():
        present = Y[task] >= 0
        shifted = np.asarray(logits)[present] - np.max(logits, axis=-1)[present, None]
        chosen = np.take_along_axis(shifted, Y[task][present, None], axis=-1)
        found += float(np.mean(np.log(np.exp(shifted).sum(-1)) - chosen[:, 0]))
    return found


def compress(model, path, methods, **options):
    settings = {"sparsity": SHARE, "clusters": VALUES, "epochs": 3, "learning_rate": 3e-3}
    return tfmot.compress(model, path, X, Y, methods=methods, **{**settings, **options})


def check_heads(model, result):
    """Heads have their names and the file still answers as the trained model does."""
    runner = load_litert(result.path)
    assert result.tasks == ("alpha", "mid", "zeta") == tuple(runner.tasks)
    answers, before = runner(X), model.predict(X, verbose=0)
    for task, width in WIDTHS.items():
        assert answers[task].shape == (len(X), width)
        agree = {t: np.mean(answers[task].argmax(-1) == before[t].argmax(-1)) for t in WIDTHS}
        assert max(agree, key=agree.get) == task and agree[task] > 0.7
    untrained = sum(np.log(width) for width in WIDTHS.values())
    assert loss_of(answers) < loss_of(before) + 0.2 * (untrained - loss_of(before))


# What is in the file.


@needs_tfmot
@pytest.mark.parametrize(
    "name",
    [
        "hard_sharing",
        *(pytest.param(n, marks=pytest.mark.nightly) for n in NETWORKS if n != "hard_sharing"),
    ],
)
def test_all_three_methods_hold_in_the_integer_file(trained, name, tmp_path):
    model = trained(name)
    weights = [np.array(w) for w in model.get_weights()]
    result = compress(model, tmp_path / "m.tflite", ("quantize", "cluster", "prune"))
    assert result.methods == ("prune", "cluster", "quantize") == tuple(result.history)
    assert all(len(values) == 3 for values in result.history.values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.tflite"]
    check_heads(model, result)
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    kernels = kernels_in_file(result.path.read_bytes(), fold(model))
    assert set(kernels) == set(result.sparsity) >= {"to_zeta", "to_alpha", "to_mid"}
    assert len(kernels) == (4 if name == "hard_sharing" else 6)
    for layer, kernel in kernels.items():
        assert kernel.dtype == np.int8 and np.any(kernel)
        assert np.mean(kernel == 0) >= SHARE - 0.5 / kernel.size
        assert len(np.unique(kernel)) <= VALUES
        assert result.sparsity[layer] == np.mean(kernel == 0)
        assert result.distinct_weights[layer] == len(np.unique(kernel))
    found = inspect_litert(result.path)
    assert set(found.float_ops) == {"QUANTIZE", "DEQUANTIZE"}
    assert {x.dtype for x in found.signature.outputs.values()} == {"float32"}
    assert found.signature.inputs["image"].shape == (1, 4, 4, 2)


@needs_tfmot
@pytest.mark.parametrize("schedule", ["polynomial", "constant"])
def test_pruned_zeros_are_in_the_float_file(trained, schedule, tmp_path):
    model = trained("hard_sharing")
    result = compress(model, tmp_path / "m.tflite", "prune", schedule=schedule)
    check_heads(model, result)
    content = result.path.read_bytes()
    for kernel in kernels_in_file(content, fold(model)).values():
        assert kernel.dtype == np.float32
        assert abs(np.mean(kernel == 0) - SHARE) <= 0.5 / kernel.size + 1e-6
        assert len(np.unique(kernel)) > VALUES
    assert result.bytes == len(content)
    assert result.compressed_bytes == len(zlib.compress(content, 9)) < result.bytes
    assert max(error["relative_error"] for error in result.errors.values()) <= 1e-5
    text = json.loads(result.metadata_path.read_text())
    assert text["recipe"] == [{"method": "prune", "sparsity": SHARE, "schedule": schedule}]
    assert text["quantization"] == "float32" and set(text["tasks"]) == set(WIDTHS)


@needs_tfmot
@pytest.mark.parametrize(
    ("methods", "centroids"),
    [
        (("cluster",), "kmeans++"),
        (("cluster",), "density"),
        (("prune", "cluster"), "kmeans++"),
        (("prune", "cluster"), "linear"),
        (("prune", "cluster"), "random"),
    ],
)
def test_clusters_are_in_the_float_file(trained, methods, centroids, tmp_path):
    model = trained("hard_sharing")
    options = {"centroids": centroids, "clusters": 8}
    result = compress(model, tmp_path / "m.tflite", methods, **options)
    for kernel in kernels_in_file(result.path.read_bytes(), fold(model)).values():
        assert 2 < len(np.unique(kernel)) <= 8
        if "prune" in methods:
            assert np.mean(kernel == 0) >= SHARE - 0.5 / kernel.size
    if centroids != "random":
        check_heads(model, result)


@needs_tfmot
@pytest.mark.parametrize(
    ("methods", "zeros", "values"),
    [
        ("quantize", 0, 256),
        (("prune", "quantize"), SHARE, 256),
        (("cluster", "quantize"), 0, VALUES),
    ],
)
def test_what_came_before_is_kept_by_quantisation(trained, methods, zeros, values, tmp_path):
    model = trained("hard_sharing")
    result = compress(model, tmp_path / "m.tflite", methods)
    check_heads(model, result)
    for layer, share in result.sparsity.items():
        assert share >= zeros - 0.01 and (zeros or share < 0.3)
        assert result.distinct_weights[layer] <= values
        assert values == VALUES or result.distinct_weights[layer] > VALUES


@needs_tfmot
def test_one_by_one_kernels_of_few_channels_do_not_vanish(tmp_path):
    x = keras.Input((4, 4, 1), name="x")
    h = layers.Conv2D(12, 1, activation="relu", name="thin")(x)
    h = layers.Conv2D(8, 1, name="wide")(h)
    outputs = {
        "zeta": layers.GlobalAveragePooling2D()(layers.ReLU()(h)),
        "mid": layers.Dense(2)(layers.Flatten()(h)),
    }
    images = RNG.normal(size=(64, 4, 4, 1)).astype("float32")
    labels = {"zeta": np.abs(images.mean((1, 2))).repeat(8, 1), "mid": images[:, 0, :2, 0]}
    result = tfmot.compress(
        model_of(outputs, x), tmp_path / "m.tflite", images, labels,
        methods=("prune", "cluster", "quantize"), clusters=5, epochs=1,
    )  # fmt: skip
    assert result.sparsity["thin"] == 0.5 and 0.5 <= result.sparsity["wide"] < 0.9
    assert 2 < result.distinct_weights["thin"] <= 5


@needs_tfmot
def test_many_kinds_of_layers_become_integers(tmp_path):
    x = keras.Input((8, 8, 2), name="x")
    h = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(x)
    h = layers.LeakyReLU(negative_slope=0.1)(layers.BatchNormalization()(h))
    h = layers.SeparableConv2D(6, 3, padding="same", activation="tanh", name="separable")(h)
    gate = layers.Dense(6, activation="sigmoid")(layers.GlobalAveragePooling2D()(h))
    h = layers.Multiply()([h, layers.Reshape((1, 1, 6))(gate)])
    h = layers.AveragePooling2D(2)(layers.ZeroPadding2D(1)(h))
    up = layers.Conv2DTranspose(4, 2, strides=2, activation="relu6", name="up")(h)
    outputs = {
        "zeta": layers.Conv2D(2, 1)(layers.DepthwiseConv2D(3)(up)),
        "alpha": layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling2D()(h)),
        "mid": layers.Flatten()(layers.UpSampling2D()(layers.MaxPooling2D()(h))),
    }
    model = model_of(outputs, x)
    images = RNG.normal(size=(48, 8, 8, 2)).astype("float32")
    expected = model.predict(images, verbose=0)
    result = tfmot.compress(
        model, tmp_path / "m.tflite", images, expected, ("prune", "cluster", "quantize"),
        sparsity=0.3, clusters=10, epochs=1,
    )  # fmt: skip
    assert {"conv", "up", "separable_pointwise"} <= {
        name for name, share in result.sparsity.items() if share >= 0.25
    }
    assert result.distinct_weights["up"] <= 10 < result.distinct_weights["separable_depthwise"]
    answers = load_litert(result.path)(images)
    for task, y in expected.items():
        assert np.linalg.norm(answers[task] - y) < 0.6 * np.linalg.norm(y)


# The copy in Keras 2.


@needs_tfmot
def test_inputs_by_name_and_a_concatenation_in_its_order(tmp_path):
    second, first = keras.Input((3,), name="b-side"), keras.Input((2,), name="a")
    left, right = layers.Dense(4)(first), layers.Dense(4)(second)
    h = layers.Concatenate()([right, left, second])  # not in the order of creation
    h = layers.Activation("tanh")(h)
    outputs = {"zeta": layers.Dense(2)(h[:, :5]), "alpha": layers.Dense(2)(h[:, 5:])}
    model = model_of(outputs, {"a": first, "b-side": second})
    x = {
        "a": RNG.normal(size=(48, 2)).astype("float32"),
        "b-side": RNG.uniform(0, 40, size=(48, 3)).astype("float32"),
    }
    y = {"zeta": x["a"], "alpha": -x["a"]}
    result = tfmot.compress(model, tmp_path / "m.tflite", x, y, epochs=1)
    answers, expected = load_litert(result.path)(x), model.predict(x, verbose=0)
    for task in outputs:
        error = np.linalg.norm(answers[task] - expected[task]) / np.linalg.norm(expected[task])
        assert error < 0.1


@needs_tfmot
def test_the_copy_computes_the_same_to_the_last_bit(trained):
    _, tf_keras = legacy.load_tfmot()
    from kmtl.export.folding.simplify import simplify

    plain = simplify(fold(trained("sluice")))
    copy = rebuild.rebuild(plain, {"image": X}, tf_keras)
    answers = copy([X], training=False)
    for task, answer in zip(sorted(WIDTHS), answers, strict=True):
        assert np.array_equal(plain(X)[task], answer)
    assert type(copy).__module__.startswith("tf_keras.")


@needs_tfmot
def test_another_answer_in_keras_2_names_the_layer(small, monkeypatch, tmp_path):
    def wrong(operation, copy, args, kwargs, real=rebuild._apply):
        y = real(operation, copy, args, kwargs)
        return y + 1e-6 if operation.name == "to_mid" and hasattr(y, "numpy") else y

    monkeypatch.setattr(rebuild, "_apply", wrong)
    with pytest.raises(ValueError, match=r"Received: layer 'to_mid', Dense, whose outputs.*differ"):
        tfmot.compress(small, tmp_path / "m.tflite", *data_of())


@needs_tfmot
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: layers.Dense(4, name="odd")(ops.sin(x)), "'sin', Sin, an operation that is"),
        (lambda x: layers.Activation("celu", name="odd")(x), "'odd'.*celu"),
        (lambda x: layers.Reshape((4,))(layers.GRU(4, name="odd")(layers.Reshape((3, 1))(x))),
         "may not have recurrent layers.*Received: odd"),
        (lambda x: layers.Dense(3, name="odd")(layers.Dense(3)(x)), None),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_rebuilt_are_named(layer, message, tmp_path):
    x = keras.Input((3,), name="x")
    h = layer(x)
    model = model_of({"zeta": layers.Dense(2)(h), "mid": layers.Dense(2)(h)}, x)
    if message is None:
        assert tfmot.compress(model, tmp_path / "m.tflite", *data_of(), "prune", epochs=1).bytes
        return
    with pytest.raises(ValueError, match=message):
        tfmot.compress(model, tmp_path / "m.tflite", *data_of(), "prune")
    assert not list(tmp_path.iterdir())


@needs_tfmot
def test_a_layer_used_twice_is_named(tmp_path):
    x, both = keras.Input((3,), name="x"), layers.Dense(3, name="both")
    model = model_of({"zeta": both(x), "mid": both(layers.Dense(3)(x))}, x)
    with pytest.raises(ValueError, match="may be used once only.*Received: layer 'both'"):
        tfmot.compress(model, tmp_path / "m.tflite", *data_of())


@needs_tfmot
def test_a_layer_that_tfmot_cannot_quantise_is_named(tmp_path):
    x = keras.Input((3,), name="x")
    h = layers.Maximum(name="larger")([layers.Dense(4)(x), layers.Dense(4)(x)])
    model = model_of({"zeta": layers.Dense(2)(h), "mid": layers.Dense(2)(h)}, x)
    lines = []
    with pytest.raises(ValueError, match="tfmot can quantise.*Received: layer 'larger', Maximum"):
        tfmot.compress(
            model, tmp_path / "m.tflite", *data_of(), ("prune", "quantize"), progress=lines.append
        )
    assert lines == ["prune"]  # before any training


@needs_tfmot
def test_a_model_without_kernels_cannot_be_pruned(tmp_path):
    x = keras.Input((3,), name="x")
    model = model_of({"zeta": layers.Rescaling(2.0)(x), "mid": layers.Activation("tanh")(x)}, x)
    data = {"zeta": np.ones((8, 3)), "mid": np.ones((8, 3))}
    with pytest.raises(ValueError, match="must have kernels to prune or cluster"):
        tfmot.compress(model, tmp_path / "m.tflite", np.ones((8, 3), "float32"), data, "prune")


# Losses and data.


@needs_tfmot
def test_own_losses_and_weights_are_what_is_trained(tmp_path):
    x = keras.Input((3,), name="x")
    outputs = {t: layers.Dense(2, name=t)(x) for t in ("zeta", "alpha", "mid")}
    inputs, y = data_of(64, ("zeta", "alpha", "mid"))

    def far(y_true, y_pred):  # cannot be saved, and need not be
        return ops.mean(ops.square(y_pred - 10.0 * y_true), axis=-1)

    plain = fold(kmtl.MultiTaskModel(x, outputs))  # a `keras.Model`
    plain.compile(loss={"zeta": far, "alpha": far, "mid": None}, loss_weights={"alpha": 0.0})
    result = tfmot.compress(
        plain, tmp_path / "m.tflite", inputs, y, "prune", sparsity=0.0, epochs=30,
        batch_size=8, learning_rate=0.1,
    )  # fmt: skip
    answers, before = load_litert(result.path)(inputs), plain.predict(inputs, verbose=0)
    assert np.mean((answers["zeta"] - 10 * y["zeta"]) ** 2) < 1.0
    np.testing.assert_allclose(answers["alpha"], before["alpha"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answers["mid"], before["mid"], rtol=1e-5, atol=1e-5)
    assert result.history["prune"][-1] < 0.1 * result.history["prune"][0]


@needs_tfmot
def test_missing_labels_count_nothing(small, tmp_path):
    small.compile(loss="mse", missing=float("nan"))
    x, y = data_of()
    y["mid"] = np.full_like(y["mid"], np.nan)
    before = small.predict(x, verbose=0)["mid"]
    result = tfmot.compress(
        small, tmp_path / "m.tflite", x, y, "prune", sparsity=0.0, epochs=1, learning_rate=1e-9
    )
    expected = np.mean((small.predict(x, verbose=0)["zeta"] - y["zeta"]) ** 2)
    assert abs(result.history["prune"][0] - expected) < 1e-4 * expected
    np.testing.assert_allclose(load_litert(result.path)(x)["mid"], before, rtol=1e-4, atol=1e-6)


@needs_tfmot
def test_a_loss_that_is_not_finite_stops(small, tmp_path):
    x, y = data_of()
    y["mid"][3] = np.nan
    with pytest.raises(ValueError, match="loss must stay finite.*Received: nan in epoch 1"):
        tfmot.compress(small, tmp_path / "m.tflite", x, y)
    assert not list(tmp_path.iterdir())


def test_bad_data_and_models(small, monkeypatch, tmp_path):
    x, y = data_of()

    def run(model=small, x=x, y=y):
        tfmot.compress(model, tmp_path / "m.tflite", x, y)

    monkeypatch.setattr(compression, "require_tfmot", lambda: None)
    with pytest.raises(ValueError, match=r"labels must name.*missing \['mid'\]"):
        run(y={"zeta": y["zeta"]})
    with pytest.raises(ValueError, match="row for each of 32 inputs"):
        run(y={**y, "mid": y["mid"][:5]})
    with pytest.raises(ValueError, match="finite"):
        run(x=np.full_like(x, np.nan))
    with pytest.raises(ValueError, match="compiled with the losses.*without a loss"):
        run(model=fold(small))


SPARSE = keras.losses.SparseCategoricalCrossentropy


@pytest.mark.parametrize("loss", [SPARSE(), "sparse_categorical_crossentropy", "crossentropy"])
@pytest.mark.parametrize(
    ("wrong", "received"), [(2, "2 to 2"), (-1, "-1 to -1"), (np.nan, "nan to nan")]
)
def test_classes_that_do_not_exist(small, loss, wrong, received):
    small.compile(loss={"zeta": loss, "mid": "mse"})
    x, y = data_of()
    y["zeta"] = np.zeros(32, "float32")
    y["zeta"][5] = wrong
    message = f"Labels of task 'zeta' must be class indices from 0 to 1. Received: {received}"
    with pytest.raises(ValueError, match=message):
        Objective(small, ["mid", "zeta"]).labels(y, 32)


def test_labels_that_stand_for_no_class(small, monkeypatch, tmp_path):
    small.compile(
        loss={"zeta": SPARSE(), "mid": SPARSE(ignore_class=255)}, missing={"zeta": np.nan}
    )
    rows = np.arange(32)
    y = {"zeta": np.where(rows % 3, np.nan, rows % 2), "mid": np.where(rows % 3, 255, rows % 2)}
    objective = Objective(small, ["mid", "zeta"])
    assert set(objective.labels(y, 32)) == {"mid", "zeta"}
    # Before time goes into training.
    monkeypatch.setattr(compression, "require_tfmot", lambda: None)
    with pytest.raises(ValueError, match="'mid' must be class indices.*Received: 254 to 254"):
        y["mid"] = np.where(rows % 3, 254, rows % 2)
        tfmot.compress(small, tmp_path / "m.tflite", data_of()[0], y)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "m.onnx"}, "`path` must end in .tflite"),
        ({"methods": ("prune", "shrink")}, "`methods` must be among.*'shrink'"),
        ({"methods": ()}, "`methods` must be among"),
        ({"sparsity": 1.0}, "`sparsity` must be at least 0 and below 1. Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "`sparsity` must"),
        ({"schedule": "cubic"}, "`schedule` must be one of"),
        ({"clusters": 1}, "`clusters` must be at least 2"),
        ({"clusters": 2, "methods": ("prune", "cluster")}, "and 3 with pruning"),
        ({"centroids": "zero"}, "`centroids` must be one of"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"tolerance": -1.0}, "`tolerance` must be positive"),
    ],
)
def test_arguments_out_of_range(small, options, message, tmp_path):
    path = tmp_path / options.pop("path", "m.tflite")
    with pytest.raises(ValueError, match=message):
        tfmot.compress(small, path, *data_of(), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", legacy.NEEDED)
def test_a_missing_package_names_the_install_command(small, missing, tmp_path, monkeypatch):
    def find_spec(name, *_):
        return None if name == missing else object()

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ImportError, match=rf'pip install "kmtl\[tfmot\]".*Received: no {missing}$'):
        tfmot.compress(small, tmp_path / "m.tflite", *data_of())


@needs_tfmot
@pytest.mark.parametrize("lost", ["zeros", "clusters"])
def test_a_file_without_the_structure_is_not_written(small, lost, monkeypatch, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"earlier")
    monkeypatch.setattr(compression, "keep_structure", lambda *_: [])  # plain tfmot training
    method = "prune" if lost == "zeros" else "cluster"
    message = "must be zero" if lost == "zeros" else "at most 3 values"
    x, y = data_of()
    with pytest.raises(VerificationError, match=f"{message}. Received: .* of layer"):
        tfmot.compress(
            small, tmp_path / "m.tflite", x, y, (method, "quantize"), sparsity=0.9, clusters=3,
            learning_rate=0.1,
        )  # fmt: skip
    assert (tmp_path / "m.tflite").read_bytes() == b"earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


# The user's process.

SCRIPT = """
import os, sys
import numpy as np
import tensorflow as tf
import keras
{before}
import kmtl, kmtl.export
assert not any(name.startswith(("tf_keras", "tensorflow_model_opt")) for name in sys.modules)
x = keras.Input((3,), name="x")
model = kmtl.MultiTaskModel(x, {{t: keras.layers.Dense(2)(x) for t in ("zeta", "mid")}})
model.compile(loss="mse")
data = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
labels = {{"zeta": data[:, :2], "mid": -data[:, :2]}}
earlier = os.environ.get("TF_USE_LEGACY_KERAS")
kmtl.export.tfmot.compress(model, sys.argv[1], data, labels, epochs=1)
assert os.environ.get("TF_USE_LEGACY_KERAS") == earlier, os.environ["TF_USE_LEGACY_KERAS"]
assert "tf_keras" in sys.modules
for place in (tf.keras, tf.compat.v1.keras, tf.compat.v2.keras):
    assert place.layers.Dense is keras.layers.Dense, place
assert tf.keras.__version__.startswith("3") and tf.optimizers.Adam is keras.optimizers.Adam
mine = tf.keras.Sequential([tf.keras.layers.Dense(4, "relu"), tf.keras.layers.Dense(2)])
mine.compile("adam", "mse")
assert mine.fit(data, data[:, :2], verbose=0).history["loss"] and isinstance(mine, keras.Model)
mine.save(sys.argv[1] + ".keras")
again = tf.keras.models.load_model(sys.argv[1] + ".keras")
assert np.array_equal(again(data), mine(data))
assert np.isfinite(model.fit(data, labels, verbose=0).history["loss"][-1])
kmtl.export.export_litert(model, sys.argv[1])
print("still Keras 3")
"""


def run_script(before, tmp_path, variable=None):
    environment = {k: v for k, v in os.environ.items() if k != legacy.VARIABLE}
    if variable is not None:
        environment[legacy.VARIABLE] = variable
    command = [sys.executable, "-W", "error:::kmtl", "-c", SCRIPT.format(before=before)]
    return subprocess.run(
        [*command, str(tmp_path / "m.tflite")], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


@needs_tfmot
@pytest.mark.parametrize(
    ("before", "variable"),
    [
        pytest.param("", None, id="untouched"),
        pytest.param("tf.keras.layers", None, id="touched", marks=pytest.mark.nightly),
        pytest.param("", "0", id="variable", marks=pytest.mark.nightly),
    ],
)
def test_tf_keras_stays_keras_3(before, variable, tmp_path):
    result = run_script(before, tmp_path, variable)
    assert result.stdout.strip() == "still Keras 3", result.stderr[-3000:]


@needs_tfmot
@pytest.mark.nightly
def test_without_care_tf_keras_would_change():
    """The check above can fail: this is what importing tfmot does."""
    code = (
        "import os, keras, tensorflow as tf, tensorflow_model_optimization; "
        "print(tf.keras.layers.Dense is keras.layers.Dense, os.environ['TF_USE_LEGACY_KERAS'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != legacy.VARIABLE}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "False 1"


# Pieces.


def test_a_hold_brings_back_zeros_and_clusters():
    kernel = np.array([[0.0, 1.0, 1.0], [-2.0, 0.0, 1.0]], "float32")
    moved = kernel + np.array([[0.5, 0.3, 0.0], [0.1, 0.2, 0.6]], "float32")
    both = np.asarray(structure.Hold(kernel, zeros=True, clusters=True)(moved))
    np.testing.assert_allclose(both, [[0, 1.3, 1.3], [-1.9, 0, 1.3]], rtol=1e-6)
    assert len(np.unique(both)) == 3
    zeros = np.asarray(structure.Hold(kernel, zeros=True, clusters=False)(moved))
    np.testing.assert_allclose(zeros, [[0, 1.3, 1.0], [-1.9, 0, 1.6]], rtol=1e-6)
    free = np.asarray(structure.Hold(kernel, zeros=False, clusters=True)(moved))
    np.testing.assert_allclose(free[0, 0], 0.35, rtol=1e-6)


@needs_tfmot
def test_progress_names_methods_and_epochs(small, tmp_path):
    lines = []
    tfmot.compress(
        small, tmp_path / "m.tflite", *data_of(), ("cluster", "prune"), epochs=2,
        progress=lines.append,
    )  # fmt: skip
    assert [line.split(",")[0] for line in lines] == [
        "prune", "epoch 1/2", "epoch 2/2", "cluster", "epoch 1/2", "epoch 2/2",
    ]  # fmt: skip
