"""The description inside of a file: read by the schema's numbers, by runtimes, and damaged."""

import base64
import io
import zipfile
import zlib

import flatbuffers
import keras
import numpy as np
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table
from keras import layers

import kmtl
from kmtl.cli.main import main
from kmtl.export import export_litert, inspect_litert
from kmtl.export.flatbuffers.add_metadata import with_metadata
from kmtl.export.flatbuffers.model_metadata import InputInfo, ModelMetadata, read_metadata
from kmtl.export.flatbuffers.packing import append_files

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

from ai_edge_litert import schema_py_generated as litert  # noqa: E402

from kmtl.export.flatbuffers.convert import to_flatbuffer  # noqa: E402
from kmtl.export.flatbuffers.inspection import inspect_bytes  # noqa: E402
from kmtl.export.runtime.litert_model import RUNTIMES, LiteRTModel  # noqa: E402

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
WIDTHS = {"zeta": 4, "alpha": 3, "mid": 4, "seg/größe: 1": 2}
LABELS = {
    "alpha": ["Auto", "Bäume und Sträucher", "空"],
    "zeta": ["north", "east", "south", "west"],
    "seg/größe: 1": ["klein", "groß"],
}
PHOTO = InputInfo("a photo", (127.5, 100.0, 90.0), (128.0, 64.0, 32.0), (-1.5,), (2.0,))
DATA = {
    "photo": RNG.uniform(-1.5, 2, size=(8, 6, 6, 3)).astype("float32"),
    "sound": RNG.normal(size=(8, 6, 6, 1)).astype("float32"),
    "age": RNG.normal(size=(8, 4)).astype("float32"),
}

# Written by tflite-support 0.4.4 with fields that this library does not use in between: an input
# with three means, heads with a threshold, and with two label files behind one of another kind.
FOREIGN = zlib.decompress(
    base64.b64decode(
        "eNqNUj1Lw1AUvWlj+9SAUjJ06JCxk1QQXIRinV2dXNL2YQK2Kc3zAycHh/4Ef4eIq4IOHRwcHRwcHUT8BcZz37tB"
        "J/GRk3Pz8s79OIkiot1OZ739VRRNxBHQBp4rRC/AO1DD8/YkHiSaqI44z0Y6G2vyEK8CAe4BWJFvmXGOlzNocVEC"
        "+MBVURSrouEaG+SWJ+/30YNyW9UPxODu5GfPe0NcRTBKh7g3KLSZuJ6yGRqS+wF4BT45EfcCbEmNS+kBq8IckutR"
        "j10fQzsHUXys8zVzavjg4z80i0A/nQ5LUWC7C2hZPBG995c+7mdHRvSlJ23UDqwjNetvzeXpzsp9HPXJt2cZZ9rE"
        "paehrduipvTCeq7P37kDXLAfwBx4Yi6c14Ho4dyt47uuJ/tKZlK/ZlKSW4l3ofiOtYMcPXDPPReI58B1T9ESZnYa"
        "O0eF56uX83m+/CMtqeNLTwPhE+FEuE/uP40j/gpEC4gnSWYy0Y7idFz6sgmscI4kNlGemjwyiZ5qq9+7vznQh0Tf"
        "b1ZmHg=="
    )
)


@pytest.fixture(scope="module")
def content():
    keras.utils.set_random_seed(3)
    photo, sound = keras.Input((6, 6, 3), name="photo"), keras.Input((6, 6, 1), name="sound")
    age = keras.Input((4,), name="age")
    h = layers.Concatenate()([layers.Flatten()(photo), layers.Flatten()(sound), age])
    heads = {task: layers.Dense(n, bias_initializer="normal")(h) for task, n in WIDTHS.items()}
    return to_flatbuffer(keras.Model([photo, sound, age], heads), 1)


@pytest.fixture(scope="module")
def described(content):
    return with_metadata(content, "Straße", "what it is", {"photo": PHOTO}, LABELS)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    x = keras.Input((6, 6, 3), name="photo")
    h = layers.Flatten()(x)
    return kmtl.MultiTaskModel(
        x, {t: layers.Dense(n, name=f"to_{t}")(h) for t, n in {"zeta": 4, "alpha": 3}.items()}
    )


