"""What maps to an accelerator, head by head; and damaged files, which must not crash a process."""

import dataclasses
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.export import export_litert, fold, lint_litert, load_litert
from kmtl.export.edgetpu import rules
from kmtl.export.edgetpu.macs import macs
from kmtl.export.flatbuffers.graph import Operation, Tensor
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
X = np.random.default_rng(0).normal(size=(8, 8, 8, 2)).astype("float32")


def full_int8(model):
    """TensorFlow's own full-integer conversion, as Google's page asks for."""
    import tensorflow as tf

    from kmtl.export.flatbuffers.convert import quiet_stderr

    plain = fold(model)
    (x,) = plain.inputs
    specs = {x.name: tf.TensorSpec((1, *x.shape[1:]), x.dtype, name=x.name)}

    @tf.function(autograph=False)
    def serve(**inputs):
        return plain(inputs[x.name], training=False)

    module = tf.Module()
    module.kept = [v.value for v in plain.variables]
    concrete = serve.get_concrete_function(**specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ({x.name: row[None]} for row in X)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    with quiet_stderr():
        return converter.convert()


def lint(content, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    return lint_litert(path)


def rows_of(found, name):
    return [row for row in found.ops if row.name == name]


@pytest.fixture(scope="module")
def trunk():
    x = keras.Input((8, 8, 2), name="x")
    return x, layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(x)


@pytest.fixture(scope="module")
def mapped(trunk):
    """The four products of matrices that the Edge TPU knows, in three heads."""
    x, h = trunk
    pooled = layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(3, padding="same")(h))
    heads = {
        "zeta": layers.Dense(5, activation="softmax")(layers.Flatten()(h)),
        "alpha": layers.Conv2DTranspose(3, 2, strides=2)(h),
        "mid": layers.Dense(5)(pooled),
    }
    return full_int8(kmtl.MultiTaskModel(x, heads))


@pytest.fixture(scope="module")
def recurrent():
    from kmtl.export.flatbuffers.convert import to_flatbuffer

    x = keras.Input((6, 3), name="x")
    h = layers.LSTM(4)(x)
    heads = {"zeta": layers.Dense(2)(h), "alpha": layers.Dense(3)(x[:, 0])}
    return to_flatbuffer(fold(kmtl.MultiTaskModel(x, heads)), 1)


def test_a_file_that_maps_as_a_whole(mapped, tmp_path):
    found = lint(mapped, tmp_path)
    assert found.passed and not found.refusals
    assert (found.target, found.share) == ("edgetpu", 1.0)
    assert found.head_shares == {"alpha": 1.0, "mid": 1.0, "zeta": 1.0}
    assert all(row.mapped and not row.reasons for row in found.ops)
    assert [row.index for row in found.ops] == list(range(len(found.ops)))
    (conv,), (depthwise,) = rows_of(found, "CONV_2D"), rows_of(found, "DEPTHWISE_CONV_2D")
    (transposed,) = rows_of(found, "TRANSPOSE_CONV")
    assert conv.macs == 8 * 8 * 4 * (3 * 3 * 2) and conv.heads == ("alpha", "mid", "zeta")
    assert depthwise.macs == 8 * 8 * 4 * (3 * 3) and depthwise.heads == ("mid",)
    assert transposed.macs == 8 * 8 * 4 * (2 * 2 * 3) and transposed.heads == ("alpha",)
    dense = {row.heads: row.macs for row in rows_of(found, "FULLY_CONNECTED")}
    assert dense == {("mid",): 4 * 5, ("zeta",): 256 * 5}
    assert all("large tensors" in row.note for row in rows_of(found, "RESHAPE"))
    assert conv.note == ""


@pytest.mark.parametrize(
    "network", [HardSharing, CrossStitchNetwork, SluiceNetwork, FactorizedNetwork]
)
def test_folded_sharing_maps_as_a_whole(network, tmp_path):
    def convolution():
        return layers.Conv2D(4, 3, padding="same", activation="relu")

    heads = {
        task: [layers.Flatten(), layers.Dense(width)]
        for task, width in {"zeta": 4, "alpha": 3, "mid": 4}.items()
    }
    stages = [convolution(), layers.BatchNormalization(), convolution()]
    found = lint(full_int8(network(stages, heads, inputs=(8, 8, 2))), tmp_path)
    assert found.head_shares == {"alpha": 1.0, "mid": 1.0, "zeta": 1.0}
    assert [row for row in found.ops if not row.mapped] == [] and found.passed


def test_only_the_head_that_breaks_a_rule_falls_to_the_cpu(trunk, tmp_path):
    x, h = trunk
    pooled = layers.GlobalAveragePooling2D()(h)
    leaky = layers.LeakyReLU()(layers.Dense(4)(pooled))
    heads = {"zeta": layers.Dense(3)(pooled), "alpha": layers.Dense(6)(leaky)}
    heads["mid"] = layers.Dense(7)(leaky) + layers.Dense(7)(pooled)
    found = lint(full_int8(kmtl.MultiTaskModel(x, heads)), tmp_path)
    assert not found.passed and not found.refusals
    (leaky,) = rows_of(found, "LEAKY_RELU")
    assert leaky.heads == ("alpha", "mid") and not leaky.mapped
    assert leaky.reasons == ("LEAKY_RELU is not among the operations that the Edge TPU supports",)
    after = f"it depends on op {leaky.index}, LEAKY_RELU, on the CPU"
    left = {(row.name, row.heads, row.reasons) for row in found.ops if not row.mapped}
    assert left - {(leaky.name, leaky.heads, leaky.reasons)} == {
        ("FULLY_CONNECTED", ("alpha",), (after,)),  # maps by itself, but comes after it
        ("FULLY_CONNECTED", ("mid",), (after,)),
        ("ADD", ("mid",), (after,)),
    }
    conv, stays = 8 * 8 * 4 * 18, 4 * 4
    assert found.head_shares["zeta"] == 1.0
    assert found.head_shares["alpha"] == pytest.approx((conv + stays) / (conv + stays + 4 * 6))
    assert found.head_shares["mid"] == pytest.approx((conv + stays + 28) / (conv + stays + 56))
    total = conv + stays + 4 * 3 + 4 * 6 + 2 * 28
    assert found.share == pytest.approx((total - 24 - 28) / total)


def test_more_than_three_dimensions(trunk, tmp_path):
    x, h = trunk
    blocks = layers.Reshape((2, 4, 8, 4))(h)
    model = kmtl.MultiTaskModel(x, {"zeta": ops.maximum(blocks, 0.5), "alpha": h})
    found = lint(full_int8(model), tmp_path)
    (row,) = rows_of(found, "RESHAPE")
    assert row.heads == ("zeta",) and not row.mapped and row.note == ""
    assert "three innermost dimensions may exceed 1, not 1 x 2 x 4 x 8 x 4" in row.reasons[0]
    assert found.head_shares == {"alpha": 1.0, "zeta": 1.0}  # no products are lost


def test_a_float_file_maps_nothing(trunk, tmp_path):
    x, h = trunk
    model = kmtl.MultiTaskModel(x, {"zeta": layers.Dense(3)(layers.Flatten()(h)), "alpha": h})
    found = lint_litert(export_litert(model, tmp_path / "m.tflite").path)
    assert not any(row.mapped for row in found.ops) and found.share == 0.0
    assert found.head_shares == {"alpha": 0.0, "zeta": 0.0}
    assert all("must be int8 or uint8, not float32" in row.reasons[0] for row in found.ops)


def test_float_ends_of_an_integer_file_stay_on_the_cpu(trunk, tmp_path):
    x, h = trunk
    heads = {"zeta": layers.Dense(3)(layers.Flatten()(h)), "alpha": layers.MaxPooling2D()(h)}
    path = tmp_path / "m.tflite"
    export_litert(kmtl.MultiTaskModel(x, heads), path, "int8", representative_data=X)
    found = lint_litert(path)
    (quantize,) = rows_of(found, "QUANTIZE")
    assert not quantize.mapped and "float input" in quantize.reasons[0]
    ends = {row.heads: row.reasons for row in rows_of(found, "DEQUANTIZE")}
    assert set(ends) == {("alpha",), ("zeta",)}
    assert "float head" in ends[("alpha",)][0] and len(ends[("alpha",)]) == 1
    # The input's end does not cut the graph; per-channel weights do.
    assert found.head_shares["alpha"] == 1.0 and not found.passed
    (dense,) = rows_of(found, "FULLY_CONNECTED")
    assert "one scale, not one for each of 3 channels" in dense.reasons[0]
    assert 0 < found.head_shares["zeta"] < 1


def test_a_dynamic_batch(trunk, tmp_path):
    from kmtl.export.flatbuffers.convert import to_flatbuffer

    x, h = trunk
    content = to_flatbuffer(fold(kmtl.MultiTaskModel(x, {"zeta": h})), None)
    (conv,) = rows_of(lint(content, tmp_path), "CONV_2D")
    assert any("sizes must be constant" in reason for reason in conv.reasons)
    assert conv.macs == 8 * 8 * 4 * 18


def test_a_recurrent_layer(recurrent, tmp_path):
    found = lint(recurrent, tmp_path)
    (loop,) = rows_of(found, "WHILE")
    assert "WHILE is not among" in loop.reasons[0] and loop.heads == ("zeta",)
    assert loop.macs == 4 * 16 + 3 * 16  # one step of the body, which the file holds elsewhere
    assert found.head_shares == {"alpha": 0.0, "zeta": 0.0} and not found.refusals
    assert {row.heads for row in rows_of(found, "FULLY_CONNECTED")} == {("alpha",), ("zeta",)}


def test_a_version_newer_than_the_compiler_refuses_the_whole_file(mapped, tmp_path):
    model = unpacked(mapped)
    codes = {code.builtinCode: code for code in model.operatorCodes}
    codes[schema().BuiltinOperator.TRANSPOSE_CONV].version = 4
    found = lint(packed(model), tmp_path)
    (transposed,) = rows_of(found, "TRANSPOSE_CONV")
    assert "version 4 is newer than 3" in transposed.reasons[0]
    assert found.refusals == transposed.reasons and not found.passed
    assert not any(row.mapped for row in found.ops) and found.share == 0.0
    (conv,) = rows_of(found, "CONV_2D")
    assert conv.reasons == ("maps by itself, but the compiler refuses the whole file",)


# Rules that networks above do not reach, each broken and kept.

INT8 = {"dtype": "INT8"}


def constant(values, dtype="INT32", **more):
    values = np.asarray(values)
    return Tensor(values.shape, dtype, constant=True, values=values, **more)


def operation(name, inputs, output, version=1, **options):
    tensors = [Tensor(x, **INT8) if isinstance(x, tuple) else x for x in inputs]
    ids = tuple(range(len(tensors)))
    outputs = (Tensor(output, **INT8),)
    options = types.SimpleNamespace(**options)
    return Operation(0, name, version, ids, (9,), tuple(tensors), outputs, options)


WEIGHTS = Tensor((3, 1, 1, 2), **INT8, constant=True)
DENSE = Tensor((5, 4), **INT8, constant=True, channels=1)
PLAIN = {"ellipsisMask": 0, "newAxisMask": 0}


def conv(weights=WEIGHTS, dilation=(1, 1), name="CONV_2D"):
    factors = dict(zip(("dilationHFactor", "dilationWFactor"), dilation, strict=True))
    return operation(name, [(1, 8, 8, 2), weights, None], (1, 8, 8, 3), **factors)


def dense(weights=DENSE, output=(1, 5), weightsFormat=0):
    return operation(
        "FULLY_CONNECTED", [(1, 4), weights, None], output, weightsFormat=weightsFormat
    )


def concatenation(*inputs, fused=0):
    return operation("CONCATENATION", inputs, (1, 8), fusedActivationFunction=fused)


def padding(rows):
    return operation("PAD", [(1, 4, 4), constant(rows)], (1, 6, 6))


def split(axis):
    return operation("SPLIT", [constant(axis), (2, 4)], (2, 2))


def mean(axes, shape=(1, 4, 4, 6), name="MEAN"):
    return operation(name, [shape, constant(axes)], (1, 6))


def strided(strides=(1, 1), **masks):
    indices = [constant([0, 0]), constant([1, 1]), constant(strides)]
    return operation("STRIDED_SLICE", [(1, 4), *indices], (1, 1), **{**PLAIN, **masks})


ZEROS = constant(np.full((1, 4), 3), "INT8", zero_point=3)
ONES = constant(np.ones((1, 4)), "INT8")


@pytest.mark.parametrize(
    ("broken", "kept", "reason"),
    [
        (conv(dilation=(1, 2)), conv(dilation=(2, 2)), "the same in x and y, not (1, 2)"),
        (conv(Tensor((3, 1, 2), "INT8")), conv(), "weights and biases must be constant"),
        (conv(dataclasses.replace(WEIGHTS, dtype="INT4")), conv(), "int8 or uint8, not int4"),
        (conv(dilation=(1, 2), name="DEPTHWISE_CONV_2D"), conv(), "the same in x and y"),
        (dense(output=(2, 5)), dense(), "the output must be one-dimensional, not 2 x 5"),
        (dense(weightsFormat=1), dense(), "default format"),
        (dense(dataclasses.replace(DENSE, channels=5)), dense(), "each of 5 channels"),
        (concatenation((1, 4), (1, 4), fused=1), concatenation((1, 4), (1, 4)), "fused"),
        (concatenation((1, 4), ONES), concatenation((1, 4), ZEROS), "all zeros"),
        (concatenation((1, 4), (1, 4), ZEROS), concatenation((1, 4), ZEROS), "two inputs"),
        (padding([[1, 0], [0, 0], [0, 0]]), padding([[0, 0], [1, 1], [1, 1]]), "padded"),
        (split(0), split(1), "batch dimension must not be split"),
        (split([-2]), split([-1]), "batch dimension must not be split"),
        (mean([0, 1]), mean([1, 2]), "batch dimension must not be reduced"),
        (mean([-1]), mean([-1], (1, 4, 4, 8)), "multiple of 4, not 6"),
        (mean([-4], name="SUM"), mean([3], name="SUM"), "must not be reduced"),
        (mean([0], name="REDUCE_MAX"), mean([3], name="REDUCE_MAX"), "must not be reduced"),
        (
            operation("PACK", [(4,), (4,)], (2, 4), axis=-2),
            operation("PACK", [(4,), (4,)], (4, 2), axis=1),
            "must not be packed",
        ),
        (
            operation("SOFTMAX", [(1, 16_001)], (1, 16_001)),
            operation("SOFTMAX", [(1, 16_000)], (1, 16_000)),
            "at most 16,000 elements, not 16,001",
        ),
        (
            operation("SOFTMAX", [(1, 4, 3)], (1, 4, 3)),
            operation("SOFTMAX", [(1, 1, 3)], (1, 1, 3)),
            "the input must be one-dimensional, not 1 x 4 x 3",
        ),
        (strided((1, 2)), strided(), "strides must be constant and 1"),
        (strided(newAxisMask=1), strided(), "without ellipsis and new axis"),
        (
            operation("PRELU", [(1, 4, 4, 2), constant(np.ones((4, 4, 2)))], (1, 4, 4, 2)),
            operation("PRELU", [(1, 4, 4, 2), constant(np.ones((1, 1, 2)))], (1, 4, 4, 2)),
            "one value for each channel, not 4 x 4 x 2",
        ),
        (
            operation("MAX_POOL_2D", [(1, 4, 4, 2)], (1, 2, 2, 2), fusedActivationFunction=1),
            operation("MAX_POOL_2D", [(1, 4, 4, 2)], (1, 2, 2, 2), fusedActivationFunction=0),
            "fused activation",
        ),
        (
            operation("RELU", [(2, 8, 8, 2)], (2, 8, 8, 2)),
            operation("RELU", [(1, 1, 8, 8, 2)], (1, 1, 8, 8, 2)),
            "three innermost dimensions may exceed 1, not 2 x 8 x 8 x 2",
        ),
    ],
)  # fmt: skip
def test_a_rule(broken, kept, reason):
    (found,) = rules.reasons(broken)
    assert reason in found
    assert rules.reasons(kept) == ()


@pytest.mark.parametrize(
    ("name", "version", "refused"),
    [("CONV_2D", 5, False), ("CONV_2D", 6, True), ("EXP", 1, False), ("EXP", 2, True),
     ("QUANTIZE", 2, False), ("QUANTIZE", 3, True), ("GELU", 1, True), ("CUSTOM:mine", 9, False)],
)  # fmt: skip
def test_versions_reported_by_users_of_the_compiler(name, version, refused):
    assert bool(rules.refusal(operation(name, [(1,)], (1,), version))) == refused


def test_products_of_matrices():
    batch = operation("BATCH_MATMUL", [(2, 3, 4), (2, 4, 5)], (2, 3, 5), adjX=False)
    assert macs(batch) == 2 * 3 * 4 * 5
    turned = operation("BATCH_MATMUL", [(2, 4, 3), (2, 4, 5)], (2, 3, 5), adjX=True)
    assert macs(turned) == 2 * 3 * 4 * 5
    itself = operation("WHILE", [(1,)], (1,), condSubgraphIndex=0, bodySubgraphIndex=1)
    assert macs(itself, [[batch], [itself, turned]]) == 2 * macs(batch)


def test_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"`target` must be one of.*Received: target='npu'"):
        lint_litert(tmp_path / "m.tflite", target="npu")
    with pytest.raises(FileNotFoundError):
        lint_litert(tmp_path / "m.tflite")


