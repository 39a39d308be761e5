"""Each format on tiny files: values, absent labels, and errors that name the key."""

import keras
import numpy as np
import pandas as pd
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

import tensorflow as tf
from pydantic import TypeAdapter

from kmtl.training.configuration.schema_data import Source
from kmtl.training.readers import read
from kmtl.training.readers.tfrecord import check_count

SOURCE = TypeAdapter(Source)
NAN = float("nan")


def read_as(where="data.train.a", split="train", **source):
    return read(SOURCE.validate_python(source), where, split)


def check_labels(found, expected, dtype):
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype


def test_npz_of_several_files(tmp_path):
    for i in (1, 2):
        np.savez(tmp_path / f"{i}.npz", pixels=np.full((i, 2), i), y=np.arange(i) - 1.0, other=i)
    x, y = read_as(
        format="npz",
        path=f"{tmp_path}/*.npz",
        inputs={"image": "pixels"},
        tasks={"depth": {"key": "y", "missing": -1.0}},
    )
    np.testing.assert_array_equal(x["image"], [[1, 1], [2, 2], [2, 2]])
    check_labels(y["depth"], [NAN, NAN, 0.0], "float64")


@pytest.mark.parametrize(
    ("values", "task", "expected", "dtype"),
    [
        ([1, 255], {"missing": 255.0}, [1, -1], "int64"),
        (np.array([1, 255], "uint8"), {"missing": 255.0}, [1, -1], "int64"),
        ([1.0, NAN], {"dtype": "int32"}, [1, -1], "int32"),
        ([1.0, NAN], {"missing": NAN}, [1.0, NAN], "float64"),
        ([1, 9], {"missing": 9.0, "dtype": "float32"}, [1.0, NAN], "float32"),
        ([True, False], {}, [1, 0], "int32"),
        ([-1, 4], {}, [-1, 4], "int64"),
    ],
)
def test_absent_labels(tmp_path, values, task, expected, dtype):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 1)), t=values)
    source = {"format": "npz", "path": f"{tmp_path}/a.npz", "inputs": ["x"], "tasks": {"t": task}}
    check_labels(read_as(**source)[1]["t"], expected, dtype)


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        ([-1, 9], {"missing": 9.0}, "must be float32 where -1 is a label"),
        ([-1, 1], {"dtype": "int32"}, "t.missing` must be -1 where -1 marks .* 1 labels -1"),
        ([0.5, 1.0], {"dtype": "int32"}, "must be float32 where labels are no integers"),
        (["a", "b"], {}, "must hold numbers. Received: type <U1"),
    ],
)
def test_labels_that_cannot_be(tmp_path, values, task, message):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 1)), t=values)
    source = {"format": "npz", "path": f"{tmp_path}/a.npz", "inputs": ["x"], "tasks": {"t": task}}
    with pytest.raises(ValueError, match=message) as error:
        read_as(**source)
    assert "`data.train.a.tasks.t" in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(tmp_path, kind):
    frame = pd.DataFrame({"p": [1, 2, 3], "q": [0.5, 1.5, 2.5], "unused": ["a", "b", "c"]})
    frame["price"] = [10.0, None, 30.0]
    frame["kind"] = [0.0, 1.0, None]
    frame["count"] = [7, 8, 9]
    path = f"{tmp_path}/a.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    x, y = read_as(
        format=kind,
        path=path,
        inputs=["q", "p"],
        tasks={"price": {}, "kind": {"dtype": "int32"}, "n": {"key": "count"}},
    )
    np.testing.assert_array_equal(x["features"], [[0.5, 1], [1.5, 2], [2.5, 3]])
    assert x["features"].dtype == "float32"
    check_labels(y["price"], [10.0, NAN, 30.0], "float64")
    check_labels(y["kind"], [0, 1, -1], "int32")
    check_labels(y["n"], [7, 8, 9], "int64")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"inputs": ["p", "qq"]}, "the nearest is q. Received: qq"),
        ({"inputs": ["text"]}, "a.inputs.features` must name columns of numbers. Received: 'a' in"),
        ({"tasks": ["text"]}, "`data.train.a.tasks.text` must name columns of numbers"),
        ({"path": "no_rows.csv"}, "`data.train.a.path` must name files with examples. Received: "),
        ({"inputs": ["q"]}, "`data.train.a.inputs.features` must have a number in every row"),
        (
            {"inputs": ["p"], "tasks": ["zz"]},
            "what its files hold, p, q, text. Received: zz",
        ),
        ({"inputs": ["p"], "path": "none.csv"}, "`data.train.a.path` must name existing files"),
        ({"inputs": ["p"], "format": "parquet"}, "must name whole parquet files"),
    ],
)
def test_bad_tables(tmp_path, monkeypatch, source, message):
    path = tmp_path / "a.csv"
    path.write_text("p,q,text\n1,,a\n2,3,b\n")
    (tmp_path / "no_rows.csv").write_text("p,q,text\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        read_as(**{"format": "csv", "path": str(path), "inputs": ["p"], "tasks": ["p"], **source})


@pytest.mark.parametrize("arrays", [{"x": [1, 2], "t": [1]}, {"x": 3, "t": 4}])
def test_npz_of_unequal_lengths(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match="whose arrays have one length"):
        read_as(format="npz", path=f"{tmp_path}/a.npz", inputs=["x"], tasks=["t"])


def test_broken_npz(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 no more")
    with pytest.raises(ValueError, match="`data.train.a.path` must name .npz files"):
        read_as(format="npz", path=f"{tmp_path}/a.npz", inputs=["x"], tasks=["t"])


def test_npz_of_objects(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}, []], object), t=[0, 1])
    with pytest.raises(ValueError, match="`data.train.a.path` must name .npz files of numbers"):
        read_as(format="npz", path=f"{tmp_path}/a.npz", inputs=["x"], tasks=["t"])


