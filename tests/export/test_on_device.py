"""A head that is trained by LiteRT alone, as Keras would train it; the others untouched."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import VerificationError, export_litert, export_trainable, load_trainable
from kmtl.models import CrossStitchNetwork, HardSharing

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf  # noqa: E402

from kmtl.export.flatbuffers.inspection import op_name  # noqa: E402
from kmtl.export.on_device import export_trainable as module  # noqa: E402
from kmtl.export.on_device.gradients import GRADIENTS, builtin_gradients  # noqa: E402
from kmtl.export.runtime.litert_model import RUNTIMES  # noqa: E402

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 4, 16)
WIDTHS = {"zeta": 4, "alpha": 3, "mid": 4}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(network=HardSharing, activation="relu"):
    keras.utils.set_random_seed(5)
    tower = [
        layers.Conv2D(4, 3, padding="same", activation="relu"),
        layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
    ]
    heads = {
        task: [
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(6, activation=activation, name=f"{task}_hidden"),
            layers.Dense(width, bias_initializer="normal", name=f"to_{task}"),
        ]
        for task, width in WIDTHS.items()
    }
    model = network(tower, heads, inputs=keras.Input((6, 6, 2), name="image"))
    model.compile(loss={"zeta": LOSS, "alpha": None, "mid": "mse"})
    return model


def momentum():
    return keras.optimizers.SGD(0.05, momentum=0.9)


@pytest.fixture(scope="module")
def trained():
    return build()


@pytest.fixture(scope="module")
def result(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("on_device") / "m.tflite"
    return export_trainable(trained, path, "zeta", optimizer=momentum())


@pytest.fixture
def device(result):
    return load_trainable(result.path)


@pytest.fixture(scope="module")
def two_heads():
    x = keras.Input((3,), name="x")
    outputs = {"zeta": layers.Dense(2, name="to_zeta")(x), "mid": layers.Dense(2)(x)}
    return kmtl.MultiTaskModel(x, outputs)


def test_the_result_and_the_json_say_what_can_be_trained(result, device):
    assert result.task == device.task == "zeta" and result.tasks == ("alpha", "mid", "zeta")
    assert result.layers == ("zeta_hidden", "to_zeta")
    assert max(e["relative_error"] for e in result.errors.values()) <= 1e-5
    assert 0 <= max(result.training_errors.values()) <= 1e-4
    assert sorted(p.name for p in result.path.parent.iterdir()) == ["m.json", "m.tflite"]
    told = json.loads(result.metadata_path.read_text())
    assert told["trained_layers"] == ["zeta_hidden", "to_zeta"]
    assert told["loss"]["name"] == "sparse_categorical_crossentropy" and told["loss"]["from_logits"]
    assert told["optimizer"]["config"]["momentum"] == 0.9
    signatures = told["signatures"]
    assert sorted(signatures) == ["infer", "restore", "save", "train"]
    assert signatures["train"]["inputs"]["zeta"] == {"shape": [16], "dtype": "int32"}
    assert list(signatures["infer"]["outputs"]) == ["alpha", "mid", "zeta"]
    assert signatures["save"]["outputs"] == signatures["restore"]["inputs"]
    assert sorted(signatures["save"]["outputs"]) == [
        "optimizer/iteration",
        "optimizer/learning_rate",
        *(f"optimizer/{n}_{w}_momentum" for n in ("to_zeta", "zeta_hidden") for w in BIAS_KERNEL),
        *(f"{n}/{w}" for n in ("to_zeta", "zeta_hidden") for w in BIAS_KERNEL),
    ]


BIAS_KERNEL = ("bias", "kernel")


def test_the_file_has_builtin_operations_only_and_keeps_shared_weights_once(result, trained):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(result.path.read_bytes(), 0)
    names = {op_name(code) for code in model.operatorCodes}
    assert not [n for n in names if n.startswith(("CUSTOM", "FLEX"))] and "ASSIGN_VARIABLE" in names
    (kernel,) = (w for w in trained.weights if w.shape == (3, 3, 4, 4))  # of the trunk
    held = [b.data.tobytes() for b in model.buffers if b.data is not None]
    # In the file the output channels come first.
    assert held.count(np.moveaxis(np.asarray(kernel), -1, 0).tobytes()) == 1


@pytest.mark.parametrize("runtime", ["interpreter", "compiled_model"])
def test_the_loss_falls_on_a_new_domain_and_other_heads_stay(result, trained, runtime):
    device = load_trainable(result.path, runtime)
    x, y = 1.0 - 2.0 * X, Y
    before = device(x)
    for task, expected in trained(x, training=False).items():
        np.testing.assert_allclose(before[task], expected, rtol=1e-5, atol=1e-6)
    losses = [device.train(x, y) for _ in range(60)]
    assert losses[0] > 1.2 and losses[-1] < 0.1
    after = device.infer({"image": x[:5]})  # batches of one, any number of them
    assert (after["zeta"].argmax(-1) == y[:5]).all()
    for task in ("alpha", "mid"):
        np.testing.assert_array_equal(after[task], before[task][:5])
    assert device.train(x, {"zeta": y}) < 0.1


def test_the_weights_are_those_of_keras_with_the_trunk_frozen(device, trained):
    alone = keras.models.clone_model(keras.Model(trained.input, trained.output["zeta"]))
    alone.set_weights([np.asarray(w) for w in _weights_by_name(trained, alone)])
    for layer in alone.layers:
        layer.trainable = layer.name in ("zeta_hidden", "to_zeta")
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    alone.compile(momentum(), LOSS)
    for _ in range(5):
        expected, loss = alone.train_on_batch(X, Y), device.train(X, Y)
        assert abs(loss - expected) <= 1e-5 * expected
    saved = device.save()
    for name in ("zeta_hidden", "to_zeta"):
        start, layer = trained.get_layer(name), alone.get_layer(name)
        for part in BIAS_KERNEL:
            found, wanted = saved[f"{name}/{part}"], np.asarray(getattr(layer, part))
            change = np.linalg.norm(wanted - np.asarray(getattr(start, part)))
            assert change > 1e-2 and np.linalg.norm(found - wanted) <= 1e-5 * change
    assert saved["optimizer/iteration"] == 5


def _weights_by_name(source, target):
    held = {w.path: w for w in source.weights}
    return [held[w.path] for w in target.weights]


@pytest.mark.parametrize("runtime", ["interpreter", "compiled_model"])
def test_another_process_goes_on_where_this_one_stopped(result, runtime, tmp_path):
    first, second = load_trainable(result.path), load_trainable(result.path, runtime)
    start = first.save()
    for _ in range(3):
        first.train(X, Y)
    np.savez(tmp_path / "head.npz", **first.save())
    second.restore(np.load(tmp_path / "head.npz"))
    assert first.train(X, Y) == pytest.approx(second.train(X, Y), rel=1e-6)
    for name, array in first.save().items():
        np.testing.assert_allclose(second.save()[name], array, rtol=1e-5, atol=1e-7)
    second.restore(start)
    fresh = load_trainable(result.path, runtime)
    np.testing.assert_array_equal(second(X)["zeta"], fresh(X)["zeta"])
    second.restore({**start, "optimizer/learning_rate": np.float32(0.0)})
    assert second.train(X, Y) == second.train(X, Y)


PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(["keras", "tensorflow", "kmtl"]))
import numpy as np
from ai_edge_litert.interpreter import Interpreter

model = Interpreter(sys.argv[1])
train, infer, save, restore = map(
    model.get_signature_runner, ["train", "infer", "save", "restore"]
)
rng = np.random.default_rng(1)
x, y = rng.normal(size=(16, 6, 6, 2)).astype("float32"), (np.arange(16) % 4).astype("int32")
start = save()
losses = [float(train(image=x, zeta=y)["loss"]) for _ in range(90)]
assert losses[-1] < 0.2 < 1.2 < losses[0], losses
assert sorted(infer(image=x[:1])) == ["alpha", "mid", "zeta"]
restore(**start)
assert float(train(image=x, zeta=y)["loss"]) == losses[0]
"""


