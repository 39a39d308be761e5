"""Every quantisation as data, overrides of heads and layers, data sources, batch sizes."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.cli.main import main
from kmtl.export import VerificationError, export_litert, inspect_litert, load_litert
from kmtl.export.flatbuffers.convert import to_flatbuffer
from kmtl.export.flatbuffers.operations import find_operations
from kmtl.export.folding.fold import fold
from kmtl.export.litert import post_training
from kmtl.export.quantization import recipes as recipes_module
from kmtl.export.quantization.quantize import quantize
from kmtl.export.quantization.ranges import measure_ranges
from kmtl.export.quantization.recipes import OVERRIDES, QUANTIZATIONS, load_recipe, needs_data
from kmtl.export.runtime.litert_model import RUNTIMES, LiteRTModel
from kmtl.export.runtime.verify import TOLERANCES
from kmtl.export.samples import MAX_SAMPLES, read_samples

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf

pytestmark = pytest.mark.slow

X = np.random.default_rng(0).normal(size=(48, 8, 8, 3)).astype("float32")
RECIPES = Path(recipes_module.__file__).parent / "recipes"
# Relative error of a head that these networks stay below: 8 and 4 bits of weights.
CLOSE = {name: 0.25 if "int4" in name else 0.03 for name in QUANTIZATIONS}
NO_INT4 = {"up": "dynamic_int8"}  # transposed convolutions compute with 8 bits at least


def build(name="net"):
    """Heads `zeta` (dense), `alpha` (an image) and `mid`, whose name is also a layer's."""
    keras.utils.set_random_seed(5)
    x = keras.Input((8, 8, 3), name="image")
    h = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    h = layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, name="body")(h))
    h = layers.Activation("relu", name="act")(h)
    flat = layers.Flatten(name="flat")(h)
    zeta = layers.Dense(32, activation="relu", name="dense", bias_initializer="normal")(flat)
    zeta = layers.Dense(4, name="dense_1", bias_initializer="normal")(zeta)
    alpha = layers.Conv2DTranspose(1, 2, strides=2, name="up")(h)
    mid = layers.Dense(3, name="mid")(layers.Dense(32, activation="tanh", name="m")(flat))
    return kmtl.MultiTaskModel(x, {"zeta": zeta, "alpha": alpha, "mid": mid}, name=name)


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(autouse=True)
def convert_once(monkeypatch):
    """Converting takes a second; the same model gives the same flatbuffer."""

    def cached(plain, batch_size):
        key = (plain.name, batch_size)
        if plain.name != "net" or key not in CONVERTED:
            CONVERTED[key] = to_flatbuffer(plain, batch_size)
        return CONVERTED[key]

    monkeypatch.setattr(post_training, "to_flatbuffer", cached)


CONVERTED = {}


def expected_of(model, x=X):
    return {task: ops.convert_to_numpy(y) for task, y in model(x, training=False).items()}


def relative_error(answer, reference):
    return np.linalg.norm(answer - reference) / np.linalg.norm(reference)