def write_records(path, rows):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in rows:
            pixels = tf.train.BytesList(value=[np.array([[i, i + 1]], "uint8").tobytes()])
            feature = {
                "pixels": tf.train.Feature(bytes_list=pixels),
                "depth": tf.train.Feature(float_list=tf.train.FloatList(value=[i, -9.0])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[i])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


RECORDS = {
    "format": "tfrecord",
    "features": {
        "pixels": {"shape": [1, 2], "dtype": "uint8"},
        "depth": {"shape": [2], "dtype": "float32"},
        "label": {"dtype": "int64"},
    },
    "inputs": {"image": "pixels"},
    "tasks": {"depth": {"missing": -9.0}, "seg": {"key": "label", "dtype": "int32"}},
}


def test_records(tmp_path):
    for i in range(3):
        write_records(tmp_path / f"{i}.tfrecord", range(10 * i, 10 * i + 2 + i))
    dataset = read_as(**RECORDS, path=f"{tmp_path}/*.tfrecord")
    assert int(dataset.cardinality()) == 2 + 3 + 4
    rows = list(dataset.as_numpy_iterator())
    assert [y["seg"] for _, y in rows] == [y["seg"] for _, y in dataset.as_numpy_iterator()]
    assert sorted(y["seg"] for _, y in rows) == [0, 1, 10, 11, 12, 20, 21, 22, 23]
    for x, y in rows:
        np.testing.assert_array_equal(x["image"], [[y["seg"], y["seg"] + 1]])
        np.testing.assert_array_equal(y["depth"], [y["seg"], NAN])
        assert x["image"].dtype == "uint8" and y["seg"].dtype == "int32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["pixel"]}, "the nearest is pixels. Received: pixel"),
        ({"features": {**RECORDS["features"], "depth": {"dtype": "int64"}}}, "features` must desc"),
        ({"features": {**RECORDS["features"], "label": {"shape": [3], "dtype": "int64"}}},
         "`data.train.a.features` must describe"),
    ],
)  # fmt: skip
def test_bad_records(tmp_path, change, message):
    write_records(tmp_path / "a.tfrecord", range(2))
    with pytest.raises(ValueError, match=message) as error:
        read_as(**{**RECORDS, "path": f"{tmp_path}/a.tfrecord", **change})
    assert "{{" not in str(error.value)


def test_damaged_records(tmp_path):
    write_records(tmp_path / "a.tfrecord", range(4))
    content = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "a.tfrecord").write_bytes(content[:-20])
    with pytest.raises(ValueError, match="whole TFRecord files"):
        read_as(**RECORDS, path=f"{tmp_path}/a.tfrecord")


@pytest.mark.parametrize("more", [3, 8, 11])
def test_records_that_end_early(tmp_path, more):
    """Within the length of a record, TensorFlow takes it for the end of the file."""
    write_records(tmp_path / "a.tfrecord", range(3))
    write_records(tmp_path / "b.tfrecord", range(4))
    whole = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "a.tfrecord").write_bytes(whole + whole[:more])
    with pytest.raises(ValueError, match="a.path` must name whole TFRecord files. .*/a.tf"):
        read_as(**RECORDS, path=f"{tmp_path}/*.tfrecord")


@pytest.mark.parametrize("examples", [2, 9])
def test_a_wrong_number_of_records(tmp_path, examples):
    write_records(tmp_path / "a.tfrecord", range(4))
    source = {**RECORDS, "path": f"{tmp_path}/a.tfrecord"}
    check_count(SOURCE.validate_python({**source, "examples": 4}), "data.train.a")
    with pytest.raises(ValueError, match="a.examples` must be .* 4. Received: "):
        check_count(SOURCE.validate_python({**source, "examples": examples}), "data.train.a")


MODULE = """
import numpy as np
import tensorflow as tf
import kmtl

Split = kmtl.datasets.overlay.Split

def arrays(rows=2, weights=False):
    w = [{"t": np.ones(rows)}] if weights else []
    return np.ones((rows, 3)), {"t": np.arange(rows)}, *w

def dataset():
    return tf.data.Dataset.from_tensor_slices(arrays())

class Splits:
    train = Split(np.zeros((4, 2)), {"t": np.zeros(4)}, {})
    test = arrays(5)

def wrong():
    return 3
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_kmtl_data.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def own(function, **rest):
    return read_as(format="python", function=f"my_kmtl_data:{function}", **rest)


def test_functions(own_module):
    x, y = own("arrays", arguments={"rows": 3})
    assert x["input"].shape == (3, 3) and list(y) == ["t"]
    assert len(own("arrays", arguments={"weights": True})) == 3
    (x, y), *_ = own("dataset")
    assert x["input"].shape == (3,) and int(y["t"]) == 0
    assert own("Splits")[0]["input"].shape == (4, 2)
    assert own("Splits", split="test")[0]["input"].shape == (5, 3)


def test_functions_with_tasks(own_module):
    tasks = {"renamed": {"key": "t", "missing": 1.0}}
    check_labels(own("arrays", tasks=tasks)[1]["renamed"], [0, -1], "int64")
    labels = [int(y["renamed"]) for _, y in own("dataset", tasks=tasks)]
    assert labels == [0, -1]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("nothing", {}, "must name a function as module:function"),
        ("MODULE.a", {}, "must name a function as module:function"),
        ("arrays", {"row": 1}, "must name a function that takes these arguments"),
        ("wrong", {}, "must return .x, {task: labels}.*Received: int"),
        ("np", {}, "must name a function. Received"),
    ],
)
def test_bad_functions(own_module, function, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        own(function, arguments=arguments)
    assert "`data.train.a.function`" in str(error.value)