class Fields:
    """An independent reader: the fields of a table by their number in the schema."""

    def __init__(self, content, position=None):
        root = number_types.UOffsetTFlags.py_type(
            flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
        )
        self._table = Table(content, root if position is None else position)

    def _at(self, number):
        offset = self._table.Offset(4 + 2 * number)
        return offset and self._table.Pos + offset

    def text(self, number):
        at = self._at(number)
        return at and self._table.String(at).decode()

    def byte(self, number):
        at = self._at(number)
        return at and self._table.Get(number_types.Uint8Flags, at)

    def table(self, number):
        at = self._at(number)
        return at and Fields(self._table.Bytes, self._table.Indirect(at))

    def _items(self, number):
        offset = self._table.Offset(4 + 2 * number)
        if not offset:
            return []
        start = self._table.Vector(offset)
        return [start + 4 * i for i in range(self._table.VectorLen(offset))]

    def tables(self, number):
        return [Fields(self._table.Bytes, self._table.Indirect(at)) for at in self._items(number)]

    def floats(self, number):
        return [self._table.Get(number_types.Float32Flags, at) for at in self._items(number)]


def model_of(content):
    return litert.ModelT.InitFromPackedBuf(content, 0)


def packed(content):
    """The metadata's own flatbuffer."""
    model = model_of(content)
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    return bytes(model.buffers[entry.buffer].data)


def with_packed(content, data):
    """The model with other bytes for metadata, and the files that stood behind it."""
    model = model_of(content)
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    model.buffers[entry.buffer].data = np.frombuffer(data, np.uint8)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return append_files(bytes(builder.Output()), files)


def feeds(model):
    return {n: DATA[n] for n in model.input_details}


def test_every_field_stands_at_its_number_of_the_schema(described):
    # The numbers are those of metadata_schema.fbs; tflite-support 0.4.4 and MediaPipe 1.2.2 have
    # read such a file: the same fields, `1.0.0` as the oldest parser, and each head's labels.
    data = packed(described)
    assert data[4:8] == b"M001"
    root = Fields(data)
    assert [root.text(i) for i in (0, 1, 2, 4, 5, 7)] == [
        "Straße", "what it is", 0, 0, 0, "1.0.0",
    ]  # fmt: skip
    (graph,) = root.tables(3)
    assert graph.text(0) == "serving_default"
    inputs = {x.text(0): x for x in graph.tables(2)}
    photo = inputs["photo"]
    assert (photo.text(1), inputs["age"].text(1)) == ("a photo", 0)
    kinds = {name: x.table(3).byte(0) for name, x in inputs.items()}
    assert kinds == {"photo": 2, "sound": 2, "age": 1}  # images, and not
    assert [inputs[n].table(3).table(1).byte(0) for n in ("photo", "sound")] == [1, 2]  # RGB, gray
    (unit,) = photo.tables(4)
    assert unit.byte(0) == 1
    assert unit.table(1).floats(0) == [127.5, 100, 90]
    assert unit.table(1).floats(1) == [128, 64, 32]
    assert photo.table(5).floats(0) == [2] and photo.table(5).floats(1) == [-1.5]
    # What is not known is not said: mean 0 and std 1 would be a statement, too.
    assert inputs["age"].tables(4) == [] and inputs["age"].table(5) == 0
    heads = {x.text(0): x for x in graph.tables(3)}
    assert {task: x.table(3).byte(0) for task, x in heads.items()} == dict.fromkeys(WIDTHS, 1)
    files = {t: [(f.text(0), f.byte(2)) for f in x.tables(6)] for t, x in heads.items()}
    assert files == {
        "zeta": [("zeta_labels.txt", 2)],
        "alpha": [("alpha_labels.txt", 2)],
        "mid": [],
        "seg/größe: 1": [("seg%2Fgr%C3%B6%C3%9Fe%3A%201_labels.txt", 2)],
    }