def test_litert_and_numpy_suffice(result):
    command = [sys.executable, "-c", PROGRAM, str(result.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_a_cross_stitch_head_trains_its_own_convolution_too(tmp_path):
    def network(tower, heads, inputs):
        return CrossStitchNetwork(tower, heads, inputs=inputs, stitch_after=[0])

    result = export_trainable(build(network), tmp_path / "m.tflite", "zeta", infer_batch_size=4)
    assert len(result.layers) == 3 and result.layers[1:] == ("zeta_hidden", "to_zeta")
    device = load_trainable(result.path)
    assert device.batch_size == 4
    before, start = device(X), device.save()
    device.train(X, Y)
    after, state = device(X), device.save()
    kernel = f"{result.layers[0]}/kernel"
    assert np.abs(state[kernel] - start[kernel]).max() > 0
    for task in WIDTHS:
        assert np.array_equal(after[task], before[task]) == (task != "zeta")


@pytest.mark.parametrize(
    ("optimizer", "loss", "activation"),
    [
        ("adam", "mse", None),
        (
            keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 9), clipnorm=1.0),
            keras.losses.BinaryCrossentropy(),
            "sigmoid",
        ),
        ("rmsprop", "categorical_crossentropy", "softmax"),
    ],
)
def test_optimizers_and_losses_of_keras(optimizer, loss, activation, tmp_path):
    x = keras.Input((5,), name="my-input")
    head = layers.Dense(3, activation, name="to_zeta")(layers.Dense(4, "elu", name="own")(x))
    model = kmtl.MultiTaskModel(x, {"zeta": head, "alpha": layers.Dense(2)(x)})
    result = export_trainable(
        model, tmp_path / "m.tflite", "zeta", "to_zeta", loss, optimizer, batch_size=4
    )
    assert result.layers == ("to_zeta",)
    device = load_trainable(result.path)
    assert "own/kernel" not in device.state_details
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 5)), rng.dirichlet(np.ones(3), size=4)
    losses = [device.train({"my-input": x}, y) for _ in range(15)]
    assert losses[-1] < losses[0]


