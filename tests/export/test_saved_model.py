"""From a network to a SavedModel that servers and TPUs run: every head under its own signature."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.cli.main import main
from kmtl.export import VerificationError, export_saved_model, fold
from kmtl.export.files import replaced_folder
from kmtl.export.targets import saved_model as module
from kmtl.export.targets.bfloat16 import to_bfloat16
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf  # noqa: E402

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 5)).astype("float32")
WIDTHS = {"zeta": 4, "alpha": 3, "mid": 4}  # two heads of one width: swapped, they would fit
SIGNATURES = ("serving_default", "alpha", "mid", "zeta")
NETWORKS = {
    "hard_sharing": HardSharing,
    "cross_stitch": CrossStitchNetwork,
    "sluice": SluiceNetwork,
    "factorized": FactorizedNetwork,
}
# What these networks stay well below; a swapped head has about 1.
CLOSE = {"cpu": 1e-6, "tpu": 0.02}
TARGETS = {"cpu": {}, "tpu": {"target": "tpu", "batch_size": 8}}


def build(name):
    keras.utils.set_random_seed(5)
    tower = [layers.Dense(8, activation="tanh")]
    heads = {
        task: [
            layers.Dropout(0.5),
            layers.Dense(width, bias_initializer="normal", name=f"to_{task}"),
        ]
        for task, width in WIDTHS.items()
    }
    return NETWORKS[name](tower, heads, inputs=keras.Input((5,), name="features"))


@keras.saving.register_keras_serializable(package="test_saved_model")
class Odd(layers.Layer):
    """An operation that not every target has."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def call(self, x):
        if self.kind == "no_xla":
            return tf.strings.to_number(tf.strings.as_string(x))
        y = tf.numpy_function(lambda a: a, [x], tf.float32)
        return tf.reshape(y, tf.shape(x))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def odd_model(kind):
    x = keras.Input((3,))
    h = layers.Dense(3, name="harmless")(x)
    outputs = {"zeta": Odd(kind, name="odd")(h), "alpha": layers.Dense(2, name="after")(h)}
    return kmtl.MultiTaskModel(x, outputs)


def relative_error(answer, reference):
    return np.linalg.norm(answer - reference) / np.linalg.norm(reference)


def nodes(function):
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for f in graph.library.function for node in f.node_def)]


@pytest.fixture(scope="module")
def model():
    return build("cross_stitch")


def export_and_load(model, target, path):
    result = export_saved_model(model, path, **TARGETS[target])
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return result, tf.saved_model.load(str(path))


@pytest.fixture(scope="module")
def on_tpu(model, tmp_path_factory):
    """Exported once, as compiling takes its time."""
    return export_and_load(model, "tpu", tmp_path_factory.mktemp("tpu") / "model")


def check_signatures(network, target, result, loaded):
    assert result.target == target and result.path.name == "model"
    assert result.signatures == SIGNATURES and result.tasks == ("alpha", "mid", "zeta")
    files = [p for p in result.path.rglob("*") if p.is_file()]
    assert result.bytes == sum(p.stat().st_size for p in files)
    expected = {task: ops.convert_to_numpy(y) for task, y in network(X, training=False).items()}
    assert relative_error(expected["zeta"], expected["mid"]) > 0.5
    assert set(loaded.signatures) == set(SIGNATURES)
    for key in SIGNATURES:
        answers = loaded.signatures[key](features=tf.constant(X))
        assert set(answers) == (set(WIDTHS) if key == "serving_default" else {key})
        for task, answer in answers.items():
            assert answer.dtype == tf.float32 and answer.shape == (8, WIDTHS[task])
            assert relative_error(answer, expected[task]) <= CLOSE[target], (key, task)
    for task in WIDTHS:
        assert 0 <= result.errors[task]["relative_error"] <= CLOSE[target]


@pytest.mark.parametrize("name", NETWORKS)
def test_three_tasks_come_back_from_every_signature(name, tmp_path):
    network = build(name)
    check_signatures(network, "cpu", *export_and_load(network, "cpu", tmp_path / "model"))


