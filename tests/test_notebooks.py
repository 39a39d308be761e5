"""The notebooks run from top to bottom, on little data."""

import os
import re
import sys
from pathlib import Path

import keras
import nbformat
import pytest
from nbclient import NotebookClient

COLAB = Path(__file__).parents[1] / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
DATA = COLAB.resolve().parents[1] / "shared" / "data"
READ = {"sequence_tagging": "ud_english_ewt"}  # which data set, where it is more than kmtl makes


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the notebooks export")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    if path.stem in READ and not (DATA / READ[path.stem]).is_dir():
        pytest.skip(f"needs the data set {READ[path.stem]} in ../shared/data")
    monkeypatch.setenv("KMTL_DATA", str(DATA))
    commands = Path(sys.executable).parent  # where `kmtl` is, also if that is not activated
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=10", "epochs=1")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [
        "".join(output.text for output in cell.get("outputs", []) if output.get("name") == "stdout")
        for cell in notebook.cells
    ]
    last = {
        "quickstart": "test accuracy of the int8 file",
        "gradient_conflicts": "delta-m",
        "deploy_to_edge": "int4 trained for",
        "domain_adaptation": "test accuracy of the int8 file on the target",
        "sequence_tagging": "A new sentence, tagged by the file:",
        "which_tasks_together": "delta-m",
    }
    assert last[path.stem] in [text for text in printed if text][-1]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the example exports")
def test_the_readme_s_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (COLAB.parent / "README.md").read_text(), re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    names = {}
    exec(code.replace("epochs=5", "epochs=1, verbose=0"), names)
    assert {task: y.shape for task, y in names["answers"].items()} == {
        "left": (2000, 10),
        "right": (2000, 10),
    }


def test_the_quickstart_is_short():
    cells = nbformat.read(COLAB / "quickstart.ipynb", as_version=4).cells
    lines = [
        line
        for cell in cells[2:]  # the first code cell installs
        if cell.cell_type == "code"
        for line in cell.source.splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]
    assert len(lines) < 40
