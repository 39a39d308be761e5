"""Runs the demo once, as a rehearsal, and checks what it leaves behind."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = (
    "single_task",
    "plain_sum",
    "hard_sharing",
    "cross_stitch",
    "sluice",
    "factorized",
)
QUANTIZATIONS = ("float32", "float16", "dynamic_int8", "int8")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder and what it printed; in a process of its own, for its two devices."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    code = "import sys; from kmtl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "demo", "--quick", f"--output={folder}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


@pytest.fixture(scope="module")
def report(demo):
    return json.loads((demo[0] / "report.json").read_text())


def test_every_file_is_there_and_no_other(demo):
    expected = {"report.html", "report.json", "model.keras", "test.npz"}
    expected |= {f"{q}{suffix}" for q in QUANTIZATIONS for suffix in (".tflite", ".json")}
    assert {path.name for path in demo[0].iterdir()} == expected


def test_report_holds_every_network_and_file(report):
    assert tuple(report["networks"]) == NETWORKS
    for numbers in report["networks"].values():
        assert {task: len(v) for task, v in numbers["test"].items()} == {"left": 1, "right": 1}
        assert len(numbers["delta_m"]) == 1
    assert report["networks"]["single_task"]["delta_m"] == [0.0]
    assert report["deployed"]["network"] in NETWORKS[1:]
    assert tuple(report["deployed"]["files"]) == QUANTIZATIONS
    for file in report["deployed"]["files"].values():
        assert file["latency_ms"] > 0
        assert set(file["test"]) == set(file["max_abs_error"]) == {"left", "right"}


def test_delta_m_follows_from_the_accuracies(report):
    single = report["networks"]["single_task"]["test"]
    for numbers in report["networks"].values():
        gains = [numbers["test"][t][0] / single[t][0] - 1 for t in ("left", "right")]
        np.testing.assert_allclose(numbers["delta_m"], [np.mean(gains)], atol=1e-12)


def test_network_is_chosen_by_validation(report):
    means = {n: np.mean(list(report["networks"][n]["validation"].values())) for n in NETWORKS[1:]}
    assert means[report["deployed"]["network"]] == max(means.values())


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_litert_alone_gives_the_reported_accuracies(demo, report, quantization):
    from ai_edge_litert.interpreter import Interpreter

    file = report["deployed"]["files"][quantization]
    path = demo[0] / file["path"]
    assert path.stat().st_size == file["bytes"]
    runner = Interpreter(str(path)).get_signature_runner()
    with np.load(demo[0] / "test.npz") as test:
        test = dict(test)
    answers = [runner(image=image[None]) for image in test["image"]]
    for task, accuracy in file["test"].items():
        classes = np.array([answer[task].argmax() for answer in answers])
        assert np.mean(classes == test[task]) == pytest.approx(accuracy, abs=1e-12)


def test_page_needs_nothing_else(demo):
    page = (demo[0] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    own = ("data:", "report.json", *(f"{q}.tflite" for q in QUANTIZATIONS))
    assert sources and all(source.startswith(own) for source in sources)
    assert page.rstrip().endswith("</html>")


def test_tables_are_printed(demo, report):
    for text in (*NETWORKS, *(f"{q}.tflite" for q in QUANTIZATIONS), "delta_m", "report.html"):
        assert text in demo[1]