def test_exporting_prints_nothing(two_heads, tmp_path, capfd, recwarn):
    export_trainable(two_heads, tmp_path / "m.tflite", "zeta", loss="mse")
    assert capfd.readouterr() == ("", "")
    shown = [w for w in recwarn.list if not issubclass(w.category, DeprecationWarning)]
    assert not [str(warning) for warning in shown]


def test_training_that_differs_is_caught_and_not_written(two_heads, tmp_path, monkeypatch):
    def wrong(plain, head, *sizes, real=module.trainable_flatbuffer):
        faster = keras.optimizers.SGD(0.011)
        faster.build(head.variables)
        return real(plain, dataclasses.replace(head, optimizer=faster), *sizes)

    monkeypatch.setattr(module, "trainable_flatbuffer", wrong)
    path = tmp_path / "m.tflite"
    path.write_bytes(b"earlier")
    with pytest.raises(VerificationError, match="do what Keras does.*Received: .*update_error"):
        export_trainable(two_heads, path, "zeta", loss="mse")
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"] and path.read_bytes() == b"earlier"


NAMES = ["1", "two words", "class", "1/2", "_a", "\u00e9", "to_it/kernel"]


@pytest.mark.parametrize("name", NAMES)
def test_tasks_whose_names_are_no_identifiers(name, tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((3,), name="0")
    heads = {name: layers.Dense(2, name="to_it")(x), "mid": layers.Dense(2)(x)}
    model = kmtl.MultiTaskModel(x, heads)
    export_trainable(model, tmp_path / "m.tflite", name, loss="mse", batch_size=4)
    inputs, labels = RNG.normal(size=(4, 3)).astype("float32"), np.ones((4, 2), "float32")
    expected = model.predict(inputs, verbose=0)
    for runtime in RUNTIMES:
        device = load_trainable(tmp_path / "m.tflite", runtime)
        start = device.save()
        assert device.task == name and {"to_it/bias", "to_it/kernel"} <= set(start)
        assert device.train(inputs, labels) > device.train(inputs, {name: labels})
        assert np.abs(device.infer(inputs)[name] - expected[name]).max() > 1e-3
        device.restore(start)
        for task, answers in device.infer({"0": inputs}).items():
            np.testing.assert_allclose(answers, expected[task], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["my input", "to_zeta.kernel"])
def test_inputs_whose_names_are_no_identifiers(name, tmp_path):
    x = keras.Input((3,), name=name)
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2, name="to_zeta")(x)})
    export_trainable(model, tmp_path / "m.tflite", "zeta", loss="mse")
    device = load_trainable(tmp_path / "m.tflite")
    assert list(device.input_details) == [name]
    device.restore({**device.save(), "to_zeta/kernel": np.zeros((3, 2), "float32")})
    assert not device.infer(np.ones((1, 3), "float32"))["zeta"].any()


# The table of gradients, against TensorFlow's own.

