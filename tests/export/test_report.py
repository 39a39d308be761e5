"""The page holds the figures of the files that were measured, head by head."""

import html.parser
import re

import keras
import numpy as np
import pytest
from keras import layers

from kmtl.export import export_litert, fold, report
from kmtl.export.reporting import report as module
from kmtl.export.reporting.page import weight_groups
from kmtl.export.reporting.scores import check_metrics, score
from kmtl.models import HardSharing

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

TYPES = ["float16", "int8"]
X = np.random.default_rng(0).normal(size=(80, 6)).astype("float32")


class Page(html.parser.HTMLParser):
    """The cells of the tables by id or task, the pictures, and whether tags are balanced."""

    VOID = ("meta", "br", "img", "link", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.pictures, self.tables, self.links = [], [], {}, []
        self._rows = None
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [value for name, value in attrs.items() if name in ("src", "href")]
        if tag == "img":
            self.pictures.append(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(attrs.get("id") or attrs.get("data-task"), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self._rows[-1][-1] += " " + data.strip()

    def rows(self, name):
        """First cell -> the others, without the numbers that legends refer to."""
        _, *rows = self.tables[name]
        return {row[0].split()[-1]: [cell.split() for cell in row[1:]] for row in rows}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    trunk = [layers.Dense(8, activation="relu", name="trunk"), layers.Dense(7, name="second")]
    heads = {"zeta": layers.Dense(3, name="z"), "alpha": layers.Dense(3, name="a")}
    heads["mid"] = [layers.Dense(5, name="hidden"), layers.Dense(1, name="m")]
    return HardSharing(trunk, heads, inputs=(6,))


@pytest.fixture(scope="module")
def labels(model):
    return {"zeta": np.argmax(model(X)["zeta"], axis=-1)}


@pytest.fixture(scope="module")
def made(model, labels, tmp_path_factory):
    """The report, its page, the results of its exports, and its lines of progress."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    exports, lines = {}, []

    def export(model, file, quantization, **options):
        result = export_litert(model, file, quantization, **options)
        assert result.bytes == file.stat().st_size
        exports[quantization] = result
        return result

    original, module.export_litert = module.export_litert, export
    try:
        found = report(
            model, path, X, labels, "sparse_categorical_accuracy", TYPES, progress=lines.append
        )
    finally:
        module.export_litert = original
    return found, Page(path.read_text(encoding="utf-8")), exports, lines


def test_float32_comes_first_and_every_type_is_there(made):
    found, page, exports, lines = made
    assert list(found.files) == list(exports) == list(page.rows("files")) == ["float32", *TYPES]
    assert found.refused == {} and "refused" not in page.tables
    assert found.tasks == ("alpha", "mid", "zeta") and found.rows == len(X)
    assert all(any(name in line for line in lines) for name in found.files)


def test_bytes_and_errors_are_those_of_the_exports(made):
    found, page, exports, _ = made
    for name, result in exports.items():
        assert found.files[name].bytes == result.bytes
        assert found.files[name].errors == result.errors
        assert page.rows("files")[name][0][0] == f"{result.bytes:,}"
        for task in found.tasks:
            shown = [cell[0] for cell in page.rows(task)[name][:3]]
            error = result.errors[task]
            measures = ("relative_error", "mean_abs_error", "max_abs_error")
            assert shown == [f"{error[measure]:.3g}" for measure in measures]
    sizes = [result.bytes for result in exports.values()]
    ratio = float(page.rows("files")["int8"][0][1])
    assert ratio == pytest.approx(sizes[2] / sizes[0], abs=0.005)


def test_metric_and_change_are_those_of_the_files(made, model, labels, tmp_path):
    from kmtl.export import load_litert

    found, page, _, _ = made
    header = page.tables["files"][0]
    assert header[3:] == [" alpha relative error", " mid relative error",
                          " zeta sparse categorical accuracy"]  # fmt: skip
    path = export_litert(model, tmp_path / "m.tflite", "int8", representative_data=X).path
    answers = load_litert(path)(X)["zeta"].argmax(axis=-1)
    accuracy = np.mean(answers == labels["zeta"])
    assert found.files["int8"].metrics == {"zeta": pytest.approx(accuracy)}
    assert found.files["float32"].metrics == {"zeta": 1.0}
    assert page.rows("files")["int8"][-1] == [f"{accuracy:.4f}", f"{accuracy - 1:+.4f}"]
    assert page.rows("files")["float32"][-1] == ["1.0000"]


def test_deviations_are_of_all_rows(made):
    found, page, _, _ = made
    for task, width in {"zeta": 3, "alpha": 3, "mid": 1}.items():
        for name, file in found.files.items():
            deviations = file.deviations[task]
            assert deviations.shape == (len(X) * width,)
            assert page.rows(task)[name][5][0] == f"{deviations.max():.3g}"
        errors = {name: np.median(f.deviations[task]) for name, f in found.files.items()}
        assert errors["float32"] < errors["float16"] < errors["int8"]


def test_latencies_are_measured(made):
    assert all(file.latency_ms > 0 for file in made[0].files.values())


def test_the_page_needs_no_network_and_describes_its_pictures(made):
    found, page, _, _ = made
    assert all(link.startswith("data:") for link in page.links)
    text = found.path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<script|url\(|@import", text)
    # For each head a trade-off and a distribution; weights shared and of each head.
    assert len(page.pictures) == 3 + 3 + 4
    for task in found.tasks:
        assert sum(f"head {task};" in picture["alt"] for picture in page.pictures) == 2
    assert all(picture["alt"] for picture in page.pictures)


def test_weights_are_grouped_by_the_heads_that_need_them(model):
    groups, left_out = weight_groups(fold(model))
    assert {heads: sorted(weights) for heads, weights in groups.items()} == {
        ("alpha", "mid", "zeta"): ["second", "trunk"],
        ("alpha",): ["a"],
        ("mid",): ["hidden", "m"],
        ("zeta",): ["z"],
    }
    assert next(iter(groups)) == ("alpha", "mid", "zeta") and left_out == 0
    np.testing.assert_array_equal(groups[("zeta",)]["z"], model.get_layer("z").get_weights()[0])


def test_a_type_that_does_not_suit_is_listed_with_the_reason(model, tmp_path, monkeypatch):
    def refuse(model, path, quantization, **options):
        if quantization == "float16":
            raise ValueError("no kernel\nfor <this>")
        return export_litert(model, path, quantization, **options)

    monkeypatch.setattr(module, "export_litert", refuse)
    found = report(model, tmp_path / "p.html", X, quantizations=["float16"])
    assert found.refused == {"float16": "no kernel for <this>"}
    page = Page(found.path.read_text(encoding="utf-8"))
    assert page.tables["refused"][1] == [" float16", " no kernel for <this>"]
    assert list(page.rows("files")) == ["float32"]
    assert page.tables["files"][0][3:] == [f" {task} relative error" for task in found.tasks]


def test_metrics_are_of_each_head_s_own():
    y = np.array([[1.0], [3.0]])
    found = check_metrics({"a": "mae", "b": lambda y, p: abs(y - p) * 2}, {"a": y, "b": y})
    assert score(found["a"], y, y + 1) == score(found["a"], y, y + 1) == pytest.approx(1)
    assert score(found["b"], y, y + 1) == pytest.approx(2)


Y = np.zeros(80)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "p.pdf"}, r"`path` must end in .html. Received: path='.*p.pdf'"),
        ({"labels": {"typo": Y}, "metrics": "mae"}, r"heads of the model.*Received: \['typo'\]"),
        ({"labels": {"mid": Y[:3]}, "metrics": "mae"}, r"as many rows as `data`, 80.*\(3,\)"),
        ({"labels": {"mid": Y}}, r"given together. Received: labels only"),
        ({"metrics": "mae"}, r"given together. Received: metrics only"),
        ({"labels": {"mid": Y}, "metrics": {"zeta": "mae"}}, r"have labels, \['mid'\].*'zeta'"),
        ({"labels": {"mid": Y}, "metrics": "nonsense"}, r"names that Keras knows.*'nonsense'"),
        ({"quantizations": ["int3"]}, r"`quantization` must be one of.*'int3'"),
        ({"quantizations": "int8"}, r"`quantizations` must be a list.*'int8'"),
        ({"data": X[:, :5]}, r"must have the shape \(samples, 6\).*Received: \(80, 5\)"),
        ({"data": X * np.nan}, "must be finite"),
    ],
)
def test_bad_input(model, tmp_path, arguments, message):
    arguments = {"path": "p.html", "data": X, **arguments}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=message):
        report(model, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_install_command(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXTRAS", ("no_such_package",))
    with pytest.raises(ImportError, match=r'pip install "kmtl\[report\]"'):
        report(model, tmp_path / "p.html", X)


@pytest.mark.parametrize(
    ("labels", "outputs", "same"),
    [
        ([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], "sparse_categorical_accuracy"),
        ([[0], [1], [1]], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], "sparse_categorical_accuracy"),
        ([[1, 0], [0, 1]], [[0.9, 0.1], [0.7, 0.3]], "categorical_accuracy"),
        ([[0], [1], [1]], [[0.4], [0.8], [0.1]], "binary_accuracy"),
    ],
)
def test_accuracy_means_what_compile_makes_of_it(labels, outputs, same):
    labels, outputs = np.array(labels), np.array(outputs, "float32")
    found = score(check_metrics("accuracy", {"a": labels})["a"], labels, outputs)
    expected = score(check_metrics(same, {"a": labels})["a"], labels, outputs)
    model = keras.Sequential([keras.Input(outputs.shape[1:]), layers.Identity()])
    model.compile(loss=lambda y_true, y_pred: y_pred, metrics=["accuracy"])
    compiled = model.evaluate(outputs, labels, verbose=0, return_dict=True)["accuracy"]
    assert found == expected == pytest.approx(compiled) and 0 < found < 1


def test_ranges_come_from_the_data_that_are_given(tmp_path):
    x = keras.Input((6,), name="x")
    tower = HardSharing([layers.Dense(4)], {"zeta": layers.Dense(2)}, inputs=x)
    errors = {}
    for name, typical in (("own", None), ("narrow", X / 10)):
        found = report(
            tower, tmp_path / "page.html", X, quantizations=["int8"], representative_data=typical
        )
        errors[name] = found.files["int8"].deviations["zeta"].mean()
    assert errors["narrow"] > 5 * errors["own"]  # what is outside of a range is cut off