def kernels(content):
    """Layer -> (type, number of scales) of its kernel, read from the file's tensors."""
    from ai_edge_litert import schema_py_generated as schema

    types = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    model, found = schema.ModelT.InitFromPackedBuf(content, 0), {}
    tensors = [t for t in model.subgraphs[0].tensors if t.shape is not None]
    for tensor in sorted(tensors, key=lambda t: np.prod(t.shape)):  # kernels after their scales
        buffer = model.buffers[tensor.buffer]
        is_float = tensor.type in (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
        if (buffer.data is None and not buffer.size) or len(tensor.shape) < 2:
            continue
        scales = tensor.quantization.scale if tensor.quantization and not is_float else None
        layer = tensor.name.decode().split("/")[0]
        found[layer] = (types[tensor.type], 0 if scales is None else len(scales))
    return found


def test_each_name_has_its_data_its_row_and_its_tolerance():
    files = {path.stem for path in RECIPES.glob("*.json")}
    assert files | {"float32"} == set(QUANTIZATIONS) == set(TOLERANCES)
    table = (RECIPES / "README.md").read_text()
    for name in files:
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{name}` "))
        assert row.rstrip("| ").endswith("needed") == needs_data(load_recipe(name))


KERNELS = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "weight_only_int4": "INT4",
    "dynamic_int4": "INT4",
    "dynamic_int4_block32": "INT4",
    "int4": "INT4",
}


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_recipe(model, quantization, tmp_path):
    overrides = NO_INT4 if quantization.startswith("dynamic_int4") else None
    path = tmp_path / "m.tflite"
    result = export_litert(model, path, quantization, representative_data=X, overrides=overrides)
    assert set(result.errors) == {"zeta", "alpha", "mid"}
    for errors in result.errors.values():
        assert errors["relative_error"] <= CLOSE[quantization]
    assert (result.errors["zeta"]["relative_error"] > 1e-4) == (quantization != "float32")
    found = kernels(path.read_bytes())
    kind = KERNELS.get(quantization, "INT8")
    assert {found[name][0] for name in ("stem", "dense", "m")} == {kind}
    if "INT" in kind:
        assert found["stem"][1] == 8  # a scale for each channel
        # Dense kernels of 32 x (6 * 6 * 8) keep one for each block of 32 in a tensor beside.
        assert found["dense"][1] == (0 if "block" in quantization else 32)
    data = json.loads(path.with_suffix(".json").read_text())
    assert data["recipe"] == result.recipe
    assert data["verified"]["threads"] == [1, 4]
    ends = {"int8_io": "int8", "uint8_io": "uint8"}.get(quantization, "float32")
    assert data["inputs"]["image"]["dtype"] == data["tasks"]["mid"]["dtype"] == ends
    expected = expected_of(model, X[:5])
    for runtime in RUNTIMES:
        for task, y in load_litert(path, runtime)(X[:5]).items():
            assert y.dtype == np.float32
            assert relative_error(y, expected[task]) <= CLOSE[quantization], (runtime, task)


def test_less_bits_are_less_bytes(model, tmp_path):
    def size(name, **kwargs):
        return export_litert(model, tmp_path / "m.tflite", name, X, **kwargs).bytes

    full, half = size("float32"), size("float16")
    eighth = size("dynamic_int4", overrides=NO_INT4)
    assert eighth < size("dynamic_int8") < half < full
    assert eighth < size("dynamic_int4_block32", overrides=NO_INT4)  # more scales


@pytest.mark.parametrize("quantization", ["int8_io", "uint8_io"])
def test_integer_ends_are_the_real_values_on_their_grid(model, quantization, tmp_path):
    path = export_litert(model, tmp_path / "m.tflite", quantization, X).path
    runner = load_litert(path)
    image, mid = runner.input_details["image"], runner.output_details["mid"]
    raw = np.round(X[:1] / image.scale) + image.zero_point
    answer = runner.run_once({"image": raw.clip(*limits(image.dtype)).astype(image.dtype)})["mid"]
    assert answer.dtype == mid.dtype == quantization.removesuffix("_io")
    real = (answer.astype("float32") - mid.zero_point) * mid.scale
    np.testing.assert_allclose(runner(X[:1])["mid"], real, rtol=1e-6)
    # What lies outside of the range is cut off and does not wrap around.
    high = (limits(image.dtype)[1] - image.zero_point) * image.scale
    np.testing.assert_array_equal(runner(X[:1] * 0 + 1e6)["mid"], runner(X[:1] * 0 + high)["mid"])


def limits(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def test_operations_know_their_layers_and_heads(model):
    plain = fold(model)
    content = post_training.to_flatbuffer(plain, 1)
    found = [(op.kind, op.layers, op.heads) for op in find_operations(content, plain)]
    everything = ("alpha", "mid", "zeta")
    assert ("CONV_2D", ("stem",), everything) in found
    assert ("CONV_2D", ("act", "body"), everything) in found
    assert ("RESHAPE", ("flat",), ("mid", "zeta")) in found
    assert ("TRANSPOSE_CONV", ("up",), ("alpha",)) in found
    assert ("FULLY_CONNECTED", ("dense",), ("zeta",)) in found
    assert ("FULLY_CONNECTED", ("dense_1",), ("zeta",)) in found
    assert ("TANH", ("m",), ("mid",)) in found
    assert ("FULLY_CONNECTED", ("mid",), ("mid",)) in found


OF_HEAD = {"zeta": {"dense", "dense_1"}, "alpha": {"up"}, "mid": {"m", "mid"}}
ALL = {"stem", "body", "up", "dense", "dense_1", "m", "mid"}


@pytest.mark.parametrize("head", OF_HEAD)
@pytest.mark.parametrize("quantization", ["int8", "dynamic_int8"])
def test_exactly_one_head_stays_float(model, head, quantization, tmp_path):
    overrides = {head: "float32"}
    result = export_litert(model, tmp_path / "m.tflite", quantization, X, overrides=overrides)
    found = kernels(result.path.read_bytes())
    assert {layer for layer, (kind, _) in found.items() if kind == "FLOAT32"} == OF_HEAD[head]
    assert {layer for layer, (kind, _) in found.items() if kind == "INT8"} == ALL - OF_HEAD[head]
    data = json.loads(result.metadata_path.read_text())
    assert data["overrides"] == result.overrides == overrides
    if quantization == "int8":
        in_float = inspect_litert(result.path).float_ops
        count = sum(n for op, n in in_float.items() if op not in ("QUANTIZE", "DEQUANTIZE"))
        assert count == {"zeta": 2, "alpha": 1, "mid": 3}[head]


def test_layers_go_before_heads_and_each_other(model, tmp_path):
    overrides = {"zeta": "float32", "dense": "int8x16", "stem": "float16"}
    result = export_litert(model, tmp_path / "m.tflite", "int8", X, overrides=overrides)
    found = {layer: kind for layer, (kind, _) in kernels(result.path.read_bytes()).items()}
    assert found.pop("stem") == "FLOAT16"
    assert found.pop("dense_1") == "FLOAT32"  # `dense` does not mean `dense_1`
    assert set(found.values()) == {"INT8"}
    assert "INT64" in inspect_litert(result.path).weight_bytes  # the bias of `dense`
    assert inspect_litert(result.path).float_ops["FULLY_CONNECTED"] == 1


def test_one_quantised_head_of_a_float_file_needs_data(model, tmp_path):
    with pytest.raises(ValueError, match=r"`representative_data` must be given"):
        export_litert(model, tmp_path / "m.tflite", overrides={"mid": "int8"})
    result = export_litert(
        model, tmp_path / "m.tflite", representative_data=X, overrides={"mid": "int8"}
    )
    found = kernels(result.path.read_bytes())
    assert {layer for layer, (kind, _) in found.items() if kind == "INT8"} == {"m", "mid"}
    assert result.errors["zeta"]["relative_error"] < 1e-5 < result.errors["mid"]["relative_error"]


@pytest.mark.parametrize("quantization", ["int8", "uint8_io"])
def test_overriding_the_only_head_leaves_the_ends_alone(quantization, tmp_path):
    x = keras.Input((6,), name="x")
    model = kmtl.MultiTaskModel(x, {"only": layers.Dense(3)(layers.Dense(4)(x))})
    data = X.reshape(-1, 6)[:32]
    kinds = ("float32", "int8x16") if quantization == "int8" else ("float32",)
    for kind in kinds:
        path = tmp_path / "m.tflite"
        export_litert(model, path, quantization, data, overrides={"only": kind})
        signature = inspect_litert(path).signature
        ends = {signature.inputs["x"].dtype, signature.outputs["only"].dtype}
        assert ends == {"uint8" if quantization == "uint8_io" else "float32"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"nope": "float32"}, r"`overrides` must name layers.*'stem'.*Received: nope"),
        ({"stem": "int3"}, r"`overrides` must give.*Received: 'int3' for 'stem'"),
        ({"stem": "uint8_io"}, r"`overrides` must give.*Received: 'uint8_io' for 'stem'"),
        ({"norm": "float32"}, r"`overrides` must name layers.*Received: norm"),  # in the kernel
        ({"body": "float32", "act": "int8"}, r"the same type. Received: .*'body': 'float32'"),
        ({"mid": "dynamic_int4", "up": "dynamic_int4"}, r"kernel.*Received: TRANSPOSE_CONV"),
    ],
)
def test_overrides_that_cannot_be(model, overrides, message, tmp_path):
    assert "uint8_io" not in OVERRIDES
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "m.tflite", "int8", X, overrides=overrides)
    assert not list(tmp_path.iterdir())


def head_of(layer, shape=(8, 8, 4)):
    x = keras.Input(shape, name="x", dtype="int32" if shape == (4,) else "float32")
    return kmtl.MultiTaskModel(x, {"a": layers.Flatten()(layer(x)), "b": layers.Flatten()(x)})


LAYERS = {
    "dense": (layers.Dense, (3,), (6,)),
    "conv": (layers.Conv2D, (3, 3), (8, 8, 4)),
    "depthwise": (layers.DepthwiseConv2D, (3,), (8, 8, 4)),
    "transposed": (layers.Conv2DTranspose, (3, 3), (8, 8, 4)),
    "embedding": (layers.Embedding, (9, 8), (4,)),
}
RUNS_INT4 = {
    "weight_only_int4": {"dense", "conv", "depthwise", "transposed"},
    "dynamic_int4": {"dense", "conv"},
}


@pytest.mark.parametrize("quantization", RUNS_INT4)
@pytest.mark.parametrize("kind", LAYERS)
def test_which_operations_have_four_bits(kind, quantization, tmp_path):
    make, arguments, shape = LAYERS[kind]
    x = keras.Input(shape, name="x", dtype="int32" if kind == "embedding" else "float32")
    model = kmtl.MultiTaskModel(x, {"a": make(*arguments, name="layer")(x)})
    rng = np.random.default_rng(0)
    data = (
        rng.integers(0, 9, size=(8, *shape))
        if kind == "embedding"
        else rng.normal(size=(8, *shape))
    )
    path = tmp_path / "m.tflite"
    if kind in RUNS_INT4[quantization]:
        export_litert(model, path, quantization, data)
        assert kernels(path.read_bytes())["layer"][0] == "INT4"
    else:
        with pytest.raises(
            ValueError, match=rf"kernel.*Received: \w+ in layer layer, {quantization}"
        ):
            export_litert(model, path, quantization, data)
        export_litert(model, path, quantization, data, overrides={"layer": "float32"})


def test_a_kernel_that_the_runtime_lacks_is_caught(tmp_path, monkeypatch):
    x = keras.Input((8, 8, 4), name="x")
    model = kmtl.MultiTaskModel(x, {"a": layers.DepthwiseConv2D(3)(x)})
    recipe = load_recipe("dynamic_int4")
    recipe[0]["op_config"]["skip_checks"] = True
    monkeypatch.setattr(post_training, "with_overrides", lambda *args: recipe)
    with pytest.raises(VerificationError, match=r"(?s)must run the file.*DEPTHWISE_CONV_2D"):
        export_litert(model, tmp_path / "m.tflite", "dynamic_int4")
    assert not list(tmp_path.iterdir())


def test_blocks_must_divide_the_inputs(tmp_path):
    x = keras.Input((20,), name="x")
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(3, name="odd")(x)})
    with pytest.raises(ValueError, match=r"must suit the type.*Received: .*odd/.*block size 32"):
        export_litert(model, tmp_path / "m.tflite", "dynamic_int4_block32")


def test_loops_have_no_integer_activations(tmp_path):
    x = keras.Input((3, 2), name="x")
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(2)(layers.LSTM(3, name="memory")(x))})
    with pytest.raises(ValueError, match=r"nothing loops.*Received: WHILE in layer memory"):
        export_litert(model, tmp_path / "m.tflite", "int8", X.reshape(-1, 3, 2)[:8])


def test_a_branch_that_data_never_exercises_is_named(tmp_path):
    x = keras.Input((4,), name="x")
    dead = layers.Dense(
        3, activation="relu", name="dead", bias_initializer=keras.initializers.Constant(-99.0)
    )
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(dead(x)), "alpha": layers.Dense(2)(x)})
    data = X.reshape(-1, 4)[:16]
    path = tmp_path / "m.tflite"
    with pytest.raises(
        ValueError, match=r"exercise every.*FULLY_CONNECTED in layer dead: always 0"
    ):
        export_litert(model, path, "int8", data)
    assert not list(tmp_path.iterdir())
    export_litert(model, path, "dynamic_int8", data)


def test_a_range_that_is_not_finite_is_named(tmp_path):
    x = keras.Input((4,), name="x")
    high = layers.Activation("exponential", name="high")(layers.Rescaling(1e4)(x))
    low = layers.Rescaling(0.0, name="product")(layers.ReLU(6.0, name="cut")(high))
    model = kmtl.MultiTaskModel(
        x, {"zeta": layers.Add()([layers.Dense(2)(x), layers.Dense(2)(low)])}
    )
    with pytest.raises(ValueError, match=r"must be finite.*Received: \w+ in layer high: 0 to inf"):
        export_litert(model, tmp_path / "m.tflite", "int8", X.reshape(-1, 4)[:16])
    with pytest.raises(ValueError, match=r"outputs must be finite.*NaN or infinity in zeta"):
        model = kmtl.MultiTaskModel(x, {"zeta": high, "alpha": layers.Dense(2)(x)})
        export_litert(model, tmp_path / "m.tflite", representative_data=X.reshape(-1, 4)[:16])
    assert not list(tmp_path.iterdir())


def test_ranges_are_the_extremes_of_all_samples_and_kernels_have_none(model):
    plain = fold(model)
    content = post_training.to_flatbuffer(plain, 1)
    ranges = measure_ranges(content, [{"image": X[i : i + 1]} for i in range(6)])
    assert ranges["serving_default_image:0"] == (X[:6].min(), X[:6].max())
    assert not any(name.startswith("stem") and ";" not in name for name in ranges)
    assert kernels(quantize(content, load_recipe("int8"), ranges))["stem"] == ("INT8", 8)


# Data sources.


class Input:
    shape, dtype = (None, 3), "float32"


INPUTS = {"a": Input(), "b": Input()}
A = np.arange(30, dtype="float32").reshape(10, 3)


def batches(*keys):
    for start in range(0, 10, 4):
        yield {key: A[start : start + 4] for key in keys}


@pytest.mark.parametrize(
    "make",
    [
        lambda: A,
        lambda: {"a": A},
        lambda: tf.data.Dataset.from_tensor_slices(A).batch(4),
        lambda: tf.data.Dataset.from_tensor_slices((A, A[:, 0])).batch(3),
        lambda: tf.data.Dataset.from_tensor_slices(({"a": A}, A[:, 0])).batch(3),
        lambda: batches("a"),
        lambda: lambda: batches("a"),
        lambda: lambda: ([batch["a"]] for batch in batches("a")),
        lambda: iter([A[:9], A[9:]]),
    ],
)
def test_one_input_from_any_source(make):
    found = read_samples(make(), {"a": Input()})
    assert sorted(found) == ["a"]
    np.testing.assert_array_equal(found["a"], A)


def test_several_inputs_by_name():
    for data in (batches("b", "a"), tf.data.Dataset.from_tensor_slices({"b": A, "a": A}).batch(4)):
        found = read_samples(data, INPUTS)
        np.testing.assert_array_equal(found["a"], found["b"])
        assert len(found["a"]) == 10


def test_endless_data_and_large_arrays_are_cut():
    def endless():
        while True:
            yield A

    many = np.repeat(np.arange(4 * MAX_SAMPLES, dtype="float32")[:, None], 3, axis=1)
    for data in (endless(), endless, tf.data.Dataset.from_tensors(A).repeat()):
        assert len(read_samples(data, {"a": Input()})["a"]) == MAX_SAMPLES
    found = read_samples(many, {"a": Input()})["a"]
    assert len(found) == MAX_SAMPLES
    assert found[0, 0] == 0 and found[-1, 0] == len(many) - 1  # from all parts of sorted data


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tf.data.Dataset.from_tensor_slices(A).take(0).batch(2),
            r"at least one batch.*emp",
        ),
        (lambda: iter([]), r"at least one batch.*Received: an empty"),
        (lambda: lambda: None, r"something to iterate over. Received: NoneType"),
        (lambda: iter([A[:0]]), r"'a' must hold at least one sample"),
        (lambda: batches("b"), r"missing \['a'\], unknown \['b'\]"),
        (lambda: iter([A, A[:, :2]]), r"'a' must have the shape \(samples, 3\)"),
        (
            lambda: tf.data.Dataset.from_tensor_slices(A),
            r"'a' must have the shape.*Received: \(3,\)",
        ),
        (lambda: iter([A, A * np.nan]), r"'a' must be finite"),
    ],
)
def test_sources_without_usable_data(make, message):
    with pytest.raises(ValueError, match=message):
        read_samples(make(), {"a": Input()})


def test_a_generator_calibrates_and_verifies(model, tmp_path):
    stream = ((X[i : i + 5], None) for i in range(0, 40, 5))
    result = export_litert(model, tmp_path / "m.tflite", "int8", stream)
    whole = export_litert(model, tmp_path / "n.tflite", "int8", X[:40])
    assert result.path.read_bytes() == whole.path.read_bytes()
    assert json.loads(result.metadata_path.read_text())["verified"]["samples"] == 40


# Batch sizes.


@pytest.mark.parametrize("quantization", ["float32", "dynamic_int8", "int8", "uint8_io"])
def test_any_number_of_rows(quantization, tmp_path):
    x = keras.Input((8, 8, 3), name="image")
    h = layers.Conv2D(4, 3, activation="relu")(x)
    flat = layers.Reshape((4, -1))(layers.Flatten()(h))
    heads = {"zeta": layers.Conv2D(2, 1)(h), "alpha": layers.Dense(3)(layers.Flatten()(flat))}
    model = kmtl.MultiTaskModel(x, heads)
    path = tmp_path / "m.tflite"
    result = export_litert(model, path, quantization, X, batch_size=None)
    data = json.loads(result.metadata_path.read_text())
    assert data["inputs"]["image"]["shape"] == [None, 8, 8, 3]
    for runtime in RUNTIMES:
        runner = load_litert(path, runtime)
        assert runner.batch_size is None
        for rows in (1, 7, 2, 48, 48):  # up and down
            expected = expected_of(model, X[:rows])
            for task, y in runner(X[:rows]).items():
                assert y.shape == expected[task].shape
                assert relative_error(y, expected[task]) <= CLOSE[quantization] + 0.02


def test_a_layer_that_computes_its_shape_needs_a_number(model, tmp_path):
    with pytest.raises(ValueError, match=r"`batch_size=None`.*Received: SHAPE in layer up"):
        export_litert(model, tmp_path / "m.tflite", batch_size=None)
    assert not list(tmp_path.iterdir())


def test_verification_runs_both_batch_sizes_and_threads(tmp_path, monkeypatch):
    from kmtl.export.runtime import verify as verify_module

    seen = []

    class Spy(LiteRTModel):
        def __init__(self, content, runtime, num_threads, signature):
            super().__init__(content, runtime, num_threads, signature)
            self.how = (signature, runtime, num_threads)

        def __call__(self, inputs):
            seen.append((*self.how, len(next(iter(inputs.values())))))
            return super().__call__(inputs)

    monkeypatch.setattr(verify_module, "LiteRTModel", Spy)
    x = keras.Input((3,), name="x")
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(2)(x), "alpha": layers.Dense(2)(x)})
    export_litert(model, tmp_path / "m.tflite", batch_size=None, task_signatures=True)
    signatures = ("serving_default", "alpha", "zeta")
    assert seen == [
        (s, r, t, n) for r in RUNTIMES for t in (1, 4) for s in signatures for n in (64, 1)
    ]


def test_a_large_file_holds_its_constants_behind_the_flatbuffer(tmp_path):
    x = keras.Input((700,), name="x")
    hidden = layers.Dense(700, name="hidden")(x)
    heads = {"zeta": layers.Dense(2)(hidden), "alpha": layers.Dense(2)(hidden)}
    model = kmtl.MultiTaskModel(x, heads)
    data = np.random.default_rng(0).normal(size=(8, 700))
    for batch_size in (1, None):
        path = tmp_path / "m.tflite"
        export_litert(model, path, "int8", data, batch_size=batch_size)
        assert inspect_litert(path).weight_bytes["INT8"] == 700 * 700 + 2 * 2 * 700
        assert kernels(path.read_bytes())["hidden"] == ("INT8", 700)
        assert load_litert(path)(data[:3])["zeta"].shape == (3, 2)


def test_the_command_takes_types_overrides_and_any_batch_size(tmp_path, capsys):
    x = keras.Input((6,), name="x")
    heads = {"zeta": layers.Dense(3, name="last")(x), "alpha": layers.Dense(2)(x)}
    kmtl.MultiTaskModel(x, heads).save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x=X.reshape(-1, 6)[:16])
    arguments = ["export", f"{tmp_path}/m.keras", f"--representative_data={tmp_path}/x.npz"]
    arguments += ["--quantization=uint8_io", "--batch_size=0"]
    assert main([*arguments, "--overrides=alpha=dynamic_int8,last=float32"]) == 0
    assert kernels((tmp_path / "m.tflite").read_bytes())["last"][0] == "FLOAT32"
    assert main(["inspect", f"{tmp_path}/m.tflite"]) == 0
    shown = capsys.readouterr().out
    assert "uint8 any x 6  (integer - " in shown
    assert main(["run", f"{tmp_path}/m.tflite", f"--input={tmp_path}/x.npz"]) == 0
    assert "zeta  float32 16 x 3" in capsys.readouterr().out
    for bad, text in (("alpha", "pairs name=type"), ("beta=int8", "Received: beta")):
        assert main([*arguments, f"--overrides={bad}"]) == 1
        assert text in capsys.readouterr().err
    assert main([*arguments, "--batch_size=-1"]) == 1
    assert "batch_size=-1" in capsys.readouterr().err
    assert main(["export", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        f"{name}," in shown or f"{name}." in shown or f"{name} (" in shown for name in QUANTIZATIONS
    )