# Damaged files.


def schema():
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def unpacked(content):
    return schema().ModelT.InitFromPackedBuf(content, 0)


def packed(model):
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


FUZZ = """
import sys
import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from kmtl.export import inspect_litert, lint_litert, load_litert

def bits(content, rng):
    for i in rng.integers(0, len(content), size=rng.integers(1, 9)):
        content[i] ^= 1 << rng.integers(8)
    return content

def word(content, rng):  # as an offset, a length or a size might be
    i = rng.integers(0, len(content) // 4) * 4
    content[i : i + 4] = rng.choice([0, 1, 127, 255], size=4)
    return content

def shorter(content, rng):
    return content[: rng.integers(0, len(content))]

def noise(content, rng):
    content[8:] = rng.integers(0, 256, size=len(content) - 8)
    return content

def contradiction(content, rng):  # a whole flatbuffer whose parts do not fit together
    model = schema.ModelT.InitFromPackedBuf(content.tobytes(), 0)
    graph = model.subgraphs[rng.integers(len(model.subgraphs))]
    op = graph.operators[rng.integers(len(graph.operators))]
    tensor = graph.tensors[rng.integers(len(graph.tensors))]
    far = int(rng.choice([-2, 0, 1, 7, 999, 2**31 - 1]))
    def points(): model.signatureDefs[0].outputs[0].tensorIndex = max(far, 0)
    def enters(): model.signatureDefs[0].subgraphIndex = max(far, 0)
    def feeds(): op.inputs = [far] * len(op.inputs)
    def starves(): op.inputs = op.inputs[:1]
    def silences(): op.outputs = None
    def calls(): op.opcodeIndex = max(far, 0)
    def forgets(): op.builtinOptions, op.builtinOptionsType = None, 0
    def shapes(): tensor.shape = [far, 3]
    def opens(): tensor.shapeSignature = [far, -1]
    def stores(): tensor.buffer = int(rng.integers(len(model.buffers)))
    def retypes(): tensor.type = int(rng.integers(18))
    def empties(): graph.operators = None
    def loops():
        for other in graph.operators:
            if hasattr(other.builtinOptions, "bodySubgraphIndex"):
                other.builtinOptions.bodySubgraphIndex = max(far % 4, 0)
    changes = [points, enters, feeds, starves, silences, calls, forgets, shapes, opens, stores,
               retypes, empties, loops]
    rng.choice(changes)()
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return np.frombuffer(bytes(builder.Output()), "uint8")

kinds = (bits, word, shorter, noise, contradiction, contradiction)
for seed, path in enumerate(sys.argv[2:]):
    content, rng = open(path, "rb").read(), np.random.default_rng(seed)
    refused = 0
    for n in range(int(sys.argv[1])):
        damage = kinds[n % len(kinds)]
        damaged = damage(np.frombuffer(content, "uint8").copy(), rng).tobytes()
        with open(path + ".damaged", "wb") as file:
            file.write(damaged)
        reads = {"inspect": inspect_litert, "load": load_litert, "lint": lint_litert}
        reads["compile"] = lambda path: load_litert(path, "compiled_model")
        for name, read in reads.items():
            print(path, n, damage.__name__, name, flush=True)
            try:
                read(path + ".damaged")
            except ValueError as error:
                assert "A LiteRT model must" in str(error), (n, error)
                refused += 1
    print("refused", refused, flush=True)
"""