def test_the_order_is_the_graphs_not_the_signatures(described):
    """Readers know tensors by their place among the graph's inputs and outputs."""
    model = model_of(described)
    graph, (signature,) = model.subgraphs[0], model.signatureDefs
    (found,) = Fields(packed(described)).tables(3)
    for number, places, entries in (
        (2, graph.inputs, signature.inputs),
        (3, graph.outputs, signature.outputs),
    ):
        names = {entry.tensorIndex: entry.name.decode() for entry in entries}
        assert [x.text(0) for x in found.tables(number)] == [names[i] for i in places]
    in_graph = [x.text(0) for x in found.tables(3)]
    assert in_graph != [entry.name.decode() for entry in signature.outputs]  # it could be wrong


def test_label_files_are_plain_lines_behind_the_model(described):
    with zipfile.ZipFile(io.BytesIO(described)) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        # Equal models give equal files, whenever they are written.
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.read("alpha_labels.txt").decode() == "Auto\nBäume und Sträucher\n空\n"
        assert all(name.isascii() and "/" not in name for name in archive.namelist())


def test_it_comes_back(content, described):
    assert read_metadata(content) is None and inspect_bytes(content).metadata is None
    found = read_metadata(described)
    others = {"sound": InputInfo(), "age": InputInfo()}
    labels = {task: tuple(names) for task, names in LABELS.items()}
    assert found == ModelMetadata("Straße", "what it is", {"photo": PHOTO, **others}, labels)
    assert inspect_bytes(described).metadata == found


def test_a_second_description_replaces_the_first(content, described):
    again = with_metadata(described, "other", "", labels={"mid": list("abcd")})
    found = read_metadata(again)
    assert (found.name, found.description) == ("other", "")
    assert found.labels == {"mid": tuple("abcd")}
    assert found.inputs["photo"] == InputInfo()
    assert b"Auto" not in again and "Straße".encode() not in again
    assert again == with_metadata(content, "other", "", labels={"mid": list("abcd")})


def test_the_model_computes_the_same_on_both_runtimes(content, described):
    assert len(described) - len(content) < 2000
    for runtime in RUNTIMES:
        before, after = LiteRTModel(content, runtime), LiteRTModel(described, runtime)
        expected, answers = before(feeds(before)), after(feeds(after))
        assert sorted(answers) == sorted(WIDTHS)
        for task in WIDTHS:
            np.testing.assert_array_equal(answers[task], expected[task])


def test_constants_stay_aligned(described):
    start = np.frombuffer(described, np.uint8).ctypes.data
    model = litert.Model.GetRootAs(described, 0)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    filled = [b.DataAsNumpy().ctypes.data - start for b in buffers if b.DataLength()]
    assert len(filled) > 8 and {place % 16 for place in filled} == {0}