def test_three_tasks_come_back_in_bfloat16(model, on_tpu):
    check_signatures(model, "tpu", *on_tpu)


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"cross_stitch"}))
def test_every_network_comes_back_in_bfloat16(name, tmp_path):
    network = build(name)
    check_signatures(network, "tpu", *export_and_load(network, "tpu", tmp_path / "model"))


def test_weights_are_stored_once(model, on_tpu):
    result, _ = on_tpu
    held = tf.train.list_variables(str(result.path / "variables" / "variables"))
    stored = sum(np.prod(shape) for name, shape in held if name.startswith("variables_of_model"))
    assert stored == sum(np.prod(w.shape) for w in fold(model).weights)


def test_for_a_tpu_shapes_are_static_and_xla_compiles_bfloat16(on_tpu):
    result, loaded = on_tpu
    for key in SIGNATURES:
        function = loaded.signatures[key]
        (spec,) = function.structured_input_signature[1].values()
        assert spec.shape == (8, 5) and spec.dtype == tf.float32 and spec.name == "features"
        library = function.graph.as_graph_def().library.function
        assert any(f.attr["_XlaMustCompile"].b for f in library)
        products = [node for node in nodes(function) if node.op == "MatMul"]
        assert products and all(n.attr["T"].type == tf.bfloat16.as_datatype_enum for n in products)
    assert all(1e-4 < e["relative_error"] for e in result.errors.values())  # it is rounded


def test_a_task_s_signature_computes_its_part_only(tmp_path):
    size, tokens = keras.Input((2,), name="size"), keras.Input((4,), dtype="int32", name="to-kens")
    h = layers.Flatten()(layers.Embedding(9, 3)(tokens))
    outputs = {
        "zeta": layers.Dense(2)(layers.Concatenate()([h, size])),
        "alpha": layers.Dense(2)(size),
    }
    two = kmtl.MultiTaskModel({"to-kens": tokens, "size": size}, outputs)
    data = {
        "size": RNG.normal(size=(10, 2)).astype("float32"),
        "to-kens": RNG.integers(0, 9, size=(10, 4)).astype("int32"),
    }
    with pytest.raises(ValueError, match="integer inputs.*'to-kens'"):
        export_saved_model(two, tmp_path / "model")
    # ten rows, four at a time: the last call is filled up
    export_saved_model(two, tmp_path / "model", batch_size=4, representative_data=data)
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    asked = {
        key: {spec.name for spec in f.structured_input_signature[1].values()}
        for key, f in signatures.items()
    }
    everything = {"size", "to-kens"}
    assert asked == {"serving_default": everything, "zeta": everything, "alpha": {"size"}}
    products = {k: sum(n.op == "MatMul" for n in nodes(f)) for k, f in signatures.items()}
    assert products == {"serving_default": 2, "zeta": 1, "alpha": 1}
    answer = signatures["alpha"](size=tf.constant(data["size"][:4]))["alpha"]
    reference = two(data)["alpha"][:4]
    np.testing.assert_allclose(answer, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.nightly
def test_the_folder_is_served_without_keras(model, tmp_path):
    export_saved_model(model, tmp_path / "model", tasks=["zeta", "alpha"])
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "x = tf.constant(np.load('x.npy'))\n"
        "y = tf.saved_model.load('model').signatures['zeta'](features=x)\n"
        "assert list(y) == ['zeta'] and 'kmtl' not in sys.modules\n"
        "np.save('y.npy', y['zeta'])\n"
    )
    np.save(tmp_path / "x.npy", X[:3])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    expected = ops.convert_to_numpy(model(X[:3], training=False)["zeta"])
    assert relative_error(np.load(tmp_path / "y.npy"), expected) <= 1e-6


def test_the_litert_converter_keeps_every_signature(model, tmp_path):
    export_saved_model(model, tmp_path / "model", batch_size=1)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "model"), signature_keys=list(SIGNATURES)
    )
    from ai_edge_litert.interpreter import Interpreter

    found = Interpreter(model_content=converter.convert()).get_signature_list()
    assert set(found) == set(SIGNATURES) and found["mid"]["outputs"] == ["mid"]