def test_damaged_files_are_refused_or_read_and_never_crash(mapped, recurrent, tmp_path):
    paths = [tmp_path / "integer.tflite", tmp_path / "loop.tflite"]
    for path, content in zip(paths, (mapped, recurrent), strict=True):
        path.write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-c", FUZZ, "36", *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 0, (result.returncode, lines[-1:], result.stderr[-2000:])
    refused = [int(line.split()[1]) for line in lines if line.startswith("refused")]
    assert len(refused) == 2 and min(refused) > 48  # of 144 readings


def test_a_model_without_rows_can_be_linted_but_not_run(mapped, tmp_path):
    model = unpacked(mapped)
    (graph,), (signature,) = model.subgraphs, model.signatureDefs
    scalar = graph.tensors[signature.inputs[0].tensorIndex]
    scalar.shape = scalar.shapeSignature = None
    (tmp_path / "m.tflite").write_bytes(packed(model))
    assert len(lint_litert(tmp_path / "m.tflite").ops) > 5
    with pytest.raises(ValueError, match=r"must have inputs with rows.*Received: .*m.tflite"):
        load_litert(tmp_path / "m.tflite")


@pytest.mark.parametrize("index", [1, 999])
@pytest.mark.parametrize("where", ["graph", "input", "head"])
def test_a_signature_that_points_nowhere(mapped, where, index, tmp_path):
    # In a process of its own by the test above; LiteRT itself crashes on the first of them.
    model = unpacked(mapped)
    (signature,) = model.signatureDefs
    if where == "graph":
        signature.subgraphIndex = index
    else:
        ends = signature.inputs if where == "input" else signature.outputs
        ends[0].tensorIndex = 500 + index
    with pytest.raises(ValueError, match="A LiteRT model must .*signature 0 .* does not exist"):
        lint(packed(model), tmp_path)


@pytest.mark.parametrize("size", [0, 6, 400])
def test_files_that_are_no_whole_model(mapped, size, tmp_path):
    with pytest.raises(ValueError, match=r"A LiteRT model must .*Received: .*m.tflite"):
        lint(mapped[:size], tmp_path)