def test_constants_behind_the_flatbuffer_move_along(content):
    """As in files of more than 2 GB; here of a small one."""
    model = model_of(content)
    moved = [b for b in model.buffers if b.data is not None and len(b.data) >= 96]
    values = [bytes(b.data) for b in moved]
    start = 16
    for _ in range(2):  # the first round gives the size
        builder, behind = flatbuffers.Builder(0), b""
        for buffer, data in zip(moved, values, strict=True):
            buffer.data, buffer.size = None, len(data)
            buffer.offset = start + len(behind)
            behind += data.ljust(-len(data) // 16 * -16, b"\0")
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        head = bytes(builder.Output())
        start = -len(head) // 16 * -16
    outside = head.ljust(start, b"\0") + behind
    assert len(moved) >= 4 and len(outside) > len(content) - 2000
    described = with_metadata(outside, "x", "y" * 21, labels=LABELS)
    assert any(b.offset > start for b in model_of(described).buffers)
    assert {b.offset % 16 for b in model_of(described).buffers} == {0}
    again = with_metadata(described, "x", "", labels={"mid": list("abcd")})
    assert read_metadata(again).labels == {"mid": tuple("abcd")} and b"Auto" not in again
    runner = LiteRTModel(content)
    expected = runner(feeds(runner))
    for changed in (outside, described, again):
        for runtime in RUNTIMES:
            answers = LiteRTModel(changed, runtime)(feeds(runner))
            for task in WIDTHS:
                np.testing.assert_array_equal(answers[task], expected[task])


def test_a_tensor_that_is_two_heads_has_both_names():
    x = keras.Input((4,), name="x")
    h = layers.Dense(3)(x)
    content = to_flatbuffer(keras.Model(x, {"zeta": h, "mid": h, "alpha": layers.Dense(3)(x)}), 1)
    labels = {"zeta": list("abc"), "mid": list("def"), "alpha": list("ghi")}
    found = read_metadata(with_metadata(content, "", "", labels=labels))
    assert found.labels == {task: tuple(names) for task, names in labels.items()}


def test_each_graph_with_a_signature_is_described_in_its_place(content):
    """As in a file with a signature for each task; a graph between them is the body of a loop."""
    model = model_of(content)
    other = litert.SignatureDefT(signatureKey="of_zeta", subgraphIndex=2)
    other.inputs = model.signatureDefs[0].inputs
    other.outputs = [e for e in model.signatureDefs[0].outputs if e.name == b"zeta"]
    alone = model_of(content).subgraphs[0]
    alone.outputs = np.array([other.outputs[0].tensorIndex], "int32")
    model.subgraphs += [model_of(content).subgraphs[0], alone]
    model.signatureDefs.append(other)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    described = with_metadata(bytes(builder.Output()), "", "", {"photo": PHOTO}, LABELS)
    first, body, last = Fields(packed(described)).tables(3)
    assert [first.text(0), body.text(0), last.text(0)] == ["serving_default", 0, "of_zeta"]
    assert len(first.tables(3)) == 4 and body.tables(3) == []
    assert [head.text(0) for head in last.tables(3)] == ["zeta"]
    assert read_metadata(described).labels == {t: tuple(names) for t, names in LABELS.items()}
    assert read_metadata(described).inputs["photo"] == PHOTO


def test_a_file_of_another_library_is_read(described):
    changed = with_packed(described, FOREIGN)
    with pytest.raises(ValueError, match=r"stand behind the model.*Received: birds.txt"):
        read_metadata(changed)
    stream = io.BytesIO(changed)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("birds.txt", "Möwe\r\nSpatz\n")
    found = inspect_bytes(stream.getvalue()).metadata
    assert (found.name, found.description) == ("Vögel", "what sits there")
    expected = InputInfo("a bird", (127.5, 100, 90), (128, 64, 32), (-1,), (1.5,))
    assert found.inputs == {"photo": expected}
    assert found.labels == {"zeta": ("Möwe", "Spatz")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": {"alpha": ["a", "b\nc", "d"]}}, r"one line of text.*Received: 'b\\nc' for"),
        ({"labels": {"alpha": ["a", " ", "d"]}}, r"not blank. Received: ' ' for task 'alpha'"),
        ({"labels": {"typo": ["a"]}}, r"must name inputs and heads.*Received: \['typo'\]"),
        ({"inputs": {"alpha ": InputInfo()}}, r"must name inputs and heads.*\['alpha '\]"),
    ],
)
def test_what_cannot_be_said_is_an_error(content, arguments, message):
    with pytest.raises(ValueError, match=message):
        with_metadata(content, "", "", **arguments)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((), (1,)),
        ((1,), ()),
        ((0,), (0,)),
        ((0,), (np.nan,)),
        ((np.inf,), (1,)),
        ((0, 0), (1, 1, 1)),
    ],
)
def test_a_normalisation_that_is_none_is_an_error(mean, std):
    with pytest.raises(ValueError, match=r"one for each channel, finite.*Received: mean="):
        InputInfo(mean=mean, std=std)
    assert InputInfo(mean=(0,), std=(1, 2, 3)).std == (1, 2, 3)


def test_what_is_no_model_is_an_error():
    for content in (b"", b"M001" * 9, bytes(64)):
        with pytest.raises(ValueError, match="identifier TFL3"):
            with_metadata(content, "", "")


