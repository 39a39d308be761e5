"""Bad input ends in a clear error, with nothing half-written and no crash."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.export import (
    export_litert,
    export_trainable,
    inspect_litert,
    load_litert,
    quantize_aware,
    report,
)
from kmtl.export import files as files_module

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
VARIED = np.random.default_rng(0).normal(size=(8, 2))
A, B = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")


@pytest.fixture(scope="module")
def model():
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joined = layers.Concatenate()([a, b])
    return kmtl.MultiTaskModel(
        {"a": a, "b": b}, {"zeta": layers.Dense(4)(joined), "mid": layers.Dense(4)(joined)}
    )


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "m.tflite"
    return export_litert(model, path).path.read_bytes()


@pytest.mark.parametrize("quantization", ["float32", "int8"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": A}, r"missing \['b'\]"),
        ({"a": A, "b": B, "c": A}, r"unknown \['c'\]"),
        (A, r"must be a dict with the inputs \['a', 'b'\]"),
        ({"a": A[:, :2], "b": B}, r"'a' must have the shape \(samples, 3\).*Received: \(8, 2\)"),
        ({"a": A, "b": B[..., None]}, r"'b' must have the shape.*Received: \(8, 2, 1\)"),
        ({"a": A, "b": np.where(B > 0, np.nan, B)}, r"'b' must be finite.*Received: 16 values"),
        ({"a": A * np.inf, "b": B}, r"'a' must be finite.*Received: 24 values"),
        ({"a": A[:0], "b": B[:0]}, r"'a' must hold at least one sample.*Received: 0"),
        ({"a": A, "b": B[:3]}, r"same number of rows.*Received: \{'a': 8, 'b': 3\}"),
    ],
)
def test_representative_data(model, data, message, quantization, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "m.tflite", quantization, representative_data=data)
    assert not list(tmp_path.iterdir())


def test_int8_needs_data_and_enough_rows(model, tmp_path):
    with pytest.raises(ValueError, match=r"`representative_data` must be given.*Received: None"):
        export_litert(model, tmp_path / "m.tflite", "int8")
    with pytest.raises(
        ValueError, match="at least `batch_size` rows. Received: 8 rows, batch_size=9"
    ):
        export_litert(
            model, tmp_path / "m.tflite", "int8", representative_data={"a": A, "b": B}, batch_size=9
        )
    assert not list(tmp_path.iterdir())


def heads_of(heads, **inputs):
    tensors = {n: keras.Input(shape, dtype=dtype, name=n) for n, (shape, dtype) in inputs.items()}
    return kmtl.MultiTaskModel(tensors, heads(**tensors))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: heads_of(lambda a: {"zeta": layers.Dense(2)(a), "raw": a}, a=((3,), "float32")),
            "something of its own.*Received: head 'raw', which is input 'a'",
        ),
        (
            lambda: heads_of(
                lambda a: dict.fromkeys(("zeta", "mid"), layers.Dense(2)(a)), a=((3,), "float32")
            ),
            "something of its own.*Received: head '(zeta|mid)', which is head",
        ),
        (
            lambda: heads_of(
                lambda a: {"zeta": layers.Conv2D(2, 1)(a)}, a=((None, None, 2), "float32")
            ),
            r"sizes of inputs.*Received: \(None, None, 2\) for input 'a'",
        ),
        (
            lambda: heads_of(
                lambda a: {"zeta": layers.Flatten()(layers.Embedding(5, 2)(a))}, a=((3,), "int64")
            ),
            "Inputs must have one of the types.*Received: int64 for input 'a'",
        ),
        (
            lambda: heads_of(
                lambda a: {"zeta": layers.Dense(2)(ops.cast(a, "float32"))}, a=((3,), "int16")
            ),
            "Inputs must have one of the types.*Received: int16 for input 'a'",
        ),
    ],
)
def test_models_that_no_file_can_hold(build, message, tmp_path):
    model = build()
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"overrides": ["zeta"]}, r"`overrides` must be a dict.*\['zeta'\]"),
        ({"labels": ["zeta"]}, r"`labels` must be a dict.*\['zeta'\]"),
        ({"labels": {"zeta": "abcd"}}, "list of names. Received: 'abcd' for 'zeta'"),
        ({"labels": {"zeta": None}}, "list of names. Received: None for 'zeta'"),
        ({"normalization": [1]}, r"`normalization` must be a dict.*\[1\]"),
        ({"preprocessing": [1]}, r"`preprocessing` must be a dict.*\[1\]"),
        ({"batch_size": 1.5}, "`batch_size` must be at least 1, or None. Received: batch_size=1.5"),
        ({"batch_size": True}, "`batch_size` must be at least 1, or None.*batch_size=True"),
        ({"batch_size": "1"}, "`batch_size` must be at least 1, or None.*batch_size='1'"),
    ],
)
def test_arguments_of_wrong_types(model, kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_litert(model, tmp_path / "m.tflite", **kwargs)
    assert not list(tmp_path.iterdir())


def test_a_file_of_somebody_else_s_is_not_replaced(model, tmp_path):
    path, beside = tmp_path / "m.tflite", tmp_path / "m.json"
    beside.write_text('{"precious": 1}')
    with pytest.raises(FileExistsError, match=r"new or one that kmtl wrote.*m\.json"):
        export_litert(model, path)
    assert beside.read_text() == '{"precious": 1}' and not path.exists()
    beside.unlink()
    for _ in range(2):  # our own may be replaced
        export_litert(model, path)


def test_integers_that_do_not_fit_are_refused(tmp_path):
    ids = keras.Input((2,), dtype="int32", name="ids")
    h = layers.Flatten()(layers.Embedding(5, 2)(ids))
    model = kmtl.MultiTaskModel(ids, {"zeta": layers.Dense(2)(h), "mid": layers.Dense(1)(h)})
    typical = np.ones((8, 2), "int32")
    runner = load_litert(
        export_litert(model, tmp_path / "m.tflite", representative_data=typical).path
    )
    with pytest.raises(ValueError, match=r"'ids' must hold values of type int32.*4294967297"):
        runner(typical.astype("int64") + 2**32)


def first_column(ids):
    return layers.Embedding(5, 2, name="words")(ids[:, 0])


def reshaped(ids):
    table = layers.Embedding(5, 2, name="words")
    return layers.Flatten()(layers.TimeDistributed(table)(layers.Reshape((1, 2))(ids)))


def embedded(ids):
    return layers.Flatten()(layers.Embedding(5, 2, name="words")(ids))


def model_on_indices(embed=embedded, dtype="int32"):
    ids, a = keras.Input((2,), dtype=dtype, name="ids"), keras.Input((3,), name="a")
    h = layers.Concatenate()([embed(ids), a])
    heads = {"zeta": layers.Dense(2)(h), "mid": layers.Dense(1)(h)}
    return kmtl.MultiTaskModel({"ids": ids, "a": a}, heads)


def indices(wrong):
    ids = np.arange(16).reshape(8, 2) % 5
    ids[3, 0] = wrong
    return {"ids": ids, "a": np.random.default_rng(0).normal(size=(8, 3))}


@pytest.mark.parametrize("export", [
    export_litert,
    lambda model, path, **kwargs: export_litert(model, path, "int8", **kwargs),
    lambda model, path, **kwargs: quantize_aware(model, "int8", **kwargs),
    lambda model, path, **kwargs: export_trainable(model, path, "mid", loss="mse", **kwargs),
    lambda model, path, representative_data: report(
        model, path.with_suffix(".html"), representative_data
    ),
])  # fmt: skip
@pytest.mark.parametrize("wrong", [5, -1])
def test_indices_that_an_embedding_does_not_have(export, wrong, tmp_path):
    message = f"Input 'ids' must hold indices from 0 to 4 for layer 'words'. Received: {wrong} to"
    with pytest.raises(ValueError, match=message):
        export(model_on_indices(), tmp_path / "m.tflite", representative_data=indices(wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("embed", [embedded, first_column, reshaped])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_indices_of_all_types_and_on_detours(embed, dtype, tmp_path):
    model, path = model_on_indices(embed, dtype), tmp_path / "m.tflite"
    with pytest.raises(ValueError, match="'ids' must hold indices.*'words'. Received: 7 to 7"):
        export_litert(model, path, representative_data=indices(7))
    with pytest.raises(ValueError, match=f"Received: None for input 'ids' of type {dtype}"):
        export_litert(model, path)
    assert not list(tmp_path.iterdir())
    export_litert(model, path, representative_data=indices(4))


def test_inputs_that_the_chosen_tasks_do_not_need_may_be_given(tmp_path):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    heads = {"zeta": layers.Dense(2)(a), "mid": layers.Dense(1)(b)}
    model = kmtl.MultiTaskModel({"a": a, "b": b}, heads)
    path = tmp_path / "m.tflite"
    export_litert(model, path, "int8", representative_data={"a": A, "b": VARIED}, tasks="mid")
    assert set(load_litert(path).input_details) == {"b"}


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_not_finite_is_named(value, tmp_path):
    x = keras.Input((3,))
    broken = layers.Dense(2, name="broken")
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1)(broken(x))})
    broken.kernel.assign(np.full((3, 2), value))
    with pytest.raises(ValueError, match=r"must be finite.*Received: .*broken/kernel"):
        export_litert(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


@keras.saving.register_keras_serializable(package="tests")
class NeedsFlex(layers.Layer):
    def call(self, x):
        return ops.erfinv(ops.tanh(x))


@pytest.mark.parametrize("how", ["layer", "operation", "nested"])
def test_an_operation_that_needs_flex_names_the_layer(how, tmp_path):
    x = keras.Input((3,))
    if how == "layer":
        h = NeedsFlex(name="strange")(layers.Dense(2, name="plain")(x))
    elif how == "operation":
        h = ops.erfinv(layers.Dense(2, name="plain")(x))
    else:
        inner = keras.Input((3,))
        h = keras.Model(inner, NeedsFlex(name="strange")(inner), name="inner")(x)
    model = kmtl.MultiTaskModel(x, {"a": layers.Dense(1, name="head")(h)})
    with pytest.raises(ValueError, match=r"builtin LiteRT form.*Received: Erfinv in") as caught:
        export_litert(model, tmp_path / "m.tflite")
    received = str(caught.value).split("Received: ")[1]
    assert ("erfinv" if how == "operation" else "strange") in received.split(" in ")[1]
    assert "head" not in received and "plain" not in received
    assert not list(tmp_path.iterdir())


EARLIER = {"m.tflite": b"earlier model", "m.json": b'{"kmtl_version": "earlier"}'}


@pytest.fixture
def earlier(tmp_path):
    for name, data in EARLIER.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path / "m.tflite"


def assert_untouched(folder):
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == EARLIER


def test_a_full_disk_while_writing(model, earlier, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(OSError, match=r"must be writable. Received: No space left") as caught:
        export_litert(model, earlier)
    assert caught.value.errno == errno.ENOSPC
    assert str(earlier) in str(caught.value)
    assert_untouched(earlier.parent)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_while_renaming(model, earlier, failing, monkeypatch):
    replace, calls = os.replace, []

    def fails_once(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(files_module.os, "replace", fails_once)
    with pytest.raises(OSError, match=r"must be writable"):
        export_litert(model, earlier)
    assert_untouched(earlier.parent)


def test_a_path_below_a_file(model, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"must be writable.*m.tflite"):
        export_litert(model, tmp_path / "file" / "m.tflite")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["m.tflite", "m.json"])
def test_a_folder_in_the_way(model, name, tmp_path):
    (tmp_path / name).mkdir()
    other = tmp_path / ("m.json" if name == "m.tflite" else "m.tflite")
    other.write_bytes(EARLIER["m.json"])
    with pytest.raises(OSError, match=r"must be writable"):
        export_litert(model, tmp_path / "m.tflite")
    assert other.read_bytes() == EARLIER["m.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.tflite"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(model, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"must be writable"):
        export_litert(model, tmp_path / "m.tflite")


def test_an_interruption_leaves_the_earlier_files(model, earlier, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(files_module.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_litert(model, earlier)
    assert_untouched(earlier.parent)


@pytest.mark.parametrize("read", [inspect_litert, load_litert])
@pytest.mark.parametrize("kind", ["empty", "short", "text", "zip", "half", "no_tail", "zeros"])
def test_files_that_are_no_whole_model(read, kind, content, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(
        {
            "empty": b"",
            "short": content[:6],
            "text": b"a text that is long enough" * 10,
            "zip": b"PK\x03\x04" + bytes(200),
            "half": content[: len(content) // 2],
            "no_tail": content[:-40],
            "zeros": content[:8] + bytes(len(content) - 8),
        }[kind]
    )
    with pytest.raises(ValueError, match=r"A LiteRT model must .*Received: .*m.tflite"):
        read(path)


def test_a_model_without_named_heads(content, tmp_path):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    anonymous = schema.ModelT.InitFromPackedBuf(content, 0)
    anonymous.signatureDefs = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(anonymous.Pack(builder), b"TFL3")
    path = tmp_path / "m.tflite"
    path.write_bytes(bytes(builder.Output()))
    for read in (inspect_litert, load_litert):
        with pytest.raises(ValueError, match=r"named heads.*Received: .*no signature"):
            read(path)


def test_absent_files():
    for read in (inspect_litert, load_litert):
        with pytest.raises(FileNotFoundError):
            read("/nowhere/m.tflite")


FUZZ = """
import sys
import numpy as np
from kmtl.export import inspect_litert, load_litert
content = open(sys.argv[1], "rb").read()
path = sys.argv[1] + ".damaged.tflite"
for seed in sys.argv[3:]:
    rng = np.random.default_rng(int(seed))
    refused = 0
    for n in range(int(sys.argv[2])):
        damaged = np.frombuffer(content, "uint8").copy()
        kind = n % 4
        if kind == 0:  # some bits flipped anywhere
            for i in rng.integers(0, len(damaged), size=rng.integers(1, 9)):
                damaged[i] ^= 1 << rng.integers(8)
        elif kind == 1:  # a word replaced, as an offset or a length might be
            i = rng.integers(0, len(damaged) // 4) * 4
            damaged[i : i + 4] = rng.integers(0, 256, size=4)
        elif kind == 2:  # cut short
            damaged = damaged[: rng.integers(0, len(damaged))]
        else:  # a part overwritten by another
            size = int(rng.integers(1, 64))
            i, j = rng.integers(0, len(damaged) - size, size=2)
            damaged[i : i + size] = damaged[j : j + size].copy()
        with open(path, "wb") as file:
            file.write(damaged.tobytes())
        for read in (inspect_litert, load_litert):
            print(seed, n, read.__name__, flush=True)
            try:
                read(path)
            except ValueError as error:
                assert "A LiteRT model must" in str(error), (n, error)
                refused += 1
    print("refused", refused, flush=True)
"""


def test_damaged_files_are_refused_or_read_and_never_crash(content, tmp_path):
    # One process for both seeds, as starting it takes longer than reading the files.
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path), "60", "0", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 0, (result.returncode, lines[-1:], result.stderr[-2000:])
    refused = [int(line.split()[1]) for line in lines if line.startswith("refused")]
    assert len(refused) == 2 and min(refused) > 20


def test_int8_refuses_data_that_does_not_vary(model, tmp_path):
    data = {"a": A * 0, "b": B}
    with pytest.raises(ValueError, match="must vary.*constant 0.0 for input 'a'"):
        export_litert(model, tmp_path / "m.tflite", "int8", representative_data=data)
    assert not list(tmp_path.iterdir())