OPERATIONS = {
    "Relu": tf.nn.relu,
    "Relu6": lambda x: tf.nn.relu6(4 * x),
    "Elu": tf.nn.elu,
    "LeakyRelu": lambda x: tf.nn.leaky_relu(x, 0.3),
    "Softsign": tf.nn.softsign,
}
for _stride, _padding, _dilation in [(1, "SAME", 1), (2, "SAME", 1), (3, "VALID", 1),
                                     (1, "VALID", 2), (1, "SAME", 2)]:  # fmt: skip
    _key = f"{_stride}-{_padding}-{_dilation}"
    _where = {"strides": _stride, "padding": _padding, "dilations": _dilation}
    OPERATIONS[f"Conv2D-{_key}"] = lambda x, k, w=_where: tf.nn.conv2d(x, k, **w)
    if _dilation == 1:
        _pool = {"ksize": (3, 2), "strides": _stride, "padding": _padding}
        OPERATIONS[f"MaxPool-{_key}"] = lambda x, w=_pool: tf.nn.max_pool2d(x, **w)
        OPERATIONS[f"AvgPool-{_key}"] = lambda x, w=_pool: tf.nn.avg_pool2d(x, **w)
        _four = (1, _stride, _stride, 1)
        OPERATIONS[f"DepthwiseConv2dNative-{_key}"] = lambda x, k, s=_four, p=_padding: (
            tf.nn.depthwise_conv2d(x, k, s, p)
        )
        _size = (2, 5 * _stride, 6 * _stride, 4)
        if _padding == "SAME":
            OPERATIONS[f"Conv2DBackpropInput-{_key}"] = lambda x, k, n=_size, s=_stride: (
                tf.nn.conv2d_transpose(x, tf.transpose(k, (0, 1, 3, 2)), n, s, "SAME")
            )


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_those_of_tensorflow(name):
    arguments = [tf.constant(RNG.normal(size=(2, 5, 6, 3)).astype("float32"))]
    if "Pool" in name:
        arguments = [tf.round(arguments[0])]  # with equal values in a window
    if "Conv" in name:
        arguments.append(tf.constant(RNG.normal(size=(3, 2, 3, 4)).astype("float32")))

    def gradients():
        y = OPERATIONS[name](*arguments)
        weights = tf.sin(tf.cast(tf.reshape(tf.range(tf.size(y)), tf.shape(y)), "float32"))
        return tf.gradients(tf.reduce_sum(y * weights), arguments)

    def ours():
        with builtin_gradients():
            return gradients()

    traced = tf.function(ours, autograph=False).get_concrete_function()
    assert name.partition("-")[0] in {op.type for op in traced.graph.get_operations()}
    for a, b in zip(traced(), tf.function(gradients, autograph=False)(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_every_gradient_is_tried():
    assert {name.partition("-")[0] for name in OPERATIONS} == set(GRADIENTS)


# What cannot be.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "m.bin"}, r"`path` must end in .tflite. Received: path="),
        ({"batch_size": 0}, r"`batch_size` must be at least 1. Received: batch_size=0"),
        ({"infer_batch_size": 0}, r"`infer_batch_size` must be at least 1.*infer_batch_size=0"),
        ({"task": "beta"}, r"`task` must be one of .*\['mid', 'zeta'\].*task='beta'"),
        ({"layers": ["dense"]}, r"`layers` must be among .*\['to_zeta'\].*layers=\['dense'\]"),
        ({"layers": []}, r"`layers` must be among .*layers=\[\]"),
        ({"loss": None}, r"`loss` must be given .*loss=None for task 'zeta'"),
        (
            {"loss": keras.losses.MeanSquaredError(reduction=None)},
            r"`loss` must reduce .*reduction=None",
        ),
        (
            {"optimizer": keras.optimizers.SGD(use_ema=True)},
            r"`optimizer` must change the weights at each step.*use_ema=True",
        ),
        (
            {"loss": lambda y, p: tf.reduce_mean(tf.math.bessel_i0(y - p))},
            r"builtin LiteRT form.*Received: BesselI0, BesselI1 in the loss of task zeta",
        ),
        ({"loss": lambda y, p: tf.reduce_mean(y / 0.0 - p)}, r"must stay finite.*losses \[inf"),
    ],
)
def test_arguments_that_cannot_be_served(two_heads, changes, message, tmp_path):
    arguments = {"path": "m.tflite", "task": "zeta", "loss": "mse", **changes}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=message):
        export_trainable(two_heads, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_layer_without_a_builtin_gradient_is_named_and_can_be_left_out(tmp_path):
    model = build(activation="gelu")
    with pytest.raises(ValueError, match=r"Received: Erfc in layer zeta_hidden$"):
        export_trainable(model, tmp_path / "m.tflite", "zeta")
    assert not list(tmp_path.iterdir())
    result = export_trainable(model, tmp_path / "m.tflite", "zeta", layers=["to_zeta"])
    assert result.layers == ("to_zeta",)


def test_tasks_that_have_nothing_of_their_own_or_the_name_of_an_input(tmp_path):
    x = keras.Input((3,), name="zeta")
    h = layers.Dense(2)(x)
    model = kmtl.MultiTaskModel(
        x, {"mid": layers.ReLU()(h), "alpha": h, "zeta": layers.Dense(1)(h)}
    )
    with pytest.raises(ValueError, match="layers with weights that no other.*none for task='mid'"):
        export_trainable(model, tmp_path / "m.tflite", "mid", loss="mse")
    with pytest.raises(ValueError, match="must not have the name of an input.*task='zeta'"):
        export_trainable(model, tmp_path / "m.tflite", "zeta", loss="mse")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y + 1, r"'zeta' must be class indices from 0 to 3. Received: . to 4"),
        (X, Y - 1, r"'zeta' must be class indices from 0 to 3. Received: -1 to"),
        (X, Y[:, None], r"labels of zeta' must have the shape \(16,\).*Received: \(16, 1\)"),
        (X, Y + 0.0, r"values of type int32. Received: \(16,\) of float64"),
        (X, {"mid": Y}, r"Labels must be of the task that is trained, 'zeta'.*\['mid'\]"),
        (X[:7], Y[:7], r"takes 16 rows.*Received: 7 rows"),
        (X[:, :5], Y, r"Input 'image' must have the shape"),
        (X * np.nan, Y, r"Input 'image' must be finite"),
    ],
)
def test_bad_batches_teach_nothing(device, x, y, message):
    before = device.save()
    with pytest.raises(ValueError, match=message):
        device.train(x, y)
    assert all(np.array_equal(array, before[name]) for name, array in device.save().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to_zeta/bias": None}, r"`state` must hold.*missing \['to_zeta/bias'\], unknown \[\]"),
        ({"to_mid/bias": np.ones(4)}, r"missing \[\], unknown \['to_mid/bias'\]"),
        ({"to_zeta/bias": np.ones(3)}, r"'to_zeta/bias' must have the shape \(4,\)"),
        ({"to_zeta/bias": np.full(4, np.nan)}, r"'to_zeta/bias' must be finite. Received: 4"),
        ({"optimizer/iteration": 1.5}, r"'optimizer/iteration' must have.*type int32"),
    ],
)
def test_states_of_something_else_are_refused(device, changes, message):
    before = device.save()
    state = {name: array for name, array in {**before, **changes}.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        device.restore(state)
    assert all(np.array_equal(array, before[name]) for name, array in device.save().items())


def test_other_files_cannot_be_trained(two_heads, result, tmp_path):
    export_litert(two_heads, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=r"must have the signatures.*\['serving_default'\]"):
        load_trainable(tmp_path / "m.tflite")
    (tmp_path / "cut.tflite").write_bytes(result.path.read_bytes()[:-999])
    with pytest.raises(ValueError, match="must be whole"):
        load_trainable(tmp_path / "cut.tflite")


def test_a_loss_that_moves_nothing_is_refused(tmp_path):
    x = keras.Input((3,), name="x")
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(1)(x), "mid": layers.Dense(2)(x)})
    with pytest.raises(ValueError, match="task 'zeta' can be trained by.*moves no weight"):
        export_trainable(
            model, tmp_path / "m.tflite", "zeta", loss="sparse_categorical_crossentropy"
        )
    assert not list(tmp_path.iterdir())


def test_a_head_with_attention(tmp_path):
    """The bias of its keys has a gradient of 0, but for rounding."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 4), name="x")
    s = layers.Dense(4)(x)
    h = layers.Flatten()(layers.MultiHeadAttention(2, 3)(s, s))
    heads = {"zeta": layers.Dense(2)(h), "mid": layers.Dense(2)(layers.Flatten()(s))}
    result = export_trainable(
        kmtl.MultiTaskModel(x, heads), tmp_path / "m.tflite", "zeta", loss="mse"
    )
    assert result.training_errors["update_error"] < 1e-4