def test_a_file_that_lost_its_labels_or_its_end_is_an_error(described, tmp_path):
    behind = described.index(b"PK\3\4")
    for content in (described[:behind], described[:-9], described[: behind + 20]):
        with pytest.raises(ValueError, match="stand behind the model"):
            read_metadata(content)
        (tmp_path / "m.tflite").write_bytes(content)
        with pytest.raises(ValueError, match=r"Received: .*m\.tflite.*stand behind the model"):
            inspect_litert(tmp_path / "m.tflite")
    flipped = bytearray(described)
    flipped[described.index("Sträucher".encode())] ^= 1
    with pytest.raises(ValueError, match="CRC"):
        read_metadata(bytes(flipped))


def test_a_compressed_label_file_is_an_error(described):
    stream = io.BytesIO(described[: described.index(b"PK\3\4")])
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for task in LABELS:
            for entry in Fields(packed(described)).tables(3)[0].tables(3):
                if entry.text(0) == task:
                    archive.writestr(entry.tables(6)[0].text(0), "a\n" * 9)
    with pytest.raises(ValueError, match="compressed"):
        read_metadata(stream.getvalue())


def test_damaged_metadata_is_an_error_or_read_never_a_crash(described):
    """Bytes flipped and cut, in the metadata and in the archive, as `inspect_litert` meets them."""
    data, read, refused = packed(described), 0, 0
    start, behind = described.index(data), described.index(b"PK\3\4")
    rng = np.random.default_rng(1)
    for _ in range(1500):
        damaged = bytearray(described)
        ends = (start, start + len(data)) if rng.random() < 0.6 else (behind, len(described))
        for place in rng.integers(*ends, size=rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 1, 127, 255, rng.integers(256)])
        try:
            found = read_metadata(bytes(damaged))
            read += 1
            assert found is None or isinstance(found, ModelMetadata)
        except ValueError:
            refused += 1
    assert read > 50 and refused > 300
    for length in (0, 4, 7, 8, 11, 12, 40, len(data) // 2, len(data) - 16):
        with pytest.raises(ValueError):
            inspect_bytes(with_packed(described, data[:length]))


def test_an_entry_without_a_buffer_is_an_error(described):
    model = model_of(described)
    model.metadata[-1].buffer = 10_000
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    with pytest.raises(ValueError, match=r"identifier M001. Received: 0 bytes"):
        read_metadata(bytes(builder.Output()))


@pytest.mark.parametrize("quantization", ["float32", "int8", "uint8_io"])
def test_an_exported_file_says_what_it_is(model, quantization, tmp_path, capsys):
    labels = {"alpha": ["car", "tree", "空"], "zeta": [f"class {i}" for i in range(4)]}
    path, data = tmp_path / "m.tflite", {"photo": DATA["photo"]}
    result = export_litert(model, path, quantization, representative_data=data, labels=labels)
    assert result.bytes == path.stat().st_size
    found = inspect_litert(path).metadata
    assert found.name == model.name
    assert found.description == f"kmtl {kmtl.__version__}, {quantization}"
    assert found.labels == {task: tuple(names) for task, names in labels.items()}
    limits = {"minimum": (float(data["photo"].min()),), "maximum": (float(data["photo"].max()),)}
    assert found.inputs == {"photo": InputInfo(**limits)}
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in ("car, tree, 空", found.description, "values from -1.4", "class 3"):
        assert text in shown


def test_without_labels_and_data_nothing_is_claimed_or_appended(model, tmp_path, capsys):
    path = export_litert(model, tmp_path / "m.tflite").path
    found = inspect_litert(path).metadata
    assert found.labels == {} and found.inputs == {"photo": InputInfo()}
    assert not zipfile.is_zipfile(path)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\nlabels\n" not in shown and "\nfeeding\n" not in shown and found.description in shown


def test_a_bad_label_is_found_before_any_work(model, tmp_path, monkeypatch):
    monkeypatch.setattr("kmtl.export.litert.export_litert.expected_outputs", None)
    with pytest.raises(ValueError, match=r"not blank. Received: '' for task 'alpha'"):
        export_litert(model, tmp_path / "m.tflite", labels={"alpha": ["a", "", "c"]})
    assert not list(tmp_path.iterdir())