def test_bfloat16_reaches_wrapped_layers_and_spares_statistics():
    x = keras.Input((6, 2), name="x")
    scaled = layers.Normalization(mean=1000.0, variance=1.0)(x)
    h = layers.TimeDistributed(layers.Dense(4), name="each")(scaled)
    plain = keras.Model(x, {"zeta": layers.LSTM(3)(layers.BatchNormalization(name="bn")(h))})
    rounded = to_bfloat16(plain)
    assert rounded.get_layer("each").layer.compute_dtype == "bfloat16"
    assert rounded.get_layer("bn").moving_variance.dtype == "float32"
    assert rounded.output["zeta"].dtype == rounded.inputs[0].dtype == "float32"
    data = RNG.normal(1000.0, 1.0, size=(8, 6, 2)).astype("float32")
    error = relative_error(rounded(data)["zeta"], ops.convert_to_numpy(plain(data)["zeta"]))
    assert 1e-4 < error < 0.02  # in bfloat16, 1000 and 1001 are one number


def test_tables_of_lookups_are_stored(tmp_path):
    x = keras.Input((1,), dtype="int64", name="code")
    h = layers.IntegerLookup(vocabulary=[40, 7, 12], name="lookup")(x)
    h = layers.Flatten()(layers.Embedding(4, 3)(h))
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(h), "alpha": layers.Dense(3)(h)})
    data = np.array([[7], [40], [1]], "int64")
    result = export_saved_model(model, tmp_path / "model", representative_data=data)
    assert result.errors["zeta"]["relative_error"] <= 1e-6


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("sabotage", ["swapped_heads", "lost_head", "nan"])
def test_a_wrong_model_is_caught_and_nothing_is_written(sabotage, earlier, tmp_path, monkeypatch):
    x = keras.Input((3,))
    heads = {"zeta": layers.Dense(2), "mid": layers.Dense(2)}
    model = kmtl.MultiTaskModel(x, {task: head(x) for task, head in heads.items()})
    path = tmp_path / "model"
    if earlier:
        export_saved_model(model, path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    def wrong(served, task):
        other = {"zeta": "mid", "mid": "zeta"}[task]
        key = other if sabotage == "lost_head" else task
        head = served.output[other if sabotage == "swapped_heads" else task]
        if sabotage == "nan":
            head = layers.Rescaling(np.nan)(head)
        return keras.Model(served.inputs, {key: head})

    monkeypatch.setattr(module, "part_of", wrong)
    message = r"signature 'mid' must have" if sabotage == "lost_head" else "tolerance=.*signature"
    with pytest.raises(VerificationError, match=message):
        export_saved_model(model, path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_an_earlier_saved_model_is_replaced(model, tmp_path):
    path = tmp_path / "deep" / "model"
    export_saved_model(model, path)
    export_saved_model(model, path, tasks="mid")
    assert set(tf.saved_model.load(str(path)).signatures) == {"serving_default", "mid"}
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_a_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()

    def rename(source, target, real=module.os.rename):
        if str(source).endswith(".part"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("kmtl.export.files.os.rename", rename)
    with pytest.raises(OSError, match="No space left"), replaced_folder(path) as folder:
        (folder / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "old"]


@pytest.mark.parametrize("held", ["notes", "notes_beside_a_model", "file", "nothing"])
def test_what_is_no_saved_model_is_not_replaced(model, held, tmp_path):
    path = tmp_path / "model"
    if held == "file":
        path.write_text("mine")
    else:
        path.mkdir()
    if held.startswith("notes"):
        (path / "notes.txt").write_text("mine")
    if held == "notes_beside_a_model":
        (path / "saved_model.pb").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="`path` must be new, or .*SavedModel.*Received: path="):
        export_saved_model(model, path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "gpu"}, r"`target` must be one of \['cpu', 'tpu'\].*Received: target='gpu'"),
        ({"target": "tpu"}, r"`batch_size` must be given for target='tpu'.*Received: None"),
        ({"batch_size": 0}, r"`batch_size` must be at least 1.*Received: batch_size=0"),
        ({"tolerance": 0.0}, r"`tolerance` must be positive.*Received: tolerance=0.0"),
        ({"tasks": "typo"}, r"among the model's tasks"),
        ({"representative_data": X[:, :2]}, r"must have the shape \(samples, 5\)"),
    ],
)
def test_arguments_out_of_range(model, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "model", **options)
    assert not list(tmp_path.iterdir())


def test_the_tolerance_decides(model, tmp_path):
    with pytest.raises(VerificationError, match="at most tolerance=1e-05. Received: .*mid"):
        export_saved_model(model, tmp_path / "model", tolerance=1e-5, **TARGETS["tpu"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("inputs", "heads", "target", "message"),
    [
        ({"shape": (3,)}, ["zeta", "serve"], "cpu", "must not be called .*Received: serve"),
        ({"shape": (3,)}, ["serving_default"], "cpu", "Received: serving_default"),
        ({"shape": (None, 3), "name": "x"}, ["zeta"], "tpu", r"static.*'x' of shape \(None, N"),
        ({"shape": (None, 3), "name": "x"}, ["zeta"], "cpu", "representative_data.*any length"),
        ({"shape": (3,), "name": "two words"}, ["zeta"], "cpu", "Received: two words"),
        ({"shape": (3,), "dtype": "string", "name": "x"}, ["zeta"], "cpu", "'x' of type string"),
    ],
)
def test_models_that_no_signature_fits(inputs, heads, target, message, tmp_path):
    x = keras.Input(**inputs)
    h = layers.StringLookup(vocabulary=["a"], output_mode="one_hot")(x) if "dtype" in inputs else x
    model = kmtl.MultiTaskModel(x, {task: layers.Dense(2)(h) for task in heads})
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "model", **TARGETS[target])
    assert not list(tmp_path.iterdir())


def test_an_operation_without_an_xla_form_names_the_layer(tmp_path):
    strings = odd_model("no_xla")
    export_saved_model(strings, tmp_path / "cpu")
    with pytest.raises(ValueError, match="XLA form.*Received: AsString.* in layer 'odd'"):
        export_saved_model(strings, tmp_path / "tpu", **TARGETS["tpu"])
    assert [p.name for p in tmp_path.iterdir()] == ["cpu"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_operation_in_python_names_the_layer(target, tmp_path):
    with pytest.raises(ValueError, match="without Python.*Received: .*/odd.*PyFunc"):
        export_saved_model(odd_model("python"), tmp_path / "model", **TARGETS[target])
    assert not list(tmp_path.iterdir())


def test_exporting_prints_nothing(model, tmp_path, capfd):
    export_saved_model(model, tmp_path / "model", tasks="mid", **TARGETS["tpu"])
    assert capfd.readouterr() == ("", "")


def test_the_command(model, tmp_path, capsys):
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", features=X)
    arguments = ["saved_model", f"{tmp_path}/m.keras", f"--representative_data={tmp_path}/x.npz"]
    tpu = ["--target=tpu", "--batch_size=8", f"--output={tmp_path}/out", "--tasks=mid"]
    assert main([*arguments, *tpu]) == 0
    shown = capsys.readouterr().out
    assert "signatures: serving_default, mid\n" in shown and "bytes for tpu" in shown
    assert (tmp_path / "out" / "saved_model.pb").exists()
    assert main(arguments) == 0
    assert set(tf.saved_model.load(f"{tmp_path}/m").signatures) == set(SIGNATURES)
    capsys.readouterr()
    assert main([*arguments, "--target=tpu"]) == 1
    message = capsys.readouterr().err
    assert "`batch_size` must be given" in message and message.count("\n") == 1
    assert main([*arguments, "--output=/dev/null/model"]) == 1
    assert "/dev/null" in capsys.readouterr().err
